package kernel

import (
	"math"
	"slices"
	"testing"
)

// Known answers of the Random123 distribution by the authors of Philox.
func TestPhilox(t *testing.T) {
	for _, c := range []struct {
		ctr  [4]uint32
		key  [2]uint32
		want [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
			[2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			[2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := Philox(c.ctr, c.key); got != c.want {
			t.Errorf("philox(%#x, %#x) = %#x, want %#x", c.ctr, c.key, got, c.want)
		}
	}
}

// Every bit of an address must reach counter or key, and none may meet another there:
// the addresses with a single bit set give as many distinct streams.
func TestStreamInjective(t *testing.T) {
	type address struct {
		key, c1, c2, c3, b uint64
	}
	seen := map[address]string{}
	put := func(what string, bit int, s Stream, block uint64) {
		a := address{uint64(s.key[0]) | uint64(s.key[1])<<32, uint64(s.c1 | uint32(block>>32)), uint64(s.c2), uint64(s.c3), uint64(uint32(block))}
		if old, ok := seen[a]; ok {
			t.Errorf("%s bit %d has the counter of %s", what, bit, old)
		}
		seen[a] = what
	}
	put("zero", 0, NewStream(0, 0, 0, 0), 0)
	for i := range 64 {
		put("seed", i, NewStream(1<<i, 0, 0, 0), 0)
	}
	for i := range 40 {
		put("step", i, NewStream(0, 0, 1<<i, 0), 0)
	}
	for i := range 32 {
		put("node", i, NewStream(0, 0, 0, 1<<i), 0)
	}
	for i := range 8 {
		put("domain", i, NewStream(0, 1<<i, 0, 0), 0)
	}
	for i := range 48 {
		put("block", i, NewStream(0, 0, 0, 0), 1<<i)
	}
	defer func() {
		if recover() == nil {
			t.Error("a step of 41 bits was taken")
		}
	}()
	NewStream(0, 0, 1<<40, 0)
}

// The definition: element e is kept where its word is at least round(p * 2^32).
func TestDropoutMask(t *testing.T) {
	s := NewStream(0x123456789abcdef0, DomainDropout, 1<<39+77, 5)
	for _, p := range []float64{0, 1e-9, 0.25, 0.4, 0.5, 0.999, 1} {
		limit := uint64(math.Round(p * (1 << 32)))
		for _, first := range []uint64{0, 1, 2, 3, 4, 7, 31, 32, 1000001, 1<<34 - 3, 1<<50 - 200} {
			for _, n := range []int{0, 1, 2, 4, 5, 31, 32, 33, 63, 64, 100, 200} {
				mask := make([]uint32, (n+31)/32+1)
				for i := range mask {
					mask[i] = 0xdeadbeef
				}
				DropoutMask(mask, s, first, n, p)
				if last := len(mask) - 1; mask[last] != 0xdeadbeef {
					t.Fatal("wrote past the mask")
				}
				for i := range 32 * (len(mask) - 1) {
					kept := mask[i/32]>>(i%32)&1 != 0
					if want := i < n && uint64(s.Uint32(first+uint64(i))) >= limit; kept != want {
						t.Fatalf("p %v, first %d, n %d: element %d kept: %v, want %v", p, first, n, i, kept, want)
					}
				}
			}
		}
	}
}

func TestDropoutRate(t *testing.T) {
	const n = 1 << 18
	mask := make([]uint32, n/32)
	for _, p := range []float64{0.1, 0.25, 0.4} {
		DropoutMask(mask, NewStream(42, DomainDropout, 3, 2), 0, n, p)
		kept := 0
		for i := range n {
			kept += int(mask[i/32] >> (i % 32) & 1)
		}
		// Five standard deviations; the seed is fixed, so this never flickers.
		if d := math.Abs(float64(kept) - (1-p)*n); d > 5*math.Sqrt(n*p*(1-p)) {
			t.Errorf("p %v: %d of %d are kept", p, kept, n)
		}
	}
}

func TestDropoutMaskBad(t *testing.T) {
	for _, c := range []struct {
		first uint64
		n     int
		p     float64
	}{{0, 8, math.NaN()}, {0, 8, -0.1}, {0, 8, 1.1}, {1<<50 - 7, 8, 0.5}, {1 << 60, 8, 0.5}, {0, -1, 0.5}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was taken", c)
				}
			}()
			DropoutMask(make([]uint32, 1), Stream{}, c.first, c.n, c.p)
		}()
	}
}

// TestFrom: numbers are the same wherever one begins to draw.
func TestFrom(t *testing.T) {
	s := NewStream(7, DomainNoise, 3, 1)
	all, part := make([]float32, 41), make([]float32, 41)
	for _, draw := range []struct {
		all  func()
		from func(dst []float32, s Stream, first uint64)
	}{{func() { Normal(all, s) }, NormalFrom}, {func() { Uniform(all, s, 0, 1) }, UniformFrom}} {
		draw.all()
		for first := range all {
			n := min(7, len(all)-first)
			draw.from(part[:n], s, uint64(first))
			if !slices.Equal(part[:n], all[first:][:n]) {
				t.Fatalf("from %d: %v, want %v", first, part[:n], all[first:][:n])
			}
		}
	}
}

