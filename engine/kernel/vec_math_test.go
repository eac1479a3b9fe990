package kernel

import (
	"flag"
	"math"
	"testing"
)

var elemTEvery = flag.Bool("every-float", false, "test the functions on every float32 instead of one in 1009")

// elemTUlps is the distance of y from the exact value in units of the last place that
// the nearest float32 has; 0 if y is that one.
func elemTUlps(y float32, exact float64) float64 {
	r := float32(exact)
	if y == r || y != y && r != r { // infinities too
		return 0
	}
	_, e := math.Frexp(float64(r))
	return math.Abs(float64(y)-exact) / math.Ldexp(1, max(e-24, -149))
}

// The float64 functions of the math package are good to 1e-15, which is nothing beside
// a float32 ulp of 6e-8.
func TestMathAccuracy(t *testing.T) {
	rem2 := func(x float64) float64 { return x - 2*math.RoundToEven(x/2) } // exact
	turn := func(f func(float64) float64) func(float64) float64 {
		return func(x float64) float64 { return f(math.Pi * rem2(x)) }
	}
	for _, f := range []struct {
		name  string
		ours  func(float32) float32
		exact func(float64) float64
		limit float64 // ulps, what was found on every float32
	}{
		{"exp", Exp, math.Exp, 0.97},
		{"log", Log, math.Log, 0.82},
		{"tanh", Tanh, math.Tanh, 1.34},
		{"erf", Erf, math.Erf, 1.32},
		{"sqrt", Sqrt, math.Sqrt, 0.500001},
		// math.Sin(math.Pi) is not zero: the remainder leaves zeros exact, but the
		// rounding of π near them needs the test's own reduction.
		{"sinpi", Sinpi, func(x float64) float64 {
			r := rem2(x)
			switch {
			case r > 0.5:
				r = 1 - r
			case r < -0.5:
				r = -1 - r
			}
			return math.Sin(math.Pi * r)
		}, 1.6},
		{"cospi", Cospi, func(x float64) float64 {
			r := math.Abs(rem2(x))
			if r > 0.25 && r < 0.75 {
				return math.Sin(math.Pi * (0.5 - r))
			}
			return turn(math.Cos)(r)
		}, 1.6},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			step := uint64(1009)
			if *elemTEvery {
				step = 1
			}
			var worst float64
			var at float32
			for u := uint64(0); u < 1<<32; u += step {
				x := math.Float32frombits(uint32(u))
				if e := elemTUlps(f.ours(x), f.exact(float64(x))); !(e <= worst) {
					worst, at = e, x
				}
			}
			t.Logf("%s: at most %.3f ulp, at %v", f.name, worst, at)
			if !(worst <= f.limit) {
				t.Errorf("%s(%v) = %v, want %v: %.2f ulp away, limit %v", f.name, at, f.ours(at), f.exact(float64(at)), worst, f.limit)
			}
		})
	}
}

