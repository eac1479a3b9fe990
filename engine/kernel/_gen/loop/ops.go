// This file exists to list the loops. The formulas are those of the portable code, which
// is the specification: p are the slices, k the parameters, s the sums.

package loop

// loops lists the kernels in the order of their numbers, for registers of a whole block
// or for others.
func loops(wide bool) []*kernel {
	d := &definer{wide: wide}
	elementwise(d.def, d.lanewise)
	gelus(d.def)
	sums(d.def, d.lanewise)
	layers(d.def)
	losses(d.def)
	conversions(d.def, wide)
	optimisers(d.def)
	return d.all
}

// definer collects kernels.
type definer struct {
	wide bool
	all  []*kernel
}

// define is the type of a definer's methods: f makes the kernel that computes doc.
type define func(name, doc string, f func(k *kernel))

func (d *definer) def(name, doc string, f func(k *kernel)) {
	k := &kernel{name: name, doc: doc, wide: d.wide}
	f(k)
	d.all = append(d.all, k)
}

// lanewise defines a kernel whose parameters differ from lane to lane.
func (d *definer) lanewise(name, doc string, f func(k *kernel)) {
	d.def(name, doc, f)
	d.all[len(d.all)-1].lanewise = true
}

func relu(x value) value { return x.lt(x.k.num(0)).drop(x) }

// elementwise defines arithmetic and activations.
func elementwise(def, lanewise define) {
	def("add", "p0 = p1 + p2", func(k *kernel) { k.store(0, k.load(1).add(k.load(2))) })
	lanewise("scale", "p0 = p1 * k0", func(k *kernel) { k.store(0, k.load(1).mul(k.param(0))) })
	def("addRelu", "p0 = 0 > y ? 0 : y, y = p1 + p2", func(k *kernel) { k.store(0, relu(k.load(1).add(k.load(2)))) })
	def("relu", "p0 = 0 > p1 ? 0 : p1", func(k *kernel) { k.store(0, relu(k.load(1))) })
	def("reluGrad", "p0 = p2 > 0 ? p1 : 0", func(k *kernel) { k.store(0, k.load(2).gt(k.num(0)).keep(k.load(1))) })
	def("dropout", "p0 = bit ? p1 * k0 : 0", func(k *kernel) { k.store(0, k.mask().keep(k.load(1).mul(k.param(0)))) })
	def("maskScale", "p0 = p2 is zero ? -MaxFloat32 : p1 * k0", func(k *kernel) {
		none := k.load(2).and(k.bits(^uint32(signBit))).ieq(k.bits(0))
		k.store(0, none.choose(k.bits(0xff7fffff), k.load(1).mul(k.param(0))))
	})

	def("sigmoid", "p0 = 1 / (1 + e^-p1)", func(k *kernel) {
		e := expRising(k.load(1).xor(k.bits(signBit)).lesser(k.num(89)).larger(k.num(-40))) // e^-40 + 1 is 1
		k.store(0, k.num(1).div(e.add(k.num(1))))
	})
	def("sigmoidGrad", "p0 = p1 * ((1-p2) * p2)", func(k *kernel) {
		y := k.load(2)
		k.store(0, k.load(1).mul(k.num(1).sub(y).mul(y)))
	})
	def("tanh", "p0 = tanh p1", func(k *kernel) { k.store(0, tanh(func() value { return k.load(1) })) })
	def("tanhGrad", "p0 = p1 * (1 - p2*p2)", func(k *kernel) {
		y := k.load(2)
		k.store(0, k.load(1).mul(k.num(1).sub(y.mul(y))))
	})
}

