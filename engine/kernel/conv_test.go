package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// convTFill draws test values, zeros among them.
func convTFill(n int, node uint32) []float32 {
	v := make([]float32, n)
	Normal(v, NewStream(5, DomainTest, 0, node))
	for i := 0; i < n; i += 7 {
		v[i] = 0
	}
	return v
}

func TestTranspose(t *testing.T) {
	for _, rows := range []int{1, 7, 8, 15, 16, 17, 31, 40, 59} {
		for _, cols := range []int{1, 4, 8, 9, 16, 33, 70} {
			ss, ds := cols+3, rows+5
			src := convTFill(rows*ss, 1)
			got, want := convTFill(cols*ds, 2), convTFill(cols*ds, 2)
			transpose(got, ds, src[:(rows-1)*ss+cols], ss, rows, cols)
			transposeGo(want, ds, src, ss, rows, cols)
			convTBits(t, fmt.Sprintf("%d x %d", rows, cols), got, want)
		}
	}
}

// convTEach visits every (output, input, weight) triple in ascending order of channel,
// kernel row and kernel column for each output: the specification.
func convTEach(c *Conv, f func(y, x, w int)) {
	cg, og := c.C/c.Groups, c.O/c.Groups
	for n := range c.N {
		for o := range c.O {
			for oy := range c.OH() {
				for ox := range c.OW() {
					for ci := range cg {
						for a := range c.KH {
							for b := range c.KW {
								iy, ix := oy*c.SH+a*c.DH-c.PT, ox*c.SW+b*c.DW-c.PL
								if iy < 0 || ix < 0 || iy >= c.H || ix >= c.W {
									continue
								}
								f(((n*c.O+o)*c.OH()+oy)*c.OW()+ox, ((n*c.C+o/og*cg+ci)*c.H+iy)*c.W+ix, ((o*cg+ci)*c.KH+a)*c.KW+b)
							}
						}
					}
				}
			}
		}
	}
}

// convTData is the gradient of x by its definition: for each input element the terms
// in ascending order of output channel, kernel row, kernel column.
func convTData(c *Conv, dx, dy, w []float32) {
	cg, og := c.C/c.Groups, c.O/c.Groups
	for n := range c.N {
		for ci := range c.C {
			for y := range c.H {
				for x := range c.W {
					var s float32
					gr := ci / cg
					for o := gr * og; o < (gr+1)*og; o++ {
						for a := range c.KH {
							for b := range c.KW {
								py, px := y+c.PT-a*c.DH, x+c.PL-b*c.DW
								if py < 0 || px < 0 || py%c.SH != 0 || px%c.SW != 0 || py/c.SH >= c.OH() || px/c.SW >= c.OW() {
									continue
								}
								s = FMA(dy[((n*c.O+o)*c.OH()+py/c.SH)*c.OW()+px/c.SW], w[((o*cg+ci%cg)*c.KH+a)*c.KW+b], s)
							}
						}
					}
					dx[((n*c.C+ci)*c.H+y)*c.W+x] = s
				}
			}
		}
	}
}

func convTBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] == 0 && want[i] == 0) {
			t.Fatalf("%s: element %d is %g, the specification says %g", what, i, got[i], want[i])
		}
	}
}

