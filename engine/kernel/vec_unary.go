// Functions of one number, by name: the activations and the arithmetic with constants of
// imported models. Every product is rounded before it is added to something.

package kernel

import "math"

// Unary is a function of one number with up to two constants a and b.
type Unary struct {
	// F is the function. y may be x.
	F func(y, x []float32, a, b float32)
	// G sets dx to the gradient, given dy, x and y. dx may be dy. One of x and y is nil.
	G func(dx, dy, x, y []float32, a, b float32)
	// ByOutput: G reads y and not x.
	ByOutput bool
	// Neither: G reads none of them.
	Neither bool
	// Flat: the gradient is zero.
	Flat bool
}

func each(f func(x, a, b float32) float32) func(y, x []float32, a, b float32) {
	return func(y, x []float32, a, b float32) {
		y = y[:len(x)]
		for i, v := range x {
			y[i] = f(v, a, b)
		}
	}
}

// byInput is a function whose gradient follows from x.
func byInput(f func(x, a, b float32) float32, slope func(x, a, b float32) float32) Unary {
	return Unary{F: each(f), G: func(dx, dy, x, _ []float32, a, b float32) {
		dx, dy = dx[:len(x)], dy[:len(x)]
		for i, v := range x {
			dx[i] = dy[i] * slope(v, a, b)
		}
	}}
}

// byOutput is a function whose gradient follows from y.
func byOutput(f func(x, a, b float32) float32, slope func(y, a, b float32) float32) Unary {
	u := byInput(f, slope)
	g := u.G
	u.ByOutput = true
	u.G = func(dx, dy, _, y []float32, a, b float32) { g(dx, dy, y, nil, a, b) }
	return u
}

// flat is a function whose gradient is zero.
func flat(f func(x, a, b float32) float32) Unary { return Unary{F: each(f), Flat: true} }

func indicator(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

func clamp(x, lo, hi float32) float32 {
	if x < lo {
		return lo
	}
	if x > hi {
		return hi
	}
	return x
}

// clampAll is clamp of each element. Integers are chosen without a branch, floats are not.
func clampAll(y, x []float32, lo, hi float32) {
	y = y[:len(x)]
	l, h := math.Float32bits(lo), math.Float32bits(hi)
	for i, v := range x {
		u := math.Float32bits(v)
		if v > hi {
			u = h
		}
		if v < lo {
			u = l
		}
		y[i] = math.Float32frombits(u)
	}
}

// times is dy where yes, else dy times 0.
func times(dy float32, yes bool) float32 {
	one := uint32(0)
	if yes {
		one = 0x3f800000
	}
	return dy * math.Float32frombits(one)
}

// sigmoid is 1 / (1 + e^-x).
func sigmoid(x float32) float32 { return 1 / (1 + Exp(-x)) }

// softplus is log(1 + e^(a x)) / a, and x where a x > b.
func softplus(x, a, b float32) float32 {
	z := float32(x * a)
	if z > b {
		return x
	}
	// log(1+e^z) = max(z,0) + log(1+e^-|z|)
	t := Log(1 + Exp(-abs(z)))
	if z > 0 {
		t = z + t
	}
	return t / a
}

// powi is x to a whole power, by squaring.
func powi(x float32, n int) float32 {
	neg := n < 0
	if neg {
		n = -n
	}
	y := float32(1)
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			y *= x
		}
		x *= x
	}
	if neg {
		return 1 / y
	}
	return y
}

// pow is x to the power a: exactly where a is whole or half, else e^(a log x).
func pow(x, a float32) float32 {
	if n := int(a); float32(n) == a && n >= -64 && n <= 64 {
		return powi(x, n)
	}
	if a == 0.5 {
		return Sqrt(x)
	}
	if a == -0.5 {
		return 1 / Sqrt(x)
	}
	return Exp(float32(a * Log(x)))
}

// atan is the arc tangent, by a polynomial on |x| <= tan(π/8) (Cephes' atanf).
func atan(x float32) float32 {
	z, y := abs(x), float32(0)
	switch {
	case z > 2.414213562373095: // tan(3π/8)
		y, z = math.Pi/2, -1/z
	case z > 0.4142135623730950: // tan(π/8)
		y, z = math.Pi/4, (z-1)/(z+1)
	}
	s := z * z
	p := float32(8.05374449538e-2*s) - 1.38776856032e-1
	p = float32(p*s) + 1.99777106478e-1
	p = float32(p*s) - 3.33329491539e-1
	y += float32(float32(p*s)*z) + z
	if x < 0 {
		return -y
	}
	return y
}

