// Cutting a model's chain of units into one contiguous stage per node of a cluster.

package ga

import (
	"math"
)

// Unit is a piece of the model that is never cut. Costs are of one batch.
type Unit struct {
	Name   string  `json:"name"`
	FLOPs  float64 `json:"flops"`  // forward and backward
	Params int64   `json:"params"` // trainable elements
	Memory float64 `json:"memory"` // bytes while the unit is in a stage: parameters, optimiser state, activations
	Out    float64 `json:"out"`    // bytes that cross a cut after this unit, both directions together
}

// Stage is one node's run of units with the figures that the cut was chosen by.
type Stage struct {
	Node           int     `json:"node"` // position in the list of nodes
	Name           string  `json:"name"` // of the node
	Role           string  `json:"role"` // root, stem or leaf
	From           int     `json:"from"` // units [From, To)
	To             int     `json:"to"`
	First          string  `json:"first"` // name of the first unit
	Params         int64   `json:"params"`
	FLOPs          float64 `json:"flops"`
	Memory         float64 `json:"memory"`          // bytes it will use
	RAM            float64 `json:"ram"`             // bytes it may use
	Wire           float64 `json:"wire"`            // bytes through its cuts per batch, both directions
	ComputeSeconds float64 `json:"compute_seconds"` // per batch; 0 without a benchmark
	LinkSeconds    float64 `json:"link_seconds"`    // per batch
	Load           float64 `json:"load"`            // its cost by that of the slowest stage: 1 is the bottleneck
}

func checkUnits(model string, units []Unit) error {
	if len(units) == 0 {
		return fail(ErrInvalid, "the model %q has no units to place", model)
	}
	if len(units) > MaxUnits {
		return fail(ErrInvalid, "the model %q has %d units, at most %d are supported", model, len(units), MaxUnits)
	}
	for i, u := range units {
		for _, v := range []struct {
			what      string
			value, hi float64
		}{
			{"FLOPs", u.FLOPs, maxFLOPs},
			{"params", float64(u.Params), maxParams},
			{"memory (bytes)", u.Memory, maxBytes},
			{"out (bytes)", u.Out, maxBytes},
		} {
			if !(v.value >= 0 && v.value <= v.hi) {
				return fail(ErrInvalid, "unit %d (%q) of model %q: %s is %v, it must be 0 to %g", i, u.Name, model, v.what, v.value, v.hi)
			}
		}
	}
	return nil
}

// chain answers what a stage of units [from, to) costs on node k, by prefix sums.
type chain struct {
	units, nodes          int
	work, memory          []float64 // prefix sums
	out                   []float64 // bytes of the cut before unit i; 0 at both ends
	compute, bandwidth    []float64 // of each node; compute 1 by share
	ram                   []float64
	byShare               bool
	byteWork              float64                       // seconds
	prefer                [2]func(from, to int) float64 // additive costs that break ties
	bottleneck, allowance float64
}

func newChain(units []Unit, nodes []Node, byShare bool, byteWork float64) *chain {
	c := &chain{
		units: len(units), nodes: len(nodes), byShare: byShare, byteWork: byteWork,
		work: make([]float64, len(units)+1), memory: make([]float64, len(units)+1), out: make([]float64, len(units)+1),
		ram: column(nodes, func(n Node) float64 { return n.RAM }),
	}
	for i, u := range units {
		w := u.FLOPs
		if byShare {
			w = float64(u.Params)
		}
		c.work[i+1] = c.work[i] + w
		c.memory[i+1] = c.memory[i] + u.Memory
		if i+1 < len(units) {
			c.out[i+1] = u.Out
		}
	}
	// Squares are of shares of the whole, so that they stay in range.
	total := max(c.work[c.units], minPositive)
	uneven := func(from, to int) float64 {
		x := (c.work[to] - c.work[from]) / total
		return float64(x * x)
	}
	wire := func(_, to int) float64 { return c.out[to] }
	if byShare {
		c.compute = column(nodes, func(Node) float64 { return 1 })
		c.bandwidth = column(nodes, func(n Node) float64 { return n.Bandwidth })
		c.prefer = [2]func(int, int) float64{uneven, wire}
	} else {
		c.compute = quantise(column(nodes, func(n Node) float64 { return n.Compute }))
		c.bandwidth = quantise(column(nodes, func(n Node) float64 { return n.Bandwidth }))
		c.prefer = [2]func(int, int) float64{wire, uneven}
	}
	return c
}

// busy never falls as the stage grows, so a search may stop at it.
func (c *chain) busy(k, from, to int) float64 { return (c.work[to] - c.work[from]) / c.compute[k] }

