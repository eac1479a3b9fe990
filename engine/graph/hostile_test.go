package graph_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
)

// TestHeads: three times a number of heads does not wrap around to a divisor of the features.
func TestHeads(t *testing.T) {
	for _, heads := range []int{-1, 0, 3, math.MaxInt/3*2 + 2, math.MaxInt} {
		a := &graph.Attention{Heads: heads}
		if y, err := a.Infer([]graph.Shape{{4, 12}}); err == nil {
			t.Errorf("%d heads of 4 features answer %v", heads, y)
		}
	}
}

// TestBranchesThatMeet: a value that is copied to two branches which meet again, many times over, is
// looked at once and not once for each way through them.
func TestBranchesThatMeet(t *testing.T) {
	var nodes []graph.Node
	add := func(name string, op graph.Op, in ...string) {
		nodes = append(nodes, graph.Node{Name: name, Op: op, Inputs: in})
	}
	add("first", &graph.Linear{In: 4, Out: 4}, "x")
	for i := range 200 {
		last := nodes[len(nodes)-1].Name
		add(fmt.Sprint("both", i), &graph.Concat{}, last, last)
		add(fmt.Sprint("half", i), &graph.Slice{Count: 4}, fmt.Sprint("both", i))
	}
	add("out", &graph.Linear{In: 4, Out: 4}, nodes[len(nodes)-1].Name)
	g, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{4}}, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	if us := g.Units(); len(us) != 2 || us[0].OutOperands != 4 {
		t.Errorf("units %+v, want two with an operand of 4 elements between them", us)
	}
	stages, err := g.Cut([]int{0, 1})
	if err != nil || !stages[0].Out[0].Operand {
		t.Errorf("the first layer's answer is not an operand of the second: %v", err)
	}
}

// TestNamesInOrder: of several wrong names the same is told every time.
func TestNamesInOrder(t *testing.T) {
	names := map[string]string{}
	for i := range 20 {
		names[fmt.Sprintf("p%02d", i)] = "w"
	}
	for range 20 {
		_, err := graph.Sequential("g", graph.Input{Name: "x", Shape: graph.Shape{4}}, graph.Node{Name: "a", Op: &graph.Linear{In: 4, Out: 4}, Names: names})
		if !errors.Is(err, graph.ErrInvalid) || !strings.Contains(err.Error(), `"p00"`) {
			t.Fatalf("got %v, want one that names p00", err)
		}
	}
}
