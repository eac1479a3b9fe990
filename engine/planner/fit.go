// What keeps a pool from being planned: messages that no link takes, and members that
// lend too little. Both are said before anything runs, with what would help.

package planner

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/ga"
)

// message is the most bytes that a tensor of so many elements a row takes on the wire, a
// micro-batch at a time.
func message(j job.Spec, elems int) int {
	kind, err := codec.ParseKind(j.Wire)
	if err != nil {
		kind = codec.FP32
	}
	return wire.MessageHeader + codec.MaxSize(kind, elems*j.MicroRows())
}

// cuttable joins the units between which no cut is possible, since a tensor that crosses
// it is larger than a message may be. It returns the largest such tensor's unit too.
func cuttable(j job.Spec, g *graph.Graph) (units []graph.Unit, heavy *graph.Unit) {
	all := g.Units()
	if j.Schedule == job.Async {
		all = g.JoinTied(all) // updates overlap, so that tied gradients never come together
	}
	from, worst := 0, [2]int{} // of a unit; of the one that ends with the largest tensor
	for k, u := range all {
		if k+1 < len(all) && message(j, u.Largest) > wire.MaxTransfer {
			if worst[1] == 0 || u.Largest > all[worst[1]-1].Largest {
				worst = [2]int{from, k + 1}
			}
			continue // it cannot be cut behind it
		}
		units = append(units, g.Join(all[from:k+1]...))
		from = k + 1
	}
	if worst[1] > 0 {
		u := g.Join(all[worst[0]:worst[1]]...)
		heavy = &u
	}
	return units, heavy
}

// tooHeavy adds to an error about too few cuts that some are impossible, and what would
// make them possible.
func tooHeavy(err error, j job.Spec, heavy *graph.Unit) error {
	if heavy == nil || !errors.Is(err, ga.ErrStages) {
		return err
	}
	rows := 1
	for message(job.Spec{Wire: j.Wire, BatchSize: 2 * rows, MicroBatches: 1}, heavy.Largest) <= wire.MaxTransfer {
		rows *= 2
	}
	what := fmt.Sprintf("raise micro_batches to %d or more, or lower batch_size to %d or less", (j.BatchSize+rows-1)/rows, rows)
	return fmt.Errorf("%w: the model cannot be cut after %q, where a tensor of %.0f MB crosses for %d rows and a message holds at most %.0f MB: %s",
		err, heavy.Name, float64(message(j, heavy.Largest))/1e6, j.MicroRows(), float64(wire.MaxTransfer)/1e6, what)
}

// TooSmall is the error of a pool in which some members lend too little for any stage,
// while the others can hold the model between them. It wraps ga.ErrRAM. Any other error that
// wraps ga.ErrRAM says that the pool as a whole is too small: more members may help.
type TooSmall struct {
	Members []int    // positions in the pool, ascending
	Names   []string // of the members
	Need    []int    // bytes that each would have to lend for the stage that it would get
	nodes   []ga.Node
}

func (e *TooSmall) Error() string {
	var parts []string
	for i, name := range e.Names {
		parts = append(parts, fmt.Sprintf("%s lends %.1f MB and would need %.1f MB", name, e.nodes[e.Members[i]].RAM/1e6, float64(e.Need[i])/1e6))
	}
	if len(parts) > 4 {
		parts = append(parts[:3], fmt.Sprintf("%d more", len(parts)-3))
	}
	return "too little memory for a stage: " + strings.Join(parts, "; ") + ": lend more, use another provider or lower the batch size"
}

// Unwrap makes the error one about memory.
func (e *TooSmall) Unwrap() error { return ga.ErrRAM }

// tooSmall looks for the members that a plan fails for: the fewest of the smallest ones
// without whom the others can be planned. It returns nil if there are none.
func (f Facts) tooSmall(j job.Spec, g *graph.Graph, nodes []ga.Node, opt ga.Options, seed uint64) *TooSmall {
	order := make([]int, len(nodes)) // largest first
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case nodes[a].RAM > nodes[b].RAM:
			return -1
		case nodes[a].RAM < nodes[b].RAM:
			return 1
		}
		return 0
	})
	pick := func(n int) (keep []int, ns []ga.Node) {
		keep = slices.Sorted(slices.Values(order[:n]))
		for _, i := range keep {
			ns = append(ns, nodes[i])
		}
		return keep, ns
	}
	known := newCache(g)
	for n := len(nodes) - 1; n >= 1 && n >= len(nodes)-maxSmall; n-- {
		o := opt
		if n == 1 {
			o.MinSize = 1
		}
		keep, ns := pick(n)
		if _, err := f.pick(keep).form(j, g, known, ns, o, seed); err != nil {
			continue
		}
		e := &TooSmall{Members: slices.Clone(order[n:]), nodes: nodes}
		slices.Sort(e.Members)
		roomy := slices.Clone(nodes)
		for _, i := range e.Members {
			roomy[i].RAM = math.Max(nodes[order[0]].RAM, 1e12)
			e.Names = append(e.Names, nodes[i].Name)
		}
		p, err := f.form(j, g, known, roomy, opt, seed)
		if err != nil {
			return nil // memory is not what is wrong
		}
		for _, i := range e.Members {
			need := 0
			for _, c := range p.Clusters {
				for _, s := range c.Stages {
					if s.Node == i {
						need = s.Memory
					}
				}
			}
			e.Need = append(e.Need, need)
		}
		return e
	}
	return nil
}

// maxSmall bounds how many members are taken out one after the other.
const maxSmall = 16