func TestMathSpecial(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negZero := float32(math.Copysign(0, -1))
	tiny := float32(math.SmallestNonzeroFloat32)
	for _, c := range []struct {
		name      string
		got, want float32
	}{
		{"exp(0)", Exp(0), 1},
		{"exp(-0)", Exp(negZero), 1},
		{"exp(inf)", Exp(inf), inf},
		{"exp(-inf)", Exp(-inf), 0},
		{"exp(nan)", Exp(nan), nan},
		{"exp(88.8)", Exp(88.8), inf},
		{"exp(-103.9)", Exp(-103.9), tiny},
		{"exp(-104)", Exp(-104), 0},
		{"log(0)", Log(0), -inf},
		{"log(-0)", Log(negZero), -inf},
		{"log(1)", Log(1), 0},
		{"log(-1)", Log(-1), nan},
		{"log(-inf)", Log(-inf), nan},
		{"log(inf)", Log(inf), inf},
		{"log(nan)", Log(nan), nan},
		{"log(tiny)", Log(tiny), float32(math.Log(math.SmallestNonzeroFloat32))},
		{"tanh(-0)", Tanh(negZero), negZero},
		{"tanh(inf)", Tanh(inf), 1},
		{"tanh(-inf)", Tanh(-inf), -1},
		{"tanh(nan)", Tanh(nan), nan},
		{"tanh(-tiny)", Tanh(-tiny), -tiny},
		{"erf(-0)", Erf(negZero), negZero},
		{"erf(inf)", Erf(inf), 1},
		{"erf(-inf)", Erf(-inf), -1},
		{"erf(nan)", Erf(nan), nan},
		{"sinpi(-0)", Sinpi(negZero), negZero},
		{"sinpi(0.5)", Sinpi(0.5), 1},
		{"sinpi(1.5)", Sinpi(1.5), -1},
		{"sinpi(inf)", Sinpi(inf), nan},
		{"sinpi(nan)", Sinpi(nan), nan},
		{"cospi(0)", Cospi(0), 1},
		{"cospi(1)", Cospi(1), -1},
		{"cospi(16777215)", Cospi(16777215), -1},
		{"cospi(16777216)", Cospi(16777216), 1},
		{"cospi(-inf)", Cospi(-inf), nan},
		{"sqrt(-1)", Sqrt(-1), nan},
	} {
		if same := math.Float32bits(c.got) == math.Float32bits(c.want); !same && !(c.got != c.got && c.want != c.want) {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
	for _, n := range []float32{1, 2, 3, 1000, 1 << 23, 1<<24 + 2} {
		if Sinpi(n) != 0 || Sinpi(-n) != 0 || Cospi(n/1+0.5) != 0 && n < 1<<23 {
			t.Errorf("sinpi(%v) = %v, cospi(%v) = %v, want exact zeros", n, Sinpi(n), n+0.5, Cospi(n+0.5))
		}
	}
}

func BenchmarkMath(b *testing.B) {
	x := make([]float32, 1024)
	for i := range x {
		x[i] = float32(i)/128 - 4
	}
	for _, f := range []struct {
		name string
		f    func(float32) float32
	}{{"exp", Exp}, {"log", Log}, {"tanh", Tanh}, {"erf", Erf}, {"cospi", Cospi}} {
		b.Run(f.name, func(b *testing.B) {
			var s float32
			for range b.N {
				for _, v := range x {
					s += f.f(v)
				}
			}
			elemTSink = s
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/elem")
		})
	}
}

var elemTSink float32

// TestSin: sine and cosine of numbers that are large beside π, such as a position or a time that a
// model makes features of. In float32 x/π would lose 6e-5 at 1000.
func TestSin(t *testing.T) {
	for _, f := range []struct {
		name  string
		ours  func(float32) float32
		exact func(float64) float64
	}{{"sin", sin, math.Sin}, {"cos", cos, math.Cos}} {
		worst := 0.0
		for u := uint64(0); u < 1<<32; u += 4099 {
			x := math.Float32frombits(uint32(u))
			switch y, want := f.ours(x), f.exact(float64(x)); {
			case x-x != 0:
				if y == y {
					t.Fatalf("%s(%v) = %v", f.name, x, y)
				}
			case abs(x) <= 1e9:
				worst = max(worst, math.Abs(float64(y)-want))
			case abs(y) > 1:
				t.Fatalf("%s(%v) = %v", f.name, x, y)
			}
		}
		// The result is a float32, of which 1 has an ulp of 1.2e-7.
		if t.Logf("%s: at most %.3g away up to 1e9", f.name, worst); !(worst <= 2e-7) {
			t.Errorf("%s is up to %.3g away up to 1e9, limit 2e-7", f.name, worst)
		}
	}
	if y := sin(math.Pi); math.Abs(float64(y)+8.742278e-8) > 1e-14 {
		t.Errorf("sin of the float32 next to π is %v, want -8.742278e-08", y)
	}
	if y := sin(float32(math.Copysign(0, -1))); y != 0 || !math.Signbit(float64(y)) {
		t.Errorf("sin(-0) = %v", y)
	}
}
