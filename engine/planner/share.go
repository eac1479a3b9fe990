// Which cluster trains which replicas. All wait for the slowest at the end of a round: the
// shares are those with which it is done soonest, by the forecast of each cluster's pipeline.
// Who trains what changes no bit of the result.

package planner

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/forecast"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/ga"
)

// even shares n replicas out to k clusters.
func even(n, k int) []int {
	shares := make([]int, k)
	for i := range shares {
		shares[i] = n*(i+1)/k - n*i/k
	}
	return shares
}

// share gives each cluster as many replicas as it says, in the order of their numbers.
func (p *Plan) share(shares []int) {
	next := 0
	for c := range p.Clusters {
		p.Clusters[c].Replicas = nil
		for range shares[c] {
			p.Clusters[c].Replicas = append(p.Clusters[c].Replicas, next)
			next++
		}
	}
}

// list prints ascending numbers: 0, 2-5.
func list(n []int) string {
	var parts []string
	for i := 0; i < len(n); {
		k := i
		for k+1 < len(n) && n[k+1] == n[k]+1 {
			k++
		}
		switch {
		case k == i:
			parts = append(parts, fmt.Sprint(n[i]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", n[i], n[k]))
		}
		i = k + 1
	}
	return strings.Join(parts, ", ")
}

// chooseShares sets what each cluster trains, what its pipeline does and what its stages then take.
// Clusters that would only hold the others up, beyond the least number that is wanted, become
// spares.
func (f fill) chooseShares(p *Plan, least int) error {
	f.placed = f.facts.placed(p.Clusters)
	if len(p.Clusters) == 1 || f.j.Replica() == 1 {
		for c := range p.Clusters {
			if err := f.cluster(&p.Clusters[c]); err != nil {
				return err
			}
		}
		if len(p.Clusters) == 1 {
			p.Rate = p.Clusters[0].Rate
		}
		return nil
	}
	d, err := f.deal(p, least)
	if err != nil {
		return err
	}
	d.best()
	d.goAround()
	d.apply(p)
	for c := range p.Clusters {
		if err := d.fill(p, c).cluster(&p.Clusters[c]); err != nil {
			return err
		}
	}
	if err := d.room(p); err != nil {
		return err
	}
	pass := f.facts.pass(d.pipes[d.active[0]], f.j)
	if p.Rate = f.facts.adjusted(f.j, f.rate(f.j.Replica()*d.samples(), d.seconds()), pass); p.Rate > 0 {
		p.Averaging = d.averages() * d.average / d.seconds()
	}
	return nil
}

// deal is the search for the shares of some clusters.
type deal struct {
	f      fill
	least  int
	all    []Cluster
	stages [][]*graph.Stage
	pipes  []forecast.Pipeline
	micro  int

	active         []int // clusters that take part, the fastest first
	shares         []int // replicas of each of them
	round, average float64
	known          map[[2]int]float64 // seconds that a cluster takes for a round of so many replicas
}

func (f fill) deal(p *Plan, least int) (*deal, error) {
	d := &deal{f: f, least: max(least, 1), all: slices.Clone(p.Clusters)}
	shares := even(f.j.Replica(), len(d.all))
	for c := range d.all {
		stages, err := f.cache.cut(d.all[c].Starts())
		if err != nil {
			return nil, err
		}
		d.stages, d.pipes = append(d.stages, stages), append(d.pipes, f.pipeline(stages, &d.all[c]))
		// Positions count micro-batches, so that all clusters have the same number of them.
		g, cl := f, d.all[c]
		g.own, g.place = shares[c], p.Placement(c)
		g.flow(d.pipes[c], &cl, stages)
		d.micro = max(d.micro, cl.MicroBatches)
	}
	for c := range d.all {
		d.active = append(d.active, c)
	}
	return d, nil
}

// samples are those of a replica in a round.
func (d *deal) samples() int {
	j := d.f.j
	n := d.f.facts.updates(j) * j.UpdateFrequency * j.BatchSize
	if j.Gradients() {
		n /= j.Replica()
	}
	return n
}

// best finds the clusters that finish a round soonest: all of them, or the fastest so many.
func (d *deal) best() {
	order := slices.Clone(d.active)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(d.time(a, 1), d.time(b, 1)) })
	// What the measured memory is enough for.
	d.shares, d.average, d.round = even(d.f.j.Replica(), len(d.active)), d.averaging(), math.Inf(1)
	best := *d
	for k := len(order); k >= min(d.least, len(order)); k-- {
		d.active = slices.Sorted(slices.Values(order[:k]))
		if !d.dealOut() {
			continue
		}
		d.average = d.averaging()
		if d.seconds() < best.seconds()*(1-enough) {
			best = *d
		}
	}
	*d = best
}

