// Parameters that several stages hold. Before an update, their gradients are added up along the
// stages, from the last holder to the first, and the sum is passed back. Every holder then makes
// the same update to its own copy.

package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/wire"
)

// ErrTied is wrapped by errors that say that a job cannot train parameters that several stages
// share.
var ErrTied = errors.New("a parameter is shared by several stages")

// pieceElems is the number of elements in a message of a tied gradient.
const pieceElems = 1 << 20

// tie is a tied parameter that other stages hold, too.
type tie struct {
	exec.Tie
	before, after int // the nearest stages that hold it, -1: none
}

// pieces returns the number of messages that its gradient takes.
func (t *tie) pieces() int { return (t.Elems + pieceElems - 1) / pieceElems }

// piece is one of them.
func (t *tie) piece(k int) (from, to int) {
	return k * pieceElems, min((k+1)*pieceElems, t.Elems)
}

// tiesOf returns the tied parameters of a stage, including those that it alone holds, which are
// added up at the same time.
func tiesOf(j job.Spec, s *graph.Stage, l *exec.Layout) ([]tie, error) {
	var ts []tie
	for _, e := range l.Ties {
		t := tie{Tie: e, before: -1, after: -1}
		for _, k := range e.Stages {
			if k < s.Index {
				t.before = max(t.before, k)
			}
			if k > s.Index && (t.after < 0 || k < t.after) {
				t.after = k
			}
		}
		if j.Schedule == job.Async && (t.before >= 0 || t.after >= 0) {
			return nil, fmt.Errorf("%w: %q, and the schedule %s never brings its gradients together: use sync or zb, or a cut that leaves its layers in one stage",
				ErrTied, e.Name, j.Schedule)
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// tiedSize returns the size of the largest message of a tied gradient to or from a stage, 0 if
// there is none.
func (c *Compiled) tiedSize(peer int) int {
	n := 0
	for _, t := range c.ties {
		if t.before == peer || t.after == peer {
			n = max(n, wire.MessageHeader+codec.MaxSize(codec.FP32, min(t.Elems, pieceElems)))
		}
	}
	return n
}

// begins reports whether no earlier stage holds the parameter: the sum of what this stage and the
// later ones have is the total.
func (t *tie) begins() bool { return t.before < 0 }

// goesOn reports the contrary.
func (t *tie) goesOn() bool { return t.before >= 0 }

func (t *tie) header(piece int, seq uint64) wire.Header {
	from, to := t.piece(piece)
	return wire.Header{Kind: wire.Tied, Edge: uint16(t.Number), Seq: seq, Rows: uint32(piece), Elems: uint32(to - from)}
}

// sum makes the gradients of tied parameters the sums over all holders.
func (w *wiring) sum(ctx context.Context, seq uint64, grads []float32) error {
	if err := w.sums(ctx, seq, grads); err != nil {
		return err
	}
	return w.totals(ctx, seq, grads, func(*tie) bool { return true })
}

// sums adds up over the stages from the last to this one.
func (w *wiring) sums(ctx context.Context, seq uint64, grads []float32) error {
	for i := range w.ties {
		t := &w.ties[i]
		own := grads[t.Off:][:t.Elems]
		for k := range t.pieces() {
			from, to := t.piece(k)
			if t.after >= 0 {
				part := w.part[:to-from]
				if err := w.receiveTied(ctx, t.after, t, k, seq, part); err != nil {
					return err
				}
				kernel.AddTo(own[from:to], part)
			}
		}
		t.Fold(grads)
		if t.before >= 0 {
			if err := w.sendTied(ctx, t.before, t, seq, grads); err != nil {
				return err
			}
		}
	}
	return nil
}

// totals takes the sums over all holders from the stages before, and passes them on, for those
// parameters that which tells.
func (w *wiring) totals(ctx context.Context, seq uint64, grads []float32, which func(*tie) bool) error {
	for i := range w.ties {
		t := &w.ties[i]
		if !which(t) {
			continue
		}
		own := grads[t.Off:][:t.Elems]
		if t.before >= 0 {
			for k := range t.pieces() {
				from, to := t.piece(k)
				if err := w.receiveTied(ctx, t.before, t, k, seq, own[from:to]); err != nil {
					return err
				}
			}
		}
		if t.after >= 0 {
			if err := w.sendTied(ctx, t.after, t, seq, grads); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendTied sends a tied parameter's part of a vector of gradients, or has it sent.
func (w *wiring) sendTied(ctx context.Context, to int, t *tie, seq uint64, grads []float32) error {
	x := grads[t.Off:][:t.Elems]
	for k := range t.pieces() {
		from, end := t.piece(k)
		part := x[from:end]
		err := fits(codec.FP32, part, false)
		if err != nil {
			return fmt.Errorf("the gradient of %q, summed up by stage %d: %w", t.Name, w.stage, err)
		}
		w.raw += 4 * int64(len(part))
		w.tally.tied(seq, w.stage, to, true, part, w.couriers != nil)
		if w.couriers != nil {
			continue
		}
		enc := w.lossless()
		enc.Plain(w.near(to))
		if w.buf, err = enc.Encode(w.buf[:0], part); err != nil {
			return err
		}
		if err := w.links[to].Send(ctx, t.header(k, seq), w.buf); err != nil {
			return fmt.Errorf("sending to stage %d: %w", to, err)
		}
	}
	if w.couriers != nil {
		w.couriers.give(to, t, seq, x, grads)
	}
	return nil
}

func (w *wiring) receiveTied(ctx context.Context, from int, t *tie, piece int, seq uint64, dst []float32) error {
	m, err := w.next(ctx, from, turn{wire.Tied, uint16(t.Number)})
	if err != nil {
		return err
	}
	defer m.Release()
	if h := m.Header; int(h.Edge) != t.Number || h.Seq != seq || int(h.Rows) != piece || int(h.Elems) != len(dst) {
		return w.sentBy(from, fmt.Errorf("%w: stage %d sent piece %d of tied parameter %d at item %d, %d elements; expected piece %d of %d at item %d, %d elements",
			ErrProtocol, from, h.Rows, h.Edge, h.Seq, h.Elems, piece, t.Number, seq, len(dst)))
	}
	if err := w.dec.Decode(dst, m.Payload); err != nil {
		return w.sentBy(from, fmt.Errorf("%w: from stage %d: %w", ErrProtocol, from, err))
	}
	if err := finite(dst); err != nil {
		return w.gotFrom(from, fmt.Errorf("the gradient of %q, sent by stage %d: %w", t.Name, from, err))
	}
	w.tally.tied(seq, from, w.stage, false, dst, w.couriers != nil)
	return nil
}
