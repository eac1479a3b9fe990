// What a forecast knows beyond the nodes' figures: how far they are from one another, which of
// them share a machine, how many rows there are, and how true earlier forecasts were.

package planner

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/forecast"
	"github.com/ravnest/ravnest/ga"
)

// Facts are what is known of a pool and a job beyond the nodes' figures. The zero Facts say
// nothing.
type Facts struct {
	// Train and Val are the rows of the data. With both, the time of validation counts.
	Train, Val int
	// Inputs and Targets are the bytes of the data that the first stage and the last hold beside what
	// they compute with.
	Inputs, Targets int
	// Order is the bytes of the order of the training rows, which the first stage and the last hold, too.
	Order int
	// RTT is the round trip between two nodes in seconds; 0 or nil: not known.
	RTT func(a, b int) float64
	// Machine numbers the machine of each node: those with the same number share its
	// processors, unless it is negative. nil: each node has its own.
	Machine []int
	// Cores is how many cores the machine of each has, threads of one counted once; 0: not known.
	Cores []float64
	// Spare is how many cores of its machine each node leaves to others when all compute: links are
	// served by those. nil: none.
	Spare []float64
	// Gain is by how much faster each node computes with all its threads than with one; 0: not known.
	Gain []float64
	// Threads is how many each node lends; nil: not known.
	Threads []int
	// Took is how many times as long as forecast each node computed, beside the others; 0 or nil: not known.
	Took []float64
	// Achieved is what the job's runs achieved with the pool, by what was forecast without this
	// correction; 0: not known.
	Achieved float64
}

// Bounds on what Facts may say: round trips come from strangers.
const (
	maxRTT      = 5.0 // seconds
	maxAchieved = 4.0 // and the reciprocal at least
	maxTook     = 4.0 // likewise
)

// corrected are the nodes as fast as they have turned out to be.
func (f *Facts) corrected(nodes []ga.Node) []ga.Node {
	if f.Took == nil {
		return nodes
	}
	out := slices.Clone(nodes)
	for i, t := range f.Took {
		if t > 0 && out[i].Compute > 0 {
			out[i].Compute = max(1, out[i].Compute/min(max(t, 1/maxTook), maxTook))
		}
	}
	return out
}

// delay is how many seconds a message takes from one node to another, and whether that is
// known.
func (f *Facts) delay(a, b int) float64 {
	if f.RTT != nil {
		if t := f.RTT(a, b); t > 0 {
			return handling + min(t, maxRTT)/2
		}
	}
	if f.together(a, b) {
		return handling
	}
	return latency
}

// served is how far links between two nodes are served by cores that do not compute, 0 to 1.
func (f *Facts) served(a, b int) float64 {
	if f.Spare == nil {
		return 0
	}
	return max(0, min(f.Spare[a], f.Spare[b], 1))
}

// crowd is by how much of its passes a micro-batch is longer on its way between two nodes, where it is known
// that all cores compute.
func (f *Facts) crowd(a, b int) float64 {
	if f.Spare == nil {
		return 0
	}
	return crowded * (1 - f.served(a, b))
}

// wire is what links between two nodes cost both ends.
func (f *Facts) wire(a, b int) wireWork {
	if f.together(a, b) {
		return nearWork
	}
	return farWork
}

// byteWork is what a node of the pool computes for a byte that units count, in seconds: they count
// lossless ones.
func (f *Facts) byteWork(j job.Spec, nodes int) float64 {
	served, work := 1.0, nearWork
	for i := range nodes {
		if served = min(served, f.served(i, i)); !f.together(0, i) {
			work = farWork
		}
	}
	return (work.byte*(1-served)*work.wide(j.Wire) + work.element) / 4
}

// held is the bytes of the data that a stage holds.
func (f *Facts) held(s *graph.Stage) (n int) {
	if s.Index == 0 || s.Last {
		n += f.Order
	}
	if s.Index == 0 {
		n += f.Inputs
	}
	if s.Last {
		n += f.Targets
	}
	return n
}

func (f *Facts) together(a, b int) bool {
	return f.Machine != nil && f.Machine[a] >= 0 && f.Machine[a] == f.Machine[b]
}

