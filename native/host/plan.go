// Plans that the host makes for who is there.

package host

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// placed is what an attempt's stages are. What they upload can come when the next is planned.
type placed struct {
	run      string
	plan     *project.Stored
	job      job.Spec         // with its number of replicas
	stages   [][]*graph.Stage // by cluster
	clusters []stage.Cluster
	took     map[string]float64 // that it was planned with
}

// place is the server's planner: it uses the stored plan with its names, or plans by the
// members' benchmarks.
func (r *roster) place(_ context.Context, ask server.Ask) ([]server.Assignment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, server.ErrStopped
	}
	r.ask = ask
	pool, err := r.without(ask)
	if err != nil {
		return nil, err
	}
	if r.opt.Providers > 0 || ask.Free {
		if err := r.planClass(pool, ask.Free); err != nil {
			return nil, err
		}
	}
	j, err := form.Job(r.p, &r.plan.Plan, ask.Record, ask.Step)
	if err != nil {
		return nil, err
	}
	r.job = j
	byName := map[string]server.Member{}
	for _, m := range pool {
		byName[m.Name] = m
	}
	var as []server.Assignment
	var members []server.Member
	r.placed = slices.DeleteFunc(r.placed, func(p placed) bool { return p.run == ask.Run }) // planned for others
	now := placed{run: ask.Run, plan: r.plan, job: j, took: r.took}
	var need, ram [][]int64 // by cluster and stage
	all := form.Clusters(&r.plan.Plan, j)
	now.clusters = all
	for c, cl := range r.plan.Clusters {
		starts := cl.Starts()
		raw, err := json.Marshal(provider.Plan{Clusters: all, Train: r.p.Data.Train.Len(), Val: r.p.Data.Val.Len(), MicroBatches: cl.MicroBatches, InFlight: cl.InFlight, Halves: cl.Halves, Threads: threads(cl), Record: j.Periods})
		if err != nil {
			return nil, err
		}
		stages, err := r.p.Graph.Cut(starts)
		if err != nil {
			return nil, err
		}
		now.stages = append(now.stages, stages)
		need, ram = append(need, nil), append(ram, nil)
		for k, s := range cl.Stages {
			m, ok := byName[s.Name]
			if !ok {
				return nil, fmt.Errorf("%w: the plan needs a provider %q, which has not joined", server.ErrPool, s.Name)
			}
			memory := int64(s.Memory)
			if m.Hello.RAM > 0 && memory > m.Hello.RAM {
				return nil, fmt.Errorf("%w: %w: stage %d of cluster %d needs %s, but provider %s lends %s", server.ErrPool, ga.ErrRAM, k, c, native.FormatSize(memory), s.Name, native.FormatSize(m.Hello.RAM))
			}
			members = append(members, m)
			need[c], ram[c] = append(need[c], memory), append(ram[c], m.Hello.RAM)
			seg := snapshot.Segment{From: starts[k], To: len(r.p.Graph.Nodes)}
			if k+1 < len(starts) {
				seg.To = starts[k+1]
			}
			as = append(as, server.Assignment{
				MemberID: m.ID, Cluster: c, Stage: k, Stages: len(cl.Stages), Segment: seg, MaxUpload: maxPart(j, stages[k], stage.Placement{Cluster: c, Clusters: all}),
				Graph: r.refs.graph, Data: r.refs.data, Weights: r.refs.weights, Plan: raw, Record: j.Periods, Share: len(all[c].Replicas), Forecast: cl.Rate,
			})
		}
	}
	if r.p.Job.Audit {
		for i := range as {
			as[i].DigestKey = digestKey()
		}
	}
	r.noteClass(members)
	r.placed = append(r.placed[max(0, len(r.placed)-7):], now)
	if err := hold(as, now, need, ram); err != nil {
		return nil, err
	}
	if err := r.opened(); err != nil || !r.p.Job.Auto() {
		return as, err
	}
	return as, r.unlessBegun(r.p.WriteRounds(j.Periods))
}

// threads are those that the stages of a cluster compute with; nil: all that are lent.
func threads(cl planner.Cluster) (n []int) {
	if slices.ContainsFunc(cl.Stages, func(s planner.Stage) bool { return s.Threads > 0 }) {
		for _, s := range cl.Stages {
			n = append(n, s.Threads)
		}
	}
	return n
}

// digestKey draws a key for the digests of one stage in one attempt.
func digestKey() string {
	var k [stage.KeySize]byte
	_, _ = rand.Read(k[:]) // never fails (crypto/rand)
	return hex.EncodeToString(k[:])
}

// formed is a plan by the members' benchmarks, and the members as nodes.
func (r *roster) formed(pool []server.Member, free bool) ([]project.Node, *planner.Plan, error) {
	return r.form(r.facts(pool), r.ask, pool, free)
}