// enough is how much sooner fewer clusters must be done to be better.
const enough = 0.01

// dealOut shares the replicas out to the active clusters, at least one to each, so that the
// last of them is done as soon as possible; of equals, with the least work in all. false: they
// do not fit.
func (d *deal) dealOut() bool {
	r := d.f.j.Replica()
	type state struct {
		last, sum float64
		n         int // of the last cluster so far
	}
	none := state{last: math.Inf(1)}
	table := [][]state{make([]state, r+1)} // by clusters and replicas dealt out
	for n := range table[0][1:] {
		table[0][n+1] = none
	}
	for i, c := range d.active {
		most := d.most(i)
		row := make([]state, r+1)
		for have := range row {
			row[have] = none
			for n := 1; n <= min(have, most); n++ {
				before, t := table[i][have-n], d.time(c, n)
				s := state{max(before.last, t), before.sum + t, n}
				if before.last < math.Inf(1) && (s.last < row[have].last || s.last == row[have].last && s.sum < row[have].sum) {
					row[have] = s
				}
			}
		}
		table = append(table, row)
	}
	k := len(d.active)
	if d.round = table[k][r].last; math.IsInf(d.round, 1) {
		return false
	}
	d.shares = make([]int, k)
	for i := k; i > 0; i-- {
		d.shares[i-1] = table[i][r].n
		r -= d.shares[i-1]
	}
	return true
}

// most is how many replicas the i-th active cluster has the memory for.
func (d *deal) most(i int) int {
	known := d.f.j.Replica() / len(d.all) // which measuring has shown
	limit := d.f.j.Replica() - len(d.active) + 1
	return known + sort.Search(max(limit-known, 0), func(n int) bool { return !d.fits(i, known+n+1) })
}

// time is how long a cluster takes for a round of n replicas.
func (d *deal) time(c, n int) float64 {
	key := [2]int{c, n}
	if t, ok := d.known[key]; ok {
		return t
	}
	g, cl := d.f, d.all[c]
	g.own = n
	var t float64
	if turns(g.j) {
		cl.InFlight = min(n, len(d.stages[c]))
		if g.j.InFlight > 0 {
			cl.InFlight = min(g.j.InFlight, n)
		}
		walked := g.round()
		t = g.ahead(d.pipes[c], &cl).Round(walked, g.j.BatchSize, d.micro).Seconds
		t *= float64(g.j.UpdateFrequency*n*g.facts.updates(g.j)) / float64(walked)
	} else {
		t = d.pipes[c].Update(g.rows(d.micro)).Seconds
	}
	if d.known == nil {
		d.known = map[[2]int]float64{}
	}
	d.known[key] = t
	return t
}

// fits tells whether the i-th active cluster has the memory for n replicas. How the others
// share the rest is all the same to it.
func (d *deal) fits(i, n int) bool {
	rest := even(d.f.j.Replica()-n, max(len(d.active)-1, 1))
	shares := slices.Insert(rest[:len(d.active)-1], i, n)
	g, cl := d.f, d.all[d.active[i]]
	g.own, g.place = n, d.placement(i, shares)
	if turns(g.j) && g.j.InFlight == 0 {
		g.j.InFlight = 1
	}
	return g.fits(&cl, d.stages[d.active[i]], d.micro)
}

// placement is that of the i-th active cluster.
func (d *deal) placement(i int, shares []int) stage.Placement {
	p := &Plan{}
	for _, c := range d.active {
		p.Clusters = append(p.Clusters, d.all[c])
	}
	p.share(shares)
	return p.Placement(i)
}

// seconds are those of a full round and of its end.
func (d *deal) seconds() float64 { return d.round + d.averages()*d.average }

// averages is how many there are for each full round's batches: some rounds are short.
func (d *deal) averages() float64 {
	if d.f.facts.Train == 0 {
		return 1 // nobody says
	}
	full := d.f.facts.updates(d.f.j) * d.f.j.UpdateFrequency
	if !d.f.j.Gradients() {
		full *= d.f.j.Replica()
	}
	run := d.f.j.Order(d.f.facts.Train, d.f.facts.Val)
	total := run.Total()
	return float64(run.Rounds(uint64(total))) * float64(full) / float64(total)
}

