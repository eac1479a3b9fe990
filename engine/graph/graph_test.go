package graph_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/zoo"
)

func TestWalkthroughShapesAndUnits(t *testing.T) {
	g := zoo.CNN()
	names := []string{}
	params := []int{}
	for _, u := range g.Units() {
		names, params = append(names, u.Name), append(params, u.Params)
	}
	if want := []string{"conv2d_1", "bn_1", "conv2d_2", "bn_2", "dense_1", "bn_3", "dense_2"}; !slices.Equal(names, want) {
		t.Errorf("units %v, want %v", names, want)
	}
	if want := []int{160, 32, 4640, 64, 8448, 512, 2570}; !slices.Equal(params, want) {
		t.Errorf("params %v, want %v", params, want)
	}
	if n := len(g.Params()); n != 23 {
		t.Errorf("%d state-dict entries, PyTorch has 23", n)
	}
	if s := g.Shape(g.OutputValue()); !slices.Equal(s, graph.Shape{10}) {
		t.Errorf("output %s, want [N,10]", s)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	g := zoo.CNN()
	a, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	h, err := graph.Parse(a)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.JSON()
	if err != nil || string(a) != string(b) {
		t.Errorf("JSON changed in a round trip (%v):\n%s\n%s", err, a, b)
	}
}

// residual has a skip connection: b reads a, c reads a and b, d reads everything.
const residual = `{"version":1,"name":"r","inputs":[{"name":"x","shape":[4]}],"output":"s2","nodes":[
 {"name":"a","op":"linear","in":["x"],"attrs":{"in_features":4,"out_features":4,"bias":true}},
 {"name":"b","op":"linear","in":["a"],"attrs":{"in_features":4,"out_features":4,"bias":true}},
 {"name":"s1","op":"add","in":["a","b"]},
 {"name":"c","op":"linear","in":["s1"],"attrs":{"in_features":4,"out_features":4,"bias":true}},
 {"name":"s2","op":"add","in":["a","c"]}]}`

func TestCutWithSkip(t *testing.T) {
	g, err := graph.Parse([]byte(residual))
	if err != nil {
		t.Fatal(err)
	}
	st, err := g.Cut([]int{0, 1, 3})
	if err != nil {
		t.Fatal(err)
	}
	if out := st[0].Out; len(out) != 1 || !slices.Equal(out[0].To, []int{1, 2}) {
		t.Errorf("stage 0 sends %+v, want one edge to stages 1 and 2", out)
	}
	if in := st[2].In; len(in) != 2 || in[0].From != 0 || in[1].From != 1 {
		t.Errorf("stage 2 reads %+v, want one edge from 0 and one from 1", in)
	}
	if st[0].Role() != "root" || st[1].Role() != "stem" || st[2].Role() != "leaf" {
		t.Error("roles are wrong")
	}
	if u := g.Units(); u[0].Out != 4 || u[1].Out != 8 {
		t.Errorf("crossing elements %d and %d, want 4 and 8", u[0].Out, u[1].Out)
	}
	for _, starts := range [][]int{nil, {1}, {0, 0}, {0, 9}, {0, 3, 2}} {
		if _, err := g.Cut(starts); !errors.Is(err, graph.ErrCut) {
			t.Errorf("Cut(%v) = %v, want ErrCut", starts, err)
		}
	}
}

func TestBadGraphsNameTheNode(t *testing.T) {
	for _, c := range []struct{ change, to, want string }{
		{`"op":"add","in":["a","b"]`, `"op":"frobnicate","in":["a","b"]`, `node "s1": unknown op "frobnicate"`},
		{`"in":["s1"],"attrs":{"in_features":4`, `"in":["s1"],"attrs":{"in_features":5`, `node "c" (linear): in_features is 5, but the input is [N,4]`},
		{`"in":["a","c"]`, `"in":["a","zz"]`, `node "s2": input "zz"`},
		{`"in":["a","c"]`, `"in":["a"]`, `node "s2" (add): takes 2 inputs`},
		{`"version":1`, `"version":7`, `version 7`},
		{`"output":"s2"`, `"output":"x"`, `output "x" is not a node`},
		{`"name":"b"`, `"name":"a"`, `node "a": the name appears twice`},
		{`"shape":[4]`, `"shape":[16777216,16777216,16777216]`, `input "x"`},
		{`"bias":true`, `"bogus":true`, `node "a" (linear): attrs`},
		{`"in_features":4,"out_features":4`, `"in_features":4,"out_features":16777216`, `node`},
	} {
		_, err := graph.Parse([]byte(strings.Replace(residual, c.change, c.to, 1)))
		if !errors.Is(err, graph.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.to, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(residual))
	for _, g := range []*graph.Graph{
		zoo.CNN(),
		zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 1, Heads: 1, Width: 4, Tokens: 3, Vocab: 2}),
		zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 1, Heads: 1, Width: 4, Inner: 4, Tokens: 3, Positions: 3, Vocab: 2, Classes: 2}),
	} {
		b, err := g.JSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := graph.Parse(data)
		if err != nil {
			return
		}
		b, err := g.JSON()
		if err != nil {
			t.Fatal(err)
		}
		h, err := graph.Parse(b)
		if err != nil {
			t.Fatalf("own JSON is refused: %v", err)
		}
		starts := []int{0}
		for _, u := range h.Units()[1:] {
			starts = append(starts, u.From)
		}
		_, _ = h.Cut(starts)
	})
}