// form is formed with what is known of the pool and what was asked for. It needs no lock.
func (r *roster) form(f planner.Facts, ask server.Ask, pool []server.Member, free bool) ([]project.Node, *planner.Plan, error) {
	var nodes []project.Node
	var gn []ga.Node
	model := planner.ModelOf(r.p.Graph, r.p.Job.BatchSize)
	for i, m := range pool {
		h := m.Hello
		n := project.Node{Address: fmt.Sprintf("0.0.0.0:%d", 8080+i), Node: ga.Node{
			Name: m.Name, RAM: float64(h.RAM), Bandwidth: min(h.Bench.Up, h.Bench.Down), Compute: model.Compute(speeds(h)),
		}}
		nodes, gn = append(nodes, n), append(gn, n.Node)
	}
	siblings(pool, gn)
	for i := range nodes {
		nodes[i].Node = gn[i]
	}
	replicas := 0
	if n := len(ask.Record); n == order.MaxPeriods {
		replicas = ask.Record[n-1].Replicas // no more changes fit
	}
	plan, err := form.Make(r.p, f, ga.Repair(gn), replicas, func(j job.Spec) ga.Options {
		opt := form.Options(j, len(pool), r.opt.Clusters)
		if ask.Single {
			opt.MaxClusters = 1
		} else if !free || len(pool) >= r.opt.Providers && r.p.Job.Auto() {
			opt.MinClusters = r.opt.Clusters // after a loss fewer are better than none
		}
		// Who would slow the others is better kept to take the place of one that is lost.
		opt.Spares = r.opt.Clusters == 0 && !r.opt.All && (j.Replica() > 1 || r.opt.Providers > 0)
		return opt
	})
	return nodes, plan, err
}

// speeds are those that a member measured, but for what no machine can do.
func speeds(h proto.Hello) planner.Speeds {
	possible := func(measured, most float64) float64 {
		if measured > most {
			return 0
		}
		return measured
	}
	most := provider.Peak(h.Threads)
	return planner.Speeds{
		Product: possible(h.Bench.GEMM, most), Conv: possible(h.Bench.Conv, most),
		Vector: possible(h.Bench.Vector, provider.VectorPeak(h.Threads)), Alone: possible(h.Bench.Alone, provider.Peak(1)),
	}
}

// worth tells whether a pool that has grown would be planned otherwise than those who train: a run
// that trains is stopped for nothing else.
func (r *roster) worth(pool []server.Member) bool {
	r.mu.Lock()
	if exact(r.p.Job) {
		pool, _ = ofClass(pool, r.class, max(r.opt.Providers, 1))
	}
	rest, settled, ask := r.training(pool), r.settled(pool), r.ask
	known, fewer := r.facts(pool), r.facts(settled)
	r.mu.Unlock()
	if len(rest) == 0 {
		return true // they are not all here, so that the run is about to be planned anew
	}
	_, with, err := r.form(known, ask, pool, true)
	if err != nil {
		return false
	}
	comes := func(name string) bool {
		return !slices.ContainsFunc(rest, func(m server.Member) bool { return m.Name == name })
	}
	if !slices.ContainsFunc(with.Clusters, func(c planner.Cluster) bool {
		return slices.ContainsFunc(c.Stages, func(s planner.Stage) bool { return comes(s.Name) })
	}) {
		return false
	}
	if settled == nil {
		return true
	}
	_, without, err := r.form(fewer, ask, settled, true)
	return err != nil || !r.spared(pool, settled, with, without)
}

// spared tells, and says, that a plan with newcomers is no faster than one without them.
func (r *roster) spared(pool, rest []server.Member, with, without *planner.Plan) bool {
	if with.Rate <= 0 || without.Rate < with.Rate {
		return false
	}
	r.opt.Console.Say("%d newcomer(s) to spare: with them %s are forecast, without them %s", len(pool)-len(rest), planner.Speed(with.Rate), planner.Speed(without.Rate))
	return true
}

// training are the members that the last plan was for, if all of them are here; else none.
func (r *roster) training(pool []server.Member) []server.Member {
	if r.plan == nil {
		return nil
	}
	used := r.used()
	rest := slices.DeleteFunc(slices.Clone(pool), func(m server.Member) bool { return !used[m.Name] })
	if len(rest) < len(used) {
		return nil
	}
	return rest
}

// used are the names in the last plan.
func (r *roster) used() map[string]bool {
	used := map[string]bool{}
	for _, c := range r.plan.Clusters {
		for _, s := range c.Stages {
			used[s.Name] = true
		}
	}
	return used
}

// settled are the members that the last plan was for, if all of them are here and others beside
// them, in a job that takes newcomers; else none.
func (r *roster) settled(pool []server.Member) []server.Member {
	if r.p.Job.Auto() || !grows(r.p.Job, r.opt) {
		return nil
	}
	rest := r.training(pool)
	if len(rest) == len(pool) {
		return nil
	}
	return rest
}

