// Package audit computes again, in this process, what the providers of a run saved and said, and
// names who has done something else.
package audit

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/audit"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// ErrDiffers is wrapped by the error of an audit that has found something.
var ErrDiffers = errors.New("the run is not what the job makes")

// Result is the result of ravnest audit.
type Result struct {
	Command     string   `json:"command"`
	From        uint64   `json:"from_step"`
	To          uint64   `json:"to_step"`
	Checkpoints int      `json:"checkpoints"` // compared
	Updates     int      `json:"updates"`     // whose digests were compared
	Unrecorded  int      `json:"unrecorded"`  // updates of stages without digests
	Faults      []Fault  `json:"faults"`
	Differs     []string `json:"differs,omitempty"` // saved stages that are not what they should be
	Seconds     float64  `json:"seconds"`
	Error       string   `json:"error,omitempty"`
}

// Fault names who is to blame, and for what.
type Fault struct {
	Step     uint64 `json:"step"`
	Cluster  int    `json:"cluster"`
	Stage    int    `json:"stage"`
	Provider string `json:"provider"`
	Or       string `json:"or,omitempty"` // another provider, which may have done it in its place
	What     string `json:"what"`
	// Where there are several replicas: the round, and the replica whose update it was.
	Round   *uint64 `json:"round,omitempty"`
	Replica *int    `json:"replica,omitempty"`

	Who   machine.Who  `json:"-"` // Provider
	Other *machine.Who `json:"-"` // Or
}

func (f Fault) String() string {
	who := fmt.Sprintf("%s (cluster %d, stage %d)", f.Provider, f.Cluster, f.Stage)
	if f.Or != "" {
		who += " or " + f.Or
	}
	at := fmt.Sprintf("step %d", f.Step)
	if f.Round != nil {
		at += fmt.Sprintf(", round %d", *f.Round)
	}
	if f.Replica != nil {
		at += fmt.Sprintf(", replica %d", *f.Replica)
	}
	return fmt.Sprintf("%s: %s: %s", at, who, f.What)
}

// Range says what of a run is audited. The zero value is all from the checkpoint before the
// newest on.
type Range struct {
	All     bool     // from the start on
	Between *Between // these two alone; nil: not given
	Units   int      // so many units from there on, in whole rounds; 0: to the newest checkpoint
	// Round ends it with the end of that round, from the checkpoint before it on or the start.
	Round *uint64
	// Failed has what that attempt did behind Between count, too, though it has failed: up to the step
	// Until at least.
	Failed string
	Until  uint64
	// Replica has only those count, at the end, who trained it in the last round.
	Replica *int
}

// Between is what was trained between two checkpoints, or from the start, where From is nil.
type Between struct{ From, To *snapshot.Manifest }

// auditor is an audit under way.
type auditor struct {
	what Range
	p    *project.Project
	in   Objects
	log  *log
	team *kernel.Team
	out  *console.Console
	job  job.Spec // that was trained: flags may have changed the project's
	// classes are the numeric ones of its last attempt's providers, by name.
	classes map[string]string
	last    *snapshot.Manifest
	told    time.Time

	mu  sync.Mutex
	res *Result
}

// Run computes again what the last run of the project did, and holds against it what the
// providers saved and said. The error wraps ErrDiffers where something differs.
func Run(ctx context.Context, p *project.Project, what Range, threads int, out *console.Console) (Result, error) {
	return RunIn(ctx, p, stored{p}, what, threads, out)
}

// RunIn is Run with what is stored elsewhere than in the project's directory, which a host may be
// adding to.
func RunIn(ctx context.Context, p *project.Project, in Objects, what Range, threads int, out *console.Console) (Result, error) {
	begin := time.Now()
	a := &auditor{what: what, p: p, in: in, out: out, res: &Result{Command: "audit", Faults: []Fault{}}}
	parts, err := a.open(ctx)
	if err != nil {
		return *a.res, err
	}
	if parts != nil {
		a.res.From = parts[0].Position.Step
	}
	if a.res.To = a.what.Until; a.what.Failed == "" {
		a.res.To = a.last.Position.Step
	}
	a.team = kernel.NewTeam(threads)
	defer a.team.Close()
	err = a.run(ctx, parts)
	a.res.Seconds = time.Since(begin).Seconds()
	if err != nil {
		a.res.Error = err.Error()
	}
	return *a.res, err
}

