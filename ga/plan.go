// The whole plan of a job: clusters and their stages, in a form to print and to send.

package ga

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// Group is one cluster of a plan. Its Stages are in pipeline order; Stage.Node is the
// position in the pool.
type Group struct {
	ID     int     `json:"id"`
	RAM    float64 `json:"ram"`    // bytes of all its nodes
	Memory float64 `json:"memory"` // bytes the model takes of them
	Stages []Stage `json:"stages"`
}

// Starts lists the first unit of each stage.
func (g Group) Starts() []int {
	starts := make([]int, len(g.Stages))
	for k, s := range g.Stages {
		starts[k] = s.From
	}
	return starts
}

// Plan is who runs what.
type Plan struct {
	Model    string  `json:"model"`
	Rule     string  `json:"rule"` // "cost": by measured compute and links; "share": by parameters
	Fitness  Fitness `json:"fitness"`
	Clusters []Group `json:"clusters"`
	Spares   []int   `json:"spares,omitempty"` // nodes that are better left out, by position in the pool
}

// defaultBatches is how many batches a replica trains between two averagings where nobody
// says so.
const defaultBatches = 64

// Build clusters the pool and cuts the model for each cluster. Need follows from the
// units. Where a cluster has the RAM in sum, but no cut of the chain fits its nodes in
// their order, other orders are tried (all of them up to six nodes), then clusters with some
// RAM to spare, then fewer clusters.
// Errors are those of Cluster and Partition.
func Build(model string, units []Unit, nodes []Node, opt Options, rng *rand.Rand) (*Plan, error) {
	if err := checkUnits(model, units); err != nil {
		return nil, err
	}
	need := Need{Model: model, Stages: len(units)}
	params, cuts := 0.0, make([]float64, 0, len(units))
	for i, u := range units {
		need.RAM += u.Memory
		need.FLOPs += u.FLOPs
		params += float64(u.Params)
		if i+1 < len(units) {
			cuts = append(cuts, u.Out)
		}
	}
	if len(cuts) > 0 {
		need.Cut = median(cuts)
	}
	batches := opt.Batches
	if batches == 0 {
		batches = defaultBatches
	}
	need.Average = 4 * params / float64(batches)
	for level := firstSlack(len(nodes)); ; level++ {
		clusters, err := Cluster(usable(nodes, units, level), need, opt, rng)
		if err != nil && level > 0 && level < len(slack) {
			level = len(slack) - 1 // so much RAM is not to spare: fewer clusters are the way left
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := assemble(model, units, nodes, clusters, need, opt)
		if len(clusters) == 1 || !errors.Is(err, ErrRAM) {
			return p, err
		}
		if level+1 < len(slack) {
			continue
		}
		fewer := opt
		fewer.MaxClusters = len(clusters) / 2
		if pr, err2 := newProblem(nodes, need, fewer); err2 != nil || pr.minK > pr.maxK {
			return nil, err
		}
		opt = fewer
	}
}

// slack is what a node's RAM is taken to be less, in mean units, since units are not
// divisible: half a unit is what is lost on the average, and a whole one is the most.
var slack = []float64{0, 0.5, 1}

// firstSlack is where the search begins: among many clusters some would not fit without.
func firstSlack(nodes int) int {
	if nodes > 64 {
		return 1
	}
	return 0
}

// usable are the nodes with the RAM that clusters may count on at a level of slack.
func usable(nodes []Node, units []Unit, level int) []Node {
	if level == 0 || level >= len(slack) {
		return nodes
	}
	mean := 0.0
	for _, u := range units {
		mean += u.Memory / float64(len(units))
	}
	out := slices.Clone(nodes)
	for i := range out {
		out[i].RAM = max(1, out[i].RAM-slack[level]*mean)
	}
	return out
}

// Recut cuts the model anew for some clusters of the plan, whose nodes it keeps: for units
// whose costs have turned out to be others. Errors are those of Partition, and leave the plan
// as it was.
func (p *Plan) Recut(units []Unit, nodes []Node, opt Options, clusters []int) error {
	opt.ByShare = p.Rule == "share"
	groups := make([]Group, len(clusters))
	for x, c := range clusters {
		old := p.Clusters[c]
		var members []int
		for _, s := range old.Stages {
			members = append(members, s.Node)
		}
		order, stages, err := fit(p.Model, units, nodes, members, opt)
		if err != nil {
			return fmt.Errorf("cluster %d: %w", c, err)
		}
		groups[x] = newGroup(c, order, stages)
	}
	for x, c := range clusters {
		p.Clusters[c] = groups[x]
	}
	return nil
}

// newGroup is a cluster whose stages are on the nodes of order.
func newGroup(id int, order []int, stages []Stage) Group {
	g := Group{ID: id, Stages: stages}
	for k := range stages {
		stages[k].Node = order[k]
		g.RAM += stages[k].RAM
		g.Memory += stages[k].Memory
	}
	return g
}

func assemble(model string, units []Unit, nodes []Node, clusters [][]int, need Need, opt Options) (*Plan, error) {
	p := &Plan{Model: model, Rule: "cost"}
	if opt.ByShare || !benchmarked(nodes) {
		// One rule for the pool: a plan whose clusters are cut by different rules reads badly.
		p.Rule, opt.ByShare = "share", true
	}
	for id, c := range clusters {
		order, stages, err := fit(model, units, nodes, c, opt)
		if err != nil {
			return nil, fmt.Errorf("cluster %d: %w", id, err)
		}
		p.Clusters = append(p.Clusters, newGroup(id, order, stages))
	}
	placed := make([]bool, len(nodes))
	for _, i := range slices.Concat(clusters...) {
		placed[i] = true
	}
	for i, in := range placed {
		if !in {
			p.Spares = append(p.Spares, i)
		}
	}
	var err error
	p.Fitness, err = Rate(nodes, clusters, need, opt)
	return p, err
}

// fit partitions for the cluster's own order, or for the first other that fits.
func fit(model string, units []Unit, nodes []Node, cluster []int, opt Options) ([]int, []Stage, error) {
	list := make([]Node, len(cluster))
	arrange := func(order []int) []Node {
		for k, i := range order {
			list[k] = nodes[i]
		}
		return list
	}
	var found []Stage
	try := func(order []int) bool {
		c, starts, err := partition(model, units, arrange(order), opt)
		if err != nil || starts == nil {
			return false
		}
		found = c.stages(units, list, starts)
		return true
	}
	_, stages, first := Partition(model, units, arrange(cluster), opt)
	if first == nil || !errors.Is(first, ErrRAM) {
		return cluster, stages, first
	}
	order := slices.Clone(cluster)
	if len(cluster) > 6 {
		if slices.Reverse(order); try(order) {
			return order, found, nil
		}
		return nil, nil, first
	}
	var permute func(k int) bool
	permute = func(k int) bool {
		if k == len(order) {
			return try(order)
		}
		for i := k; i < len(order); i++ {
			// A rotation keeps the rest in its order, so that the first fit is close to the preferred order.
			v := order[i]
			copy(order[k+1:i+1], order[k:i])
			order[k] = v
			if permute(k + 1) {
				return true
			}
			copy(order[k:i], order[k+1:i+1])
			order[i] = v
		}
		return false
	}
	if permute(0) {
		return order, found, nil
	}
	return nil, nil, first
}

// WriteTo prints the plan for people.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, p.String())
	return int64(n), err
}

