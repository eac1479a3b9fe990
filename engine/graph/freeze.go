// Parameters that training leaves alone: those that somebody froze, and those that no gradient
// reaches.

package graph

import (
	"fmt"
	"path"
	"slices"
)

// Freeze is a copy of the graph whose parameters with names that match one of the patterns
// (path.Match: a star stands for any characters) are frozen. A pattern that matches none is an
// error.
func (g *Graph) Freeze(patterns []string) (*Graph, error) {
	f := &Graph{Name: g.Name, Inputs: g.Inputs, Nodes: slices.Clone(g.Nodes), Output: g.Output}
	for _, p := range patterns {
		found := false
		for i := range f.Nodes {
			n := &f.Nodes[i]
			for _, s := range n.Op.Params() {
				ok, err := path.Match(p, n.Full(s.Name))
				if err != nil {
					return nil, fmt.Errorf("pattern %q: %w", p, err)
				}
				if !ok || s.Role != Trainable {
					continue
				}
				if found = true; !slices.Contains(n.Frozen, s.Name) {
					n.Frozen = append(slices.Clone(n.Frozen), s.Name)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("pattern %q matches no parameter of the model; the first is called %q", p, g.firstParam())
		}
	}
	if err := f.Check(); err != nil {
		return nil, err
	}
	if f.ParamCount(0, len(f.Nodes)) == 0 {
		return nil, fmt.Errorf("patterns %q freeze all of the model: nothing is left to train", patterns)
	}
	return f, nil
}

func (g *Graph) firstParam() string {
	for _, p := range g.Params() {
		return p.Full
	}
	return ""
}

// findIdle finds the parameters that are frozen, at one holder or at all, and those that no
// gradient of the output reaches.
func (g *Graph) findIdle() map[string]bool {
	idle, reached := map[string]bool{}, make([]bool, g.Values())
	used := map[string]bool{}
	reached[g.output] = true
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := &g.Nodes[i]
		for _, p := range n.Frozen {
			idle[n.Full(p)] = true
		}
		if !reached[g.Result(i)] {
			continue
		}
		for _, s := range n.Op.Params() {
			used[n.Full(s.Name)] = true
		}
		for k, v := range g.args[i] {
			reached[v] = reached[v] || HasGrad(n.Op, k)
		}
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		for _, s := range n.Op.Params() {
			if full := n.Full(s.Name); s.Role == Trainable && !used[full] {
				idle[full] = true
			}
		}
	}
	return idle
}

// role of a parameter of node n.
func (g *Graph) role(n *Node, s Spec) Role {
	if s.Role == Trainable && len(g.idle) > 0 && g.idle[n.Full(s.Name)] {
		return Frozen
	}
	return s.Role
}

// trains tells whether node i owns parameters that training changes.
func (g *Graph) trains(i int) bool {
	n := &g.Nodes[i]
	return slices.ContainsFunc(n.Op.Params(), func(s Spec) bool { return g.role(n, s) == Trainable })
}

// checkFrozen refuses names that the node does not have.
func (n *Node) checkFrozen() error {
	if len(n.Frozen) == 0 {
		return nil
	}
	free := map[string]bool{}
	for _, s := range n.Op.Params() {
		free[s.Name] = s.Role == Trainable
	}
	for _, p := range n.Frozen {
		if !free[p] {
			return fmt.Errorf("it has no parameter %q to freeze, or it stands twice", p)
		}
		free[p] = false
	}
	return nil
}