var convTShapes = []Conv{
	{N: 64, C: 1, H: 8, W: 8, O: 16, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 54, C: 16, H: 2, W: 2, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 1, C: 1, H: 1, W: 1, O: 1, KH: 1, KW: 1, SH: 1, SW: 1, DH: 1, DW: 1, Groups: 1},
	{N: 3, C: 5, H: 7, W: 9, O: 6, KH: 3, KW: 3, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 2, C: 4, H: 9, W: 8, O: 6, KH: 3, KW: 2, SH: 2, SW: 3, PT: 0, PL: 1, PB: 2, PR: 0, DH: 2, DW: 1, Groups: 2},
	{N: 2, C: 6, H: 5, W: 5, O: 6, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 6},
	{N: 2, C: 7, H: 6, W: 6, O: 9, KH: 1, KW: 1, SH: 1, SW: 1, DH: 1, DW: 1, Groups: 1},
	{N: 2, C: 7, H: 20, W: 20, O: 9, KH: 1, KW: 1, SH: 1, SW: 1, DH: 1, DW: 1, Groups: 1},
	{N: 3, C: 3, H: 6, W: 6, O: 4, KH: 1, KW: 1, SH: 2, SW: 2, DH: 1, DW: 1, Groups: 1},
	{N: 9, C: 20, H: 4, W: 4, O: 17, KH: 1, KW: 1, SH: 2, SW: 2, DH: 1, DW: 1, Groups: 1},
	{N: 5, C: 8, H: 7, W: 14, O: 6, KH: 1, KW: 1, SH: 2, SW: 3, PT: 1, PL: 2, DH: 1, DW: 1, Groups: 2},
	{N: 2, C: 4, H: 5, W: 13, O: 3, KH: 1, KW: 1, SH: 1, SW: 2, DH: 1, DW: 1, Groups: 1},
	{N: 2, C: 3, H: 30, W: 31, O: 10, KH: 5, KW: 3, SH: 1, SW: 1, PT: 2, PL: 1, PB: 2, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 1, C: 2, H: 4, W: 4, O: 3, KH: 4, KW: 4, SH: 1, SW: 1, PT: 3, PL: 3, PB: 3, PR: 3, DH: 1, DW: 1, Groups: 1},
	{N: 19, C: 5, H: 7, W: 7, O: 9, KH: 3, KW: 3, SH: 2, SW: 1, PT: 1, PL: 2, PB: 1, PR: 0, DH: 1, DW: 2, Groups: 1},
	{N: 37, C: 4, H: 4, W: 3, O: 6, KH: 2, KW: 3, SH: 1, SW: 2, PT: 1, PL: 1, PB: 0, PR: 1, DH: 1, DW: 1, Groups: 2},
	{N: 16, C: 24, H: 7, W: 7, O: 17, KH: 1, KW: 1, SH: 1, SW: 1, DH: 1, DW: 1, Groups: 1},
	{N: 9, C: 9, H: 8, W: 8, O: 5, KH: 1, KW: 1, SH: 3, SW: 3, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 1, C: 2, H: 1, W: 1, O: 3, KH: 1, KW: 1, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 9, C: 2, H: 1, W: 9, O: 9, KH: 4, KW: 4, SH: 2, SW: 1, PT: 3, PL: 3, PB: 3, PR: 3, DH: 1, DW: 1, Groups: 1},
	{N: 3, C: 37, H: 6, W: 9, O: 37, KH: 3, KW: 3, SH: 2, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 37},
	{N: 2, C: 9, H: 11, W: 7, O: 9, KH: 5, KW: 2, SH: 1, SW: 3, PT: 0, PL: 1, PB: 2, PR: 1, DH: 2, DW: 1, Groups: 9},
	{N: 2, C: 37, H: 11, W: 30, O: 37, KH: 3, KW: 3, SH: 1, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 37},
	{N: 2, C: 40, H: 14, W: 150, O: 8, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
}

// convTLines have vectors over channels of the output where there are kernels for it.
var convTLines = []Conv{
	{N: 3, C: 24, H: 7, W: 7, O: 48, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 2, C: 32, H: 9, W: 10, O: 32, KH: 3, KW: 3, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 2, C: 16, H: 5, W: 13, O: 16, KH: 5, KW: 5, SH: 1, SW: 1, PT: 2, PL: 2, PB: 2, PR: 2, DH: 1, DW: 1, Groups: 1},
	{N: 5, C: 64, H: 6, W: 5, O: 64, KH: 3, KW: 4, SH: 1, SW: 1, PT: 0, PL: 1, PB: 3, PR: 2, DH: 1, DW: 1, Groups: 2},
	{N: 2, C: 48, H: 11, W: 29, O: 16, KH: 2, KW: 7, SH: 3, SW: 2, PT: 1, PL: 3, PB: 0, PR: 3, DH: 2, DW: 2, Groups: 1},
	{N: 64, C: 16, H: 2, W: 2, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 59, C: 96, H: 5, W: 3, O: 32, KH: 3, KW: 2, SH: 1, SW: 1, PT: 2, PL: 1, PB: 1, PR: 0, DH: 1, DW: 1, Groups: 2},
	{N: 9, C: 32, H: 6, W: 7, O: 16, KH: 3, KW: 3, SH: 3, SW: 3, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 37, C: 32, H: 4, W: 4, O: 48, KH: 3, KW: 3, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 22, C: 64, H: 5, W: 3, O: 16, KH: 3, KW: 5, SH: 1, SW: 2, PT: 1, PL: 2, PB: 1, PR: 2, DH: 1, DW: 1, Groups: 2},
	{N: 33, C: 16, H: 6, W: 6, O: 7, KH: 4, KW: 3, SH: 3, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	{N: 4, C: 48, H: 3, W: 21, O: 80, KH: 3, KW: 3, SH: 1, SW: 3, PT: 4, PL: 0, PB: 4, PR: 0, DH: 1, DW: 1, Groups: 1},
}

// TestConvLinesAreTaken guards against a list of shapes that no longer tests anything.
func TestConvLinesAreTaken(t *testing.T) {
	if tile.lines == nil || tile.lines.short {
		t.Skip("this machine has no kernels for all of them")
	}
	lie, lies, apart := 0, map[bool]int{}, 0
	for _, c := range convTLines {
		for _, back := range []bool{false, true} {
			if j, ok := c.lines(back, 1); ok {
				lie++
				lies[j.inPlace]++
				if j.across && j.strided() {
					apart++
				}
			}
		}
	}
	if lie < 10 || lies[true] < 4 || lies[false] < 3 || apart < 3 {
		t.Errorf("%d directions take lines, by whether their source lies as it is: %v; %d a position at a time with a stride", lie, lies, apart)
	}
}

func TestConvIsItsSpecification(t *testing.T) {
	for i, c := range append(convTShapes, convTLines...) {
		if gemmTRace && i%3 != 1 {
			continue // the reference is slow
		}
		convTCheck(t, c)
	}
}

// convTDepth are geometries with a filter for each channel, of which there are fewer than a vector
// has lanes, as many, and some more.
func convTDepth(f func(c Conv)) {
	i := 0
	for _, size := range [][2]int{{1, 1}, {2, 3}, {7, 7}, {5, 8}, {9, 14}, {3, 16}, {8, 17}, {6, 28}, {4, 33}, {3, 47}} {
		for _, k := range []int{3, 5, 7} {
			for stride := 1; stride <= 3; stride++ {
				for _, pad := range [][4]int{{1, 1, 1, 1}, {2, 2, 2, 2}, {0, 0, 1, 1}, {k, 0, 0, k + 1}, {0, 3, k + 1, 0}} {
					channels := []int{3, 16, 8, 21}[i%4]
					i++
					c := Conv{
						N: 1 + (size[1]+k+pad[1])%4, C: channels, H: size[0], W: size[1], O: channels, KH: k, KW: k, SH: stride, SW: stride,
						PT: pad[0], PL: pad[1], PB: pad[2], PR: pad[3], DH: 1, DW: 1, Groups: channels,
					}
					if c.H+c.PT+c.PB >= k && c.W+c.PL+c.PR >= k {
						f(c)
					}
				}
			}
		}
	}
}

func TestDepthwiseIsItsSpecification(t *testing.T) {
	i := 0
	convTDepth(func(c Conv) {
		if i++; gemmTRace && i%5 != 0 {
			return
		}
		convTCheck(t, c)
	})
}

func TestConvAllocatesNothing(t *testing.T) {
	for _, c := range []Conv{
		{N: 2, C: 37, H: 12, W: 12, O: 37, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 37},
		{N: 2, C: 37, H: 12, W: 12, O: 37, KH: 5, KW: 5, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 37},
		{N: 2, C: 64, H: 12, W: 12, O: 64, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 8},
		{N: 2, C: 64, H: 12, W: 12, O: 64, KH: 3, KW: 3, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 4},
	} {
		x, w := convTFill(c.N*c.C*c.H*c.W, 1), convTFill(c.O*c.C/c.Groups*c.KH*c.KW, 2)
		y, s := convTFill(c.N*c.O*c.OH()*c.OW(), 3), make([]float32, ConvScratch(&c))
		for _, threads := range []int{1, 2} {
			team := NewTeam(threads)
			n := testing.AllocsPerRun(3, func() {
				ConvForward(team, &c, y, x, w, nil, false, s)
				ConvBackwardData(team, &c, x, y, w, s)
				ConvBackwardWeight(team, &c, w, y, x, false, s)
			})
			team.Close()
			if n != 0 {
				t.Errorf("%+v on %d threads allocates %g times a step", c, threads, n)
			}
		}
	}
}

// FuzzConv draws geometries.
func FuzzConv(f *testing.F) {
	f.Add([]byte{8, 1, 8, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0})
	f.Add([]byte{17, 3, 7, 5, 2, 2, 3, 2, 1, 1, 0, 2, 1, 1, 2, 1})
	f.Add([]byte{2, 1, 9, 9, 1, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 36})
	f.Add([]byte("000x008020002000")) // windows of nothing but padding
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 16 {
			return
		}
		// at is byte i, held between lo and hi.
		at := func(i, lo, hi int) int { return lo + int(b[i])%(hi-lo+1) }
		g := at(15, 1, 40)
		c := Conv{
			N: at(0, 1, 20), C: g * at(1, 1, 48), H: at(2, 1, 20), W: at(3, 1, 20), O: g * at(4, 1, 48),
			KH: at(5, 1, 5), KW: at(6, 1, 5), SH: at(7, 1, 4), SW: at(8, 1, 4),
			PT: at(9, 0, 4), PL: at(10, 0, 4), PB: at(11, 0, 4), PR: at(12, 0, 4), DH: at(13, 1, 3), DW: at(14, 1, 3), Groups: g,
		}
		if c.H+c.PT+c.PB <= c.DH*(c.KH-1) || c.W+c.PL+c.PR <= c.DW*(c.KW-1) ||
			c.N*c.O*c.OH()*c.OW()*c.C/g*c.KH*c.KW > 1<<18 {
			return // no output, or too slow a reference
		}
		convTCheck(t, c)
	})
}

