package loss_test

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
)

// wide are rows of targets as they are stored.
type wide struct {
	v   []float32
	per int
}

func (w wide) Gather(dst []float32, rows []int32) {
	for i, r := range rows {
		copy(dst[i*w.per:][:w.per], w.v[int(r)*w.per:])
	}
}

// several is a job of four losses: two of one output, one of another, and the third output's own.
func several() job.Spec {
	half, third := 0.5, 1.0/3
	j := job.Default()
	j.Loss = job.CrossEntropy
	j.Losses = []job.LossPart{
		{Output: "words", Target: "labels"},
		{Output: "box", Target: "where", Loss: job.SmoothL1, Weight: &half},
		{Output: "words", Target: "labels", Loss: job.CrossEntropy, Options: job.LossOptions{LabelSmoothing: 0.1}, Weight: &third},
		{Output: "kl", Loss: job.OutputLoss, Weight: &half},
	}
	return j
}

// TestSeveral holds the loss of several outputs against the sum of each by itself, and its
// gradient against differences; however a batch is split, the bits are the same.
func TestSeveral(t *testing.T) {
	j := several()
	if err := j.Check(); err != nil {
		t.Fatal(err)
	}
	shapes := [][]int{{2, 3}, {2}, {}}
	const rows, answer, target = 4, 9, 4
	l, err := loss.NewSum(j, shapes, rows)
	if err != nil {
		t.Fatal(err)
	}
	y := wide{[]float32{ // two classes, two values
		0, 2, .5, -1,
		-100, 1, 0, 0,
		1, 1, 2, 3,
		-100, -100, 1, 1,
	}, target}
	pred := make([]float32, rows*answer)
	for i := range pred {
		pred[i] = float32(i*i%17)/8 - 1
	}
	idx := all(rows)
	terms := l.Terms(y, idx)
	if terms[0] != 5 || terms[1] != 8 || terms[2] != 5 || terms[3] != 4 {
		t.Fatalf("terms %v", terms)
	}
	grad := make([]float32, len(pred))
	whole := l.Accumulate(0, grad, pred, y, idx, terms)

	// Each by itself.
	cols := func(from, n int) []float32 {
		var v []float32
		for r := range rows {
			v = append(v, pred[r*answer+from:][:n]...)
		}
		return v
	}
	want := 0.0
	for i, p := range []struct {
		x []float32
		y loss.Targets
	}{
		{cols(0, 6), classes{0, 2, -100, 1, 1, 1, -100, -100}},
		{cols(6, 2), wide{[]float32{.5, -1, 0, 0, 2, 3, 1, 1}, 2}},
		{cols(0, 6), classes{0, 2, -100, 1, 1, 1, -100, -100}},
		{cols(8, 1), wide{make([]float32, rows), 1}},
	} {
		f, err := loss.New(j.Part(i), shapes[[]int{0, 1, 0, 2}[i]], rows)
		if err != nil {
			t.Fatal(err)
		}
		n := f.Terms(p.y, idx)
		want += j.Losses[i].Factor() * float64(loss.Mean(f.Accumulate(0, nil, p.x, p.y, idx, n), n))
	}
	if got := l.Mean(whole, terms); math.Abs(float64(got)-want) > 1e-6 {
		t.Errorf("the loss is %v, its parts come to %v", got, want)
	}

	const h = 1.0 / 256
	for i := range pred {
		at := func(d float32) float64 {
			x := append([]float32{}, pred...)
			x[i] += d
			return float64(l.Accumulate(0, nil, x, y, idx, terms))
		}
		if d := (at(h) - at(-h)) / (2 * h); math.Abs(d-float64(grad[i])) > 3e-3 {
			t.Errorf("gradient %d is %v, differences say %v", i, grad[i], d)
		}
	}

	parts := make([]float32, len(pred))
	sum := float32(0)
	for _, s := range [][2]int{{0, 1}, {1, 3}, {3, 4}} {
		sum = l.Accumulate(sum, parts[s[0]*answer:s[1]*answer], pred[s[0]*answer:s[1]*answer], y, idx[s[0]:s[1]], terms)
	}
	if sum != whole {
		t.Errorf("%v in parts, %v whole", sum, whole)
	}
	for i := range parts {
		if parts[i] != grad[i] {
			t.Fatalf("gradient %d is %v in parts, %v whole", i, parts[i], grad[i])
		}
	}
	var s loss.Score
	l.Count(&s, pred[:2*answer], y, idx[:2], false)
	l.Count(&s, pred[2*answer:], y, idx[2:], true)
	if s.Total != 5 || math.Abs(float64(s.Mean())-want) > 1e-6 {
		t.Errorf("a pass counts %d answers with the loss %v, want 5 with %v", s.Total, s.Mean(), want)
	}
}

// TestSeveralStrangers: targets that are no classes of the model do not count, and read nothing
// else.
func TestSeveralStrangers(t *testing.T) {
	l, err := loss.NewSum(several(), [][]int{{2, 3}, {2}, {}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	nan := float32(math.NaN())
	y := wide{[]float32{1e9, nan, 0, 0}, 4}
	terms := l.Terms(y, all(1))
	if terms[0] != 0 {
		t.Errorf("%v terms of classes that there are not", terms[0])
	}
	l.Accumulate(0, make([]float32, 9), make([]float32, 9), y, all(1), terms)
}

func TestFields(t *testing.T) {
	j := several()
	j.Losses[2].Output, j.Losses[2].Loss, j.Losses[2].Options = "box", job.MSE, job.LossOptions{}
	if _, err := loss.NewSum(j, [][]int{{2, 3}, {2}, {}}, 1); err == nil {
		t.Error("a field is both classes and values")
	}
	if _, err := loss.NewSum(several(), [][]int{{2, 3}}, 1); err == nil {
		t.Error("outputs are missing")
	}
	if _, err := loss.NewSum(several(), [][]int{{}, {2}, {}}, 1); err == nil {
		t.Error("a cross entropy without classes")
	}
}

// TestSeveralFigures: the accuracy of every output is told, under names of its own.
func TestSeveralFigures(t *testing.T) {
	j := job.Default()
	j.Loss = job.CrossEntropy
	j.Losses = []job.LossPart{{Output: "main", Target: "y"}, {Output: "aux 1", Target: "y"}, {Output: "aux_1", Target: "y"}, {Output: "order", Target: "z"}, {Output: "order", Target: "z"}}
	l, err := loss.NewSum(j, [][]int{{2}, {2}, {2}, {2}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	y := wide{[]float32{0, 1, 1, 1}, 2} // y and z of two rows
	pred := []float32{1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1}
	var s loss.Score
	l.Count(&s, pred, y, all(2), true)
	want := []loss.Metric{{Name: "accuracy_aux_1", Value: .5}, {Name: "accuracy_aux_1_2", Value: .5}, {Name: "accuracy_order", Value: 1}}
	got := l.Metrics(&s, y)
	if len(got) != len(want) || len(l.Names(y)) != len(want) {
		t.Fatalf("%v, names %v", got, l.Names(y))
	}
	for i, m := range got {
		if m != want[i] || l.Names(y)[i] != m.Name {
			t.Errorf("%v, want %v", m, want[i])
		}
	}
}
