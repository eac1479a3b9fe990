package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// gemmTFMA is x*y+z by arbitrary precision, rounded once; operands are finite.
func gemmTFMA(x, y, z float32) float32 {
	p := new(big.Float).SetPrec(700).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
	p.Add(p, big.NewFloat(float64(z)))
	f, _ := p.Float32()
	if p.Sign() == 0 { // IEEE 754, 6.3: the sign of an exact zero sum
		return float32(float64(x)*float64(y) + float64(z))
	}
	return f
}

// fusing makes FMA fuse, also where the machine does not.
func fusing(t *testing.T) {
	was := fused
	fused = true
	t.Cleanup(func() { fused = was })
}

// TestFMAIsExact: against arbitrary precision, on operands that land on ties, among
// subnormal numbers, at the edge of overflow, and on any bits.
func TestFMAIsExact(t *testing.T) {
	fusing(t)
	if got := FMA(1+1.0/4096, 1+1.0/4096, -(1 + 1.0/2048)); got != 1.0/(1<<24) {
		t.Errorf("(1+2^-12)² - (1+2^-11) = %g, want 2^-24", got)
	}
	r := rand.New(rand.NewPCG(5, 6))
	sign := func() float64 { return float64(r.IntN(2)*2 - 1) }
	n := 150_000
	if testing.Short() || gemmTRace {
		n = 20_000
	}
	for name, draw := range map[string]func() (x, y, z float32){
		"ties": func() (x, y, z float32) {
			return float32(r.IntN(1<<12) + 1<<12), float32(r.IntN(1<<12) + 1<<12), float32(sign() * math.Ldexp(float64(r.IntN(1<<24)), r.IntN(50)-30))
		},
		// A float32 with its neighbour's tie in z, and a product far below it: which way
		// it leans decides.
		"leaning": func() (x, y, z float32) {
			e := r.IntN(60) - 30
			x = float32(math.Ldexp(float64(r.IntN(1<<12)+1<<12), -12))
			y = float32(sign() * math.Ldexp(float64(r.IntN(1<<12)+1<<12), e-24-12-r.IntN(30)))
			return x, y, float32(sign() * math.Ldexp(float64(r.IntN(1<<23)+1<<23), e-23))
		},
		"subnormal": func() (x, y, z float32) {
			x, y = float32(sign()*math.Ldexp(r.Float64(), -60-r.IntN(20))), float32(math.Ldexp(r.Float64(), -60-r.IntN(20)))
			return x, y, math.Float32frombits(r.Uint32() & 0x80ffffff)
		},
		"least normal": func() (x, y, z float32) {
			y = float32(sign() * math.Ldexp(r.Float64()+1, -70-r.IntN(100)))
			return float32(math.Ldexp(r.Float64()+1, -r.IntN(60))), y, math.Float32frombits(0x00800000 + uint32(r.IntN(5)) - 2)
		},
		"overflow": func() (x, y, z float32) {
			x, y = float32(math.Ldexp(1+r.Float64(), 50+r.IntN(30))), float32(math.Ldexp(1+r.Float64(), 40+r.IntN(10)))
			return x, y, math.Float32frombits(0x7f7fffff - uint32(r.IntN(4)))
		},
		"bits": func() (x, y, z float32) {
			finite := func() float32 {
				for {
					if v := math.Float32frombits(r.Uint32()); v-v == 0 {
						return v
					}
				}
			}
			return finite(), finite(), finite()
		},
	} {
		for range n {
			x, y, z := draw()
			if got, want := FMA(x, y, z), gemmTFMA(x, y, z); !gemmTSame(got, want) {
				t.Fatalf("%s: FMA(%g, %g, %g) = %g, exactly rounded %g", name, x, y, z, got, want)
			}
		}
	}
}

func TestFMASpecialValues(t *testing.T) {
	fusing(t)
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	zero, minus := float32(0), float32(math.Copysign(0, -1))
	for _, c := range [][4]float32{
		{inf, 1, 5, inf},
		{inf, 0, 5, nan},
		{inf, 1, -inf, nan},
		{1, 1, -inf, -inf},
		{nan, 1, 1, nan},
		{1, 1, nan, nan},
		{zero, 1, zero, zero},
		{zero, -1, zero, zero},
		{zero, -1, minus, minus},
		{1, -1, 1, zero},
		{1e-30, -1e-30, zero, minus},
		{math.MaxFloat32, 2, -inf, -inf},
		{math.MaxFloat32, 2, -math.MaxFloat32, math.MaxFloat32},
	} {
		if got := FMA(c[0], c[1], c[2]); !gemmTSame(got, c[3]) {
			t.Errorf("FMA(%g, %g, %g) = %g, want %g", c[0], c[1], c[2], got, c[3])
		}
	}
}

func BenchmarkFMA(b *testing.B) {
	s, x := float32(0), float32(1.0/3)
	for b.Loop() {
		s = FMA(s, x, x)
	}
	_ = s
}
