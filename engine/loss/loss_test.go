package loss_test

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
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
	f, err := loss.New(job.Spec{Loss: "cross_entropy"}, []int{2, 3}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Terms(y, rows); n != 3 {
		t.Errorf("%v terms, want the 3 positions with a class", n)
	}
	if n := f.Terms(values{y}, rows); n != 4 {
		t.Errorf("%v terms of values, want 4", n)
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
	var s loss.Score
	f.Count(&s, pred, y, rows, true)
	if s.Sum != a || s.Terms != 3 || s.Correct != 2 || s.Total != 3 {
		t.Errorf("score %+v, want 2 right of 3 and the sum %v", s, a)
	}
}

// oneHot are values that say whether they are answers.
type oneHot struct {
	classes
	yes bool
}

func (o oneHot) Labelled() bool   { return false }
func (o oneHot) Answers(int) bool { return o.yes }

// TestRegression checks that nobody is right or wrong about values.
func TestRegression(t *testing.T) {
	y, rows := classes{0, 1, 2, 1, 1, 1}, []int32{2, 0}
	for _, c := range []struct {
		name  string
		shape []int
		y     loss.Targets
		total int
	}{
		{"mse", []int{2, 3}, oneHot{y, false}, 0},
		{"mse", []int{2, 3}, oneHot{y, true}, 4},
		{"mse", []int{2, 3}, y, 4},
		{"cross_entropy", []int{2, 3}, oneHot{y, false}, 4},
		{"mse", []int{6, 1}, oneHot{y, true}, 0}, // one output is always the greatest
	} {
		f, err := loss.New(job.Spec{Loss: c.name}, c.shape, 2)
		if err != nil {
			t.Fatal(err)
		}
		pred := make([]float32, 12)
		var s loss.Score
		if f.Count(&s, pred, c.y, rows, true); s.Total != c.total || s.Terms == 0 {
			t.Errorf("%s over %v of %#v: %+v, want %d answers", c.name, c.shape, c.y, s, c.total)
		}
	}
}

// TestNoTerms checks that rows without a single class leave loss and gradient at zero.
func TestNoTerms(t *testing.T) {
	f, err := loss.New(job.Spec{Loss: "cross_entropy"}, []int{2, 3}, 1)
	if err != nil {
		t.Fatal(err)
	}
	y, rows := classes{kernel.IgnoreIndex, kernel.IgnoreIndex}, []int32{0}
	terms, grad := f.Terms(y, rows), []float32{1, 1, 1, 1, 1, 1}
	sum := f.Eval(grad, []float32{1, 2, 3, 4, 5, 6}, y, rows, terms)
	if m := loss.Mean(sum, terms); terms != 0 || m != 0 {
		t.Errorf("%v terms with the mean %v", terms, m)
	}
	for _, g := range grad {
		if g != 0 {
			t.Fatalf("gradients %v", grad)
		}
	}
}

func TestUnknown(t *testing.T) {
	if _, err := loss.New(job.Spec{Loss: "hinge"}, []int{1}, 1); err == nil {
		t.Error("an unknown loss is accepted")
	}
}