// gelus defines the Gaussian error linear unit, exactly and by tanh.
func gelus(def define) {
	const rsqrt2, rsqrt2Pi = 0.70710678118654752440, 0.398942280401432677940
	def("gelu", "p0 = p1/2 * (1 + erf(p1/√2))", func(k *kernel) {
		e := erf(func() value { return k.load(1).mul(k.num(rsqrt2)) }).add(k.num(1))
		k.store(0, k.load(1).mul(k.num(0.5)).mul(e))
	})
	def("geluGrad", "p0 = p1 * (Φ(p2) + p2 φ(p2))", func(k *kernel) {
		cdf := erf(func() value { return k.load(2).mul(k.num(rsqrt2)) }).add(k.num(1)).mul(k.num(0.5))
		x := k.load(2)
		pdf := expFalling(x.mul(k.num(-0.5)).mul(x)).mul(k.num(rsqrt2Pi))
		k.store(0, k.load(1).mul(cdf.add(k.load(2).mul(pdf))))
	})
	const sqrt2OverPi, geluCubic = 0.79788456080286535588, 0.044715
	// inner is tanh of what is inside it for slice i.
	inner := func(k *kernel, i int) value {
		x := k.load(i)
		x = x.mul(x).mul(x).mul(k.num(geluCubic)).add(x).mul(k.num(sqrt2OverPi))
		return tanh(func() value { return x })
	}
	def("geluTanh", "p0 = p1/2 * (1 + t), t = tanh(√(2/π) (p1 + 0.044715 p1³))", func(k *kernel) {
		t := inner(k, 1).add(k.num(1))
		k.store(0, k.load(1).mul(k.num(0.5)).mul(t))
	})
	def("geluTanhGrad", "p0 = p1 * ((1+t)/2 + p2/2 * (1-t²) * √(2/π) (1 + 3*0.044715 p2²))", func(k *kernel) {
		t := inner(k, 2)
		x := k.load(2)
		u := x.mul(x).mul(k.num(3 * geluCubic)).add(k.num(1)).mul(k.num(sqrt2OverPi))
		s := x.mul(k.num(0.5)).mul(k.num(1).sub(t.mul(t))).mul(u)
		k.store(0, k.load(1).mul(t.add(k.num(1)).mul(k.num(0.5)).add(s)))
	})
}

// sums defines sums and the passes of batch norm, which consist of them.
func sums(def, lanewise define) {
	def("sum", "s0 += p0", func(k *kernel) { k.sum(0, k.load(0)) })
	def("max", "s0 = p0 > s0 ? p0 : s0", func(k *kernel) { k.max(0, k.load(0)) })
	def("dot", "s0 += p0 * p1", func(k *kernel) { k.sum(0, k.load(0).mul(k.load(1))) })
	lanewise("squares", "s0 += (p0-k0) * (p0-k0)", func(k *kernel) {
		d := k.load(0).sub(k.param(0))
		k.sum(0, d.mul(d))
	})
	lanewise("sumSquares", "s0 += p0, s1 += (p1-k0) * (p1-k0)", func(k *kernel) {
		k.sum(0, k.load(0))
		d := k.load(1).sub(k.param(0))
		k.sum(1, d.mul(d))
	})
	lanewise("normSums", "s0 += p0, s1 += p0 * ((p1-k0) * k1)", func(k *kernel) {
		g := k.load(0)
		k.sum(0, g)
		k.sum(1, g.mul(k.load(1).sub(k.param(0)).mul(k.param(1))))
	})
	xhat := func(x value) value { return x.sub(x.k.param(0)).mul(x.k.param(1)) }
	affine := func(x value) value { return x.mul(x.k.param(2)).add(x.k.param(3)) }
	lanewise("norm", "p0 = ((p1-k0) * k1) * k2 + k3", func(k *kernel) { k.store(0, affine(xhat(k.load(1)))) })
	lanewise("normRelu", "p0 = 0 > y ? 0 : y, y = ((p1-k0) * k1) * k2 + k3", func(k *kernel) { k.store(0, relu(affine(xhat(k.load(1))))) })
	lanewise("normReluSums", "p0 = ((p1-k0) * k1) * k2 + k3 > 0 ? p0 : 0, s0 += p0, s1 += p0 * ((p1-k0) * k1)", func(k *kernel) {
		x := xhat(k.load(1))
		g := affine(x).gt(k.num(0)).keep(k.load(0))
		k.store(0, g)
		k.sum(0, g)
		k.sum(1, g.mul(x))
	})
	lanewise("normGrad", "p0 = k2 * ((p1-k3) - ((p2-k0) * k1) * k4)", func(k *kernel) {
		xhat := k.load(2).sub(k.param(0)).mul(k.param(1))
		k.store(0, k.load(1).sub(k.param(3)).sub(xhat.mul(k.param(4))).mul(k.param(2)))
	})
}

