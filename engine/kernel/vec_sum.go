// Sums, in the one order of additions that every implementation keeps.
//
// The scheme: data comes as rows of contiguous elements. The element at offset p of its
// row belongs to virtual lane p mod 16. Rows come in ascending order. Each lane is a
// sequential float32 sum that starts at +0. At the end one tree joins the lanes:
// l += l+8 for l < 8, then l += l+4, l += l+2, l += l+1; lane 0 is the sum. Products are
// rounded to float32 before they are added; nothing is fused.
//
// A row of 16 floats is one AVX-512 register, two of AVX2, four of NEON or
// WebAssembly, so each of them gives these bits at full speed. Rows of length 1 (a
// channel of [N,C,1]) only ever meet lane 0: a plain sequential sum.

package kernel

// lanes are the 16 partial sums of the scheme.
type lanes [16]float32

// total joins the lanes by the tree.
func (l *lanes) total() float32 {
	a0, a1, a2, a3 := l[0]+l[8], l[1]+l[9], l[2]+l[10], l[3]+l[11]
	a4, a5, a6, a7 := l[4]+l[12], l[5]+l[13], l[6]+l[14], l[7]+l[15]
	return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))
}

// add adds one row.
func (l *lanes) add(x []float32) {
	if vec(vecSum, &vecArgs{n: len(x), p: ptrs(x, nil, nil, nil), sums: l}) {
		return
	}
	if len(x) >= 16 {
		// Eight lanes at a time stay in registers.
		for h := 0; h < 16; h += 8 {
			a := (*[8]float32)(l[h:])
			s0, s1, s2, s3, s4, s5, s6, s7 := a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
			for r := x; len(r) >= 16; r = r[16:] {
				v := (*[8]float32)(r[h:])
				s0 += v[0]
				s1 += v[1]
				s2 += v[2]
				s3 += v[3]
				s4 += v[4]
				s5 += v[5]
				s6 += v[6]
				s7 += v[7]
			}
			a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7] = s0, s1, s2, s3, s4, s5, s6, s7
		}
		x = x[len(x)&^15:]
	}
	for i, v := range x {
		l[i&15] += v
	}
}

// Sum adds the elements of x as one row of the scheme.
func Sum(x []float32) float32 {
	var l lanes
	l.add(x)
	return l.total()
}

// Dot adds the rounded products x[i]*y[i] as one row of the scheme.
func Dot(x, y []float32) float32 {
	y = y[:len(x)]
	var l lanes
	if !vec(vecDot, &vecArgs{n: len(x), p: ptrs(x, y, nil, nil), sums: &l}) {
		for i, v := range x {
			l[i&15] += float32(v * y[i])
		}
	}
	return l.total()
}

// colBlock is how many channels of [N,C,1] are summed together: one cache line.
const colBlock = 16

// Channels selects channels From to To-1 of tensors [N,C,HW], so that threads can share a
// tensor by channels. Slices are nevertheless those of all channels: whole tensors, and [C]
// for what a channel has. Other channels are neither read nor written.
type Channels struct{ N, C, HW, From, To int }

// AllChannels are those of [n,c,hw].
func AllChannels(n, c, hw int) Channels { return Channels{N: n, C: c, HW: hw, To: c} }

// size is the length of a tensor.
func (s Channels) size() int { return s.N * s.C * s.HW }

// empty reports whether the channels have no elements.
func (s Channels) empty() bool { return s.N*s.HW == 0 }

// SumChannels sums x [N,C,HW] over rows and positions to dst [C], the gradient of a bias.
// With acc the sum is added to dst by one rounded addition.
func SumChannels(dst, x []float32, s Channels, acc bool) {
	dst, x = dst[:s.C], x[:s.size()]
	if !s.empty() && vecSumChannels(dst, x, s, acc) {
		return
	}
	if s.HW == 1 {
		for j := s.From; j < s.To; j += colBlock {
			var sum [colBlock]float32
			w := min(colBlock, s.To-j)
			for r := j; r < len(x); r += s.C {
				for i, v := range x[r : r+w] {
					sum[i&(colBlock-1)] += v
				}
			}
			store(dst[j:j+w], sum[:w], acc)
		}
		return
	}
	for j := s.From; j < s.To; j++ {
		var l lanes
		for r := j * s.HW; r < len(x); r += s.C * s.HW {
			l.add(x[r : r+s.HW])
		}
		sum := l.total()
		if acc {
			sum = dst[j] + sum
		}
		dst[j] = sum
	}
}

// store copies or adds s to dst.
func store(dst, s []float32, acc bool) {
	if acc {
		AddTo(dst, s)
	} else {
		copy(dst, s)
	}
}

func vecSumChannels(dst, x []float32, s Channels, acc bool) bool {
	l, per := newChannelLoop(s)
	for j := s.From; j < s.To; j += per {
		w := min(per, s.To-j)
		if !l.run(vecSum, 0, j, w, x, nil, nil) {
			return false
		}
		for q := range w {
			sum := l.sum(0, q, w)
			if acc {
				sum = dst[j+q] + sum
			}
			dst[j+q] = sum
		}
	}
	return true
}