// convTCheck compares every direction with the specification under every implementation, and, on
// operands in bfloat16, under those of pairs, or this machine's if there are none.
func convTCheck(t *testing.T, c Conv) {
	t.Helper()
	convTCompare(t, c, tilings(), convTFill)
	forms := convTPairs()
	if len(forms) == 0 {
		forms["of this machine"] = tile
	}
	c.BF16 = true
	convTCompare(t, c, forms, func(n int, node uint32) []float32 {
		v := convTFill(n, node)
		if node != 2 { // weights are rounded on their way
			roundBF16(v, v)
		}
		return v
	})
}

// convTPairs are this machine's tilings with kernels of pairs.
func convTPairs() map[string]*tiling {
	m := tilings()
	for name, tl := range m {
		if tl.pairs == nil {
			delete(m, name)
		}
	}
	return m
}

// convTCompare compares every direction with the specification. fill draws x (1), w (2), the bias
// (3), the gradient of y (4) and what is in that of w (5).
func convTCompare(t *testing.T, c Conv, forms map[string]*tiling, fill func(n int, node uint32) []float32) {
	t.Helper()
	defer func(old *tiling) { tile = old }(tile)
	cg := c.C / c.Groups
	x, w := fill(c.N*c.C*c.H*c.W, 1), fill(c.O*cg*c.KH*c.KW, 2)
	bias, dy := fill(c.O, 3), fill(c.N*c.O*c.OH()*c.OW(), 4)
	exact := w
	if c.BF16 {
		exact = make([]float32, len(w))
		for i, x := range w {
			exact[i] = bf16Operand(x)
		}
	}
	hw := c.OH() * c.OW()
	y, dx, dw := make([]float32, len(dy)), make([]float32, len(x)), fill(len(w), 5)
	started := append([]float32(nil), dw...)
	convTEach(&c, func(a, b, d int) { y[a] = FMA(exact[d], x[b], y[a]) })
	for i := range y {
		if y[i] += bias[i/hw%c.O]; 0 > y[i] {
			y[i] = 0
		}
	}
	convTData(&c, dx, dy, exact)
	first := make([]float32, len(w))
	convTEach(&c, func(a, b, d int) { first[d] = FMA(dy[a], x[b], first[d]) })
	convTEach(&c, func(a, b, d int) { dw[d] = FMA(dy[a], x[b], dw[d]) })
	check := func(name string) {
		for _, threads := range []int{1, 3} {
			what := fmt.Sprintf("%+v %s %d threads", c, name, threads)
			team := NewTeam(threads)
			defer team.Close()
			need := ConvScratch(&c)
			if c.BF16 {
				need = ConvScratchBF16(&c)
			}
			s := make([]float32, need+1)
			for i := range s { // what was there before does not matter
				s[i] = float32(math.NaN())
			}
			s[need] = 42
			s = s[:need]
			got := make([]float32, len(y))
			ConvForward(team, &c, got, x, w, bias, true, s)
			gemmTBits(t, what+": y", got, y)
			gx := make([]float32, len(x))
			ConvBackwardData(team, &c, gx, dy, w, s)
			gemmTBits(t, what+": dx", gx, dx)
			gw := make([]float32, len(w))
			ConvBackwardWeight(team, &c, gw, dy, x, false, s)
			gemmTBits(t, what+": dw", gw, first)
			copy(gw, started)
			ConvBackwardWeight(team, &c, gw, dy, x, true, s)
			gemmTBits(t, what+": dw continued", gw, dw)
			if s[:need+1][need] != 42 {
				t.Fatalf("%s: wrote behind the scratch", what)
			}
			if c.BF16 {
				convTKept(t, what, team, c, x, w, bias, dy, y, first)
			}
		}
	}
	if !c.BF16 { // some kernels follow the loops' dispatch, others the tiling
		vecTForms(func(name string) { check("loops " + name) })
	}
	for name, tl := range forms {
		tile = tl
		check(name)
	}
}