// layers defines the passes of layer norm.
func layers(def define) {
	def("layer", "p0 = ((p1-k0) * k1) * p2 + p3", func(k *kernel) {
		k.store(0, k.load(1).sub(k.param(0)).mul(k.param(1)).mul(k.load(2)).add(k.load(3)))
	})
	def("layerSums", "s0 += d, s1 += d * ((p2-k0) * k1), d = p0 * p1", func(k *kernel) {
		d := k.load(0).mul(k.load(1))
		k.sum(0, d)
		k.sum(1, d.mul(k.load(2).sub(k.param(0)).mul(k.param(1))))
	})
	def("layerGrad", "p0 = ((p1*p3 - k2) - ((p2-k0) * k1) * k3) * k1", func(k *kernel) {
		xhat := k.load(2).sub(k.param(0)).mul(k.param(1))
		k.store(0, k.load(1).mul(k.load(3)).sub(k.param(2)).sub(xhat.mul(k.param(3))).mul(k.param(1)))
	})
	def("layerParams", "p0 = p0 + p1 * ((p2-k0) * k1)", func(k *kernel) {
		k.store(0, k.load(0).add(k.load(1).mul(k.load(2).sub(k.param(0)).mul(k.param(1)))))
	})
}

// losses defines softmax and the losses.
func losses(def define) {
	def("expSum", "p0 = e^(p1-k0), s0 += p0; p1 <= k0", func(k *kernel) {
		e := expFalling(k.load(1).sub(k.param(0)))
		k.store(0, e)
		k.sum(0, e)
	})
	def("sumExp", "s0 += e^(p0-k0); p0 <= k0", func(k *kernel) {
		k.sum(0, expFalling(k.load(0).sub(k.param(0))))
	})
	def("softmaxGrad", "p0 = p2 * (p1-k0)", func(k *kernel) { k.store(0, k.load(2).mul(k.load(1).sub(k.param(0)))) })
	def("errors", "s0 += (p1-p2) * (p1-p2)", func(k *kernel) {
		d := k.load(1).sub(k.load(2))
		k.sum(0, d.mul(d))
	})
	def("errorsGrad", "p0 = (2*d) * k0, s0 += d*d, d = p1 - p2", func(k *kernel) {
		d := k.load(1).sub(k.load(2))
		k.store(0, d.add(d).mul(k.param(0)))
		k.sum(0, d.mul(d))
	})
	def("crossSum", "s0 += p1 * ((p0-k0) - k1)", func(k *kernel) {
		k.sum(0, k.load(1).mul(k.load(0).sub(k.param(0)).sub(k.param(1))))
	})
	def("crossGrad", "p0 = (p1*k0 - p2) * k1", func(k *kernel) {
		k.store(0, k.load(1).mul(k.param(0)).sub(k.load(2)).mul(k.param(1)))
	})
}

// rowLoops lists the kernels of rows that are one block at most: only machines whose block
// is one register have them. Their numbers follow those of loops.
func rowLoops() []*kernel {
	softmax := &kernel{name: "softmaxRow", doc: "p0 = softmax(p1 * k0), rows of 16 at most", wide: true}
	x := softmax.load(1).mul(softmax.param(0))
	e := expFalling(x.sub(x.acrossMax()))
	softmax.store(0, e.mul(softmax.num(1).div(e.acrossAdd())))

	grad := &kernel{name: "softmaxGradRow", doc: "p0 = (p2 * (p1 - sum(p1*p2))) * k0, rows of 16 at most", wide: true}
	g, y := grad.load(1), grad.load(2)
	grad.store(0, y.mul(g.sub(g.mul(y).acrossAdd())).mul(grad.param(0)))
	return []*kernel{softmax, grad}
}