// TestConstants: no gradient of tokens or a mask is asked for, in the whole model or in
// a stage that gets the mask from another.
func TestConstants(t *testing.T) {
	g := zoo.BERT(zoo.BERTConfig{Name: "bert", Layers: 2, Heads: 1, Width: 4, Inner: 4, Tokens: 3, Positions: 3, Vocab: 2, Classes: 2})
	varying := g.Varying(true)
	for i, n := range g.Nodes {
		if _, mask := n.Op.(*graph.TokenMask); varying[g.Result(i)] == mask {
			t.Errorf("node %s: varying is %v", n.Name, !mask)
		}
	}
	us := g.Units()
	stages, err := g.Cut([]int{0, us[len(us)/4].From, us[len(us)/2].From})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stages[1:] {
		constants := 0
		for k, e := range s.In {
			if e.Constant != s.Graph.Inputs[k].Constant || e.Constant != (g.ValueName(e.Value) == "bert.embeddings.mask") {
				t.Errorf("stage %d: %s: constant is %v", s.Index, g.ValueName(e.Value), e.Constant)
			}
			if e.Constant {
				constants++
			}
		}
		if constants != 1 || s.Graph.Varying(true)[0] == s.In[0].Constant {
			t.Errorf("stage %d gets %d constants, want the mask", s.Index, constants)
		}
	}
}

// TestTies: the holders of a tied parameter may be parted between their groups, and each stage
// knows its own share.
func TestTies(t *testing.T) {
	g := &graph.Graph{Name: "g", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{8}}}, Output: "l8"}
	last := "x"
	for i := range 9 {
		name := fmt.Sprintf("l%d", i)
		g.Nodes = append(g.Nodes, graph.Node{Name: name, Op: &graph.Linear{In: 8, Out: 8, Bias: true}, Inputs: []string{last}, Names: map[string]string{"weight": "w"}})
		last = name
	}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	ties := g.Ties()
	if len(ties) != 1 || ties[0].Name != "w" || len(ties[0].Groups) != graph.MaxGroups {
		t.Fatalf("ties %+v", ties)
	}
	if us := g.Units(); len(us) != graph.MaxGroups {
		t.Errorf("%d units, want one for each group: %+v", len(us), us)
	} else if one := g.JoinTied(us); len(one) != 1 || one[0].To != len(g.Nodes) {
		t.Errorf("joined %+v", one)
	}
	within := ties[0].Groups[0] // two nodes
	if _, err := g.Cut([]int{0, within[1]}); !errors.Is(err, graph.ErrCut) || !strings.Contains(err.Error(), `share the parameter "w"`) {
		t.Errorf("a cut within a group: %v", err)
	}
	begin := ties[0].Groups[4][0]
	stages, err := g.Cut([]int{0, begin})
	if err != nil {
		t.Fatal(err)
	}
	for k, s := range stages {
		mine := s.Graph.Ties()
		if len(mine) != 1 || !slices.Equal(mine[0].Stages, []int{0, 0, 0, 0, 1, 1}) || (len(mine[0].Groups[0]) > 0) != (k == 0) || (len(mine[0].Groups[5]) > 0) != (k == 1) {
			t.Errorf("stage %d has %+v", k, mine)
		}
	}
	// What random numbers are drawn for does not depend on the cut: the second holder's bias is
	// its first entry of its own, and the weight is the first node's.
	for _, p := range stages[1].Graph.Params() {
		want := graph.Home{Node: begin + p.Node, Index: 1}
		if p.Full == "w" {
			want.Node = 0
		}
		if p.Home == nil || p.Home.Node != want.Node || (p.Home.Index != want.Index && p.Full != "w") {
			t.Errorf("%s is at home at %+v, want %+v", p.Full, p.Home, want)
		}
	}
}

