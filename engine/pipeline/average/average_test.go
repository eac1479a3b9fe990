package average

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/kernel"
)

// changes are what n replicas changed in a tensor: magnitudes over many binades, zeros,
// subnormals and whole blocks of zeros.
func changes(r *rand.Rand, n, elems int) [][]float32 {
	xs := make([][]float32, n)
	for k := range xs {
		xs[k] = make([]float32, elems)
		for i := range xs[k] {
			switch {
			case i/BlockSize%3 == 2, r.IntN(9) == 0: // a block of zeros, a zero
			case r.IntN(20) == 0:
				xs[k][i] = math.Float32frombits(uint32(r.IntN(1 << 20)))
			default:
				xs[k][i] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()*4))
			}
		}
	}
	return xs
}

func draws(replica int) kernel.Stream {
	return kernel.NewStream(7, kernel.DomainTest, 3, uint32(replica))
}

// mean averages in the given order, in groups that are summed apart and then merged.
func mean(t *testing.T, rule Rule, xs [][]float32, weights []int64, order []int, groups int) []float32 {
	t.Helper()
	n := len(xs[0])
	var total int64
	for _, w := range weights {
		total += w
	}
	if err := rule.Check(total); err != nil {
		t.Fatal(err)
	}
	scale := make([]float32, Blocks(n))
	for g := range groups {
		part := make([]float32, len(scale))
		for i, k := range order {
			if i%groups == g {
				if err := Scale(part, xs[k]); err != nil {
					t.Fatal(err)
				}
			}
		}
		for b, m := range part {
			scale[b] = max(scale[b], m)
		}
	}
	sum := make([]int64, n)
	for g := range groups {
		part := make([]int64, n)
		for i, k := range order {
			if i%groups == g {
				if err := rule.Add(part, xs[k], scale, weights[k], draws(k), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		b := rule.Pack(nil, part, total)
		if err := rule.Unpack(sum, b, total, true); err != nil {
			t.Fatal(err)
		}
	}
	dst := make([]float32, n)
	rule.Mean(dst, sum, scale, total)
	return dst
}

// TestOrderAndGrouping: any order, any grouping, the same bits; and the mean is near the
// true one by what the bits allow.
func TestOrderAndGrouping(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, bits := range []int{2, 4, 8, 16, 27, 28, 32} {
		for _, n := range []int{1, 2, 3, 7} {
			t.Run(fmt.Sprintf("%d bits/%d replicas", bits, n), func(t *testing.T) {
				rule := Rule{Bits: bits}
				elems := 3*BlockSize + 17
				xs := changes(r, n, elems)
				weights := make([]int64, n)
				order := make([]int, n)
				var total int64
				for k := range weights {
					weights[k], order[k] = int64(1+r.IntN(100)), k
					total += weights[k]
				}
				want := mean(t, rule, xs, weights, order, 1)
				for range 5 {
					r.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
					if got := mean(t, rule, xs, weights, order, 1+r.IntN(n)); !slices.Equal(bitsOf(got), bitsOf(want)) {
						t.Fatal("another order or grouping gives other bits")
					}
				}
				for i, v := range want {
					var exact, big float64
					for k := range xs {
						exact += float64(weights[k]) * float64(xs[k][i]) / float64(total)
						for _, x := range xs[k][i/BlockSize*BlockSize : min((i/BlockSize+1)*BlockSize, elems)] {
							big = max(big, math.Abs(float64(x)))
						}
					}
					level := big / float64(rule.levels())
					if bits >= ExactBits {
						level /= 2 // nearest; below, a whole level either way
					}
					if diff := math.Abs(float64(v) - exact); diff > level*1.001+math.Abs(exact)*1e-7+1e-45 {
						t.Fatalf("element %d: mean %v, exact %v, a level is %v", i, v, exact, level)
					}
				}
			})
		}
	}
}

func bitsOf(x []float32) []uint32 {
	b := make([]uint32, len(x))
	for i, v := range x {
		b[i] = math.Float32bits(v)
	}
	return b
}

// TestStochasticRoundingHasNoBias: over many draws the mean of the rounded is the value.
func TestStochasticRoundingHasNoBias(t *testing.T) {
	rule := Rule{Bits: 4}
	x := make([]float32, BlockSize)
	for i := range x {
		x[i] = float32(i) / BlockSize
	}
	x[0] = 1
	scale := []float32{1}
	const rounds = 4000
	sum := make([]int64, len(x))
	for k := range rounds {
		if err := rule.Add(sum, x, scale, 1, draws(k), 0); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, len(x))
	rule.Mean(got, sum, scale, rounds)
	for i := range x {
		// The standard deviation of one rounding is at most half a level of 1/7.
		if d := math.Abs(float64(got[i] - x[i])); d > 6*0.5/7/math.Sqrt(rounds) {
			t.Errorf("element %v averages to %v", x[i], got[i])
		}
	}
}

func TestNotFinite(t *testing.T) {
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		if err := Scale(make([]float32, 1), []float32{1, v, 2}); !errors.Is(err, ErrNotFinite) {
			t.Errorf("%v: %v", v, err)
		}
	}
	if err := (Rule{Bits: 8}).Add(make([]int64, 1), []float32{2}, []float32{1}, 1, draws(0), 0); err == nil {
		t.Error("an element above the agreed scale was taken")
	}
	if err := (Rule{Bits: 8}).Add(make([]int64, 1), []float32{2}, []float32{0}, 1, draws(0), 0); err == nil {
		t.Error("an element above the agreed scale 0 was taken")
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		bits  int
		total int64
		ok    bool
	}{{1, 1, false}, {2, 1, true}, {32, 1, true}, {33, 1, false}, {8, 0, false}, {32, 1 << 31, false}, {28, 1 << 30, true}} {
		if err := (Rule{Bits: c.bits}).Check(c.total); (err == nil) != c.ok {
			t.Errorf("%d bits, weights %d: %v", c.bits, c.total, err)
		}
	}
}

// TestRing plays all members of a ring: at the end everyone holds every chunk combined
// from all, and nobody sent more than it must.
func TestRing(t *testing.T) {
	for n := 1; n <= 8; n++ {
		have := make([][][]int, n) // member, chunk: whose parts are in it
		for m := range have {
			for range n {
				have[m] = append(have[m], []int{m})
			}
		}
		steps := make([][]Step, n)
		for m := range steps {
			if steps[m] = Ring(n, m); len(steps[m]) != 2*(n-1) {
				t.Fatalf("%d members: %d steps", n, len(steps[m]))
			}
		}
		for s := range 2 * (n - 1) {
			sent := make([][]int, n)
			for m := range n {
				sent[m] = slices.Clone(have[m][steps[m][s].Send])
				if who := Terms(n, m, s); !slices.Equal(slices.Sorted(slices.Values(who)), slices.Sorted(slices.Values(sent[m]))) {
					t.Fatalf("%d members, step %d: member %d sends the terms of %v, Terms says %v", n, s, m, sent[m], who)
				}
			}
			for m := range n {
				from := (m - 1 + n) % n
				st := steps[m][s]
				if steps[from][s].Send != st.Recv {
					t.Fatalf("%d members, step %d: member %d expects chunk %d, %d is sent", n, s, m, st.Recv, steps[from][s].Send)
				}
				if st.Reduce {
					have[m][st.Recv] = append(have[m][st.Recv], sent[from]...)
				} else {
					have[m][st.Recv] = sent[from]
				}
			}
		}
		for m := range have {
			for c, parts := range have[m] {
				slices.Sort(parts)
				for k := range n {
					if len(parts) != n || parts[k] != k {
						t.Fatalf("%d members: member %d has %v in chunk %d", n, m, parts, c)
					}
				}
			}
		}
	}
}

func TestChunks(t *testing.T) {
	for elems := range 20 {
		for n := 1; n < 9; n++ {
			at := 0
			for i := range n {
				from, to := Chunk(elems, n, i)
				if d := to - from; from != at || d < elems/n || d > elems/n+1 {
					t.Fatalf("%d elements, chunk %d of %d: %d to %d", elems, i, n, from, to)
				}
				at = to
			}
			if at != elems {
				t.Fatalf("%d elements, %d chunks: they end at %d", elems, n, at)
			}
		}
	}
}

// TestPack: sums of every width come back, alone and behind others, and change no bit that is
// not theirs.
func TestPack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	for range 2000 {
		rule := Rule{Bits: MinBits + r.IntN(MaxBits-MinBits+1)}
		total := r.Int64N(1 << r.IntN(30))
		sums := make([]int64, r.IntN(40))
		for i := range sums {
			if sums[i] = r.Int64N(2*total*rule.levels()+1) - total*rule.levels(); r.IntN(4) == 0 {
				sums[i] = total * rule.levels() * int64(1-2*r.IntN(2))
			}
		}
		b := rule.Pack([]byte{7}, sums, total)
		if b[0] != 7 || len(b) != 1+rule.PackedLen(len(sums), total) {
			t.Fatalf("%d sums of %d bits are packed to %x", len(sums), rule.Width(total), b)
		}
		got := make([]int64, len(sums))
		if err := rule.Unpack(got, b[1:], total, false); err != nil || !slices.Equal(got, sums) {
			t.Fatalf("%d bits: %v come back as %v: %v", rule.Width(total), sums, got, err)
		}
		if len(b) > 1 && rule.Width(total)*len(sums)%8 != 0 {
			b[len(b)-1] |= 0x80
			if err := rule.Unpack(got, b[1:], total, false); !errors.Is(err, ErrPacked) {
				t.Fatalf("a bit beyond the last sum: %v", err)
			}
		}
	}
}

// TestUnpackNames the first sum that is out of range, wherever it lies.
func TestUnpackNames(t *testing.T) {
	rule, sums := Rule{Bits: 4}, make([]int64, 40)
	for _, at := range []int{0, 7, 30, 39} {
		b := rule.Pack(nil, sums, 1)
		b[at/2] |= 15 << (at % 2 * 4)
		if err := rule.Unpack(make([]int64, len(sums)), b, 1, false); !errors.Is(err, ErrPacked) || !strings.Contains(err.Error(), fmt.Sprintf("sum %d is", at)) {
			t.Errorf("sum %d is out of range: %v", at, err)
		}
	}
}

// fast compares the fast loops with those that they have to agree with, on blocks from a seed.
func fast(t *testing.T, seed uint64, bits int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 5))
	rule := Rule{Bits: bits}
	top := rule.levels()
	x := changes(r, 1, 1+r.IntN(BlockSize))[0]
	if seed%3 == 0 {
		for i := range x {
			// Near halves and near whole numbers of levels.
			x[i] = float32(float64(r.Int64N(2*top+1)-top)/2 + float64(r.IntN(3)-1)*math.Pow(2, -float64(r.IntN(60))))
		}
	}
	scale := []float32{0}
	if err := Scale(scale, x); err != nil {
		t.Fatal(err)
	}
	if scale[0] == 0 {
		return
	}
	step, weight, stream, block := float64(top)/float64(scale[0]), 1+r.Int64N(1000), draws(int(seed%7)), r.Uint64N(1<<34)
	got, want := make([]int64, len(x)), make([]int64, len(x))
	for i := range got {
		got[i] = r.Int64N(1<<40) - 1<<39
	}
	copy(want, got)
	nearest(got, x, step, weight)
	if err := addNearest(want, x, step, float64(top), weight); err != nil || !slices.Equal(got, want) {
		t.Fatalf("nearest: %v, want %v, %v", got, want, err)
	}
	drawn(got, x, step, top, weight, &stream, block)
	if err := addDrawn(want, x, step, float64(top), weight, &stream, block); err != nil || !slices.Equal(got, want) {
		t.Fatalf("drawn: %v, want %v, %v", got, want, err)
	}
	for i := range got {
		got[i] >>= r.IntN(40)
	}
	y, z, den := make([]float32, len(x)), make([]float32, len(x)), float64(1+r.Int64N(1<<20))*float64(top)
	meanAny(z, got, float64(scale[0]), den)
	if ok := meanSmall(y, got, float64(scale[0]), den); !ok || !slices.Equal(bitsOf(y), bitsOf(z)) {
		t.Fatalf("means: %v, want %v", y, z)
	}
	got[r.IntN(len(got))] = (1<<51 + r.Int64N(1<<52)) * int64(1-2*r.IntN(2))
	if meanSmall(y, got, 1, den) {
		t.Fatalf("sums of 2^51 and more are small: %v", got)
	}
}

