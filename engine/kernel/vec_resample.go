package kernel

// Resample makes the elements of one axis sums of weighted ones: padding that mirrors or
// repeats, enlarging, elements picked by number. Tensors are [N, In or Out, Inner].
type Resample struct {
	In, Out, Taps, Inner int
	Index                []uint32  // [Out, Taps], below In
	Weight               []float32 // [Out, Taps]; nil: 1
}

// Forward sets y[o] to the sum of weight[o][t] x[index[o][t]], each product rounded and added
// in the order of t.
func (r *Resample) Forward(y, x []float32, n int) {
	for range n {
		for o := range r.Out {
			dst := y[o*r.Inner:][:r.Inner]
			for t := range r.Taps {
				src := x[int(r.Index[o*r.Taps+t])*r.Inner:][:r.Inner]
				if t == 0 && r.Weight == nil {
					copy(dst, src)
					continue
				}
				w := float32(1)
				if r.Weight != nil {
					w = r.Weight[o*r.Taps+t]
				}
				if t == 0 {
					for i, v := range src {
						dst[i] = v * w
					}
					continue
				}
				for i, v := range src {
					dst[i] += float32(v * w)
				}
			}
		}
		x, y = x[r.In*r.Inner:], y[r.Out*r.Inner:]
	}
}

// Grad sets dx to the sum of weight[o][t] dy[o] over all o and t that read the element, from +0
// in ascending order of o, then of t.
func (r *Resample) Grad(dx, dy []float32, n int) {
	clear(dx[:n*r.In*r.Inner])
	for range n {
		for o := range r.Out {
			src := dy[o*r.Inner:][:r.Inner]
			for t := range r.Taps {
				dst := dx[int(r.Index[o*r.Taps+t])*r.Inner:][:r.Inner]
				if r.Weight == nil {
					for i, v := range src {
						dst[i] += v
					}
					continue
				}
				w := r.Weight[o*r.Taps+t]
				for i, v := range src {
					dst[i] += float32(v * w)
				}
			}
		}
		dx, dy = dx[r.In*r.Inner:], dy[r.Out*r.Inner:]
	}
}
