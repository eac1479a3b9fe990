// GELU approximated with tanh, as in GPT-2 (Hendrycks and Gimpel, arXiv 1606.08415). The
// exact form is in vec_elem.go.

package kernel

const (
	sqrt2OverPi = 0.79788456080286535588 // sqrt(2/pi)
	geluCubic   = 0.044715
	geluBlock   = 256 // elements per call of tanh
)

// geluTanh sets t = tanh(sqrt(2/π) (x + 0.044715 x³)) for up to geluBlock elements.
func geluTanh(t, x []float32) {
	t = t[:len(x)]
	for i, v := range x {
		cube := float32(float32(v*v) * v)
		t[i] = sqrt2OverPi * (v + float32(geluCubic*cube))
	}
	TanhForward(t, t)
}

// GELUTanh sets y = x/2 * (1 + t), t = tanh(sqrt(2/π) (x + 0.044715 x³)): PyTorch's
// approximate='tanh'. y may be x.
func GELUTanh(y, x []float32) {
	var buf [geluBlock]float32
	y = y[:len(x)]
	if vec(vecGeluTanh, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for len(x) > 0 {
		n := min(len(x), geluBlock)
		t := buf[:n]
		geluTanh(t, x[:n])
		for i, v := range x[:n] {
			y[i] = float32(0.5*v) * (1 + t[i])
		}
		x, y = x[n:], y[n:]
	}
}

// GELUTanhGrad sets dx = dy * ((1+t)/2 + x/2 * (1-t²) * u) with t as in GELUTanh and
// u = sqrt(2/π) (1 + 3*0.044715 x²). dx may be dy.
func GELUTanhGrad(dx, dy, x []float32) {
	var buf [geluBlock]float32
	dx, dy = dx[:len(x)], dy[:len(x)]
	if vec(vecGeluTanhGrad, &vecArgs{n: len(x), p: ptrs(dx, dy, x, nil)}) {
		return
	}
	for len(x) > 0 {
		n := min(len(x), geluBlock)
		t := buf[:n]
		geluTanh(t, x[:n])
		for i, v := range x[:n] {
			u := sqrt2OverPi * (1 + float32(3*geluCubic*float32(v*v)))
			s := float32(float32(float32(0.5*v)*(1-float32(t[i]*t[i]))) * u)
			dx[i] = dy[i] * (float32(0.5*(1+t[i])) + s)
		}
		x, dx, dy = x[n:], dx[n:], dy[n:]
	}
}
