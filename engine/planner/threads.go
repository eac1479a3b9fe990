// With how many threads each stage computes. Providers of one machine each lend all of its cores, as a
// rule, so that stages which compute at once would get in one another's way. Threads change no bit of the
// result.

package planner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
)

// lent is how many threads a node lends, as far as it is known.
func (f *Facts) lent(node int) int {
	if f.Threads == nil {
		return 1
	}
	return max(f.Threads[node], 1)
}

// wide is how many cores a node takes that computes with so many threads; 0: all that it lends.
func (f *Facts) wide(node, threads int) int {
	n := f.lent(node)
	if threads > 0 {
		n = min(n, threads)
	}
	if f.Machine != nil && f.Cores[node] >= 1 {
		n = min(n, int(f.Cores[node]))
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

// longer is by how much longer a node takes on so many cores than with all threads that it lends: what
// they gain is that of work of which a part is done by one (Amdahl's law).
func (f *Facts) longer(node int, cores float64) float64 {
	all := float64(f.wide(node, 0))
	if cores >= all {
		return 1
	}
	gain := min(f.slow(node), all)
	shared := (1 - 1/gain) / (1 - 1/all)
	return gain * (1 - shared + shared/cores)
}

// splitWorth is by how much a plan in which stages have all threads that are lent must be forecast to be
// faster than one in which those of a machine have its cores between them: threads that wait for others
// hold up more than a forecast knows.
const splitWorth = 1.05

// choose sets what each cluster trains and with how many threads, what its pipeline does and what its
// stages then take.
func (f fill) choose(p *Plan, least int) error {
	split := p.clone()
	if !f.split(split) {
		return f.chooseShares(p, least)
	}
	if err := f.chooseShares(split, least); err != nil {
		return err
	}
	if err := f.chooseShares(p, least); err != nil || p.Rate <= split.Rate*splitWorth {
		*p = *split
	}
	return nil
}

// clone is a copy whose clusters can be changed.
func (p *Plan) clone() *Plan {
	q := *p
	g := *p.GA
	g.Clusters, g.Spares = slices.Clone(g.Clusters), slices.Clone(g.Spares)
	q.GA, q.Clusters = &g, slices.Clone(p.Clusters)
	for c := range q.Clusters {
		q.Clusters[c].Stages = slices.Clone(q.Clusters[c].Stages)
	}
	return &q
}

// split has the stages of each machine that has fewer cores than threads take so many threads that they
// have its cores between them: one each, and each further one where most time is left and it gains.
// false: there is no such machine.
func (f fill) split(p *Plan) (any bool) {
	on := map[int][]*Stage{}
	work := map[*Stage]float64{}
	for c := range p.Clusters {
		stages, err := f.cache.cut(p.Clusters[c].Starts())
		if err != nil {
			return false
		}
		for k := range p.Clusters[c].Stages {
			s := &p.Clusters[c].Stages[k]
			if f.facts.Machine == nil || f.facts.Machine[s.Node] < 0 || f.facts.Cores[s.Node] <= 0 || f.nodes[s.Node].Compute < 1 {
				continue
			}
			on[f.facts.Machine[s.Node]] = append(on[f.facts.Machine[s.Node]], s)
			_, w := f.cache.trains(stages[k])
			work[s] = w.total() / f.nodes[s.Node].Compute
		}
	}
	threads := f.facts.placed(p.Clusters)
	for m, stages := range on {
		cores := int(f.facts.Cores[stages[0].Node])
		if len(stages) == 1 || threads[m] <= float64(cores) {
			continue
		}
		any = true
		for _, s := range stages {
			s.Threads = 1
		}
		for range cores - len(stages) {
			var most *Stage
			time := func(s *Stage, more int) float64 {
				return work[s] * f.facts.longer(s.Node, float64(s.Threads+more))
			}
			for _, s := range stages {
				if time(s, 1) < time(s, 0) && (most == nil || time(s, 0) > time(most, 0)) {
					most = s
				}
			}
			if most == nil {
				break
			}
			most.Threads++
		}
	}
	return any
}

// threads says which stages compute on one thread though their nodes lend more, and forgets limits that
// are none.
func (f fill) threads(cl *Cluster, stages []*graph.Stage) {
	rows := f.rows(cl.MicroBatches)
	for k := range cl.Stages {
		s := &cl.Stages[k]
		lent := f.facts.lent(s.Node)
		if s.Small = lent > 1 && rows[0] < exec.Few(stages[k].Graph); s.Small || s.Threads >= lent {
			s.Threads = 0
		}
	}
}

// threads says for people with how many threads stages compute where it is not all that are lent.
func (c Cluster) threads() (lines []string) {
	var small, fewer []string
	for _, s := range c.Stages {
		switch {
		case s.Small:
			small = append(small, s.Name)
		case s.Threads > 0:
			fewer = append(fewer, fmt.Sprintf("%s on %d", s.Name, s.Threads))
		}
	}
	if small != nil {
		lines = append(lines, fmt.Sprintf("steps of %s are too small for more than one thread", short(small)))
	}
	if fewer != nil {
		lines = append(lines, fmt.Sprintf("providers of one machine share its cores, so these compute on fewer threads than they lend: %s", strings.Join(fewer, ", ")))
	}
	return lines
}
