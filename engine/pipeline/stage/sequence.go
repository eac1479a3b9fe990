// What a run consists of, in order: every stage of a pipeline walks the same sequence
// of items, derived from the job alone, so nothing but tensors has to be sent.

package stage

import "github.com/ravnest/ravnest/engine/job"

// ItemKind is what an item of the sequence asks for.
type ItemKind uint8

// The kinds of items.
const (
	Train    ItemKind = iota // a micro-batch: forward and, later, backward
	Eval                     // a validation batch: forward only
	EvalDone                 // the validation pass is over
	Save                     // keep the state
	End                      // the run is over
)

// Item is one element of a run's sequence.
type Item struct {
	Kind  ItemKind
	Seq   uint64 // position in the sequence
	Epoch int
	Step  uint64 // batch number in the run (Train); batches done before it (others)
	Batch int    // number of the batch in its epoch or validation pass
	Row0  int    // first row of the micro-batch in its batch
	Rows  int
	Total int  // rows of the whole batch
	First bool // first micro-batch of an update
	Last  bool // last micro-batch of an update
	Ends  bool // last micro-batch of its batch
}

// Sequence yields the items of a run over train and val rows.
type Sequence struct {
	job        job.Spec
	train, val int
	seq        uint64
	epoch      int
	batch      int
	row0       int
	step       uint64
	pending    []Item // marks and validation batches that come before the next Train
}

// NewSequence starts at the first batch of the first epoch.
func NewSequence(j job.Spec, train, val int) *Sequence {
	return &Sequence{job: j, train: train, val: val}
}

// Next returns the next item; after End it returns End for ever.
func (s *Sequence) Next() Item {
	if len(s.pending) > 0 {
		it := s.pending[0]
		if it.Kind != End {
			s.pending = s.pending[1:]
		}
		return s.number(it)
	}
	total := s.job.Rows(s.train, s.batch)
	micro := (total + s.job.MicroBatches - 1) / s.job.MicroBatches
	rows := min(micro, total-s.row0)
	it := Item{
		Kind: Train, Epoch: s.epoch, Step: s.step, Batch: s.batch, Row0: s.row0, Rows: rows, Total: total,
		Ends: s.row0+rows == total,
	}
	batches := s.job.Batches(s.train)
	over := s.job.Steps > 0 && s.step+1 == uint64(s.job.Steps)
	it.First = s.row0 == 0 && s.batch%s.job.UpdateFrequency == 0
	it.Last = it.Ends && ((s.batch+1)%s.job.UpdateFrequency == 0 || s.batch+1 == batches || over)
	s.row0 += rows
	if it.Ends {
		s.row0, s.batch, s.step = 0, s.batch+1, s.step+1
		if s.batch == batches || over {
			s.endEpoch(over)
		}
	}
	return s.number(it)
}

func (s *Sequence) number(it Item) Item {
	it.Seq = s.seq
	s.seq++
	return it
}

// endEpoch queues what follows the last batch of an epoch, or of the run.
func (s *Sequence) endEpoch(over bool) {
	over = over || s.epoch+1 == s.job.Epochs
	mark := Item{Epoch: s.epoch, Step: s.step}
	if s.val > 0 && s.job.ValEvery > 0 && (over || (s.epoch+1)%s.job.ValEvery == 0) {
		for b := range s.job.Batches(s.val) {
			it := mark
			it.Kind, it.Batch, it.Rows = Eval, b, s.job.Rows(s.val, b)
			it.Total = it.Rows
			s.pending = append(s.pending, it)
		}
		mark.Kind = EvalDone
		s.pending = append(s.pending, mark)
	}
	if over || (s.job.SaveEvery > 0 && (s.epoch+1)%s.job.SaveEvery == 0) {
		mark.Kind = Save
		s.pending = append(s.pending, mark)
	}
	if over {
		mark.Kind = End
		s.pending = append(s.pending, mark)
	}
	s.epoch, s.batch = s.epoch+1, 0
}

// Ending tells whether nothing but the End follows.
func (s *Sequence) Ending() bool { return len(s.pending) > 0 && s.pending[0].Kind == End }