func (p *Plan) String() string {
	var b strings.Builder
	by := "measured compute and links"
	if p.Rule == "share" {
		by = "share of parameters"
	}
	fmt.Fprintf(&b, "%s: %d cluster(s), cut by %s\n", p.Model, len(p.Clusters), by)
	for _, c := range p.Clusters {
		fmt.Fprintf(&b, "cluster %d: %d node(s), %s of %s RAM\n", c.ID, len(c.Stages), bytesText(c.Memory), bytesText(c.RAM))
		for _, s := range c.Stages {
			name := s.Name
			if name == "" {
				name = fmt.Sprintf("node %d", s.Node)
			}
			fmt.Fprintf(&b, "  %-4s %-16s from %-20s %9d parameters  %9s  load %3.0f %%", s.Role, name, s.First, s.Params, bytesText(s.Memory), 100*s.Load)
			if s.ComputeSeconds > 0 {
				fmt.Fprintf(&b, "  compute %.3g ms", 1e3*s.ComputeSeconds)
			}
			fmt.Fprintf(&b, "  link %.3g ms\n", 1e3*s.LinkSeconds)
		}
	}
	if n := len(p.Spares); n > 0 {
		fmt.Fprintf(&b, "%d node(s) to spare, which would slow the others\n", n)
	}
	return b.String()
}
