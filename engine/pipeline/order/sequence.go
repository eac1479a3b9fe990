// What a run consists of, in order: every stage of a pipeline walks the same sequence
// of items, derived from the job alone, so nothing but tensors has to be sent.

package order

import "fmt"

// ItemKind is what an item of the sequence asks for.
type ItemKind uint8

// The kinds of items.
const (
	Train    ItemKind = iota // a micro-batch: forward and, later, backward
	Eval                     // a micro-batch of the validation set: forward only
	EvalDone                 // the validation pass is over
	Save                     // keep the state
	End                      // the run is over
	Open                     // a round begins, of which this cluster may have no item
	Close                    // it is over
)

func (k ItemKind) String() string {
	if k <= Close {
		return [...]string{"train", "eval", "evaldone", "save", "end", "open", "close"}[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Item is one element of a run's sequence.
type Item struct {
	Kind  ItemKind
	Seq   uint64 // number of the item in the run
	Epoch int
	Step  uint64 // batch number in the run (Train); batches done before it (others)
	Batch int    // number of the batch in its epoch or validation pass
	Row0  int    // first row of the micro-batch in its batch
	Rows  int
	Total int // rows of the whole batch

	Replica int  // that trains the rows
	First   bool // first micro-batch of an update of its replica
	Last    bool // last micro-batch of an update
	Ends    bool // last micro-batch of its batch, or of what this cluster has of it
	// Opens is set where a round begins, so that all replicas have one state before it, and
	// Closes where it ends: at its first and its last micro-batch, or, with several clusters,
	// at Open and Close.
	Opens, Closes bool
}

// Position is where the run stands before an item that opens a round.
func (it Item) Position() Position {
	return Position{Epoch: it.Epoch, Batch: it.Batch, Step: it.Step, Seq: it.Seq}
}

// Sequence yields the items of a run.
type Sequence struct {
	run     Run
	at      Position // of the next batch; Seq: of the next item
	row0    int      // first row of the next micro-batch
	part    int      // replica whose rows of a split batch come next
	own     Set      // replicas of this cluster in the round at hand
	open    bool     // the Open of the round has come
	close   bool     // the Close is due; closing is it
	closing Item
	pending []Item // marks and validation batches that come before the next Train
}

// NewSequence begins at a position of the run; the zero Position is its start. It fails
// if the run is not valid or does not have the position.
func NewSequence(r Run, at Position) (*Sequence, error) {
	if err := r.CheckPosition(at); err != nil {
		return nil, err
	}
	s := &Sequence{run: r, at: at, own: r.Own}
	if r.Over(at) {
		s.end()
	}
	return s, nil
}

// Position is where the sequence stands. It can be returned to where a round may
// begin: before its first item, and behind a Save.
func (s *Sequence) Position() Position { return s.at }

// Next returns the next item; after End it returns End for ever.
func (s *Sequence) Next() Item {
	if s.run.Own == 0 {
		return s.next()
	}
	for {
		if s.close {
			s.open, s.close = false, false
			return s.closing
		}
		if len(s.pending) == 0 && !s.open {
			s.open = true
			at := s.at
			return Item{Kind: Open, Seq: at.Seq, Epoch: at.Epoch, Step: at.Step, Batch: at.Batch, Opens: true}
		}
		it := s.next()
		switch it.Kind {
		case Train:
			if s.close = it.Closes; s.close {
				s.closing = Item{Kind: Close, Seq: it.Seq, Epoch: it.Epoch, Step: it.Step, Batch: it.Batch, Closes: true}
			}
			if s.own.Has(it.Replica) {
				return s.ownItem(it)
			}
		case Eval, EvalDone:
			if !s.run.Unvalidated {
				return it
			}
		default:
			return it
		}
	}
}

// ownItem is an item of the cluster's: what ends with its last micro-batch of a batch ends there.
func (s *Sequence) ownItem(it Item) Item {
	it.Opens, it.Closes = false, false
	if !s.run.Splits() {
		return it
	}
	it.Last = false // the update comes with the round's end
	n := s.run.replicas()
	_, to := share(it.Total, it.Replica, n)
	it.Ends = it.Row0+it.Rows == to
	for k := it.Replica + 1; k < n; k++ {
		if s.own.Has(k) && s.run.Has(it.Total, k) {
			it.Ends = false
		}
	}
	return it
}

// next is Next of the whole run.
func (s *Sequence) next() Item {
	if len(s.pending) > 0 {
		it := s.pending[0]
		if it.Kind == End {
			it.Seq = s.at.Seq
			return it
		}
		s.pending = s.pending[1:]
		return s.number(it)
	}
	r := s.run
	it := s.train()
	over := s.at.Step+1 == uint64(r.Total())
	s.row0 += it.Rows
	if it.Ends {
		s.row0, s.part = 0, 0
		s.at.Batch++
		s.at.Step++
		if s.at.Batch == r.Batches(r.Train) {
			s.at.Epoch, s.at.Batch = s.at.Epoch+1, 0
		}
		if s.at.Batch == 0 || over {
			s.endEpoch(it.Epoch, over)
		}
	}
	return s.number(it)
}

// train is the next micro-batch.
func (s *Sequence) train() Item {
	r, step := s.run, s.at.Step
	begin, end := r.stretch(step)
	done := step - begin // batches of the stretch
	n, u, span := r.replicas(), uint64(r.UpdateFrequency), r.span(end-begin)
	total := r.Rows(r.Train, s.at.Batch)
	it := Item{Kind: Train, Epoch: s.at.Epoch, Step: step, Batch: s.at.Batch, Row0: s.row0, Total: total}
	ahead, own := uint64(1), done // batches to the replica's next, and number of this one among its own
	from, to := 0, total
	if r.Splits() {
		for from, to = share(total, s.part, n); to <= s.row0; from, to = share(total, s.part, n) {
			s.part++
		}
		it.Replica = s.part
	} else {
		ahead = uint64(n)
		it.Replica, own = int(done%ahead), done/ahead
	}
	it.Rows = min((to-from+r.MicroBatches-1)/r.MicroBatches, to-s.row0)
	it.Ends = s.row0+it.Rows == total
	it.First = s.row0 == from && own%u == 0
	it.Last = it.Ends && ((own+1)%u == 0 || step+ahead >= end)
	it.Opens = s.row0 == 0 && done%span == 0
	it.Closes = it.Ends && ((done+1)%span == 0 || step+1 == end)
	return it
}

func (s *Sequence) number(it Item) Item {
	it.Seq = s.at.Seq
	s.at.Seq++
	return it
}

// endEpoch queues what follows the last batch of an epoch, or of the run.
func (s *Sequence) endEpoch(epoch int, over bool) {
	r := s.run
	mark := Item{Epoch: epoch, Step: s.at.Step}
	if r.Val > 0 && r.ValEvery > 0 && (over || (epoch+1)%r.ValEvery == 0) {
		for b := range r.Batches(r.Val) {
			it := mark
			it.Kind, it.Batch, it.Total = Eval, b, r.Rows(r.Val, b)
			micro := r.MicroRows(it.Total)
			for it.Row0 = 0; it.Row0 < it.Total; it.Row0 += it.Rows {
				it.Rows = min(micro, it.Total-it.Row0)
				it.Ends = it.Row0+it.Rows == it.Total
				s.pending = append(s.pending, it)
			}
		}
		mark.Kind = EvalDone
		s.pending = append(s.pending, mark)
	}
	if over || (r.SaveEvery > 0 && (epoch+1)%r.SaveEvery == 0) {
		mark.Kind = Save
		s.pending = append(s.pending, mark)
	}
	if over {
		s.end()
	}
}

func (s *Sequence) end() {
	s.pending = append(s.pending, Item{Kind: End, Epoch: s.at.Epoch, Step: s.at.Step})
}

// Ending tells whether nothing but the End follows.
func (s *Sequence) Ending() bool { return len(s.pending) > 0 && s.pending[0].Kind == End }
