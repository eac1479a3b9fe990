// Providers that must have no link: an audit has found that one of two has computed something else,
// and cannot tell which.

package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/planner"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
)

// maxChoices bounds how many ways to leave somebody out are tried, one for each subset of pairs.
const maxChoices = 1 << 6

// without is the part of a pool with which training is fastest and no plan links two that are apart:
// all, if the plan of all does not, or all but one of each pair.
func (r *roster) without(ask server.Ask) ([]server.Member, error) {
	if len(ask.Apart) == 0 {
		return ask.Pool, nil
	}
	var best []server.Member
	var failed error
	rate := -1.0
	for i, out := range choices(ask.Apart) {
		pool := slices.DeleteFunc(slices.Clone(ask.Pool), func(m server.Member) bool { return slices.Contains(out, m.ID) })
		if len(pool) == 0 {
			continue
		}
		_, plan, err := r.formed(pool, true)
		switch {
		case err != nil:
			failed = err
			continue
		case i == 0 && r.links(plan, pool, ask.Apart):
			continue // the plan of all
		}
		if plan.Rate > rate {
			best, rate = pool, plan.Rate
		}
	}
	name := func(id string) string {
		return ask.Pool[slices.IndexFunc(ask.Pool, func(m server.Member) bool { return m.ID == id })].Name
	}
	var pairs []string
	for _, p := range ask.Apart {
		pairs = append(pairs, name(p[0])+" and "+name(p[1]))
	}
	if best == nil {
		if failed == nil {
			failed = fmt.Errorf("nobody else is here")
		}
		return nil, fmt.Errorf("%w: no link may be between %s: %w", server.ErrPool, strings.Join(pairs, ", "), failed)
	}
	var out []string
	for _, m := range ask.Pool {
		if !slices.ContainsFunc(best, func(o server.Member) bool { return o.ID == m.ID }) {
			out = append(out, m.Name)
		}
	}
	if len(out) > 0 {
		r.opt.Console.Say("no link may be between %s: %s to spare", strings.Join(pairs, ", "), strings.Join(out, ", "))
	}
	return best, nil
}

// choices are the ways to leave out at least one of each pair: nobody at first, which the plan must
// then part by itself.
func choices(pairs [][2]string) (all [][]string) {
	all = append(all, nil)
	for n := range min(1<<min(len(pairs), 30), maxChoices) {
		var out []string
		for i, p := range pairs {
			if slices.Contains(out, p[0]) || slices.Contains(out, p[1]) {
				continue
			}
			out = append(out, p[n>>min(i, 30)&1])
		}
		if !slices.ContainsFunc(all, func(o []string) bool { return slices.Equal(o, out) }) {
			all = append(all, out)
		}
	}
	return all
}

// links tells whether a plan links two that must be apart.
func (r *roster) links(plan *planner.Plan, pool []server.Member, apart [][2]string) bool {
	var as []server.Assignment
	for c, cl := range plan.Clusters {
		starts := append(cl.Starts(), len(r.p.Graph.Nodes))
		for k, s := range cl.Stages {
			if i := slices.IndexFunc(pool, func(m server.Member) bool { return m.Name == s.Name }); i >= 0 {
				as = append(as, server.Assignment{MemberID: pool[i].ID, Cluster: c, Stage: k, Segment: snapshot.Segment{From: starts[k], To: starts[k+1]}})
			}
		}
	}
	_, found := machine.Together(as, apart)
	return found
}
