// Batch norm as caches like it: a few channels at a time. What was read for their statistics
// is still near when they are normalised, and what was read for the two sums of the
// gradient when the input's gradient is computed: memory is read once, where one pass after
// the other reads it twice or three times. Threads share the channels.

package kernel

// BatchNorm is batch norm over x [N,C,HW], with ReLU behind it if that is set.
type BatchNorm struct {
	N, C, HW    int
	ReLU        bool
	Eps         float32
	Gamma, Beta []float32 // [C]
	// Mean and InvStd [C] are those of x, found by BatchNormForward, or others that it is
	// given.
	Mean, InvStd []float32
}

// BatchNormForward is [BatchNormApply] or [BatchNormReLU], before it [BatchNormStats] and
// [InvStd] unless variance is nil. y may be x.
func BatchNormForward(t *Team, b *BatchNorm, y, x, variance []float32) {
	t.norm(normTask{BatchNorm: *b, y: y, x: x, variance: variance})
}

// BatchNormBackward is [BatchNormGradSums], or with ReLU [BatchNormReLUGradSums], and then
// [BatchNormGradInput] unless dx is nil. dx may be dy.
func BatchNormBackward(t *Team, b *BatchNorm, dx, dy, x, dgamma, dbeta []float32) {
	t.norm(normTask{BatchNorm: *b, dx: dx, dy: dy, x: x, dgamma: dgamma, dbeta: dbeta})
}

// normTask is one of the two, cut into stripes of channels.
type normTask struct {
	BatchNorm
	x             []float32
	y, variance   []float32 // forward
	dx, dy        []float32 // backward
	dgamma, dbeta []float32
	per, step     int // channels at a time, and in a stripe
}

// normFloats is how much of a tensor is treated at a time, if one loop over channels has
// less: of small planes so many that a call weighs nothing, and all that the passes touch
// stays in the second level of the cache.
const normFloats = 1 << 14

// norm runs the task on the team.
func (t *Team) norm(task normTask) {
	side := max(1, 16/max(1, task.HW)) // by side in one loop
	task.per = max(1, normFloats/max(1, task.N*task.HW*side)) * side
	if t.Threads() == 1 {
		task.channels(0, task.C)
		return
	}
	j := &t.norms
	*j = task
	step, tiles := stripes(j.C, j.per, 4*t.Threads())
	j.step = step
	t.Run(tiles, j)
	*j = normTask{} // nothing of the caller's is kept
}

// Tile implements [Task].
func (j *normTask) Tile(_, i int) { j.channels(i*j.step, min((i+1)*j.step, j.C)) }

// channels does the channels from first to last-1.
func (j *normTask) channels(first, last int) {
	s := Channels{N: j.N, C: j.C, HW: j.HW}
	for s.From = first; s.From < last; s.From = s.To {
		s.To = min(s.From+j.per, last)
		if j.dy == nil {
			j.forward(s)
		} else {
			j.backward(s)
		}
	}
}

func (j *normTask) forward(s Channels) {
	if j.variance != nil {
		BatchNormStats(j.Mean, j.variance, j.x, s)
		InvStd(j.InvStd[s.From:s.To], j.variance[s.From:s.To], j.Eps)
	}
	if j.ReLU {
		BatchNormReLU(j.y, j.x, j.Mean, j.InvStd, j.Gamma, j.Beta, s)
	} else {
		BatchNormApply(j.y, j.x, j.Mean, j.InvStd, j.Gamma, j.Beta, s)
	}
}

func (j *normTask) backward(s Channels) {
	if j.ReLU {
		BatchNormReLUGradSums(j.dgamma, j.dbeta, j.dy, j.x, j.Mean, j.InvStd, j.Gamma, j.Beta, s)
	} else {
		BatchNormGradSums(j.dgamma, j.dbeta, j.dy, j.x, j.Mean, j.InvStd, s)
	}
	if j.dx != nil {
		BatchNormGradInput(j.dx, j.dy, j.x, j.Mean, j.InvStd, j.Gamma, j.dgamma, j.dbeta, s)
	}
}