// averaging is how long the end of a round takes: each stage sends and receives what it has, almost
// twice, and computes for every byte and element. The rings of different segments work at once.
func (d *deal) averaging() float64 {
	j, k := d.f.j, float64(len(d.active))
	if k == 1 {
		return 0
	}
	a := j.Averaging()
	bits, vectors := float64(a.Bits), 1.0
	if n := float64(len(optim.Slots(j.Optimizer))); a.Optimizer == job.AverageState && !j.Gradients() {
		bits, vectors = bits+28*n, 1+n
	}
	longest, hop := 0.0, 0.0
	for i, c := range d.active {
		hop = max(hop, d.hop(c, d.active[(i+1)%len(d.active)]))
	}
	for _, c := range d.active {
		for s, st := range d.stages[c] {
			n := float64(st.Graph.ParamCount(0, len(st.Graph.Nodes)))
			bytes := 2 * (k - 1) / k * n * bits / 8
			t := max(8*bytes/d.f.nodes[d.all[c].Stages[s].Node].Bandwidth, 2*bytes*farWork.byte) + n*vectors*ringWork + 4*(k-1)*hop
			longest = max(longest, t)
		}
	}
	return longest
}

// end is the node of the model where a stage ends.
func (d *deal) end(c, stage int) int {
	if stage+1 < len(d.stages[c]) {
		return d.stages[c][stage+1].First
	}
	return len(d.f.g.Nodes)
}

// apply makes the active clusters those of the plan, and the others' nodes spares.
func (d *deal) apply(p *Plan) {
	for c := range d.all {
		if !slices.Contains(d.active, c) {
			for _, s := range p.GA.Clusters[c].Stages {
				p.GA.Spares = append(p.GA.Spares, s.Node)
			}
		}
	}
	var groups []ga.Group
	p.Clusters = nil
	for _, c := range d.active {
		g := p.GA.Clusters[c]
		g.ID = len(groups)
		groups = append(groups, g)
		p.Clusters = append(p.Clusters, d.all[c])
	}
	p.GA.Clusters = groups
	slices.Sort(p.GA.Spares)
	p.share(d.shares)
	if len(p.Clusters) == 1 {
		p.Clusters[0].Replicas = nil
	}
}

// room lets clusters take more replicas in a later round, half as many again as they begin with,
// which is what makes up for another one that becomes half as fast. It takes only memory that
// nothing else is for: what holding states takes stays free.
func (d *deal) room(p *Plan) error {
	k, r := len(p.Clusters), d.f.j.Replica()
	if k < 2 || !stage.Moves(d.f.j) || r == k {
		return nil
	}
	for c := range p.Clusters {
		n := len(p.Clusters[c].Replicas)
		p.Clusters[c].Room = max(n, min(r-k+1, n+max(1, n/2)))
	}
	for c := range p.Clusters {
		cl := &p.Clusters[c]
		stages := d.stages[d.active[c]]
		for ; ; cl.Room-- {
			g, more := d.fill(p, c), *cl
			if turns(g.j) {
				if g.j.InFlight == 0 {
					more.InFlight = max(cl.InFlight, min(cl.Room, len(stages)))
				}
				g.j.InFlight = more.InFlight
			}
			m, err := g.memory(stages, cl.MicroBatches)
			if err != nil {
				return err
			}
			if cl.Room > len(cl.Replicas) && !g.leaves(cl, stages, m) {
				continue
			}
			cl.InFlight = more.InFlight
			for s := range cl.Stages {
				cl.Stages[s].Memory = m[s]
			}
			break
		}
	}
	return nil
}

// leaves tells whether memory for a state remains beside what the stages take.
func (f fill) leaves(cl *Cluster, stages []*graph.Stage, memory []int) bool {
	for k, s := range cl.Stages {
		trainable, _ := f.cache.trains(stages[k])
		state := 4*(1+len(stage.Slots(f.j)))*trainable + stateHead
		if float64(memory[k]+state) > f.nodes[s.Node].RAM {
			return false
		}
	}
	return true
}

// stateHead is what a state takes beside its parameters and the optimizer's vectors.
const stateHead = 1 << 20

// fill is the choice for cluster c of the plan.
func (d *deal) fill(p *Plan, c int) fill {
	g := d.f
	g.own, g.place, g.j.MicroBatches = d.shares[c], p.Placement(c), d.micro
	return g
}
