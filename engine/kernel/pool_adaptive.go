// Average pooling to a given output size.

package kernel

// AdaptivePool is torch.nn.AdaptiveAvgPool2d: x [N,C,H,W], y [N,C,OH,OW]. Window o of an
// axis of n elements and m windows is [floor(o n/m), ceil((o+1) n/m)).
type AdaptivePool struct {
	N, C, H, W, OH, OW int
}

func adaptSpan(o, n, m int) (from, to int) { return o * n / m, ((o+1)*n + m - 1) / m }

// AdaptiveAvgPool sets y to the mean of each window: the sum of its rows as in vec_sum.go,
// divided by its size.
func AdaptiveAvgPool(p *AdaptivePool, y, x []float32) {
	plane, o := p.H*p.W, 0
	x, y = x[:p.N*p.C*plane], y[:p.N*p.C*p.OH*p.OW]
	for ; len(x) > 0; x = x[plane:] {
		for oy := range p.OH {
			y0, y1 := adaptSpan(oy, p.H, p.OH)
			for ox := range p.OW {
				x0, x1 := adaptSpan(ox, p.W, p.OW)
				var l lanes
				for r := y0; r < y1; r++ {
					l.add(x[r*p.W+x0 : r*p.W+x1])
				}
				y[o] = l.total() / float32((y1-y0)*(x1-x0))
				o++
			}
		}
	}
}

// AdaptiveAvgPoolGrad sets dx to the sum, in ascending order of outputs and from +0, of
// dy / size over the windows that hold the element.
func AdaptiveAvgPoolGrad(p *AdaptivePool, dx, dy []float32) {
	plane, o := p.H*p.W, 0
	dx, dy = dx[:p.N*p.C*plane], dy[:p.N*p.C*p.OH*p.OW]
	clear(dx)
	for ; len(dx) > 0; dx = dx[plane:] {
		for oy := range p.OH {
			y0, y1 := adaptSpan(oy, p.H, p.OH)
			for ox := range p.OW {
				x0, x1 := adaptSpan(ox, p.W, p.OW)
				g := dy[o] / float32((y1-y0)*(x1-x0))
				o++
				for r := y0; r < y1; r++ {
					d := dx[r*p.W+x0 : r*p.W+x1]
					for i := range d {
						d[i] += g
					}
				}
			}
		}
	}
}
