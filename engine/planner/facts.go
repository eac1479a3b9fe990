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
	// Room is how many nodes can compute at once on the machine of each; 0: not known.
	Room []float64
	// Spare is how many cores of its machine each node leaves to others when all compute: links are
	// served by those. nil: none.
	Spare []float64
	// Gain is by how much faster each node computes with all its threads than with one; 0: not known.
	Gain []float64
	// Threads is how many each node lends; nil: not known.
	Threads []int
	// Achieved is what the job's runs achieved with the pool, by what was forecast without this
	// correction; 0: not known.
	Achieved float64
}

// Bounds on what Facts may say: round trips come from strangers.
const (
	maxRTT      = 5.0 // seconds
	maxAchieved = 4.0 // and the reciprocal at least
)

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

// byteWork is what a node of the pool computes for a byte that units count, in seconds: they count
// lossless ones.
func (f *Facts) byteWork(j job.Spec, nodes int) float64 {
	served := 1.0
	for i := range nodes {
		served = min(served, f.served(i, i))
	}
	return (byteWork*(1-served)*width(j.Wire) + elementWire) / 4
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

// slow is by how much longer a node takes with one thread.
func (f *Facts) slow(node int) float64 {
	if f.Gain == nil {
		return 1
	}
	return max(1, f.Gain[node])
}

func (f *Facts) together(a, b int) bool {
	return f.Machine != nil && f.Machine[a] >= 0 && f.Machine[a] == f.Machine[b]
}

// busy are the nodes as they compute when all that share a machine do: with what they get of
// its processors.
func (f *Facts) busy(nodes []ga.Node) []ga.Node {
	if f.Machine == nil {
		return nodes
	}
	on := map[int]float64{}
	for _, m := range f.Machine {
		on[m]++
	}
	out := slices.Clone(nodes)
	for i, m := range f.Machine {
		if m >= 0 && f.Room[i] > 0 && on[m] > f.Room[i] && out[i].Compute > 0 {
			out[i].Compute = max(1, out[i].Compute*f.Room[i]/on[m])
		}
	}
	return out
}

// machines tells a cluster's pipeline which of its stages share processors. Of a machine that
// has stages of other clusters too, it gets a share.
func (f *Facts) machines(p *forecast.Pipeline, nodes []int, placed map[int]int) {
	if f.Machine == nil {
		return
	}
	number := map[int]int{}
	for _, n := range nodes {
		m := f.Machine[n]
		if m < 0 || f.Room[n] <= 0 {
			m = -1 - n // its own
		}
		k, ok := number[m]
		if !ok {
			k = len(p.Cores)
			number[m] = k
			p.Cores = append(p.Cores, 0)
		}
		p.Machine = append(p.Machine, k)
		switch own := placedHere(f.Machine, nodes, m); {
		case m < 0:
			p.Cores[k] = 1
		default:
			p.Cores[k] = f.Room[n] * own / max(own, float64(placed[m]))
		}
	}
}

func placedHere(machine, nodes []int, m int) float64 {
	n := 0.0
	for _, i := range nodes {
		if machine[i] == m {
			n++
		}
	}
	return n
}

// placed counts the stages of all clusters by machine.
func (f *Facts) placed(clusters []Cluster) map[int]int {
	on := map[int]int{}
	if f.Machine == nil {
		return on
	}
	for _, c := range clusters {
		for _, s := range c.Stages {
			on[f.Machine[s.Node]]++
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
