package loss_test

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
)

// classes are labels of two positions a row.
type classes []int32

func (c classes) Labelled() bool { return true }

func (c classes) Labels(dst, rows []int32) {
	for i, r := range rows {
		copy(dst[2*i:][:2], c[2*r:])
	}
}

func (c classes) Gather(dst []float32, rows []int32) {
	clear(dst)
	for i, r := range rows {
		for p, k := range c[2*r:][:2] {
			if k >= 0 {
				dst[(2*i+p)*3+int(k)] = 1
			}
		}
	}
}

// values hides the labels.
type values struct{ c classes }

func (v values) Gather(dst []float32, rows []int32) { v.c.Gather(dst, rows) }

// TestLabelsAndValues: classes and the same as one-hot vectors give the same loss and
// gradient, but positions without a class only count in the mean of values.
func TestLabelsAndValues(t *testing.T) {
	y := classes{0, kernel.IgnoreIndex, 2, 1, 1, 1}
	rows := []int32{2, 0}
	pred := []float32{0.5, 2, -1, 3, 1, 0, 1, -1, 0.25, 9, 9, 9}
	f, err := loss.New("cross_entropy", []int{2, 3}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Terms(y, rows); n != 3 {
		t.Errorf("%d terms, want the 3 positions with a class", n)
	}
	if n := f.Terms(values{y}, rows); n != 4 {
		t.Errorf("%d terms of values, want 4", n)
	}
	g, h := make([]float32, 12), make([]float32, 12)
	a, b := f.Eval(g, pred, y, rows, 3), f.Eval(h, pred, values{y}, rows, 3)
	// The two forms round in different places.
	if math.Abs(float64(a-b)) > 1e-6 {
		t.Errorf("loss %v by labels and %v by values", a, b)
	}
	for i := range g {
		if i >= 9 {
			if g[i] != 0 {
				t.Errorf("gradient %v of a position without a class", g[i])
			}
		} else if math.Abs(float64(g[i]-h[i])) > 1e-6 {
			t.Errorf("gradient %d is %v by labels and %v by values", i, g[i], h[i])
		}
	}
	s := f.Score(pred, y, rows)
	if s.Sum != a || s.Terms != 3 || s.Correct != 2 || s.Total != 3 {
		t.Errorf("score %+v, want 2 right of 3 and the sum %v", s, a)
	}
}

func TestUnknown(t *testing.T) {
	if _, err := loss.New("hinge", []int{1}, 1); err == nil {
		t.Error("an unknown loss is accepted")
	}
}