// optimisers defines the update rules. p0 are the weights, p1 the gradients.
func optimisers(def define) {
	// decayed is the gradient with an L2 penalty of k0 where k1 is set.
	const decayDoc = "g = k1 > 0 ? p1 + k0*p0 : p1, "
	decayed := func(g, w value) value {
		k := g.k
		return k.param(1).gt(k.num(0)).choose(g.add(k.param(0).mul(w)), g)
	}
	def("sgd", decayDoc+"p0 = p0 - k2*g", func(k *kernel) {
		w := k.load(0)
		k.store(0, w.sub(decayed(k.load(1), w).mul(k.param(2))))
	})
	def("momentum", decayDoc+"p2 = k5 > 0 ? g : k3*p2 + k4*g, p0 = p0 - k2 * (k6 > 0 ? g + k3*p2 : p2)", func(k *kernel) {
		w := k.load(0)
		g := decayed(k.load(1), w)
		b := k.param(5).gt(k.num(0)).choose(g, k.load(2).mul(k.param(3)).add(g.mul(k.param(4))))
		k.store(2, b)
		b = k.param(6).gt(k.num(0)).choose(g.add(b.mul(k.param(3))), b)
		k.store(0, w.sub(b.mul(k.param(2))))
	})
	// moments moves p2 and p3, the running moments, by a gradient.
	const momentsDoc = "p2 = p2 + k2*(g-p2), p3 = k3*p3 + (k4*g)*g, "
	moments := func(k *kernel, g value) (m, v value) {
		m, v = k.load(2), k.load(3)
		m = m.add(g.sub(m).mul(k.param(2)))
		v = v.mul(k.param(3)).add(g.mul(k.param(4)).mul(g))
		k.store(2, m)
		k.store(3, v)
		return m, v
	}
	def("adam", decayDoc+momentsDoc+"p0 = p0 - (k5*p2) / (√p3/k6 + k7)", func(k *kernel) {
		w := k.load(0)
		m, v := moments(k, decayed(k.load(1), w))
		k.store(0, w.sub(m.mul(k.param(5)).div(v.sqrt().div(k.param(6)).add(k.param(7)))))
	})
	def("adamW", "g = p1, "+momentsDoc+"p0 = p0*k0 - (k5*p2) / (√p3/k6 + k7)", func(k *kernel) {
		m, v := moments(k, k.load(1))
		k.store(0, k.load(0).mul(k.param(0)).sub(m.mul(k.param(5)).div(v.sqrt().div(k.param(6)).add(k.param(7)))))
	})
	def("nadam", "p0 = p0*k9, "+decayDoc+momentsDoc+"q = √(p3/k6) + k7, p0 = (p0 - (k5*g)/q) - (k8*p2)/q", func(k *kernel) {
		w := k.load(0).mul(k.param(9))
		g := decayed(k.load(1), w)
		m, v := moments(k, g)
		q := v.div(k.param(6)).sqrt().add(k.param(7))
		k.store(0, w.sub(g.mul(k.param(5)).div(q)).sub(m.mul(k.param(8)).div(q)))
	})
}