const (
	seluScale = 1.0507009873554805
	seluAlpha = 1.6732632423543772
)

// expm1 is e^x - 1 without loss where x is small.
func expm1(x float32) float32 {
	if abs(x) < 0.25 { // by Taylor's series: the next term is below 2^-26 of x
		t := float32(float32(1.0/5040) * x)
		t = float32((1.0/720 + t) * x)
		t = float32((1.0/120 + t) * x)
		t = float32((1.0/24 + t) * x)
		t = float32((1.0/6 + t) * x)
		t = float32((0.5 + t) * x)
		return x + float32(t*x)
	}
	return Exp(x) - 1
}

func elu(x, alpha float32) float32 {
	if x > 0 {
		return x
	}
	return alpha * expm1(x)
}

// Unaries are the functions by name. Constants a and b are those in the comments.
var Unaries = map[string]Unary{
	"detach": {F: func(y, x []float32, _, _ float32) { copy(y, x) }, Flat: true},
	"affine": { // a x + b
		F: func(y, x []float32, a, b float32) {
			y = y[:len(x)]
			for i, v := range x {
				y[i] = float32(v*a) + b
			}
		},
		G:       func(dx, dy, _, _ []float32, a, _ float32) { Scale(dx, dy, a) },
		Neither: true,
	},
	"rsub": byInput(func(x, a, b float32) float32 { return b - float32(x*a) }, func(_, a, _ float32) float32 { return -a }),
	"rdiv": byInput(func(x, a, _ float32) float32 { return a / x }, func(x, a, _ float32) float32 { return -(a / x) / x }),
	"silu": {
		F: func(y, x []float32, _, _ float32) {
			y = y[:len(x)]
			var buf [geluBlock]float32
			for len(x) > 0 {
				n := min(len(x), geluBlock)
				s := buf[:n]
				Sigmoid(s, x[:n])
				for i, v := range x[:n] {
					y[i] = v * s[i]
				}
				x, y = x[n:], y[n:]
			}
		},
		G: func(dx, dy, x, _ []float32, _, _ float32) { // dy (s + x s (1-s))
			var buf [geluBlock]float32
			dx, dy = dx[:len(x)], dy[:len(x)]
			for len(x) > 0 {
				n := min(len(x), geluBlock)
				s := buf[:n]
				Sigmoid(s, x[:n])
				for i, v := range x[:n] {
					dx[i] = dy[i] * (s[i] * (1 + float32(v*(1-s[i]))))
				}
				x, dx, dy = x[n:], dx[n:], dy[n:]
			}
		},
	},
	"sigmoid": {
		F:        func(y, x []float32, _, _ float32) { Sigmoid(y, x) },
		G:        func(dx, dy, _, y []float32, _, _ float32) { SigmoidGrad(dx, dy, y) },
		ByOutput: true,
	},
	// At the bounds the slope of clamp is 1, that of hardtanh 0.
	"clamp": {F: clampAll, G: func(dx, dy, x, _ []float32, lo, hi float32) {
		dx, dy = dx[:len(x)], dy[:len(x)]
		for i, v := range x {
			dx[i] = times(times(dy[i], v >= lo), v <= hi)
		}
	}},
	"hardtanh": {F: clampAll, G: func(dx, dy, x, _ []float32, lo, hi float32) {
		dx, dy = dx[:len(x)], dy[:len(x)]
		for i, v := range x {
			dx[i] = times(times(dy[i], v > lo), v < hi)
		}
	}},
	"hardsigmoid": byInput(
		func(x, _, _ float32) float32 { return clamp(x+3, 0, 6) * (1.0 / 6) },
		func(x, _, _ float32) float32 {
			if x > -3 && x < 3 {
				return 1.0 / 6
			}
			return 0
		}),
	"hardswish": {
		F: func(y, x []float32, _, _ float32) { // x clamp(x+3, 0, 6) / 6
			y = y[:len(x)]
			for i, v := range x {
				c := v + 3
				u := math.Float32bits(c)
				if c > 6 {
					u = 0x40c00000
				}
				if c < 0 {
					u = 0
				}
				y[i] = float32(v*math.Float32frombits(u)) * (1.0 / 6)
			}
		},
		G: func(dx, dy, x, _ []float32, _, _ float32) { // x/3 + 1/2 between -3 and 3
			dx, dy = dx[:len(x)], dy[:len(x)]
			for i, v := range x {
				u := math.Float32bits(float32(v*(1.0/3)) + 0.5)
				if v >= 3 {
					u = 0x3f800000
				}
				if v <= -3 {
					u = 0
				}
				dx[i] = dy[i] * math.Float32frombits(u)
			}
		},
	},
	"leaky_relu": byInput( // a below 0
		func(x, a, _ float32) float32 {
			if x > 0 {
				return x
			}
			return x * a
		},
		func(x, a, _ float32) float32 {
			if x > 0 {
				return 1
			}
			return a
		}),
	"elu": byInput(func(x, a, _ float32) float32 { return elu(x, a) }, func(x, a, _ float32) float32 {
		if x > 0 {
			return 1
		}
		return a * Exp(x)
	}),
	"selu": byInput(func(x, _, _ float32) float32 { return seluScale * elu(x, seluAlpha) }, func(x, _, _ float32) float32 {
		if x > 0 {
			return seluScale
		}
		return float32(seluScale*seluAlpha) * Exp(x)
	}),
	"softplus": byInput(softplus, func(x, a, b float32) float32 {
		if x*a > b {
			return 1
		}
		return sigmoid(float32(x * a))
	}),
	"mish": byInput(func(x, _, _ float32) float32 { return x * Tanh(softplus(x, 1, 20)) }, func(x, _, _ float32) float32 {
		t := Tanh(softplus(x, 1, 20))
		return t + float32(float32(x*sigmoid(x))*(1-float32(t*t)))
	}),
	"logsigmoid": byInput(func(x, _, _ float32) float32 { return -softplus(-x, 1, 1e9) }, func(x, _, _ float32) float32 { return sigmoid(-x) }),
	"softsign": byInput(func(x, _, _ float32) float32 { return x / (1 + abs(x)) }, func(x, _, _ float32) float32 {
		d := 1 + abs(x)
		return 1 / float32(d*d)
	}),
	"pow": byInput(func(x, a, _ float32) float32 { return pow(x, a) }, func(x, a, _ float32) float32 {
		if a == 0 {
			return 0
		}
		return a * pow(x, a-1)
	}),
	"abs": byInput(func(x, _, _ float32) float32 { return abs(x) }, func(x, _, _ float32) float32 {
		if x == 0 {
			return 0
		}
		return copysign(1, x)
	}),
	"exp":  byOutput(func(x, _, _ float32) float32 { return Exp(x) }, func(y, _, _ float32) float32 { return y }),
	"log":  byInput(func(x, _, _ float32) float32 { return Log(x) }, func(x, _, _ float32) float32 { return 1 / x }),
	"sqrt": byOutput(func(x, _, _ float32) float32 { return Sqrt(x) }, func(y, _, _ float32) float32 { return 0.5 / y }),
	"rsqrt": byOutput(func(x, _, _ float32) float32 { return 1 / Sqrt(x) }, func(y, _, _ float32) float32 {
		return -0.5 * float32(float32(y*y)*y)
	}),
	"erf": byInput(func(x, _, _ float32) float32 { return Erf(x) }, func(x, _, _ float32) float32 {
		return float32(2/1.7724538509055160273) * Exp(-float32(x*x))
	}),
	"atan": byInput(func(x, _, _ float32) float32 { return atan(x) }, func(x, _, _ float32) float32 { return 1 / (1 + float32(x*x)) }),
	"sin":  byInput(func(x, _, _ float32) float32 { return sin(x) }, func(x, _, _ float32) float32 { return cos(x) }),
	"cos":  byInput(func(x, _, _ float32) float32 { return cos(x) }, func(x, _, _ float32) float32 { return -sin(x) }),

	"eq":    flat(func(x, a, _ float32) float32 { return indicator(x == a) }),
	"ne":    flat(func(x, a, _ float32) float32 { return indicator(x != a) }),
	"lt":    flat(func(x, a, _ float32) float32 { return indicator(x < a) }),
	"le":    flat(func(x, a, _ float32) float32 { return indicator(x <= a) }),
	"gt":    flat(func(x, a, _ float32) float32 { return indicator(x > a) }),
	"ge":    flat(func(x, a, _ float32) float32 { return indicator(x >= a) }),
	"floor": flat(func(x, _, _ float32) float32 { return float32(math.Floor(float64(x))) }),
	"trunc": flat(func(x, _, _ float32) float32 { return float32(math.Trunc(float64(x))) }),
	"sign": flat(func(x, _, _ float32) float32 {
		if x == 0 || x != x {
			return x
		}
		return copysign(1, x)
	}),
}
