// This file exists to write vec_math.go of package kernel for vectors: the same operations in
// the same order, with both sides of a branch computed and one selected.

package loop

const (
	signBit    = 0x80000000
	roundMagic = 12582912.0
	ln2Hi      = 0.693359375
	ln2Lo      = -0.00021219444170128554
	log2e      = 1.44269504088896340736
)

// poly is Horner's scheme in x, highest coefficient first.
func poly(x value, c ...float64) value {
	p := x.k.num(c[1]).add(x.mul(x.k.num(c[0])))
	for _, v := range c[2:] {
		p = p.mul(x).add(x.k.num(v))
	}
	return p
}

func abs(x value) value { return x.and(x.k.bits(^uint32(signBit))) }

func copysign(y, x value) value { return y.or(x.and(x.k.bits(signBit))) }

// power is e^x as p * 2^n, x from -104 to 89 or NaN and p about 1; of other x it is anything. Where n cannot be used as it is,
// the low nine bits of t are n + bias; an even bias rounds ties as none does.
func power(x value, bias float64) (p, n, t value) {
	k := x.k
	if k.wide {
		n = x.mul(k.num(log2e)).round()
	} else {
		t = x.mul(k.num(log2e)).add(k.num(roundMagic + bias))
		n = t.sub(k.num(roundMagic + bias))
	}
	r := x.sub(n.mul(k.num(ln2Hi))).sub(n.mul(k.num(ln2Lo)))
	p = poly(r, 0.00019918233738280833, 0.001394638093188405, 0.008333264850080013, 0.041666265577077866, 0.1666666716337204, 0.5)
	return r.add(r.mul(r).mul(p)).add(k.num(1)), n, t
}

// expFalling is exp of what is not above 0, or of NaN. What 2^63 times it is has no small n from
// -104 on; below, it is zero, and what becomes zero is chosen before it could underflow, which takes
// an Intel processor 150 cycles.
func expFalling(x value) value {
	if x.k.wide {
		some := x.nlt(x.k.num(-104))
		p, n, _ := power(x, 0)
		return p.scale2(n, some)
	}
	none := x.lt(x.k.num(-104))
	p, _, t := power(x, 127+63)
	return none.drop(p.mul(t.shl(23))).mul(x.k.num(0x1p-63))
}

// expRising is exp from -40 to 89, or of NaN: half of it has no large n.
func expRising(x value) value {
	p, n, t := power(x, 127-1)
	if x.k.wide {
		return p.scale2(n, value{n: -1})
	}
	half := p.mul(t.shl(23))
	return half.add(half)
}

// expNormal is exp from -87 to 88, where 2^n changes the exponent of p and nothing else. Of NaN it
// is anything.
func expNormal(x value) value {
	p, n, t := power(x, 0)
	if x.k.wide {
		return p.scale2(n, value{n: -1})
	}
	return p.iadd(t.shl(23))
}

// tanh and erf take what computes x, which they do twice: what one branch keeps while the other is
// computed takes registers from blocks that hide its latency.
func tanh(x func() value) value {
	a := abs(x())
	k := a.k
	far := a.lesser(k.num(10))
	large := k.num(1).sub(k.num(2).div(expNormal(far.add(far)).add(k.num(1))))
	y := x()
	a = abs(y)
	s := a.mul(a)
	p := poly(s, -0.005717036779969931, 0.020650578662753105, -0.05374349653720856, 0.13331490755081177, -0.3333328366279602)
	small := a.add(a.mul(s).mul(p))
	return copysign(a.ge(k.num(0.625)).choose(large, small), y)
}

func erf(x func() value) value {
	a := abs(x())
	k := a.k
	far := a.lesser(k.num(4))
	q := poly(far, -2.0909474187646993e-05, 0.0004323021275922656, -0.004160522948950529, 0.025091486051678658, -0.10823660343885422, -0.6333866715431213, -1.1294951438903809, 0.00017055092030204833)
	large := k.num(1).sub(expNormal(q))
	y := x()
	s := y.mul(y)
	p := poly(s, 8.345225069206208e-05, -0.0008137437398545444, 0.005200634244829416, -0.02685927040874958, 0.11283694207668304, -0.37612634897232056, 0.12837916612625122)
	a = abs(y)
	small := a.add(a.mul(p))
	return copysign(a.ge(k.num(0.92)).choose(large, small), y)
}