// link is the time of all bytes of both of the stage's cuts through the node's own
// link, as if it could not send and receive at once.
func (c *chain) link(k, from, to int) float64 { return 8 * (c.out[from] + c.out[to]) / c.bandwidth[k] }

func (c *chain) cost(k, from, to int) float64 {
	if c.byShare {
		return c.busy(k, from, to)
	}
	return max(c.busy(k, from, to)+c.byteWork*(c.out[from]+c.out[to]), c.link(k, from, to))
}

func (c *chain) over(k, from, to int) float64 {
	return max(0, c.memory[to]-c.memory[from]-c.ram[k])
}

// Two costs whose ratio differs from 1 by less are equal: they come from sums in another order.
const tie = 1e-9

// plan is the dynamic programme all three passes share: over k, the last stages, and
// i, the first unit that they hold. step gives the value of a stage followed by the best rest and
// whether a longer stage can still be better; less orders values. It returns the first unit of each
// stage, and false if no cut is allowed. Among equals it takes the shortest first stage, then the
// shortest second, and so on.
func plan[V any](c *chain, end V, step func(k, from, to int, rest V, best *V) (v V, ok, more bool), less func(a, b V) bool) (starts []int, value V, ok bool) {
	U, S := c.units, c.nodes
	type cell struct {
		v  V
		ok bool
	}
	next, cur := make([]cell, U+1), make([]cell, U+1)
	next[U] = cell{end, true}
	choice := make([]int32, S*(U+1))
	for k := S - 1; k >= 0; k-- {
		for i := range cur {
			cur[i] = cell{}
		}
		// At least one unit for each stage before and after.
		for i := k; i <= U-(S-k); i++ {
			for e := i + 1; e <= U-(S-1-k); e++ {
				best := &cur[i].v
				if !cur[i].ok {
					best = nil
				}
				v, ok, more := step(k, i, e, next[e].v, best)
				if ok && next[e].ok && (best == nil || less(v, *best)) {
					cur[i] = cell{v, true}
					choice[k*(U+1)+i] = int32(e)
				}
				if !more {
					break
				}
			}
			if k == 0 {
				break // the first stage starts at the first unit
			}
		}
		next, cur = cur, next
	}
	if !next[0].ok {
		return nil, value, false
	}
	starts = make([]int, S)
	for k, i := 0, 0; k < S; k++ {
		starts[k] = i
		i = int(choice[k*(U+1)+i])
	}
	return starts, next[0].v, true
}

// fits tells whether some cut fits the RAM of all nodes.
func (c *chain) fits() bool {
	// The units that the stages so far can hold, counted from the first.
	at, next := make([]bool, c.units+1), make([]bool, c.units+1)
	at[0] = true
	for k := range c.nodes {
		clear(next)
		end, marked := 0, 0 // what a stage from unit i on can reach never falls with i
		for i := range c.units {
			if !at[i] {
				continue
			}
			for end = max(end, i); end < c.units && c.over(k, i, end+1) == 0; {
				end++
			}
			for marked = max(marked, i); marked < end; {
				marked++
				next[marked] = true
			}
		}
		at, next = next, at
	}
	return at[c.units]
}

// solve finds the cut: the least bottleneck, then the preferences among all cuts that reach it.
func (c *chain) solve() ([]int, bool) {
	if !c.fits() {
		return nil, false
	}
	_, bottleneck, ok := plan(c, 0.0,
		func(k, from, to int, rest float64, best *float64) (float64, bool, bool) {
			fits := c.over(k, from, to) == 0
			more := fits && (best == nil || c.busy(k, from, to) < *best)
			return max(c.cost(k, from, to), rest), fits, more
		},
		func(a, b float64) bool { return a < b })
	if !ok {
		return nil, false
	}
	c.bottleneck, c.allowance = bottleneck, bottleneck*(1+tie)
	starts, _, ok := plan(c, [2]float64{},
		func(k, from, to int, rest [2]float64, _ *[2]float64) ([2]float64, bool, bool) {
			more := c.over(k, from, to) == 0 && c.busy(k, from, to) <= c.allowance
			v := [2]float64{rest[0] + c.prefer[0](from, to), rest[1] + c.prefer[1](from, to)}
			return v, more && c.cost(k, from, to) <= c.allowance, more
		},
		func(a, b [2]float64) bool {
			if d := a[0] - b[0]; math.Abs(d) > tie*math.Abs(b[0]) {
				return d < 0
			}
			return b[1]-a[1] > tie*math.Abs(b[1])
		})
	return starts, ok
}

