// Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685): every linear layer that is chosen gets
// a second path of two small layers beside it, and only those train.

package graph

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ErrLoRA is wrapped by errors about adapters that a graph cannot have.
var ErrLoRA = errors.New("no adapters")

// LoRA says which adapters a graph gets.
type LoRA struct {
	Rank    int
	Scale   float64  // of what an adapter adds: alpha/rank
	Targets []string // patterns of module names, or their ends; none: all but the model's answer
	Dropout float64  // of what an adapter reads, in training
	Save    []string // patterns as Targets, of modules that train whole
}

// Adapter is a linear layer with an adapter.
type Adapter struct {
	Module     string // name of the layer in PyTorch's model
	Weight     string // its weight in the state dict
	A, B       string // the adapter's: [rank, in] and [out, rank]
	Transposed bool   // the layer's weight is [in, out]
}

// matches tells whether a module is one that the patterns name.
func matches(patterns []string, module string) bool {
	return slices.ContainsFunc(patterns, func(t string) bool {
		ok, err := path.Match(t, module)
		return err == nil && ok || module == t || strings.HasSuffix(module, "."+t)
	})
}

// saved finds the modules that train whole, and their parameters.
func (g *Graph) saved(patterns []string) (modules []string, params map[string]bool) {
	params = map[string]bool{}
	for _, p := range g.Params() {
		// A module may be made of others: classifier of classifier.dense.
		for m := p.Full; p.Role == Trainable; {
			at := strings.LastIndexByte(m, '.')
			if at < 0 {
				break
			}
			if m = m[:at]; matches(patterns, m) {
				if params[p.Full] = true; !slices.Contains(modules, m) {
					modules = append(modules, m)
				}
				break
			}
		}
	}
	return modules, params
}

// Adapt is a copy of the graph with adapters: layer y = linear(x) becomes
// y = linear(x) + B(scale A(dropout(x))), where all that the graph had is frozen but for the
// modules that train whole.
func (g *Graph) Adapt(l LoRA) (*Graph, []Adapter, error) {
	whole, saved := g.saved(l.Save)
	if len(l.Save) > 0 && len(whole) == 0 {
		return nil, nil, fmt.Errorf("%w: %q names no module of the model that could train whole", ErrLoRA, l.Save)
	}
	a := &Graph{Name: g.Name, Inputs: g.Inputs, Output: g.Output}
	var as []Adapter
	known := map[string]bool{}
	for i := range g.Nodes {
		n := g.Nodes[i]
		n.Frozen = nil
		for _, s := range n.Op.Params() {
			if s.Role == Trainable && !saved[n.Full(s.Name)] {
				n.Frozen = append(n.Frozen, s.Name)
			}
		}
		lin, ok := n.Op.(*Linear)
		module := strings.TrimSuffix(n.Full("weight"), ".weight")
		chosen := ok && !saved[n.Full("weight")] && (len(l.Targets) == 0 && n.Name != g.Output || matches(l.Targets, module))
		if !chosen {
			a.Nodes = append(a.Nodes, n)
			continue
		}
		base := n
		base.Name += ".base_layer"
		base.Names = map[string]string{}
		for _, s := range lin.Params() {
			base.Names[s.Name] = n.Full(s.Name)
		}
		named := func(suffix string, op Op, in string) Node {
			return Node{
				Name: n.Name + suffix, Op: op, Inputs: []string{in},
				Names: map[string]string{"weight": module + suffix + ".weight"},
			}
		}
		from := n.Inputs[0]
		a.Nodes = append(a.Nodes, base)
		if l.Dropout > 0 {
			drop := Node{Name: n.Name + ".lora_dropout", Op: &Dropout{P: l.Dropout}, Inputs: []string{from}}
			from, a.Nodes = drop.Name, append(a.Nodes, drop)
		}
		down := named(".lora_A", &Linear{In: lin.In, Out: l.Rank}, from)
		up := named(".lora_B", &Linear{In: l.Rank, Out: lin.Out, Zero: true}, n.Name+".lora_scale")
		a.Nodes = append(a.Nodes, down,
			Node{Name: n.Name + ".lora_scale", Op: &Unary{Function: "affine", A: float32(l.Scale)}, Inputs: []string{down.Name}},
			up, Node{Name: n.Name, Op: &Add{}, Inputs: []string{base.Name, up.Name}})
		if !known[module] { // a layer that the model calls several times has one adapter, at each call
			known[module] = true
			as = append(as, Adapter{Module: module, Weight: n.Full("weight"), A: down.Full("weight"), B: up.Full("weight"), Transposed: lin.Transposed})
		}
	}
	if len(as) == 0 {
		return nil, nil, fmt.Errorf("%w: the targets %q match no linear layer of the model; it has %s", ErrLoRA, l.Targets, g.linears())
	}
	if err := a.Check(); err != nil {
		return nil, nil, err
	}
	return a, as, nil
}

// linears names the first linear layers.
func (g *Graph) linears() string {
	var names []string
	for i := range g.Nodes {
		n := &g.Nodes[i]
		if _, ok := n.Op.(*Linear); ok && n.Name != g.Output {
			if len(names) == 4 {
				names = append(names, "...")
				break
			}
			names = append(names, strings.TrimSuffix(n.Full("weight"), ".weight"))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Saved are the modules that train whole beside adapters, and the parameters of each.
func (g *Graph) Saved(l LoRA) map[string][]string {
	modules, params := g.saved(l.Save)
	of := map[string][]string{}
	for _, p := range g.Params() {
		for _, m := range modules {
			if params[p.Full] && strings.HasPrefix(p.Full, m+".") {
				of[m] = append(of[m], p.Full)
			}
		}
	}
	return of
}
