// Transcendental functions with the same bits everywhere. Package math does not promise bits:
// some ports are assembly, and its Go code is compiled to fused multiply-adds on arm64. These
// are range reductions and polynomials in float32 with every product rounded. Branches are
// such that a vector form can compute both sides and select. Coefficients are our own minimax
// fits (Lawson iteration). The errors given, in units of the last place, are bounds found by
// testing every float32 against float64 (for Sinpi and Cospi, whose reduction is exact, every
// reduced argument).

package kernel

import "math"

// Sqrt is the correctly rounded square root.
func Sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

const (
	// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
	roundMagic = 12582912.0

	log2e = 1.44269504088896340736
	// ln 2 in two parts; products of the first with integers below 2^15 are exact.
	ln2Hi = 0.693359375
	ln2Lo = -0.00021219444170128554
)

// Exp is e^x to 0.97 ulp.
func Exp(x float32) float32 {
	// Beyond these the result is +Inf or 0 anyway, and to underflow takes an Intel processor 150
	// cycles. NaN fails both tests.
	if x > 89 {
		x = 89
	}
	if x < -104 {
		return 0
	}
	if x != x {
		return x
	}
	// x = n ln 2 + r with |r| <= ln(2)/2.
	n := float32(float32(x*log2e)+roundMagic) - roundMagic
	r := float32(x-float32(n*ln2Hi)) - float32(n*ln2Lo)
	p := float32(0.001394638093188405) + float32(r*0.00019918233738280833)
	p = 0.008333264850080013 + float32(p*r)
	p = 0.041666265577077866 + float32(p*r)
	p = 0.1666666716337204 + float32(p*r)
	p = 0.5 + float32(p*r)
	p = 1 + float32(r+float32(float32(r*r)*p))
	// 2^n in two factors: n reaches from -150 to 128.
	k := int32(n)
	h := k >> 1
	return float32(p*pow2(h)) * pow2(k-h)
}

// pow2 is 2^k for -126 <= k <= 127.
func pow2(k int32) float32 { return math.Float32frombits(uint32(k+127) << 23) }

// Log is the natural logarithm to 0.82 ulp: NaN below zero, -Inf at zero.
func Log(x float32) float32 {
	u := math.Float32bits(x)
	if u-1 >= infBits-1 { // not a positive finite number
		switch {
		case x == 0:
			return math.Float32frombits(signBit | infBits)
		case x < 0:
			return math.Float32frombits(nanBits)
		}
		return x // +Inf or NaN
	}
	e := int32(0)
	if u < 1<<23 { // subnormal
		u = math.Float32bits(x * (1 << 23))
		e = -23
	}
	// x = 2^e m with sqrt(1/2) <= m < sqrt(2).
	u -= 0x3f3504f3
	e += int32(u) >> 23
	f := math.Float32frombits(u&0x7fffff+0x3f3504f3) - 1
	// log(1+f) = f - f^2/2 + f^3 p(f).
	p := float32(-0.11789807677268982) + float32(f*0.06915368139743805)
	p = 0.11872976273298264 + float32(p*f)
	p = -0.1238434836268425 + float32(p*f)
	p = 0.14218658208847046 + float32(p*f)
	p = -0.16669251024723053 + float32(p*f)
	p = 0.20002226531505585 + float32(p*f)
	p = -0.24999986588954926 + float32(p*f)
	p = 0.3333331048488617 + float32(p*f)
	z := float32(f * f)
	k := float32(e)
	y := float32(float32(f*z)*p) + float32(k*ln2Lo)
	y -= float32(0.5 * z)
	return float32(f+y) + float32(k*ln2Hi)
}

const nanBits = 0x7fc00000 // the NaN that our own functions make

// Tanh is the hyperbolic tangent to 1.34 ulp.
func Tanh(x float32) float32 {
	a := abs(x)
	if !(a >= 0.625) {
		s := float32(a * a)
		p := float32(0.020650578662753105) + float32(s*-0.005717036779969931)
		p = -0.05374349653720856 + float32(p*s)
		p = 0.13331490755081177 + float32(p*s)
		p = -0.3333328366279602 + float32(p*s)
		return copysign(a+float32(float32(a*s)*p), x)
	}
	if a > 10 {
		a = 10 // 1 to the last bit
	}
	return copysign(1-2/(Exp(a+a)+1), x)
}

