// The vectorised loops over blocks of 16 elements: everything but matrix products and
// windows. z_vec_op.go lists them. vec runs one by its number; where it returns false, the
// caller's portable code runs, which is the specification.

package kernel

// vecArgs are the arguments of a loop over rows of n >= 0 elements in up to four slices. Each
// row starts stride elements after the row before.
type vecArgs struct {
	rows, stride int // 0 rows count as 1
	n            int
	p            [4]*float32
	bits         *uint32     // of dropout: bit i%32 of word i/32 belongs to element i
	k            [10]float32 // parameters
	// lanes, if not nil, replaces k by a value for each lane: element i of a row has the
	// parameters lanes[.][i%16]. Only the loops that the generator calls lanewise read it.
	lanes *[5]lanes
	// sums is the sum that the loop continues, as in vec_sum.go, or the first of two.
	sums *lanes
}

// vecWide is the first of the loops that need a block in one register.
const vecWide = vecSoftmaxRow

// ptrs are the addresses of up to four slices.
func ptrs(a, b, c, d []float32) [4]*float32 {
	return [4]*float32{ptr(a, 0), ptr(b, 0), ptr(c, 0), ptr(d, 0)}
}

// tail is x from element i on, if there is an x.
func tail(x []float32, i int) []float32 {
	if x == nil {
		return nil
	}
	return x[i:]
}

// channelLoop is a loop over channels, N its rows. Small planes share a vector: as many as 16
// lanes hold, each lane with the parameters of its channel.
type channelLoop struct {
	Channels
	// value has the parameters of the channels; the caller sets value[.][q] for channel
	// j+q before run.
	value  [5]lanes
	spread [5]lanes
	total  [2]lanes
}

// newChannelLoop is the loop over s, with per channels in each run.
func newChannelLoop(s Channels) (l channelLoop, per int) {
	return channelLoop{Channels: s}, max(1, 16/s.HW)
}

// run runs op, which has that many parameters, for channels j to j+w-1.
func (l *channelLoop) run(op vecOp, params, j, w int, x, y, z []float32) bool {
	at := j * l.HW
	l.total = [2]lanes{}
	a := vecArgs{rows: l.N, stride: l.C * l.HW, n: w * l.HW, p: ptrs(tail(x, at), tail(y, at), tail(z, at), nil), sums: &l.total[0]}
	switch {
	case w == 1:
		for i := range params {
			a.k[i] = l.value[i][0]
		}
	case l.HW == 1:
		a.lanes = &l.value
	default:
		a.lanes = &l.spread
		for i := range params {
			for q, v := range l.value[i][:w] {
				s := l.spread[i][q*l.HW:][:l.HW]
				for e := range s {
					s[e] = v
				}
			}
		}
	}
	return vec(op, &a)
}

// sum is sum i of channel q of the last run of w channels.
func (l *channelLoop) sum(i, q, w int) float32 {
	t := &l.total[i]
	switch {
	case l.HW == 1:
		return t[q]
	case w == 1:
		return t.total()
	}
	var s lanes
	copy(s[:], t[q*l.HW:][:l.HW])
	return s.total()
}
