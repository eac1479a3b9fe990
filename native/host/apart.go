// Providers that must have no link: an audit has found that one of two has computed something else,
// and cannot tell which.

package host

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/planner"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
)

// maxBits bounds how many ways to leave somebody out are tried: one for each subset of so many pairs, the
// last of which stands for those behind it.
const maxBits = 6

// without is the part of a pool of which no plan links two that are apart: all, if the plan of all does
// not, or all but one of each pair. It leaves out as few as it can, and those of whom training is slowest.
func (r *roster) without(ask server.Ask) ([]server.Member, error) {
	if len(ask.Apart) == 0 {
		return ask.Pool, nil
	}
	var best []server.Member
	var failed error
	rate := -1.0
	all := choices(ask.Apart)
	slices.SortStableFunc(all, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	for i, out := range all {
		if best != nil && len(out) > len(ask.Pool)-len(best) {
			break
		}
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
	for _, p := range ask.Apart[:min(len(ask.Apart), 8)] {
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

// choices are the ways to leave out at least one of each pair, and nobody more than that takes: nobody at
// first, which the plan must then part by itself.
func choices(pairs [][2]string) (all [][]string) {
	for n := range 1 << min(len(pairs), maxBits) {
		var out []string
		for i, p := range pairs {
			if slices.Contains(out, p[0]) || slices.Contains(out, p[1]) {
				continue
			}
			out = append(out, p[n>>min(i, maxBits-1)&1])
		}
		within := func(a, b []string) bool { // a is a part of b
			return !slices.ContainsFunc(a, func(id string) bool { return !slices.Contains(b, id) })
		}
		if slices.ContainsFunc(all, func(o []string) bool { return within(o, out) }) {
			continue
		}
		all = append(slices.DeleteFunc(all, func(o []string) bool { return within(out, o) }), out)
	}
	return slices.Insert(all, 0, nil)
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
