// Elementwise operations. Selections work on the bits of floats, so that they compile to
// conditional moves: the signs of activations are close to random, and a mispredicted branch
// costs more than the rest of the loop.

package kernel

import (
	"math"
	"unsafe"
)

// Add sets z = x + y. z may be x or y.
func Add(z, x, y []float32) {
	z, y = z[:len(x)], y[:len(x)]
	if vec(vecAdd, &vecArgs{n: len(x), p: ptrs(z, x, y, nil)}) {
		return
	}
	for i, v := range x {
		z[i] = v + y[i]
	}
}

// AddReLU sets z = ReLU(x + y). z may be x or y.
func AddReLU(z, x, y []float32) {
	z, y = z[:len(x)], y[:len(x)]
	if vec(vecAddRelu, &vecArgs{n: len(x), p: ptrs(z, x, y, nil)}) {
		return
	}
	for i, v := range x {
		z[i] = relu(v + y[i])
	}
}

// AddTo adds x to dst.
func AddTo(dst, x []float32) {
	dst = dst[:len(x)]
	if vec(vecAdd, &vecArgs{n: len(x), p: ptrs(dst, dst, x, nil)}) {
		return
	}
	for i, v := range x {
		dst[i] += v
	}
}

// Scale sets dst = x * a. dst may be x.
func Scale(dst, x []float32, a float32) {
	dst = dst[:len(x)]
	if vec(vecScale, &vecArgs{n: len(x), p: ptrs(dst, x, nil, nil), k: [10]float32{a}}) {
		return
	}
	for i, v := range x {
		dst[i] = v * a
	}
}

// Fill sets every element to v.
func Fill(dst []float32, v float32) {
	if math.Float32bits(v) == 0 {
		clear(dst)
		return
	}
	for i := range dst {
		dst[i] = v
	}
}

const (
	infBits  = 0x7f800000 // +Inf; bits 1 to infBits are the positive floats
	signBit  = 0x80000000
	negFirst = signBit + 1 // the negative float of the smallest magnitude
)

// relu is 0 > x ? 0 : x, which keeps NaN and -0.
func relu(x float32) float32 {
	u := math.Float32bits(x)
	if u-negFirst < infBits { // negative, -Inf included
		u = 0
	}
	return math.Float32frombits(u)
}