// Erf is the error function to 1.32 ulp.
func Erf(x float32) float32 {
	a := abs(x)
	if !(a >= 0.92) {
		s := float32(a * a)
		p := float32(-0.0008137437398545444) + float32(s*8.345225069206208e-05)
		p = 0.005200634244829416 + float32(p*s)
		p = -0.02685927040874958 + float32(p*s)
		p = 0.11283694207668304 + float32(p*s)
		p = -0.37612634897232056 + float32(p*s)
		p = 0.12837916612625122 + float32(p*s)
		return copysign(a+float32(a*p), x)
	}
	if a > 4 {
		a = 4 // 1 to the last bit
	}
	// The logarithm of 1 - erf is nearly a parabola.
	p := float32(0.0004323021275922656) + float32(a*-2.0909474187646993e-05)
	p = -0.004160522948950529 + float32(p*a)
	p = 0.025091486051678658 + float32(p*a)
	p = -0.10823660343885422 + float32(p*a)
	p = -0.6333866715431213 + float32(p*a)
	p = -1.1294951438903809 + float32(p*a)
	p = 0.00017055092030204833 + float32(p*a)
	return copysign(1-Exp(p), x)
}

// Sinpi is sin(πx) to 1.6 ulp, with exact zeros; NaN at infinity.
func Sinpi(x float32) float32 { return sinAt(quadrant(x)) }

// Cospi is cos(πx) to 1.6 ulp, with exact zeros; NaN at infinity.
func Cospi(x float32) float32 {
	r, q, ok := quadrant(x)
	return sinAt(r, q+1, ok)
}

// sin is sin(x) to 2e-7 where |x| is at most 1e9; NaN at infinity.
func sin(x float32) float32 { return sinAt(radians(x)) }

// cos is cos(x), as sin.
func cos(x float32) float32 {
	r, q, ok := radians(x)
	return sinAt(r, q+1, ok)
}

// sinAt is sin(π(q/2 + r)).
func sinAt(r float32, q int32, ok bool) float32 {
	if !ok {
		return math.Float32frombits(nanBits)
	}
	var y float32
	if q&1 == 0 {
		y = sinpi(r)
	} else {
		y = cospi(r)
	}
	if q&2 != 0 {
		y = -y
	}
	return y
}

// radians splits x = π(q/2 + r) with |r| <= 1/4. As a float32, x/π would lose more the larger x is.
func radians(x float32) (r float32, q int32, ok bool) {
	h := float64(float64(x) * (1 / math.Pi)) // rounded, not fused with what follows
	n := math.RoundToEven(2 * h)
	if n == 0 {
		return float32(h), 0, true // and keeps -0
	}
	return float32(h - float64(0.5*n)), int32(n - float64(4*math.Floor(0.25*n))), x-x == 0
}

// quadrant splits x = q/2 + r with |r| <= 1/4, exactly; only q mod 4 counts.
func quadrant(x float32) (r float32, q int32, ok bool) {
	a := abs(x)
	if !(a < 1<<24) { // an even integer, or not finite
		return copysign(0, x), 0, a < math.MaxFloat32 || a == math.MaxFloat32
	}
	if a >= 1<<21 { // halves at most: take whole turns away, exactly
		x -= 2 * float32(int32(float32(x*0.5)))
	}
	n := float32(float32(2*x)+roundMagic) - roundMagic
	return x - float32(0.5*n), int32(n), true
}

// sinpi is sin(πr) for |r| <= 1/4.
func sinpi(r float32) float32 {
	a := abs(r)
	s := float32(a * a)
	p := float32(-0.5992060899734497) + float32(s*0.08103042095899582)
	p = 2.5501627922058105 + float32(p*s)
	p = -5.167712688446045 + float32(p*s)
	// π in two parts.
	return copysign(float32(a*3.1415927410125732)+float32(a*float32(-8.742277657347586e-08+float32(p*s))), r)
}

// cospi is cos(πr) for |r| <= 1/4.
func cospi(r float32) float32 {
	s := float32(r * r)
	p := float32(-1.3350584506988525) + float32(s*0.23142953217029572)
	p = 4.0587077140808105 + float32(p*s)
	p = -4.934802055358887 + float32(p*s)
	return 1 + float32(p*s)
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ signBit) }

// copysign gives y >= 0 the sign of x. It is what keeps -0.
func copysign(y, x float32) float32 {
	return math.Float32frombits(math.Float32bits(y) | math.Float32bits(x)&signBit)
}