// open reads what there is to audit, and returns the parts to go on from; nil: the start.
func (a *auditor) open(ctx context.Context) (parts []*snapshot.Part, err error) {
	b, from := a.what.Between, uint64(0)
	if b != nil {
		if a.last = b.To; b.From != nil {
			from = b.From.Position.Step
		}
	} else {
		a.last, err = weights.Manifest(a.p)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s has no checkpoint to audit, as train --local saves none: train with serve or demo first", project.ErrMissing, a.p.Dir)
	}
	if err == nil {
		a.log, err = readAudit(ctx, a.in, a.p.RunID(), from)
	}
	if err == nil {
		a.job, a.classes, err = a.trained(ctx)
	}
	switch {
	case err != nil:
		return nil, err
	case b != nil && b.From != nil:
		return a.parts(ctx, b.From)
	case b == nil && !a.what.All:
		return a.prior(ctx)
	}
	return nil, nil
}

// trained is the job of the project's last run, and the numeric class of each of its providers.
func (a *auditor) trained(ctx context.Context) (job.Spec, map[string]string, error) {
	name := a.p.RunID() + "/job.json"
	b, err := readObject(ctx, a.in, name, maxAuditIndex)
	if err != nil {
		return job.Spec{}, nil, fmt.Errorf("reading the record of the run: %w", err)
	}
	var rec struct {
		Job    json.RawMessage `json:"job"`
		Stages []struct {
			Name  string `json:"name"`
			Class string `json:"class"`
		} `json:"stages"`
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return job.Spec{}, nil, fmt.Errorf("%s: %w", name, err)
	}
	j, err := job.Parse(rec.Job)
	if err != nil {
		return j, nil, fmt.Errorf("%s: %w", name, err)
	}
	classes := map[string]string{}
	for _, s := range rec.Stages {
		classes[s.Name] = s.Class
	}
	return j, classes, nil
}

// classed fails where providers of an attempt compute in another numeric class than this machine:
// everything that they did would look wrong.
func classed(j job.Spec, stages []machine.AuditStage) error {
	for _, s := range stages {
		if s.Class != "" && s.Class != kernel.Class() && j.Precision != "bf16" {
			return fmt.Errorf("%.80q is of the numeric class %.20q and this machine of %q: their float32 results differ in the last bits, so that nothing can be compared; with precision bf16 it can", s.Name, s.Class, kernel.Class())
		}
	}
	return nil
}

// prior returns the parts of the last checkpoint before the newest that the store still has;
// nil: there is none.
func (a *auditor) prior(ctx context.Context) ([]*snapshot.Part, error) {
	for i := len(a.log.checkpoints) - 1; i >= 0; i-- {
		c := a.log.checkpoints[i]
		if c.Position.Step >= a.last.Position.Step {
			continue
		}
		if r := a.what.Round; r != nil {
			run, err := a.order(c.Record)
			if err != nil {
				return nil, err
			}
			if run.Round(c.Position.Step) > *r {
				continue
			}
		}
		parts, err := a.parts(ctx, c)
		if Missing(err) {
			return nil, nil
		}
		return parts, err
	}
	return nil, nil
}

// parts opens what a checkpoint consists of.
func (a *auditor) parts(ctx context.Context, c *snapshot.Manifest) (parts []*snapshot.Part, err error) {
	for _, e := range c.Parts {
		if e.Cluster != c.Parts[0].Cluster && !apart(a.job) {
			continue // the first cluster's are the same
		}
		q, err := a.part(ctx, c, e)
		if err != nil {
			return nil, fmt.Errorf("the checkpoint of step %d: %w", c.Position.Step, err)
		}
		parts = append(parts, q)
	}
	return parts, nil
}

// part opens one of them.
func (a *auditor) part(ctx context.Context, c *snapshot.Manifest, e snapshot.Entry) (*snapshot.Part, error) {
	r, err := a.in.Get(ctx, e.Object)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return c.Open(e, r)
}

// run goes through all stretches until one is not as it should be.
func (a *auditor) run(ctx context.Context, parts []*snapshot.Part) error {
	if a.what.Failed != "" {
		return a.failure(ctx, parts)
	}
	ss := a.log.stretches(a.res.From, a.last)
	if at := a.res.From; len(ss) == 0 || ss[0].from != at {
		// Nothing was kept for an audit: the newest checkpoint alone is looked at, as one
		// attempt over the stages that it has.
		if at < a.log.index.Since {
			return fmt.Errorf("the audit log tells of steps from %d on, and this audit begins with step %d: what was older is not kept (serve --audit-log)", a.log.index.Since, at)
		}
		if len(a.log.attempts) > 0 {
			return fmt.Errorf("the audit log does not tell who trained from step %d on", at)
		}
		var err error
		if ss, err = a.unlogged(); err != nil {
			return err
		}
		if a.what.Units > 0 || a.what.Round != nil {
			return errors.New("the job did not ask for what an audit of single rounds needs: set \"audit\": true in job.json for the next run")
		}
		a.out.Say("the job did not ask for what an audit needs: a provider can be named only if one saved state alone is wrong. Set \"audit\": true in job.json for the next run")
	}
	for _, s := range ss {
		next, over, err := a.stretch(ctx, s, parts)
		if err != nil || over {
			return err
		}
		parts = next
	}
	if r := a.what.Round; r != nil && a.what.Units == 0 {
		return fmt.Errorf("round %d is not over at the newest checkpoint, of step %d", *r, a.res.To)
	}
	return nil
}