// planPool plans by the members' benchmarks and writes the plan to the project. free says that
// somebody was lost, or that more have come.
func (r *roster) planPool(pool []server.Member, free bool) error {
	nodes, plan, err := r.formed(pool, free)
	if kept := r.kept(pool, nodes, free); kept != nil && (err != nil || r.opt.Clusters > 0 || r.opt.All || plan.Rate <= kept.Rate*worthMoving) {
		plan, err = kept, nil
	}
	if rest := r.settled(pool); err == nil && rest != nil {
		if _, without, err := r.formed(rest, free); err == nil && r.spared(pool, rest, plan, without) {
			return r.planPool(rest, free)
		}
	}
	// Leave out providers that lend too little for any stage, if there are enough others.
	var small *planner.TooSmall
	if errors.As(err, &small) && len(pool)-len(small.Members) >= max(r.opt.Providers, 1) {
		var rest []server.Member
		for i, m := range pool {
			if !slices.Contains(small.Members, i) {
				rest = append(rest, m)
			}
		}
		r.opt.Console.Say("not used for now: %v", small)
		return r.planPool(rest, free)
	}
	if err == nil && r.p.Job.Auto() && len(plan.GA.Spares) > 0 {
		// Who does not train has no replica.
		var rest []server.Member
		var out []string
		for i, m := range pool {
			if slices.Contains(plan.GA.Spares, i) {
				out = append(out, m.Name)
			} else {
				rest = append(rest, m)
			}
		}
		r.opt.Console.Say("%s to spare: training would be slower with them", strings.Join(out, ", "))
		return r.planPool(rest, free)
	}
	if !r.opt.Alone && (errors.Is(err, ga.ErrRAM) || errors.Is(err, ga.ErrInvalid)) {
		return fmt.Errorf("%w: %w", server.ErrPool, err)
	}
	if err != nil {
		return err
	}
	// Move the older run's weights aside before its plan, which locates them, is replaced.
	if err := r.opened(); err != nil {
		return err
	}
	stored, err := r.p.WritePlan(nodes, plan)
	if stored == nil {
		return err
	}
	took := r.loads.took()
	if len(took) > 0 && !maps.Equal(took, r.took) {
		r.opt.Console.Say("planned by what was seen: %s", seen(took))
	}
	r.plan, r.took = stored, took
	return r.unlessBegun(err)
}

// worthMoving is by how much training must be forecast to be faster for stages to move after a loss.
const worthMoving = 1.1

// kept is the last plan with others in the places of those who are lost, if there are enough who lend
// as much as is needed; else nil. A pool that is whole without those is no new one once the run trains.
func (r *roster) kept(pool []server.Member, nodes []project.Node, free bool) *planner.Plan {
	if !free && !r.trained || r.plan == nil || r.ask.Single || len(r.ask.Apart) > 0 {
		return nil
	}
	used, at := r.used(), map[string]int{}
	lost := len(used)
	var gn []ga.Node
	var heirs []int
	for i, n := range nodes {
		at[n.Name], gn = i, append(gn, n.Node)
		if used[n.Name] {
			lost--
		} else {
			heirs = append(heirs, i)
		}
	}
	if lost == 0 || len(heirs) < lost {
		return nil
	}
	j := r.p.Job
	if j.Auto() {
		j.Replicas = job.Count(r.plan.Replicas)
	}
	plan, err := r.facts(pool).Keep(j, r.p.Graph, ga.Repair(gn), &r.plan.Plan, r.opt.Clusters, func(name string) int {
		i, ok := at[name]
		if !ok {
			i, heirs = heirs[0], heirs[1:]
		}
		return i
	})
	if err != nil {
		return nil
	}
	return plan
}

// unlessBegun is an error of writing what a run can go on without, if it has not begun. Else it
// is told.
func (r *roster) unlessBegun(err error) error {
	if err == nil || !r.trained && !r.resumes {
		return err
	}
	r.opt.Console.Say("warning: %v: the run goes on all the same", err)
	return nil
}

// siblings replaces the benchmarks of providers on this machine that use equally many threads
// by their median. They were measured at the same time and disturbed each other, and equal
// machines should get the same cuts in every run.
func siblings(pool []server.Member, nodes []ga.Node) {
	groups := map[int][]int{}
	for i, m := range pool {
		if host, _, err := net.SplitHostPort(m.Addr); err == nil && net.ParseIP(host).IsLoopback() {
			groups[m.Hello.Threads] = append(groups[m.Hello.Threads], i)
		}
	}
	for _, g := range groups {
		for _, field := range []func(*ga.Node) *float64{
			func(n *ga.Node) *float64 { return &n.Compute },
			func(n *ga.Node) *float64 { return &n.Bandwidth },
		} {
			var vs []float64
			for _, i := range g {
				vs = append(vs, *field(&nodes[i]))
			}
			slices.Sort(vs)
			for _, i := range g {
				*field(&nodes[i]) = vs[len(vs)/2]
			}
		}
	}
}
