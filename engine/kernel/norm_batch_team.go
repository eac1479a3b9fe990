// Cache-blocked batch norm: a few channels at a time go through all passes, statistics and
// normalisation, or the sums of the gradient and the gradient of the input. Memory is then
// read once instead of two or three times. Threads share the channels.

package kernel

// BatchNorm is batch norm over x [N,C,HW], followed by ReLU if that is set.
type BatchNorm struct {
	N, C, HW    int
	ReLU        bool
	Eps         float32
	Gamma, Beta []float32 // [C]
	// Mean and InvStd [C] are computed by BatchNormForward, or given in evaluation.
	Mean, InvStd []float32
	// RoundDX makes the gradient of x operands of products in bfloat16 ([RoundBF16]).
	RoundDX bool
}

// BatchNormForward is [BatchNormApply] or [BatchNormReLU], preceded by [BatchNormStats] and
// [InvStd] unless variance is nil. y may be x.
func BatchNormForward(t *Team, b *BatchNorm, y, x, variance []float32) {
	t.norm(normTask{BatchNorm: *b, y: y, x: x, variance: variance})
}

// BatchNormBackward is [BatchNormGradSums], or with ReLU [BatchNormReLUGradSums], and then
// [BatchNormGradInput] unless dx is nil. dx may be dy.
func BatchNormBackward(t *Team, b *BatchNorm, dx, dy, x, dgamma, dbeta []float32) {
	t.norm(normTask{BatchNorm: *b, dx: dx, dy: dy, x: x, dgamma: dgamma, dbeta: dbeta})
}

// normTask is one of the two, split into stripes of channels.
type normTask struct {
	BatchNorm
	x             []float32
	y, variance   []float32 // forward
	dx, dy        []float32 // backward
	dgamma, dbeta []float32
	per, step     int // channels at a time, and in a stripe
}

// normFloats is the floats of a tensor that go through the passes at a time: enough to
// amortise the calls where planes are small, few enough to stay in the L2 cache.
const normFloats = 1 << 14

// norm runs the task on the team.
func (t *Team) norm(task normTask) {
	side := max(1, 16/max(1, task.HW)) // channels in one vector loop
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
	*j = normTask{} // do not retain the caller's slices
}

// Tile implements [Task].
func (j *normTask) Tile(_, i int) { j.channels(i*j.step, min((i+1)*j.step, j.C)) }

// channels computes channels [first,last).
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
		for n := 0; j.RoundDX && n < j.N; n++ { // while they are in the cache
			dx := j.dx[(n*j.C+s.From)*j.HW : (n*j.C+s.To)*j.HW]
			roundBF16(dx, dx)
		}
	}
}