// busy are the nodes as they compute when all that share a machine do: with what they get of
// its cores.
func (f *Facts) busy(nodes []ga.Node) []ga.Node {
	if f.Machine == nil {
		return nodes
	}
	on, threads := map[int]float64{}, map[int]float64{}
	for i, m := range f.Machine {
		on[m]++
		threads[m] += float64(f.wide(i, 0))
	}
	out := slices.Clone(nodes)
	for i, m := range f.Machine {
		if m >= 0 && f.Cores[i] > 0 && threads[m] > f.Cores[i] && out[i].Compute > 0 {
			own := f.Cores[i] / on[m]
			out[i].Compute = max(1, out[i].Compute*min(own, 1)/f.longer(i, max(own, 1)))
		}
	}
	return out
}

// machines tells a cluster's pipeline which of its stages share cores. Of a machine that has stages of
// other clusters too, it gets a share.
func (f *Facts) machines(p *forecast.Pipeline, stages []Stage, placed map[int]float64) {
	if f.Machine == nil {
		return
	}
	own := f.placed([]Cluster{{Stages: stages}})
	number := map[int]int{}
	for k, s := range stages {
		m := f.Machine[s.Node]
		if m < 0 || f.Cores[s.Node] <= 0 {
			m = -1 - s.Node // its own
		}
		i, ok := number[m]
		if !ok {
			i = len(p.Cores)
			number[m] = i
			p.Cores = append(p.Cores, float64(p.Stages[k].Cores))
		}
		p.Machine = append(p.Machine, i)
		if m >= 0 {
			p.Cores[i] = f.Cores[s.Node] * own[m] / max(own[m], placed[m])
		}
	}
}

// placed counts the threads of all clusters' stages by machine.
func (f *Facts) placed(clusters []Cluster) map[int]float64 {
	on := map[int]float64{}
	if f.Machine == nil {
		return on
	}
	for _, c := range clusters {
		for _, s := range c.Stages {
			on[f.Machine[s.Node]] += float64(f.wide(s.Node, s.Threads))
		}
	}
	return on
}

// updates is how many updates each replica of a job does in a full round.
func (f *Facts) updates(j job.Spec) int {
	rows := f.Train
	if rows == 0 {
		rows = 1 << 40 // nobody says: many
	}
	return j.Order(rows, f.Val).Each()
}

// adjusted is a forecast rate, in samples a second, with the time of validation and as far as
// earlier forecasts were wrong. pass is the time of a validation pass.
func (f *Facts) adjusted(j job.Spec, rate, pass float64) float64 {
	if rate <= 0 {
		return 0
	}
	if f.Train > 0 && f.Val > 0 && j.ValEvery > 0 {
		total := float64(j.Total(f.Train)) * float64(f.Train) / float64(j.Batches(f.Train))
		passes := math.Ceil(total / float64(f.Train*j.ValEvery))
		rate = 1 / (1/rate + passes*pass/total)
	}
	if a := f.Achieved; a > 0 {
		rate *= min(max(a, 1/maxAchieved), maxAchieved)
	}
	return rate
}

// pass is how long a cluster takes to validate the rows: batches follow one another through
// the stages, forward only.
func (f *Facts) pass(p forecast.Pipeline, j job.Spec) float64 {
	if f.Val == 0 || j.ValEvery == 0 {
		return 0
	}
	fill, slowest := 0.0, 0.0
	busy := make([]float64, len(p.Cores))
	rows := float64(min(j.BatchSize, f.Val))
	for k, s := range p.Stages {
		t := s.ForwardTime(int(rows))
		if k > 0 {
			l := p.Links[k-1]
			t += l.Each + rows*l.Out*l.Work
		}
		if k < len(p.Links) {
			l := p.Links[k]
			t += l.Each + rows*l.Out*l.Work
			slowest = max(slowest, rows*l.Out*l.Seconds)
			fill += rows*l.Out*l.Seconds + l.Latency
		}
		if p.Machine != nil {
			busy[p.Machine[k]] += t
		}
		fill += t
		slowest = max(slowest, t)
	}
	for m, c := range p.Cores {
		slowest = max(slowest, busy[m]/max(c, 1e-3))
	}
	return fill + slowest*max(0, math.Ceil(float64(f.Val)/rows)-1)
}
