// ZB-H1 of "Zero Bubble Pipeline Parallelism" (arXiv 2401.10241): a backward pass is split
// into the gradients of the inputs, for which the stage before waits, and those of the
// weights, for which nobody does. The latter fill the bubble at the end of an update.

package order

import "fmt"

// NewZeroBubble is sync with backward passes in two halves, in the order of ZB-H1: the same
// result, and a third of the bubble where both halves and a forward pass take as long. Stage
// s of P puts off the weights of s micro-batches, so that all stages hold P of them at most.
func NewZeroBubble(seq *Sequence, stage, stages int) Schedule {
	return &zeroBubble{walk: walk{seq: seq}, lead: stages - stage, behind: stage, slots: min(stages, seq.run.roomy().group())}
}

type zeroBubble struct {
	walk
	lead    int // forwards whose first half is due, at most
	behind  int // micro-batches whose second half is put off, at most, while forwards come
	slots   int
	flight  []Action // forwards whose first half is due, oldest first
	weights []Action // and those whose second half is
	turn    bool     // a first half was just done
	slot    int
}

func (s *zeroBubble) Slots() int { return s.slots }

// forwards tells whether a forward pass of the same update comes next.
func (s *zeroBubble) forwards() bool {
	it := s.item()
	if s.blocked() || it.Kind != Train {
		return false
	}
	return !waits(it, s.flight) && !waits(it, s.weights)
}

func (s *zeroBubble) Next() (Action, error) {
	if a, ok := s.pay(); ok {
		return a, nil
	}
	more := s.forwards()
	turn := s.turn
	s.turn = false
	switch {
	case turn && (len(s.weights) > s.behind || !more) && len(s.weights) > 0:
		return s.second(), nil
	case more && len(s.flight) < s.lead && len(s.flight)+len(s.weights) < s.slots:
		s.waiting = false
		a := Action{Kind: Forward, Item: s.next, Slot: s.slot, Drained: len(s.flight)+len(s.weights) == 0}
		s.slot = (s.slot + 1) % s.slots
		s.flight = append(s.flight, a)
		return a, nil
	case len(s.flight) > 0:
		a := s.flight[0]
		s.flight = append(s.flight[:0], s.flight[1:]...)
		s.weights = append(s.weights, a)
		s.turn = true
		return Action{Kind: BackwardInput, Item: a.Item, Slot: a.Slot}, nil
	case len(s.weights) > 0:
		return s.second(), nil
	}
	if a, ok := s.marked(); ok {
		return a, nil
	}
	return s.other()
}

// second is the second half of the oldest backward pass that waits for it.
func (s *zeroBubble) second() Action {
	a := s.weights[0]
	s.weights = append(s.weights[:0], s.weights[1:]...)
	s.closed(a.Item)
	return Action{Kind: BackwardWeight, Item: a.Item, Slot: a.Slot}
}

func (s *zeroBubble) Mark(a Action, m Mark) error {
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
	s.flight, s.slot = s.flight[:last], a.Slot
	return nil
}