func TestFast(t *testing.T) {
	for seed := range uint64(3000) {
		fast(t, seed, MinBits+int(seed%(MaxBits-MinBits+1)))
	}
}

func FuzzFast(f *testing.F) {
	f.Add(uint64(3), uint8(6))
	f.Fuzz(func(t *testing.T, seed uint64, bits uint8) { fast(t, seed, MinBits+int(bits%(MaxBits-MinBits+1))) })
}

func TestReduced(t *testing.T) {
	if got := Reduced([]int64{64, 64, 32}); !slices.Equal(got, []int64{2, 2, 1}) {
		t.Errorf("%v", got)
	}
	if got := Reduced([]int64{0, 5}); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("%v", got)
	}
}

// FuzzUnpack: what Unpack takes, Pack writes again.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(4), uint8(2), uint16(3))
	f.Add(make([]byte, 64), uint8(32), uint8(8), uint16(1<<15))
	f.Fuzz(func(t *testing.T, b []byte, bits, n uint8, total uint16) {
		rule := Rule{Bits: int(bits)}
		if rule.Check(int64(total)) != nil {
			return
		}
		sums := make([]int64, n)
		if rule.Unpack(sums, b, int64(total), false) != nil {
			return
		}
		twice := slices.Clone(sums)
		if err := rule.Unpack(twice, b, int64(total), true); err != nil {
			t.Fatal(err)
		}
		for i, s := range sums {
			if twice[i] != 2*s {
				t.Fatalf("sum %d is %d, and %d when it is added", i, s, twice[i])
			}
		}
		if got := rule.Pack(nil, sums, int64(total)); !slices.Equal(got, b) {
			t.Errorf("%x unpacks to %v, which packs to %x", b, sums, got)
		}
	})
}