func TestUniformNormal(t *testing.T) {
	const n = 1 << 16
	x := make([]float32, n)
	s := NewStream(7, DomainInit, 0, 1)
	// Moments within five standard deviations of their estimates.
	check := func(name string, mean, variance, kurt float64) {
		t.Helper()
		var m, v float64
		for _, a := range x {
			m += float64(a) / n
		}
		for _, a := range x {
			v += (float64(a) - m) * (float64(a) - m) / n
		}
		if d := math.Abs(m - mean); d > 5*math.Sqrt(variance/n) {
			t.Errorf("%s: mean %v, want %v", name, m, mean)
		}
		if d := math.Abs(v - variance); d > 5*variance*math.Sqrt((kurt-1)/n) {
			t.Errorf("%s: variance %v, want %v", name, v, variance)
		}
	}
	Uniform(x, s, -0.5, 1.5)
	check("uniform", 0.5, 4.0/12, 1.8)
	if lo, hi := slices.Min(x), slices.Max(x); lo < -0.5 || hi > 1.5 || lo > -0.499 || hi < 1.499 {
		t.Errorf("uniform in -0.5..1.5 reaches from %v to %v", lo, hi)
	}
	Normal(x, s)
	check("normal", 0, 1, 3)
	var corr float64 // of the two halves of a Box-Muller pair
	for i := 0; i < n; i += 2 {
		corr += float64(x[i]*x[i+1]) / (n / 2)
	}
	if math.Abs(corr) > 5/math.Sqrt(n/2) {
		t.Errorf("normal: neighbours correlate by %v", corr)
	}
	// A prefix does not depend on the length.
	for k := range 10 {
		y, u, v := make([]float32, k), make([]float32, k), make([]float32, n)
		Normal(y, s)
		elemTSame(t, "normal", y, x[:k])
		Uniform(u, s, 0, 1)
		Uniform(v, s, 0, 1)
		elemTSame(t, "uniform", u, v[:k])
		UniformIn(u, s, uint64(4*k), 0, 1)
		elemTSame(t, "uniform in", u, v[4*k:][:k])
	}
}

func TestPerm(t *testing.T) {
	count := map[[4]int32]int{}
	const draws = 24000
	for step := range uint64(draws) {
		var p [4]int32
		Perm(p[:], NewStream(1, DomainShuffle, step, 0))
		count[p]++
	}
	// 24 orders, 1,000 each: chi-square with 23 degrees of freedom stays below 50 but
	// once in a thousand seeds, and this seed is fixed.
	chi := 0.0
	for _, k := range count {
		chi += float64((k-1000)*(k-1000)) / 1000
	}
	if len(count) != 24 || chi > 50 {
		t.Errorf("%d orders of 4 elements, chi-square %v", len(count), chi)
	}
	for _, n := range []int{0, 1, 2, 1078} {
		p := make([]int32, n)
		Perm(p, NewStream(3, DomainShuffle, 0, 0))
		slices.Sort(p)
		for i, v := range p {
			if int(v) != i {
				t.Fatalf("%d elements: %d is not among them", n, i)
			}
		}
	}
}

func FuzzDropoutMask(f *testing.F) {
	f.Add(uint64(5), uint16(100), uint16(3), 0.5)
	f.Add(uint64(1<<50-1000), uint16(999), uint16(64), 1.0)
	f.Fuzz(func(t *testing.T, first uint64, n, cut uint16, p float64) {
		if first >= 1<<49 || !(p >= 0 && p <= 1) {
			t.Skip()
		}
		// The mask in two parts is the mask in one.
		s := NewStream(first*3, DomainDropout, 9, 9)
		cut = min(cut, n)
		all, a, b := make([]uint32, n/32+1), make([]uint32, n/32+1), make([]uint32, n/32+1)
		DropoutMask(all, s, first, int(n), p)
		DropoutMask(a, s, first, int(cut), p)
		DropoutMask(b, s, first+uint64(cut), int(n-cut), p)
		for i := range n {
			part, k := a, i
			if i >= cut {
				part, k = b, i-cut
			}
			if all[i/32]>>(i%32)&1 != part[k/32]>>(k%32)&1 {
				t.Fatalf("element %d of %d changed when the mask was cut at %d", i, n, cut)
			}
		}
	})
}

// TestWords: they are the blocks', across a multiple of 1<<32 too.
func TestWords(t *testing.T) {
	s := NewStream(0x123456789abcdef0, DomainTest, 1<<33+5, 77)
	for _, block := range []uint64{0, 5, 1<<32 - 3, 1<<40 + 1} {
		for n := range 70 {
			dst := make([]uint32, n+1)
			s.Words(dst[:n], block)
			for i, v := range dst[:n] {
				if want := s.Block(block + uint64(i)/4)[i%4]; v != want {
					t.Fatalf("word %d of %d from block %d is %#x, want %#x", i, n, block, v, want)
				}
			}
			if dst[n] != 0 {
				t.Fatalf("wrote behind %d words", n)
			}
		}
	}
}
