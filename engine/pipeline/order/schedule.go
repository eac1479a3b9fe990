// What a stage does next: a Schedule turns the sequence of items into actions.

package order

import (
	"errors"
	"fmt"
)

// ActionKind is what a stage does next.
type ActionKind uint8

// The kinds of actions.
const (
	Forward        ActionKind = iota // of Item, into Slot
	Backward                         // of Item, from Slot, which is free after it
	BackwardInput                    // the first half of Backward: gradients of what the stage reads
	BackwardWeight                   // the second half: gradients of the weights; Slot is free after it
	Update                           // of the weights, with the gradients of the group that Item closed
	Average                          // of what the replicas changed in the round that Item closed
	Evaluate                         // forward of the validation rows Item
	Report                           // the validation pass is over
	Keep                             // save the state
	Done
	Begin // a round, where several clusters do it: before it a mark may stand
)

func (k ActionKind) String() string {
	if k <= Begin {
		return [...]string{"forward", "backward", "input gradient", "weight gradient", "update", "average", "evaluate", "report", "keep", "done", "begin"}[k]
	}
	return fmt.Sprintf("action %d", uint8(k))
}

// Action is one thing to do.
type Action struct {
	Kind ActionKind
	Item Item
	Slot int // memory of the micro-batch from its forward to the end of its backward pass

	// Forward, Begin: nothing else is in flight in the whole pipeline, so that all stages hold
	// the state of the same update. Such a place is where a Save can be asked for.
	Drained bool
	// Keep: where the state that is kept goes on, whether the run ends behind it, and whether
	// nothing but a Hold asked for it.
	At    Position
	Final bool
	Held  bool
}

// Mark is what the root may ask for before a round: with one replica, before an update.
type Mark uint8

// The marks, the more urgent the larger. Their numbers travel between stages.
const (
	Continue   Mark = iota
	Hold            // keep the state in memory
	Checkpoint      // keep the state for good
	Stop
)

func (m Mark) String() string {
	if m <= Stop {
		return [...]string{"continue", "hold", "checkpoint", "stop"}[m]
	}
	return fmt.Sprintf("mark %d", uint8(m))
}

// ErrMark is wrapped by errors about a mark that cannot be set where it was.
var ErrMark = errors.New("invalid mark")

// ErrItem is wrapped by errors about an item that a schedule has no action for.
var ErrItem = errors.New("unknown item")

// Schedule is the machine of one stage. It knows no clock and no peer, so the same run
// gives the same actions every time, however late a message is.
type Schedule interface {
	// Next decides the next action. After Done it returns Done for ever.
	Next() (Action, error)
	// Mark takes back a, the action just given, which must begin a round: the forward pass of
	// its first micro-batch or, with several clusters, Begin. Hold and Checkpoint, which need a to
	// be Drained, keep the state and then give a again. Stop ends the run before a: what is in
	// flight is finished, the state is kept, and the run is done.
	Mark(a Action, m Mark) error
	// Share makes own the replicas of this cluster from the round on that Begin, the action just
	// given, begins.
	Share(own Set)
	// Slots is the number of slots that the actions name.
	Slots() int
}

// actionOf is what a stage does for an item that is no micro-batch.
func actionOf(k ItemKind) (ActionKind, error) {
	switch k {
	case Eval:
		return Evaluate, nil
	case EvalDone:
		return Report, nil
	case Save:
		return Keep, nil
	case End:
		return Done, nil
	case Open:
		return Begin, nil
	case Close:
		return Average, nil
	case Train:
	}
	return Done, fmt.Errorf("%w: no action follows from an item of %s", ErrItem, k)
}

// walk is what all schedules share: the item that is due next, and marks.
type walk struct {
	seq     *Sequence
	next    Item // taken from the sequence, not done yet, if waiting
	waiting bool
	keep    bool // a mark is due before next, once the pipeline is drained
	hold    bool // it is a Hold
	stop    bool // and the run ends behind it
	over    bool // it has
	due     [2]Action
	owed    int // actions of due that come next, from the end
}

// closed makes what follows the backward pass of it due.
func (w *walk) closed(it Item) {
	switch many := w.seq.run.replicas() > 1; {
	case !it.Last:
	case many && w.seq.run.Splits(): // gradients
		w.due, w.owed = [2]Action{{Kind: Update, Item: it}, {Kind: Average, Item: it}}, 2
	case many && it.Closes:
		w.due, w.owed = [2]Action{{Kind: Average, Item: it}, {Kind: Update, Item: it}}, 2
	default:
		w.due[0], w.owed = Action{Kind: Update, Item: it}, 1
	}
}

// pay is the next action that is due.
func (w *walk) pay() (Action, bool) {
	if w.owed == 0 {
		return Action{}, false
	}
	w.owed--
	return w.due[w.owed], true
}

// waits tells whether a forward pass has to wait for what is in flight: a round for all of
// it, an update for that of its own replica.
func waits(it Item, flight []Action) bool {
	if it.Opens && len(flight) > 0 {
		return true
	}
	for _, a := range flight {
		if it.First && a.Item.Replica == it.Replica {
			return true
		}
	}
	return false
}

// item looks at the next item.
func (w *walk) item() Item {
	if !w.waiting {
		w.next, w.waiting = w.seq.Next(), true
	}
	return w.next
}

// Share implements Schedule.
func (w *walk) Share(own Set) { w.seq.own = own }

// blocked tells that a mark is due before the next item, or nothing is.
func (w *walk) blocked() bool { return w.keep || w.over }

