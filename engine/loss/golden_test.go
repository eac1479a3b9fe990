package loss_test

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/golden"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
)

// target is a golden's target: classes, or values of cols columns.
type target struct {
	labels []int32
	values []float32
	cols   int
}

func (y target) Labelled() bool { return y.labels != nil }

func (y target) Labels(dst, rows []int32) {
	for i, r := range rows {
		dst[i] = y.labels[r]
	}
}

func (y target) Gather(dst []float32, rows []int32) {
	for i, r := range rows {
		copy(dst[i*y.cols:], y.values[int(r)*y.cols:][:y.cols])
	}
}

func all(n int) []int32 {
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(i)
	}
	return rows
}

// TestGolden holds every loss and its gradient, under every setting, against PyTorch's, whole and
// in parts, which give the same bits. Finite differences of the loss are held against the
// gradient.
func TestGolden(t *testing.T) {
	f := golden.MustOpen(t, "losses")
	if n := len(f.Cases()); n < 15 {
		t.Fatalf("only %d cases", n)
	}
	for _, name := range f.Cases() {
		t.Run(name, func(t *testing.T) {
			var d struct {
				Loss    string          `json:"loss"`
				Options job.LossOptions `json:"options"`
			}
			f.Describe(name, &d)
			j := job.Default()
			j.Loss, j.LossOptions = d.Loss, d.Options
			if err := j.Check(); err != nil {
				t.Fatal(err)
			}
			x := f.Tensor(name + ".x")
			n, c := x.Shape[0], x.Shape[1]
			y := target{cols: c, values: f.Tensor(name + ".target").F32}
			for _, v := range f.Tensor(name + ".target").I64 {
				y.labels = append(y.labels, int32(v))
			}
			l, err := loss.New(j, []int{c}, n)
			if err != nil {
				t.Fatal(err)
			}
			rows, grad := all(n), make([]float32, n*c)
			terms := l.Terms(y, rows)
			sum := l.Eval(grad, x.F32, y, rows, terms)
			golden.Near(t, "loss", []float32{loss.Mean(sum, terms)}, f.F32(name+".loss"), 1e-6)
			golden.Near(t, "dx", grad, f.F32(name+".dx"), 1e-6)

			var s float32
			parts := make([]float32, n*c)
			for at := 0; at < n; at += 5 {
				k := min(5, n-at)
				s = l.Accumulate(s, parts[at*c:][:k*c], x.F32[at*c:][:k*c], y, rows[at:][:k], terms)
			}
			whole := l.Accumulate(0, grad, x.F32, y, rows, terms)
			if l.Splits() && s != whole {
				t.Errorf("the loss is %v in parts and %v whole", s, whole)
			}
			for i := range parts {
				if parts[i] != grad[i] {
					t.Fatalf("gradient %d is %v in parts and %v whole", i, parts[i], grad[i])
				}
			}
			differences(t, l, x.F32, y, rows, terms, grad)
		})
	}
}

// differences holds a gradient against the differences of the loss.
func differences(t *testing.T, l *loss.Func, x []float32, y loss.Targets, rows []int32, terms float64, grad []float32) {
	t.Helper()
	const h = 1.0 / 256
	c := len(x) / len(rows)
	for i, v := range x {
		row := rows[i/c : i/c+1]
		at := func(d float32) float64 {
			own := append([]float32{}, x[i/c*c:][:c]...)
			own[i%c] = v + d
			return float64(l.Accumulate(0, nil, own, y, row, terms))
		}
		left, right := (at(0)-at(-h))/h/terms, (at(h)-at(0))/h/terms
		g := float64(grad[i])
		if slack := 3e-3 / terms * 3; g < min(left, right)-slack || g > max(left, right)+slack {
			// Where the loss has a corner or bends much the two sides differ, and the gradient is between them.
			if math.Abs(g) > 1e-6 || math.Abs(left+right) > 2*slack {
				t.Errorf("gradient %d at %v is %v, differences say %v and %v", i, v, g, left, right)
			}
		}
	}
}

// TestMetrics holds the figures of a pass against values that were worked out by hand.
func TestMetrics(t *testing.T) {
	pred := []float32{ // greatest: 0, 1, 1, 2
		6, 5, 4, 3, 2, 1,
		1, 9, 2, 3, 4, 5,
		1, 9, 2, 3, 4, 5,
		0, 0, 1, 0, 0, 0,
	}
	classes := target{labels: []int32{0, 1, 0, 5}, cols: 6}
	for _, c := range []struct {
		job  job.Spec
		y    loss.Targets
		cols int
		want []loss.Metric
	}{
		// Class 0: one hit, one missed; class 1: one hit, one wrong; 2: one wrong; 5: one missed. The
		// right class is sixth in the third row, and in the last behind four that are as great.
		{job.Spec{Loss: "cross_entropy", Metrics: []string{"top5", "f1"}}, classes, 6, []loss.Metric{{"top5", 0.5}, {"f1", (2.0/3 + 2.0/3 + 0 + 0) / 4}}},
		{job.Spec{Loss: "mse"}, target{values: []float32{6, 5, 4, 3, 2, 1, 1, 9, 2, 3, 4, 5, 1, 9, 2, 3, 4, 5, 0, 0, 1, 0, 0, 12}, cols: 6}, 6, []loss.Metric{{"mae", 0.5}}},
		// Two outputs: the first always says yes (12 times, right 6), the second too but for its
		// zeros.
		{job.Spec{Loss: "bce_with_logits"}, target{values: []float32{1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0}, cols: 2}, 2, []loss.Metric{{"f1", (12.0/16 + 6.0/12) / 2}}},
	} {
		n := len(pred) / c.cols
		l, err := loss.New(c.job, []int{c.cols}, n)
		if err != nil {
			t.Fatal(err)
		}
		var s loss.Score
		for r := 0; r < n; r += 2 { // in parts
			l.Count(&s, pred[r*c.cols:][:2*c.cols], c.y, []int32{int32(r), int32(r + 1)}, r+2 == n)
		}
		got := l.Metrics(&s, c.y)
		if len(got) != len(c.want) {
			t.Fatalf("%s: %v, want %v", c.job.Loss, got, c.want)
		}
		for i, m := range got {
			if m.Name != c.want[i].Name || math.Abs(m.Value-c.want[i].Value) > 1e-12 {
				t.Errorf("%s: %v, want %v", c.job.Loss, m, c.want[i])
			}
		}
	}
}

// TestPerplexity is of the plain cross entropy, whatever the loss adds.
func TestPerplexity(t *testing.T) {
	pred := make([]float32, 4*3) // all as likely
	y := target{labels: []int32{0, 1, 2, -100}, cols: 3}
	for _, o := range []job.LossOptions{{}, {LabelSmoothing: 0.2, ClassWeights: []float64{1, 2, 7}}} {
		l, err := loss.New(job.Spec{Loss: "cross_entropy", LossOptions: o, Metrics: []string{"perplexity"}}, []int{3}, 4)
		if err != nil {
			t.Fatal(err)
		}
		var s loss.Score
		l.Count(&s, pred, y, all(4), true)
		if m := l.Metrics(&s, y); len(m) != 1 || math.Abs(m[0].Value-3) > 1e-5 {
			t.Errorf("%v, want the 3 classes", m)
		}
	}
}