// failure goes through what led to the failure of an attempt.
func (a *auditor) failure(ctx context.Context, parts []*snapshot.Part) error {
	var ss []stretch
	at := a.res.From
	if a.last != nil && a.last.Position.Step > at {
		if ss = a.log.stretches(at, a.last); len(ss) == 0 {
			return fmt.Errorf("the audit log does not tell who trained from step %d on", at)
		}
		at = a.last.Position.Step
	}
	x := a.log.attempt(a.what.Failed)
	if x == nil {
		return fmt.Errorf("the audit log does not tell of attempt %s", a.what.Failed)
	}
	if x.plan.From > at {
		return fmt.Errorf("attempt %s went on from step %d, and what is right ends at step %d", a.what.Failed, x.plan.From, at)
	}
	for _, s := range append(ss, stretch{attempt: x, from: at, until: a.what.Until, open: true}) {
		next, _, err := a.stretch(ctx, s, parts)
		if err != nil {
			return err
		}
		parts = next
	}
	return nil
}

// order is the run's order of work, with the number of replicas that a record ends with.
func (a *auditor) order(record []order.Period) (order.Run, error) {
	j, err := a.job.In(record)
	if err != nil {
		return order.Run{}, err
	}
	return j.Order(a.p.Data.Train.Len(), a.p.Data.Val.Len()), nil
}

// cut ends a stretch with the last round that is asked for, if that is in it.
func (a *auditor) cut(s *stretch, run order.Run) (over bool) {
	if n := a.what.Units; n > 0 && a.what.Round == nil {
		replicas := max(run.Replicas, 1)
		last := run.Round(s.from) + uint64((n+replicas-1)/replicas) - 1
		a.what.Round = &last
	}
	if a.what.Round == nil {
		return false
	}
	n := sort.Search(int(s.until-s.from), func(i int) bool { return run.Round(s.from+uint64(i)) > *a.what.Round })
	end := s.from + uint64(n)
	// The run's last round may be a short one.
	if over = end < s.until || run.Round(end) > *a.what.Round || end == uint64(run.Total()) && run.Round(end-1) == *a.what.Round; over {
		s.until, a.res.To = end, end
	}
	return over
}

// unlogged is the stretch of a run without a log: all of it, cut as the newest checkpoint is. It
// is several where the number of replicas has changed.
func (a *auditor) unlogged() (ss []stretch, err error) {
	var stages []machine.AuditStage
	var starts []int
	pl := provider.Plan{Train: a.p.Data.Train.Len(), Val: a.p.Data.Val.Len()}
	for _, e := range a.last.Parts {
		if e.Cluster != a.last.Parts[0].Cluster {
			if apart(a.job) {
				return nil, errApart
			}
			continue
		}
		stages = append(stages, machine.AuditStage{Cluster: e.Cluster, Stage: e.Stage, Segment: e.Segment, Name: e.Provider, Class: a.classes[e.Provider]})
		starts = append(starts, e.Segment.From)
	}
	pl.Clusters = []stage.Cluster{{Starts: starts}}
	record := a.last.Record
	for i := range max(len(record), 1) {
		from, until := uint64(0), a.last.Position.Step
		if len(record) > 0 {
			pl.Record, from = record[:i+1], record[i].Step
		}
		if i+1 < len(record) {
			until = record[i+1].Step
		}
		if from == until {
			continue
		}
		plan := &machine.AuditPlan{Generation: a.last.Generation, Stages: stages}
		if plan.Plan, err = json.Marshal(pl); err != nil {
			return nil, err
		}
		ss = append(ss, stretch{attempt: &attempt{run: a.last.Run, plan: plan}, from: from, until: until})
	}
	return ss, nil
}

var errApart = errors.New("nothing says which cluster trained which replicas, whose optimizers are their own: set \"audit\": true in job.json for the next run")

// apart reports whether clusters have states of their own between two rounds.
func apart(j job.Spec) bool { return j.Averaging().Optimizer == job.KeepState }

