// Clipping by the norm of all gradients. Before an update, the sum of their squares is passed from
// the last stage to the first, each adding its own, and the total is passed back.
//
// The total adds up one sum for each parameter, each in a fixed order, from the last parameter of
// the model to the first. So it is a function of the gradients, not of the cut, and it follows the
// direction of the backward pass.
//
// Where several replicas take turns, updates are put off; see late.go. The first stage passes the
// total on just ahead of the activation that depends on it, so that norms arrive in the order in
// which they are asked for.

package stage

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/wire"
)

// normBytes is the payload of a Norm message: a float64.
const normBytes = 8

// clips reports whether gradients are clipped over several stages.
func (c *Compiled) clips() bool { return c.Job.ClipNorm > 0 && c.Stage.Of > 1 }

// gathered returns the size of the largest message to or from a stage for which an update waits,
// 0 if there is none.
func (c *Compiled) gathered(peer int) int {
	n := c.tiedSize(peer)
	if d := peer - c.Stage.Index; c.clips() && (d == 1 || d == -1) {
		n = max(n, wire.MessageHeader+normBytes)
	}
	return n
}

// squares adds the squares of the gradients to sum, those of the last parameter first. A parameter
// that several stages hold is counted by its first holder.
func (r *Replicas) squares(grads []float32, sum float64) float64 {
	for i := len(r.layout.Entries) - 1; i >= 0; i-- {
		if e := r.layout.Entries[i]; e.Role == graph.Trainable && !r.elsewhere[e.Full] {
			sum += kernel.SumSquares(grads[e.Off:][:e.Elems()])
		}
	}
	return sum
}

// clip scales the gradients down if the norm of all of them, the root of sum, is above the job's
// limit, like torch.nn.utils.clip_grad_norm_.
func (r *Replicas) clip(grads []float32, sum float64) error {
	norm := math.Sqrt(sum)
	if norm-norm != 0 {
		return fmt.Errorf("%w: the norm of the gradients is %v", ErrDiverged, norm)
	}
	if by := r.job.ClipNorm / (norm + 1e-6); by < 1 {
		g := grads[:r.layout.Trainable]
		kernel.Scale(g, g, float32(by))
	}
	return nil
}

// normSum adds up over the stages from the last to this one: add adds this stage's part to the sum
// of the later stages.
func (w *wiring) normSum(ctx context.Context, stages int, seq uint64, add func(after float64) float64) (float64, error) {
	sum := 0.0
	if after := w.stage + 1; after < stages {
		var err error
		if sum, err = w.receiveNorm(ctx, after, seq); err != nil {
			return 0, err
		}
	}
	sum = add(sum)
	if w.stage > 0 {
		return sum, w.sendNorm(ctx, w.stage-1, seq, sum)
	}
	return sum, nil
}

// normTotal returns the sum over all stages, which on the first is that of normSum, and passes it
// on to the later stages.
func (w *wiring) normTotal(ctx context.Context, stages int, seq uint64, sum float64) (float64, error) {
	if w.stage > 0 {
		var err error
		if sum, err = w.receiveNorm(ctx, w.stage-1, seq); err != nil {
			return 0, err
		}
	}
	if after := w.stage + 1; after < stages {
		return sum, w.sendNorm(ctx, after, seq, sum)
	}
	return sum, nil
}

// norm adds up over all stages and waits for the total.
func (w *wiring) norm(ctx context.Context, stages int, seq uint64, add func(after float64) float64) (float64, error) {
	sum, err := w.normSum(ctx, stages, seq, add)
	if err != nil {
		return 0, err
	}
	return w.normTotal(ctx, stages, seq, sum)
}

func (w *wiring) sendNorm(ctx context.Context, to int, seq uint64, sum float64) error {
	w.buf = binary.LittleEndian.AppendUint64(w.buf[:0], math.Float64bits(sum))
	if err := w.links[to].Send(ctx, wire.Header{Kind: wire.Norm, Seq: seq}, w.buf); err != nil {
		return fmt.Errorf("sending to stage %d: %w", to, err)
	}
	w.tally.number(wire.Norm, w.stage, to, true, w.buf)
	return nil
}

func (w *wiring) receiveNorm(ctx context.Context, from int, seq uint64) (float64, error) {
	m, err := w.next(ctx, from, turn{kind: wire.Norm})
	if err != nil {
		return 0, err
	}
	defer m.Release()
	if h := m.Header; h.Kind != wire.Norm || h.Seq != seq || len(m.Payload) != normBytes {
		return 0, w.sentBy(from, fmt.Errorf("%w: stage %d sent a %s of %d bytes at item %d; expected the squares of its gradients at item %d",
			ErrProtocol, from, h.Kind, len(m.Payload), h.Seq, seq))
	}
	sum := math.Float64frombits(binary.LittleEndian.Uint64(m.Payload))
	if !(sum >= 0) || math.IsInf(sum, 0) {
		return 0, w.gotFrom(from, fmt.Errorf("%w: the squares of the gradients of stage %d and the later stages add up to %v", ErrDiverged, from, sum))
	}
	w.tally.number(wire.Norm, from, w.stage, false, m.Payload)
	return sum, nil
}
