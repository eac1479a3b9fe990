// Clipping by the norm of all gradients. Before an update, the sum of their squares is passed from
// the last stage to the first, each adding its own, and the total is passed back.
//
// The total adds up one sum for each parameter, each in a fixed order, from the last parameter of
// the model to the first. So it is a function of the gradients, not of the cut, and it follows the
// direction of the backward pass.

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

// clip scales the gradients down if the norm of all of them is above the job's limit, like
// torch.nn.utils.clip_grad_norm_.
func (r *Replicas) clip(ctx context.Context, seq uint64, grads []float32) error {
	if r.job.ClipNorm == 0 {
		return nil
	}
	sum, err := r.norm(ctx, seq, func(after float64) float64 { return r.squares(grads, after) })
	if err != nil {
		return err
	}
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

// norm adds up over all stages: add adds this stage's part to the sum of the later stages.
func (w *wiring) norm(ctx context.Context, stages int, seq uint64, add func(after float64) float64) (float64, error) {
	before, after := w.stage-1, w.stage+1
	sum := 0.0
	var err error
	if after < stages {
		if sum, err = w.receiveNorm(ctx, after, seq); err != nil {
			return 0, err
		}
	}
	sum = add(sum)
	if before >= 0 {
		if err := w.sendNorm(ctx, before, seq, sum); err != nil {
			return 0, err
		}
		if sum, err = w.receiveNorm(ctx, before, seq); err != nil {
			return 0, err
		}
	}
	if after < stages {
		return sum, w.sendNorm(ctx, after, seq, sum)
	}
	return sum, nil
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
	m, err := w.next(ctx, from, true)
	if err != nil {
		return 0, err
	}
	defer m.Release()
	if h := m.Header; h.Kind != wire.Norm || h.Seq != seq || len(m.Payload) != normBytes {
		return 0, fmt.Errorf("%w: stage %d sent a %s of %d bytes at item %d; expected the squares of its gradients at item %d",
			ErrProtocol, from, h.Kind, len(m.Payload), h.Seq, seq)
	}
	sum := math.Float64frombits(binary.LittleEndian.Uint64(m.Payload))
	if !(sum >= 0) || math.IsInf(sum, 0) {
		return 0, fmt.Errorf("%w: the squares of the gradients of stage %d and the later stages add up to %v", ErrDiverged, from, sum)
	}
	w.tally.number(wire.Norm, from, w.stage, false, m.Payload)
	return sum, nil
}