// TestEveryUnitMayBeginAStage: what nobody reads and what comes after the answer belongs
// to a neighbouring unit, so that any choice of units is a cut.
func TestEveryUnitMayBeginAStage(t *testing.T) {
	n := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	lin := func() graph.Op { return &graph.Linear{In: 8, Out: 8} }
	for name, g := range map[string]*graph.Graph{
		"dead branch":      {Output: "c", Nodes: []graph.Node{n("a", lin(), "x"), n("dead", lin(), "a"), n("b", lin(), "a"), n("c", lin(), "b")}},
		"dead from input":  {Output: "c", Nodes: []graph.Node{n("dead", lin(), "x"), n("a", lin(), "x"), n("c", lin(), "a")}},
		"after the answer": {Output: "b", Nodes: []graph.Node{n("a", lin(), "x"), n("b", lin(), "a"), n("late", lin(), "b"), n("later", lin(), "late")}},
		"from the input":   {Output: "s", Nodes: []graph.Node{n("a", lin(), "x"), n("b", lin(), "x"), n("s", &graph.Add{}, "a", "b")}},
		"input skips":      {Output: "c", Nodes: []graph.Node{n("a", lin(), "x"), n("s", &graph.Add{}, "a", "x"), n("b", lin(), "s"), n("t", &graph.Add{}, "b", "x"), n("c", lin(), "t")}},
	} {
		g.Name, g.Inputs = "g", []graph.Input{{Name: "x", Shape: graph.Shape{8}}}
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		us := g.Units()
		for set := range 1 << len(us) {
			starts := []int{0}
			for k, u := range us[1:] {
				if set>>k&1 == 1 {
					starts = append(starts, u.From)
				}
			}
			if _, err := g.Cut(starts); err != nil {
				t.Errorf("%s: units %+v: %v", name, us, err)
			}
		}
		if us[0].From != 0 || us[len(us)-1].To != len(g.Nodes) || len(us) < 2 {
			t.Errorf("%s: units %+v do not cover the graph", name, us)
		}
	}
}

// TestSequential: nodes read the one before unless they name their inputs, and the caller's
// nodes stay as they are.
func TestSequential(t *testing.T) {
	nodes := []graph.Node{
		{Name: "a", Op: &graph.Linear{In: 4, Out: 4}},
		{Name: "b", Op: &graph.ReLU{}},
		{Name: "c", Op: &graph.Add{}, Inputs: []string{"a", "b"}},
		{Name: "d", Op: &graph.Linear{In: 4, Out: 2}},
	}
	g, err := graph.Sequential("m", graph.Input{Name: "x", Shape: graph.Shape{4}}, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	if nodes[0].Inputs != nil || g.Output != "d" || !slices.Equal(g.Nodes[0].Inputs, []string{"x"}) ||
		!slices.Equal(g.Nodes[2].Inputs, []string{"a", "b"}) || !slices.Equal(g.Nodes[3].Inputs, []string{"c"}) {
		t.Errorf("got %+v with output %s", g.Nodes, g.Output)
	}
	if _, err := graph.Sequential("m", graph.Input{Name: "x", Shape: graph.Shape{5}}, nodes...); !errors.Is(err, graph.ErrInvalid) {
		t.Errorf("a linear layer of other width: %v, want ErrInvalid", err)
	}
	if _, err := graph.Sequential("m", graph.Input{Name: "x", Shape: graph.Shape{5}}); !errors.Is(err, graph.ErrInvalid) {
		t.Errorf("no layers: %v, want ErrInvalid", err)
	}
}
