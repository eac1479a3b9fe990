package kernel

// Conv is a convolution.
type Conv struct{ N, C, H, W, O, KH, KW, SH, SW, PT, PL, PB, PR, DH, DW, Groups int }

func (c *Conv) OH() int { return (c.H+c.PT+c.PB-c.DH*(c.KH-1)-1)/c.SH + 1 }
func (c *Conv) OW() int { return (c.W+c.PL+c.PR-c.DW*(c.KW-1)-1)/c.SW + 1 }

// ConvScratch is floats.
func ConvScratch(c *Conv) int { return 0 }

func (c *Conv) each(f func(y, x, w int)) {
	cg, og := c.C/c.Groups, c.O/c.Groups
	for n := range c.N {
		for o := range c.O {
			for oy := range c.OH() {
				for ox := range c.OW() {
					for ci := range cg {
						for kh := range c.KH {
							for kw := range c.KW {
								iy, ix := oy*c.SH+kh*c.DH-c.PT, ox*c.SW+kw*c.DW-c.PL
								if iy < 0 || ix < 0 || iy >= c.H || ix >= c.W {
									continue
								}
								f(((n*c.O+o)*c.OH()+oy)*c.OW()+ox, ((n*c.C+o/og*cg+ci)*c.H+iy)*c.W+ix, ((o*cg+ci)*c.KH+kh)*c.KW+kw)
							}
						}
					}
				}
			}
		}
	}
}

func ConvForward(t *Team, c *Conv, y, x, w, bias []float32, relu bool, scratch []float32) {
	clear(y)
	c.each(func(a, b, d int) { y[a] = FMA(w[d], x[b], y[a]) })
	hw := c.OH() * c.OW()
	for i := range y {
		if bias != nil {
			y[i] += bias[i/hw%c.O]
		}
		if relu && 0 > y[i] {
			y[i] = 0
		}
	}
}
func ConvBackwardData(t *Team, c *Conv, dx, dy, w, scratch []float32) {
	clear(dx)
	// Not the order of the specification.
	c.each(func(a, b, d int) { dx[b] = FMA(w[d], dy[a], dx[b]) })
}
func ConvBackwardWeight(t *Team, c *Conv, dw, dy, x []float32, acc bool, scratch []float32) {
	if !acc {
		clear(dw)
	}
	c.each(func(a, b, d int) { dw[d] = FMA(dy[a], x[b], dw[d]) })
}