// replay plans to train what one attempt did again, and returns the job with what the first
// cluster's planner chose.
func (a *auditor) replay(s stretch) (*audit.Replay, job.Spec, error) {
	fail := func(err error) (*audit.Replay, job.Spec, error) {
		return nil, job.Spec{}, fmt.Errorf("the plan of attempt %s: %w", s.run, err)
	}
	if err := classed(a.job, s.plan.Stages); err != nil {
		return fail(err)
	}
	r, j, plan, err := provider.Replay(a.p.Graph, a.job, s.plans())
	if err != nil {
		return fail(err)
	}
	n := 0
	for c, cl := range plan.Clusters {
		for k := range cl.Starts {
			if n >= len(s.plan.Stages) || s.plan.Stages[n].Cluster != c+s.plan.Stages[0].Cluster || s.plan.Stages[n].Stage != k {
				return fail(fmt.Errorf("it is not one of %d providers", len(s.plan.Stages)))
			}
			n++
		}
	}
	if n == 0 || n != len(s.plan.Stages) {
		return fail(fmt.Errorf("it is not one of %d providers", len(s.plan.Stages)))
	}
	return r, j, native.Room(r.Memory(), "training all stages of the run again in one process")
}

// plans are the attempt's, by cluster.
func (s stretch) plans() []json.RawMessage {
	return append([]json.RawMessage{s.plan.Plan}, s.plan.Others...)
}

// stretch trains what one attempt did again, and returns the state at its end, and whether nothing
// more is asked for.
func (a *auditor) stretch(ctx context.Context, s stretch, parts []*snapshot.Part) (next []*snapshot.Part, over bool, err error) {
	r, j, err := a.replay(s)
	if err != nil {
		return nil, false, err
	}
	d := a.p.Data
	var opened []*project.Rows
	defer func() {
		for _, in := range opened {
			in.Close()
		}
	}()
	r.Rows = func(cfg *stage.Config) {
		in := a.p.Rows(ctx)
		opened = append(opened, in)
		r.Visits, cfg.TrainX, cfg.TrainY, cfg.ValX, cfg.ValY = in.Visits, in.TrainX, in.TrainY, in.ValX, in.ValY
	}
	run := j.Order(d.Train.Len(), d.Val.Len())
	over = a.cut(&s, run)
	r.Parts, r.From, r.Until, r.Marks = parts, s.from, s.until, map[uint64]bool{}
	r.Config = stage.Config{TrainRows: d.Train.Len(), ValRows: d.Val.Len(), Order: data.Order, Team: a.team, Weights: a.p.Weights}
	r.Rows(&r.Config)
	k := &comparison{ctx: ctx, auditor: a, stretch: s, run: run, trail: r.Trail(), names: map[stage.Peer]string{}, who: map[stage.Peer]machine.Who{}, kept: map[stage.Peer]*snapshot.Part{}, compared: map[uint64]bool{}}
	k.first = s.plan.Stages[0].Cluster
	r.Keys = map[stage.Peer][]byte{}
	for _, x := range s.plan.Stages {
		p := k.at(x.Cluster, x.Stage)
		k.names[p], k.who[p] = x.Name, machine.Who{Name: x.Name, Key: x.ID}
		if r.Keys[p], err = hex.DecodeString(x.Key); err != nil {
			return nil, false, fmt.Errorf("the key of %.80q's digests in the audit log: %w", x.Name, err)
		}
	}
	for _, c := range append(slices.Clone(a.log.checkpoints), a.last) {
		if c != nil && c.Run == s.run && (c.Position.Step > s.from || s.from == s.until) && c.Position.Step <= s.until {
			k.against = append(k.against, c)
			if j.Schedule != job.Async {
				r.Marks[c.Position.Step] = true
			}
		}
	}
	if k.said, r.Open, err = a.log.said(ctx, s); err != nil {
		return nil, false, err
	}
	k.left = r.Open
	err = r.Run(ctx, &audit.Watcher{Commit: k.commit, Opened: k.opened, Kept: k.keep, Step: a.progress})
	if s.open {
		return nil, true, errors.Join(k.verdict(), err)
	}
	if err != nil {
		return nil, false, fmt.Errorf("training again from step %d: %w", s.from, err)
	}
	for _, x := range s.plan.Stages {
		q := k.kept[k.at(x.Cluster, x.Stage)]
		if q == nil || q.Position.Step != s.until {
			return nil, false, fmt.Errorf("training again from step %d did not end at step %d", s.from, s.until)
		}
		if x.Cluster == k.first || apart(j) {
			next = append(next, q)
		}
	}
	a.res.Unrecorded += k.trail.Missing()
	a.res.Checkpoints += len(k.compared)
	if over && a.what.Replica != nil {
		k.of = r.Trains(*a.what.Replica)
	}
	return next, over, k.verdict()
}

// progress says how far it is, now and then.
func (a *auditor) progress(done uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.told) >= 2*time.Second {
		a.told = now
		a.out.Say("auditing: %d of %d steps", done-a.res.From, a.res.To-a.res.From)
	}
}
