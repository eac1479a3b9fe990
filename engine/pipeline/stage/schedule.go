// The order in which one stage does its work: a pure machine that turns the sequence
// of items into actions. It knows no clock and no peer, so the same job gives the same
// order every time, however late a message is.
//
// Both schedules are one-forward-one-backward (PipeDream, SOSP 2019): stage s of P has
// at most P-s micro-batches between their forward and their backward pass. sync
// drains the pipeline at every update, which makes it the computation of one process.
// async does not: stage s then runs τ = P-1-s updates behind, and a backward pass uses
// the weights of its forward pass.

package stage

// ActionKind is what a stage does next.
type ActionKind uint8

// The kinds of actions.
const (
	Forward  ActionKind = iota // of Item, into Slot
	Backward                   // of Item, from Slot
	Update                     // of the weights, with the gradients of the group that Item closed
	Evaluate                   // forward of the validation batch Item
	Report                     // the validation pass is over
	Keep                       // save the state
	Done
)

func (k ActionKind) String() string {
	return [...]string{"forward", "backward", "update", "evaluate", "report", "keep", "done"}[k]
}

// Action is one thing to do.
type Action struct {
	Kind ActionKind
	Item Item
	Slot int
}

// Schedule is the machine of one stage.
type Schedule struct {
	seq    *Sequence
	depth  int // micro-batches in flight at most
	sync   bool
	flight []Action // forwards whose backward is due, oldest first
	update *Item    // an update is due
	next   *Item    // item that waits for room or for the pipeline to drain
	slot   int
}

// NewSchedule is the schedule of one stage of a pipeline.
func NewSchedule(seq *Sequence, stage, stages int, sync bool) *Schedule {
	return &Schedule{seq: seq, depth: stages - stage, sync: sync}
}

// Depth is the number of slots the stage needs.
func (s *Schedule) Depth() int { return s.depth }

// Next decides the next action. Forward is final only if the caller does not Stop
// instead of doing it.
func (s *Schedule) Next() Action {
	if s.update != nil {
		it := *s.update
		s.update = nil
		return Action{Kind: Update, Item: it}
	}
	if s.next == nil {
		it := s.seq.Next()
		s.next = &it
	}
	it := *s.next
	switch {
	case it.Kind == Train && len(s.flight) < s.depth && !(s.sync && it.First && len(s.flight) > 0):
		s.next = nil
		a := Action{Kind: Forward, Item: it, Slot: s.slot}
		s.slot = (s.slot + 1) % s.depth
		s.flight = append(s.flight, a)
		return a
	case len(s.flight) > 0:
		a := s.flight[0]
		s.flight = append(s.flight[:0], s.flight[1:]...)
		a.Kind = Backward
		if a.Item.Last {
			s.update = &a.Item
		}
		return a
	}
	if it.Kind != End {
		s.next = nil
	}
	kind := map[ItemKind]ActionKind{Eval: Evaluate, EvalDone: Report, Save: Keep, End: Done}[it.Kind]
	return Action{Kind: kind, Item: it}
}

// Stop takes back the forward action just given and ends the run before it: what is
// in flight is finished, the state is saved, and the run is done. It is called with
// the first micro-batch of an update only.
func (s *Schedule) Stop(a Action) {
	if len(s.flight) > 0 && s.flight[len(s.flight)-1].Item.Seq == a.Item.Seq {
		s.flight = s.flight[:len(s.flight)-1]
	}
	mark := Item{Epoch: a.Item.Epoch, Step: a.Item.Step, Seq: a.Item.Seq}
	mark.Kind = Save
	s.next = &mark
	end := mark
	end.Kind = End
	s.seq.pending = []Item{end}
}