// convTKept compares the answer and the gradient of the weights where x is kept in 16 bits.
func convTKept(t *testing.T, what string, team *Team, c Conv, x, w, bias, dy, y, dw []float32) {
	t.Helper()
	c.Kept = make([]uint32, PackedBF16(len(x)))
	PackBF16(nil, c.Kept, append([]float32(nil), x...), false)
	need := ConvScratchBF16(&c) + ConvScratchKept(&c)
	s := make([]float32, need+1)
	for i := range s {
		s[i] = float32(math.NaN())
	}
	s[need] = 42
	got, gw := make([]float32, len(y)), make([]float32, len(w))
	ConvForward(team, &c, got, nil, w, bias, true, s[:need])
	gemmTBits(t, what+": y of x in 16 bits", got, y)
	ConvBackwardWeight(team, &c, gw, dy, nil, false, s[:need])
	gemmTBits(t, what+": dw of x in 16 bits", gw, dw)
	if s[need] != 42 {
		t.Fatalf("%s, x in 16 bits: wrote behind the scratch", what)
	}
}

// Convolutions by pairs on every class of values. Weights and gradients are finite: whether
// they are multiplied by the zeros of the padding is not specified.
func TestConvPairs(t *testing.T) {
	pairs := convTPairs()
	if len(pairs) == 0 {
		t.Skip("this machine has no kernels of pairs")
	}
	r := rand.New(rand.NewPCG(31, 32))
	for name, draw := range bf16TDraws() {
		for _, c := range []Conv{
			{N: 2, C: 5, H: 9, W: 11, O: 17, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
			{N: 2, C: 6, H: 4, W: 12, O: 33, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
			{N: 1, C: 2, H: 31, W: 28, O: 33, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1}, // terms in two blocks that part a line
			{N: 1, C: 89, H: 4, W: 5, O: 17, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
			{N: 3, C: 9, H: 3, W: 9, O: 40, KH: 3, KW: 2, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
			{N: 9, C: 32, H: 5, W: 4, O: 34, KH: 3, KW: 3, SH: 2, SW: 2, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 2},
			{N: 3, C: 33, H: 8, W: 15, O: 16, KH: 1, KW: 1, SH: 1, SW: 1, DH: 1, DW: 1, Groups: 1},
			{N: 1, C: 18, H: 3, W: 130, O: 19, KH: 1, KW: 5, SH: 1, SW: 2, PL: 2, PR: 1, DH: 1, DW: 1, Groups: 1},
		} {
			c.BF16 = true
			t.Run(name, func(t *testing.T) {
				convTCompare(t, c, pairs, func(n int, node uint32) []float32 {
					v := gemmTDraw(r, n, draw)
					if node == 3 || node == 5 { // no operands
						for i := range v {
							v[i] += 0 // gradients are never -0, to which padding may add zeros
						}
						return v
					}
					for i, x := range v {
						if x = bf16Operand(x); node != 2 { // weights are rounded on their way
							v[i] = x
						}
						if node != 1 && x-x != 0 {
							v[i] = float32(math.Copysign(1<<63, float64(x)))
						}
					}
					return v
				})
			})
		}
	}
}

func BenchmarkConv(b *testing.B) {
	for _, c := range []Conv{
		convTShapes[0],
		{N: 64, C: 16, H: 2, W: 2, O: 32, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
		{N: 32, C: 64, H: 56, W: 56, O: 64, KH: 3, KW: 3, SH: 1, SW: 1, PT: 1, PL: 1, PB: 1, PR: 1, DH: 1, DW: 1, Groups: 1},
	} {
		x, w := convTFill(c.N*c.C*c.H*c.W, 1), convTFill(c.O*c.C*c.KH*c.KW, 2)
		y, s := make([]float32, c.N*c.O*c.OH()*c.OW()), make([]float32, ConvScratch(&c))
		flops := 2 * float64(len(y)) * float64(c.C*c.KH*c.KW)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%dx%dx%dx%d/%s", c.N, c.C, c.H, c.W, name), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
		run("forward", func() { ConvForward(nil, &c, y, x, w, nil, false, s) })
		run("data", func() { ConvBackwardData(nil, &c, x, y, w, s) })
		run("weight", func() { ConvBackwardWeight(nil, &c, w, y, x, false, s) })
	}
}

// TestKinds: phases are of three kinds at most, whatever the window.
func TestKinds(t *testing.T) {
	for stride := 1; stride < 9; stride++ {
		for step := 1; step < 9; step++ {
			for taps := 1; taps < 20; taps++ {
				a := axis{taps: taps, step: -step, from: taps % 3, stride: stride, phases: stride, in: 40, out: 40}
				a.plan()
				of := map[int]int{}
				for phase := range a.phases {
					of[a.active(phase)]++
				}
				for _, k := range a.kinds() {
					if k.phases != of[k.taps] && k.phases > 0 {
						t.Fatalf("stride %d, step %d, %d taps: %+v, want %v", stride, step, taps, a.kinds(), of)
					}
					delete(of, k.taps)
				}
				if len(of) > 0 {
					t.Fatalf("stride %d, step %d, %d taps: %+v lacks %v", stride, step, taps, a.kinds(), of)
				}
			}
		}
	}
}
