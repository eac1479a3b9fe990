package kernel

import (
	"math"
	"testing"
)

// TestBroadcastSingle: the gradients of rows of one element do not depend on what their memory
// held before, and may take that of the result's gradient.
func TestBroadcastSingle(t *testing.T) {
	a, b, dy := []float32{2, -3, 5}, []float32{7, 11, 13}, []float32{1, 2, -1}
	for op, want := range map[Arith][2][]float32{
		ArithMul: {{7, 22, -13}, {2, -6, -5}},
		ArithSub: {{1, 2, -1}, {-1, -2, 1}},
		ArithMax: {{0, 0, 0}, {1, 2, -1}},
	} {
		for _, shape := range [][]int{{}, {1}, {1, 1}} {
			l := NewBroadcast(op, shape, shape, shape, 1, 1)
			for arg := range 2 {
				dst := []float32{100, 200, 300}
				l.Grad(dst, dy, a, b, arg, 3)
				same := append([]float32{}, dy...)
				l.Grad(same, same, a, b, arg, 3)
				for i, w := range want[arg] {
					if dst[i] != w || same[i] != w {
						t.Errorf("operation %d of rows %v: the gradient of operand %d is %v, in place %v, want %v", op, shape, arg, dst, same, want[arg])
						break
					}
				}
			}
		}
	}
}

// TestMask: what is not taken does not matter, not even NaN, and powers of negative numbers and of
// zero are those of whole exponents.
func TestMask(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, k := range []struct {
		op             Arith
		a, b           []float32
		y, first, then []float32 // of a gradient of 2
	}{
		{ArithMask, []float32{nan, 3, inf, -4}, []float32{0, 1, 0, 2}, []float32{0, 3, 0, -4}, []float32{0, 2, 0, 2}, []float32{0, 0, 0, 0}},
		{ArithPow, []float32{-2, 0, 0, 3}, []float32{3, 2, 0, 1}, []float32{-8, 0, 1, 3}, []float32{24, 0, 0, 2}, []float32{nan, 0, 0, 6 * Log(3)}},
	} {
		l := NewBroadcast(k.op, []int{4}, []int{4}, []int{4}, 4, 4)
		y, d := make([]float32, 4), make([]float32, 4)
		l.Forward(y, k.a, k.b, 1)
		check := func(what string, got, want []float32) {
			for i, w := range want {
				if got[i] != w && (w == w || got[i] == got[i]) {
					t.Errorf("operation %d: the %s of %v and %v is %v, want %v", k.op, what, k.a, k.b, got, want)
				}
			}
		}
		check("result", y, k.y)
		dy := []float32{2, 2, 2, 2}
		l.Grad(d, dy, k.a, k.b, 0, 1)
		check("first gradient", d, k.first)
		l.Grad(d, dy, k.a, k.b, 1, 1)
		check("second gradient", d, k.then)
	}
}

// BenchmarkBroadcast: what a model's scales, masks and bounded activations take, a megabyte at a time.
func BenchmarkBroadcast(b *testing.B) {
	const n, c = 64, 64
	x, y, z := make([]float32, c*n*n), make([]float32, c*n*n), make([]float32, c*n*n)
	Normal(x, NewStream(1, DomainTest, 0, 1))
	Normal(z, NewStream(1, DomainTest, 0, 2))
	for _, k := range []struct {
		name string
		op   Arith
		b    []int
	}{{"mul", ArithMul, []int{c, n, n}}, {"mul channel", ArithMul, []int{c, 1, 1}}, {"mul last", ArithMul, []int{n}}, {"add last", ArithAdd, []int{n}}} {
		l := NewBroadcast(k.op, []int{c, n, n}, []int{c, n, n}, k.b, c*n*n, 0)
		b.Run(k.name, func(b *testing.B) {
			b.SetBytes(4 * int64(len(x)))
			for b.Loop() {
				l.Forward(y, x, z, 1)
			}
		})
		for arg := range 2 {
			b.Run(k.name+" gradient "+string(rune('a'+arg)), func(b *testing.B) {
				b.SetBytes(4 * int64(len(x)))
				d := make([]float32, len(x))
				for b.Loop() {
					l.Grad(d, y, x, z, arg, 1)
				}
			})
		}
	}
	for _, f := range []string{"hardtanh", "hardswish", "affine", "silu"} {
		u := Unaries[f]
		b.Run(f, func(b *testing.B) {
			b.SetBytes(4 * int64(len(x)))
			for b.Loop() {
				u.F(y, x, 0, 6)
			}
		})
		b.Run(f+" gradient", func(b *testing.B) {
			b.SetBytes(4 * int64(len(x)))
			for b.Loop() {
				u.G(y, z, x, y, 0, 6)
			}
		})
	}
}
