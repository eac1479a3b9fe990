package kernel

import (
	"math"
	"testing"
)

// halfValue is binary16 by its definition, for finite h.
func halfValue(h int) float64 {
	e, m := h>>10&31, float64(h&0x3ff)
	v := math.Ldexp(1+m/1024, e-15)
	if e == 0 {
		v = math.Ldexp(m, -24)
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return v
}

func TestHalfAllValues(t *testing.T) {
	for h := range 1 << 16 {
		f := fromHalf(uint32(h))
		want := uint32(h)
		if want&0x7fff > 0x7c00 { // NaN becomes quiet
			want |= 0x200
		}
		if got := toHalf(math.Float32bits(f)); got != want {
			t.Fatalf("%#04x became %v became %#04x", h, f, got)
		}
		switch e, m := h>>10&31, h&0x3ff; {
		case e == 31 && m != 0:
			if f == f {
				t.Fatalf("NaN %#04x became %v", h, f)
			}
		case e == 31:
			if !math.IsInf(float64(f), 1-h>>15*2) {
				t.Fatalf("infinity %#04x became %v", h, f)
			}
		default:
			if want := float32(halfValue(h)); math.Float32bits(f) != math.Float32bits(want) && f != 0 {
				t.Fatalf("%#04x is %v, want %v", h, f, want)
			}
		}
	}
	if math.Float32bits(fromHalf(0x8000)) != 1<<31 {
		t.Fatal("-0 lost its sign")
	}
}

// Between every two neighbours: the midpoint goes to the even one, a float32 step
// to either side of it to the nearer one.
func TestHalfRounding(t *testing.T) {
	for h := range 0x7c00 {
		lo, hi := halfValue(h), halfValue(h+1)
		if h == 0x7bff { // the last finite one: as if 2^16 were a value
			hi = 65536
		}
		mid := float32((lo + hi) / 2) // exact: one bit more than a half has
		even := uint32(h + h&1)
		checkRound(t, toHalf, mid, uint32(h), even, 0x8000)
	}
}

func TestBF16AllValues(t *testing.T) {
	for h := range uint32(1 << 16) {
		if got := toBF16(h << 16); got != h {
			t.Fatalf("%#04x became %#04x", h, got)
		}
	}
}

func TestBF16Rounding(t *testing.T) {
	for h := range uint32(0x7f80) {
		checkRound(t, toBF16, math.Float32frombits(h<<16|0x8000), h, h+h&1, 0x8000)
	}
}

// checkRound expects f to take the float32 below mid to lo, mid to even and the
// one above to lo+1; and the same below zero.
func checkRound(t *testing.T, f func(uint32) uint32, mid float32, lo, even, sign uint32) {
	t.Helper()
	b := math.Float32bits(mid)
	for _, c := range []struct{ in, want uint32 }{{b - 1, lo}, {b, even}, {b + 1, lo + 1}} {
		if got := f(c.in); got != c.want {
			t.Fatalf("%v (%#08x) became %#04x, want %#04x", math.Float32frombits(c.in), c.in, got, c.want)
		}
		if got := f(c.in | 1<<31); got != c.want|sign {
			t.Fatalf("%v became %#04x, want %#04x", math.Float32frombits(c.in|1<<31), got, c.want|sign)
		}
	}
}

// Every NaN stays one and every number stays one, whatever its lower bits.
func TestNaNStaysNaN(t *testing.T) {
	isNaN := func(b uint32) bool { return b&0x7fffffff > infBits }
	for _, sign := range []uint32{0, 1 << 31} {
		for e := uint32(0); e < 256; e++ {
			for bit := range 24 {
				b := sign | e<<23 | (1<<bit)>>1
				if got := math.Float32bits(fromHalf(toHalf(b))); isNaN(got) != isNaN(b) || got>>31 != b>>31 {
					t.Fatalf("fp16: %#08x became %#08x", b, got)
				}
				if got := toBF16(b) << 16; isNaN(got) != isNaN(b) || got>>31 != b>>31 {
					t.Fatalf("bf16: %#08x became %#08x", b, got)
				}
			}
		}
	}
}
