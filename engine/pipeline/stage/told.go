// What clusters tell each other at a round's end, in the same breath as the scales of an average: counts,
// what their roots ask for, what their stages take and the losses of their batches.

package stage

import (
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// silent stands for what a cluster does not tell: it is less than all that one can.
var silent = float32(math.Inf(-1))

// countBits is how much of a count one float32 holds.
const countBits = 24

// announce puts what this cluster tells the others behind the scales.
func (m *exchange) announce(r *ring) {
	for i := range r.agreed[r.scales:] {
		r.agreed[r.scales+i] = silent
	}
	for i, off := range r.share.counters {
		up := m.r.counted(off)
		at := r.counters + 2*(i*m.n+m.c.Placement.Cluster)
		r.agreed[at], r.agreed[at+1] = float32(up>>countBits), float32(up&(1<<countBits-1))
	}
	if r.first {
		r.agreed[r.mark] = float32(m.mark)
		m.announcePulls(r)
	}
	if r.last {
		copy(r.agreed[r.losses:], m.rings.losses)
	}
}

// whole is a number that a cluster has told.
func whole(v float32, least, most int64) (int64, error) {
	if n := int64(v); float32(n) == v && n >= least && n <= most {
		return n, nil
	}
	return 0, fmt.Errorf("%w: a count, mark or cost of %v", ErrRound, v)
}

// collect takes what all clusters have told.
func (m *exchange) collect(r *ring) error {
	for i, off := range r.share.counters {
		var up int64
		for c := range m.n {
			at := r.counters + 2*(i*m.n+c)
			high, err := whole(r.agreed[at], 0, 1<<countBits-1)
			if err != nil {
				return err
			}
			low, err := whole(r.agreed[at+1], 0, 1<<countBits-1)
			if err != nil {
				return err
			}
			if d := high<<countBits + low; m.r.job.Gradients() {
				up = max(up, d)
			} else {
				up += d
			}
		}
		m.r.lead().State.Counters[off] = m.r.counters[off] + up
	}
	if r.first {
		mark, err := whole(r.agreed[r.mark], 0, int64(order.Stop))
		if err != nil {
			return err
		}
		m.mark = order.Mark(mark)
		if err := m.collectPulls(r); err != nil {
			return err
		}
	}
	if r.last {
		copy(m.rings.losses, r.agreed[r.losses:])
	}
	return nil
}