// ReLU sets y = 0 where 0 > x, else x: NaN and -0 pass through. y may be x.
func ReLU(y, x []float32) {
	y = y[:len(x)]
	if vec(vecRelu, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for ; len(x) >= 8 && len(y) >= 8; x, y = x[8:], y[8:] {
		a, b := (*[8]float32)(x), (*[8]float32)(y)
		b[0] = relu(a[0])
		b[1] = relu(a[1])
		b[2] = relu(a[2])
		b[3] = relu(a[3])
		b[4] = relu(a[4])
		b[5] = relu(a[5])
		b[6] = relu(a[6])
		b[7] = relu(a[7])
	}
	for i, v := range x {
		y[i] = relu(v)
	}
}

// ReLUGrad sets dx = dy where y > 0, else 0. dx may be dy.
func ReLUGrad(dx, dy, y []float32) {
	dx, dy = dx[:len(y)], dy[:len(y)]
	if vec(vecReluGrad, &vecArgs{n: len(y), p: ptrs(dx, dy, y, nil)}) {
		return
	}
	for ; len(y) >= 8 && len(dx) >= 8 && len(dy) >= 8; y, dx, dy = y[8:], dx[8:], dy[8:] {
		v, d, g := (*[8]float32)(y), (*[8]float32)(dx), (*[8]float32)(dy)
		d[0] = gate(g[0], v[0])
		d[1] = gate(g[1], v[1])
		d[2] = gate(g[2], v[2])
		d[3] = gate(g[3], v[3])
		d[4] = gate(g[4], v[4])
		d[5] = gate(g[5], v[5])
		d[6] = gate(g[6], v[6])
		d[7] = gate(g[7], v[7])
	}
	for i, v := range y {
		dx[i] = gate(dy[i], v)
	}
}

// gate is g where y > 0, else 0.
func gate(g, y float32) float32 {
	u := math.Float32bits(g)
	if math.Float32bits(y)-1 >= infBits { // not positive, or NaN
		u = 0
	}
	return math.Float32frombits(u)
}

// Sigmoid sets y = 1 / (1 + e^-x). y may be x.
func Sigmoid(y, x []float32) {
	y = y[:len(x)]
	if vec(vecSigmoid, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for i, v := range x {
		y[i] = 1 / (1 + Exp(-v))
	}
}

// SigmoidGrad sets dx = dy * ((1-y) * y). dx may be dy.
func SigmoidGrad(dx, dy, y []float32) {
	dx, dy = dx[:len(y)], dy[:len(y)]
	if vec(vecSigmoidGrad, &vecArgs{n: len(y), p: ptrs(dx, dy, y, nil)}) {
		return
	}
	for i, v := range y {
		dx[i] = dy[i] * float32((1-v)*v)
	}
}

// TanhForward sets y = tanh x. y may be x.
func TanhForward(y, x []float32) {
	y = y[:len(x)]
	if vec(vecTanh, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for i, v := range x {
		y[i] = Tanh(v)
	}
}

// TanhGrad sets dx = dy * (1 - y*y). dx may be dy.
func TanhGrad(dx, dy, y []float32) {
	dx, dy = dx[:len(y)], dy[:len(y)]
	if vec(vecTanhGrad, &vecArgs{n: len(y), p: ptrs(dx, dy, y, nil)}) {
		return
	}
	for i, v := range y {
		dx[i] = dy[i] * (1 - float32(v*v))
	}
}

const (
	rsqrt2   = 0.70710678118654752440  // 1/sqrt(2)
	rsqrt2Pi = 0.398942280401432677940 // 1/sqrt(2 pi)
)

// GELU sets y = x * Φ(x) with Φ(x) = (1 + erf(x/√2)) / 2, PyTorch's exact form. y may
// be x.
func GELU(y, x []float32) {
	y = y[:len(x)]
	if vec(vecGelu, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil)}) {
		return
	}
	for i, v := range x {
		y[i] = float32(0.5*v) * (1 + Erf(float32(v*rsqrt2)))
	}
}

// GELUGrad sets dx = dy * (Φ(x) + x φ(x)) with φ the normal density. dx may be dy.
func GELUGrad(dx, dy, x []float32) {
	dx, dy = dx[:len(x)], dy[:len(x)]
	if vec(vecGeluGrad, &vecArgs{n: len(x), p: ptrs(dx, dy, x, nil)}) {
		return
	}
	for i, v := range x {
		cdf := float32(0.5 * (1 + Erf(float32(v*rsqrt2))))
		pdf := float32(rsqrt2Pi * Exp(float32(float32(-0.5*v)*v)))
		dx[i] = dy[i] * (cdf + float32(v*pdf))
	}
}

// Dropout sets y[i] = x[i] * scale where bit i%32 of bits[i/32] is set, else +0. Applied to
// dy it is its own gradient. y may be x.
func Dropout(y, x []float32, bits []uint32, scale float32) {
	y = y[:len(x)]
	bits = bits[:(len(x)+31)/32]
	if vec(vecDropout, &vecArgs{n: len(x), p: ptrs(y, x, nil, nil), bits: unsafe.SliceData(bits), k: [10]float32{scale}}) {
		return
	}
	for ; len(x) >= 32; x, y, bits = x[32:], y[32:], bits[1:] {
		w := bits[0]
		xs, ys := x[:32], y[:32]
		for i, v := range xs {
			ys[i] = math.Float32frombits(math.Float32bits(v*scale) & -(w & 1))
			w >>= 1
		}
	}
	for i, v := range x {
		y[i] = math.Float32frombits(math.Float32bits(v*scale) & -(bits[0] >> i & 1))
	}
}