// conversions defines the loops between floats and words.
func conversions(def define, wide bool) {
	const inf, signs = 0x7f800000, 0x80000000
	def("toHalf", "p0 = bits of p1 in binary16", func(k *kernel) {
		b := k.load(1)
		if wide {
			k.store(0, b.half())
			return
		}
		a := b.and(k.bits(^uint32(signs)))
		nan := a.sar(13).and(k.bits(0x3ff)).or(k.bits(0x7e00))
		small := a.add(k.num(0.5)).isub(k.bits(126 << 23))
		h := a.isub(k.bits(112<<23 - 0xfff)).iadd(a.sar(13).and(k.bits(1))).sar(13)
		h = a.igt(k.bits(113<<23-1)).choose(h, small)
		h = a.igt(k.bits(143<<23-1)).choose(k.bits(0x7c00), h)
		h = a.igt(k.bits(inf)).choose(nan, h)
		k.store(0, h.or(b.sar(16).and(k.bits(0x8000))))
	})
	def("fromHalf", "p0 = value of the binary16 bits p1", func(k *kernel) {
		h := k.load(1)
		a := h.and(k.bits(0x7fff)).shl(13)
		small := a.iadd(k.bits(113 << 23)).sub(k.bits(113 << 23))
		x := a.igt(k.bits(1<<23-1)).choose(a.iadd(k.bits(112<<23)), small)
		x = a.igt(k.bits(31<<23-1)).choose(a.or(k.bits(inf)), x)
		k.store(0, x.or(h.and(k.bits(0x8000)).shl(16)))
	})
	def("toBFloat16", "p0 = bits of p1 in bfloat16", func(k *kernel) {
		b := k.load(1)
		high := b.sar(16)
		quiet := high.and(k.bits(0x7f)).ieq(k.bits(0)).choose(high.or(k.bits(0x40)), high)
		w := b.iadd(k.bits(0x7fff)).iadd(high.and(k.bits(1))).sar(16)
		nan := b.and(k.bits(^uint32(signs))).igt(k.bits(inf))
		k.store(0, nan.choose(quiet, w).and(k.bits(0xffff)))
	})
	def("fromBFloat16", "p0 = value of the bfloat16 bits p1", func(k *kernel) { k.store(0, k.load(1).shl(16)) })
	def("roundBF16", "p0 = p1 as a bfloat16 operand of products", func(k *kernel) {
		x := k.load(1)
		a := x.and(k.bits(^uint32(signs)))
		b := a.iadd(k.bits(0x7fff)).iadd(a.sar(16).and(k.bits(1))).and(k.bits(0xffff0000))
		b = b.igt(k.bits((127-56)<<23 - 1)).keep(b)
		b = b.igt(k.bits((127+64)<<23-1)).choose(k.bits(inf), b)
		b = a.igt(k.bits(inf)).choose(a.or(k.bits(1<<22)), b)
		k.store(0, b.or(x.and(k.bits(signs))))
	})
	def("packBF16", "p0 = p1 and p2 as kept operands, p1 in the low half", func(k *kernel) {
		k.store(0, k.kept(1).sar(16).and(k.bits(0xffff)).or(k.kept(2)))
	})
	def("packRoundBF16", "packBF16, and p1, p2 = p1, p2 as operands", func(k *kernel) {
		lo, hi := k.kept(1), k.kept(2)
		k.store(0, lo.sar(16).and(k.bits(0xffff)).or(hi))
		k.store(1, k.operand(lo))
		k.store(2, k.operand(hi))
	})
	def("unpackBF16", "p0, p1 = operands that are kept in p2", func(k *kernel) {
		w := k.load(2)
		k.store(0, k.operand(w.shl(16)))
		k.store(1, k.operand(w.and(k.bits(0xffff0000))))
	})
	def("reluGradBF16", "p0, p1 = kept in p2 > 0 ? p0, p1 : 0", func(k *kernel) {
		w := k.load(2)
		for i, x := range []value{w.shl(16), w.and(k.bits(0xffff0000))} {
			x = x.igt(k.bits(inf)).choose(k.bits(0), x) // NaN
			k.store(i, x.igt(k.bits(0)).keep(k.load(i)))
		}
	})
	def("quantise8", "p0 = low byte of p1*k0 rounded to an integer", func(k *kernel) {
		k.store(0, k.load(1).mul(k.param(0)).add(k.num(3<<22)).and(k.bits(0xff)))
	})
	def("absMax", "s0 = |p0| > s0 ? |p0| : s0, s1 += p0 finite ? 0 : 1", func(k *kernel) {
		a := k.load(0).and(k.bits(^uint32(signs)))
		k.max(0, a)
		k.sum(1, a.igt(k.bits(inf-1)).keep(k.num(1)))
	})
	def("countZeros", "s0 += bits of p0 are zero ? 1 : 0", func(k *kernel) {
		k.sum(0, k.load(0).ieq(k.bits(0)).keep(k.num(1)))
	})
	def("countEqual", "s0 += bits of p0 and p1 are equal ? 1 : 0", func(k *kernel) {
		k.sum(0, k.load(0).ieq(k.load(1)).keep(k.num(1)))
	})
	def("takeEqual", "p0 = bits of p1 and p2 are equal ? p1 : p0", func(k *kernel) {
		x := k.load(1)
		k.store(0, x.ieq(k.load(2)).choose(x, k.load(0)))
	})
}

// kept is slice i rounded to bfloat16 as an operand of products, in the upper half, with the sign
// of what is too small for one.
func (k *kernel) kept(i int) value {
	const inf, signs = 0x7f800000, 0x80000000
	x := k.load(i)
	a := x.and(k.bits(^uint32(signs)))
	b := a.iadd(k.bits(0x7fff)).iadd(a.sar(16).and(k.bits(1))).and(k.bits(0xffff0000))
	b = b.igt(k.bits((127-56)<<23-1)).choose(b, k.bits((127-57)<<23))
	b = b.igt(k.bits((127+64)<<23-1)).choose(k.bits(inf), b)
	b = a.igt(k.bits(inf)).choose(k.bits(0x7fc00000), b)
	return a.igt(k.bits(0)).keep(b).or(x.and(k.bits(signs)))
}

// operand is what kept left, as an operand.
func (k *kernel) operand(x value) value {
	const signs = 0x80000000
	a := x.and(k.bits(^uint32(signs)))
	return a.igt(k.bits((127-56)<<23 - 1)).keep(a).or(x.and(k.bits(signs)))
}