// marked is the action of a mark, once the pipeline is drained.
func (w *walk) marked() (Action, bool) {
	switch {
	case w.over:
		return Action{Kind: Done, Item: w.next}, true
	case w.keep:
		p := w.next.Position()
		w.keep, w.over = false, w.stop
		return Action{Kind: Keep, Item: Item{Kind: Save, Seq: p.Seq, Epoch: p.Epoch, Step: p.Step}, At: p, Final: w.stop, Held: w.hold}, true
	}
	return Action{}, false
}

// other is the action of the next item, which is no micro-batch.
func (w *walk) other() (Action, error) {
	it := w.item()
	kind, err := actionOf(it.Kind)
	if err != nil {
		return Action{}, err
	}
	w.waiting = it.Kind == End
	a := Action{Kind: kind, Item: it}
	switch {
	case kind == Keep:
		a.At, a.Final = w.seq.Position(), w.seq.Ending()
	case kind == Begin:
		a.Drained = true
	case kind == Average && w.seq.run.Splits():
		w.due[0], w.owed = Action{Kind: Update, Item: it}, 1
	}
	return a, nil
}

// mark sets a mark before a.
func (w *walk) mark(a Action, m Mark) error {
	if a.Kind != Forward && a.Kind != Begin || !a.Item.Opens || w.keep || w.stop {
		return fmt.Errorf("%w: %s at the %s of item %d", ErrMark, m, a.Kind, a.Item.Seq)
	}
	switch m {
	case Hold, Checkpoint:
		if !a.Drained {
			return fmt.Errorf("%w: a %s at item %d while others are in flight", ErrMark, m, a.Item.Seq)
		}
	case Stop:
		w.stop = true
	case Continue:
		return nil
	default:
		return fmt.Errorf("%w: %s", ErrMark, m)
	}
	w.next, w.waiting, w.keep, w.hold = a.Item, true, true, m == Hold
	return nil
}

// NewSync is 1F1B (PipeDream, SOSP 2019) that drains the pipeline at every update of a
// replica: the computation of one process. Stage s of P has at most P-s micro-batches
// between their forward and their backward pass, and never more than an update of each unit
// in flight has. Replicas fill each other's bubbles: with as many as stages nothing stands
// still within a round, and fewer leave the gaps of Pace. More that are asked for let stages run
// further ahead.
func NewSync(seq *Sequence, stage, stages int) Schedule {
	s := &alternate{walk: walk{seq: seq}, slots: seq.run.roomy().pace(stages).Depth(stage), stage: stage, stages: stages, sync: true}
	s.follow(seq.own)
	return s
}

// NewAsync is 1F1B without draining: stage s of P runs P-1-s updates behind, and a
// backward pass uses the weights of its forward pass.
func NewAsync(seq *Sequence, stage, stages int) Schedule {
	return &alternate{walk: walk{seq: seq}, slots: stages - stage, depth: stages - stage, ahead: stages - stage, pace: Pace{Stages: 1, Group: 1, Each: 1}}
}

// alternate is one forward, one backward.
type alternate struct {
	walk
	stage, stages int

	slots  int
	depth  int // micro-batches in flight at most
	ahead  int // places from the oldest of them to the newest, at most
	pace   Pace
	sync   bool
	flight []Action // forwards whose backward is due, oldest first
	places []int    // of them
	begun  int      // forwards since the round began
	slot   int
}

// Share implements Schedule.
func (s *alternate) Share(own Set) {
	s.walk.Share(own)
	if s.sync {
		s.follow(own)
	}
}

// follow makes the pace that of a cluster with these replicas.
func (s *alternate) follow(own Set) {
	run := s.seq.run
	run.Own = own
	s.pace = run.pace(s.stages)
	s.depth, s.ahead = s.pace.Depth(s.stage), s.pace.Ahead(s.stage)
}

// may tells whether a forward pass comes before the oldest backward pass.
func (s *alternate) may() bool {
	if len(s.flight) == 0 {
		return true
	}
	return len(s.flight) < s.depth && s.pace.Place(s.begun)-s.places[0] < s.ahead && !(s.sync && waits(s.next, s.flight))
}

func (s *alternate) Slots() int { return s.slots }

func (s *alternate) Next() (Action, error) {
	if a, ok := s.pay(); ok {
		return a, nil
	}
	it := s.item()
	if it.Opens && len(s.flight) == 0 {
		s.begun = 0
	}
	if !s.blocked() && it.Kind == Train && s.may() {
		s.waiting = false
		s.places = append(s.places, s.pace.Place(s.begun))
		s.begun++
		a := Action{Kind: Forward, Item: it, Slot: s.slot, Drained: len(s.flight) == 0}
		s.slot = (s.slot + 1) % s.slots
		s.flight = append(s.flight, a)
		return a, nil
	}
	if len(s.flight) > 0 {
		a := s.flight[0]
		s.flight = append(s.flight[:0], s.flight[1:]...)
		s.places = append(s.places[:0], s.places[1:]...)
		s.closed(a.Item)
		return Action{Kind: Backward, Item: a.Item, Slot: a.Slot}, nil
	}
	if a, ok := s.marked(); ok {
		return a, nil
	}
	return s.other()
}

func (s *alternate) Mark(a Action, m Mark) error {
	if a.Kind == Begin {
		return s.mark(a, m)
	}
	last := len(s.flight) - 1
	if last < 0 || s.flight[last].Item.Seq != a.Item.Seq {
		return fmt.Errorf("%w: %s at item %d, which was not just begun", ErrMark, m, a.Item.Seq)
	}
	if err := s.mark(a, m); err != nil || m == Continue {
		return err
	}
	s.flight, s.places, s.slot = s.flight[:last], s.places[:last], a.Slot
	s.begun--
	return nil
}
