package provider

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// TestClassesOfTargets: numbers of classes are those of the model's last axis, or a loss would read
// beside its answer. As many elements alone do not tell.
func TestClassesOfTargets(t *testing.T) {
	g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{2, 3}}, graph.Node{Name: "a", Op: &graph.Linear{In: 3, Out: 10}})
	if err != nil {
		t.Fatal(err)
	}
	j := job.Default()
	j.Loss = job.CrossEntropy
	elems, classes, err := targetElems(j, g)
	if err != nil || elems != 20 || classes != 10 {
		t.Fatalf("%d elements of %d classes (%v), want 20 of 10", elems, classes, err)
	}
	for _, c := range []struct {
		shape   []int
		classes int
		want    string
	}{{[]int{2}, 10, ""}, {[]int{1}, 20, "numbers of 20 classes"}, {[]int{20}, 1, "numbers of 1 classes"}, {[]int{3}, 10, "the plan says"}} {
		var dst stage.Rows
		y := &data.Table{Kind: data.Targets, Rows: 1, Shape: c.shape, Classes: c.classes, U8: make([]byte, graph.Shape(c.shape).Elems())}
		if err := y.Check(); err != nil {
			t.Fatal(err)
		}
		tab := &table{kind: TrainY, dst: &dst, rows: 1, elems: elems, classes: classes}
		if err := tab.take(y); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v of %d classes: got %v, want %q", c.shape, c.classes, err, c.want)
		}
	}
}
