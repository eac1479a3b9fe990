//go:build !purego

package kernel

import (
	"math"
	"testing"
	"unsafe"
)

// TestPairsInOrder: processors that add otherwise than products need are told from those that
// do not.
func TestPairsInOrder(t *testing.T) {
	flush := bf16TFlush
	for name, f := range map[string]struct {
		add  func(c, x1, y1, x0, y0 float32) float32 // x1 and y1 are the upper halves
		want bool
	}{
		"in order":      {func(c, x1, y1, x0, y0 float32) float32 { return FMA(x0, y0, FMA(x1, y1, c)) }, true},
		"with flushing": {func(c, x1, y1, x0, y0 float32) float32 { return flush(FMA(x0, y0, flush(FMA(x1, y1, c)))) }, true},
		"lower halves first": {func(c, x1, y1, x0, y0 float32) float32 {
			return FMA(x1, y1, FMA(x0, y0, c))
		}, false},
		"products first": {func(c, x1, y1, x0, y0 float32) float32 { return c + FMA(x1, y1, float32(x0*y0)) }, false},
		"rounded once": {func(c, x1, y1, x0, y0 float32) float32 {
			return float32(float64(x1)*float64(y1) + float64(x0)*float64(y0) + float64(c))
		}, false},
		"towards zero": {func(c, x1, y1, x0, y0 float32) float32 {
			return cut(float64(x0)*float64(y0) + float64(cut(float64(x1)*float64(y1)+float64(c))))
		}, false},
		"no sign of zero": {func(c, x1, y1, x0, y0 float32) float32 { return FMA(x0, y0, FMA(x1, y1, c)) + 0 }, false},
	} {
		got := pairsInOrder(func(_ int, a *float32, _, _ int, b *float32, _ int, c *float32, _, _, last int, _ *float32, _ int) {
			sums := unsafe.Slice(c, last)
			x := math.Float32bits(*a)
			for j, w := range unsafe.Slice(b, last) {
				y := math.Float32bits(w)
				sums[j] = f.add(sums[j], math.Float32frombits(x&^0xffff), math.Float32frombits(y&^0xffff), math.Float32frombits(x<<16), math.Float32frombits(y<<16))
			}
		})
		if got != f.want {
			t.Errorf("%s: accepted %v, want %v", name, got, f.want)
		}
	}
}

// cut is v without the bits that float32 has no room for.
func cut(v float64) float32 {
	f := float32(v)
	if math.Abs(float64(f)) > math.Abs(v) {
		f = math.Nextafter32(f, 0)
	}
	return f
}