// nearest is the cut that lacks the least memory, for the error of a cut that cannot be.
func (c *chain) nearest() []int {
	starts, _, _ := plan(c, 0.0,
		func(k, from, to int, rest float64, best *float64) (float64, bool, bool) {
			over := c.over(k, from, to)
			return rest + over, true, best == nil || over < *best // which it never falls below again
		},
		func(a, b float64) bool { return a < b })
	return starts
}

// Partition cuts the units of a model into one contiguous stage per node, in the
// order of the nodes. It returns the first unit of each stage (the first is 0) and
// the stages with their estimates.
//
// Where every node reports its compute, the cut minimises the pipeline's bottleneck: the
// maximum over stages of the time to compute a batch, Options.ByteWork included, and the time to
// pass it through the node's link. Of the cuts that reach it the one with the least bytes on the wire wins, then the
// most even one. Measured figures are taken in notches of √2 around the median of the nodes,
// so that equal machines, whose benchmarks differ by some percent, get the same cut every time.
//
// Where a node does not report it (or by Options.ByShare) nodes count as equal, as in
// Ravnest, and the cut minimises the largest share of parameters, then takes the most even
// cut, then the least bytes. What still ties gets the shortest first stages.
//
// Each stage fits its node's RAM. The errors wrap ErrInvalid, ErrStages (more nodes than
// units) or ErrRAM, which names the stage, its node and what is missing.
func Partition(model string, units []Unit, nodes []Node, opt Options) ([]int, []Stage, error) {
	c, starts, err := partition(model, units, nodes, opt)
	if err != nil {
		return nil, nil, err
	}
	if starts == nil {
		return nil, nil, c.short(units, nodes)
	}
	return starts, c.stages(units, nodes, starts), nil
}

// partition is Partition without the explanation, which takes longer than to find that no cut fits:
// there are no starts then.
func partition(model string, units []Unit, nodes []Node, opt Options) (c *chain, starts []int, err error) {
	if err := checkNodes(nodes); err != nil {
		return nil, nil, err
	}
	if err := checkUnits(model, units); err != nil {
		return nil, nil, err
	}
	if len(nodes) > len(units) {
		return nil, nil, fail(ErrStages, "%d providers but the model %q has only %d cut points, which makes at most %d stages; use at most %d providers or a deeper model",
			len(nodes), model, len(units)-1, len(units), len(units))
	}
	if len(nodes) > MaxStages {
		return nil, nil, fail(ErrStages, "%d providers in one cluster, at most %d stages are supported; allow more clusters", len(nodes), MaxStages)
	}
	byShare := opt.ByShare || !benchmarked(nodes)
	c = newChain(units, nodes, byShare, max(0, opt.ByteWork))
	starts, _ = c.solve()
	return c, starts, nil
}

func (c *chain) stages(units []Unit, nodes []Node, starts []int) []Stage {
	stages := make([]Stage, len(starts))
	most := 0.0
	for k, from := range starts {
		to := c.units
		if k+1 < len(starts) {
			to = starts[k+1]
		}
		s := Stage{
			Node: k, Name: nodes[k].Name, Role: role(k, len(starts)), From: from, To: to, First: units[from].Name,
			Memory: c.memory[to] - c.memory[from], RAM: c.ram[k], Wire: c.out[from] + c.out[to],
			LinkSeconds: c.link(k, from, to), Load: c.cost(k, from, to),
		}
		for _, u := range units[from:to] {
			s.Params += u.Params
			s.FLOPs += u.FLOPs
		}
		if nodes[k].Compute > 0 {
			s.ComputeSeconds = s.FLOPs / nodes[k].Compute
		}
		most = max(most, s.Load)
		stages[k] = s
	}
	for k := range stages {
		if most > 0 {
			stages[k].Load /= most
		} else {
			stages[k].Load = 1
		}
	}
	return stages
}

// short explains why no cut fits, by the worst stage of the nearest one.
func (c *chain) short(units []Unit, nodes []Node) error {
	worst := Stage{}
	index := 0
	for k, s := range c.stages(units, nodes, c.nearest()) {
		if s.Memory-s.RAM > worst.Memory-worst.RAM {
			worst, index = s, k
		}
	}
	return fail(ErrRAM, "no cut fits: stage %d of %d (node %s, from %q) needs %s of RAM, it has %s: %s short; give the node more RAM, add providers or lower the batch size",
		index, len(nodes), nodes[index].label(index), worst.First, bytesText(worst.Memory), bytesText(worst.RAM), bytesText(worst.Memory-worst.RAM))
}

func role(k, of int) string {
	switch k {
	case 0:
		return "root"
	case of - 1:
		return "leaf"
	}
	return "stem"
}
