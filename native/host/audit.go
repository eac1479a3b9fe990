// Auditing a run: what providers saved and said is computed again in this process.

package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
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
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// ErrAudit is wrapped by the error of an audit that has found something.
var ErrAudit = errors.New("the run is not what the job makes")

// Audit is the result of ravnest audit.
type Audit struct {
	Command     string       `json:"command"`
	From        uint64       `json:"from_step"`
	To          uint64       `json:"to_step"`
	Checkpoints int          `json:"checkpoints"` // compared
	Updates     int          `json:"updates"`     // whose digests were compared
	Unrecorded  int          `json:"unrecorded"`  // updates of stages without digests
	Faults      []AuditFault `json:"faults"`
	Differs     []string     `json:"differs,omitempty"` // saved stages that are not what they should be
	Seconds     float64      `json:"seconds"`
	Error       string       `json:"error,omitempty"`
}

// AuditFault names who is to blame, and for what.
type AuditFault struct {
	Step     uint64 `json:"step"`
	Cluster  int    `json:"cluster"`
	Stage    int    `json:"stage"`
	Provider string `json:"provider"`
	Or       string `json:"or,omitempty"` // another provider, which may have done it in its place
	What     string `json:"what"`
	// Where there are several replicas: the round, and the replica whose update it was.
	Round   *uint64 `json:"round,omitempty"`
	Replica *int    `json:"replica,omitempty"`

	who machine.Who
	or  *machine.Who
}

func (f AuditFault) String() string {
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

// maxAuditLine bounds a line of the log, which is about one message of a provider.
const maxAuditLine = 4 << 20

// log is what the host kept for an audit.
type auditLog struct {
	attempts    []*auditAttempt
	checkpoints []*snapshot.Manifest
}

// moment is the update, or the average of the round, that ends with a batch.
type moment struct {
	step  uint64
	round bool
}

// auditAttempt is an attempt, with what its stages said.
type auditAttempt struct {
	run  string
	plan *machine.AuditPlan
	// checkpoints is how many there were when it began.
	checkpoints int

	said map[stage.Peer]map[moment]stage.Digest
}

// readAudit reads the log of a job's run.
func readAudit(p *project.Project) (*auditLog, error) {
	path := filepath.Join(p.Dir, storeDir, filepath.FromSlash(machine.AuditLog(runID(p.Job.Name)))+".jsonl")
	f, _, err := project.OpenRegular(path, "audit log")
	if errors.Is(err, project.ErrMissing) {
		return &auditLog{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := parseAudit(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

func parseAudit(r io.Reader) (*auditLog, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxAuditLine)
	l := &auditLog{}
	var torn error // a line that cannot be read: the last one may be cut off
	for n := 1; in.Scan(); n++ {
		if torn != nil {
			return nil, torn
		}
		var x machine.AuditLine
		if err := json.Unmarshal(in.Bytes(), &x); err != nil {
			torn = fmt.Errorf("line %d: %w", n, err)
			continue
		}
		if err := l.add(&x); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return l, in.Err()
}

func (l *auditLog) add(x *machine.AuditLine) error {
	switch {
	case x.Plan != nil:
		if x.Plan.Generation == 1 { // begun anew
			*l = auditLog{}
		}
		l.attempts = append(l.attempts, &auditAttempt{run: x.Run, plan: x.Plan, checkpoints: len(l.checkpoints), said: map[stage.Peer]map[moment]stage.Digest{}})
	case x.Said != nil:
		a := l.attempt(x.Run)
		if a == nil {
			return fmt.Errorf("digests of the unknown attempt %.80q", x.Run)
		}
		by := stage.Peer{Cluster: x.Said.Cluster, Stage: x.Said.Stage}
		for _, d := range x.Said.Digests {
			g, err := stage.ParseDigest(uint64(d.Step), d.Round, d.Sums, d.Rings)
			if err != nil {
				return err
			}
			if a.said[by] == nil {
				a.said[by] = map[moment]stage.Digest{}
			}
			a.said[by][moment{g.Step, g.Round}] = g
		}
	case x.Checkpoint != nil:
		if err := x.Checkpoint.Check(0); err != nil {
			return err
		}
		l.checkpoints = append(l.checkpoints, x.Checkpoint)
	case x.Back != nil:
		l.checkpoints = slices.DeleteFunc(l.checkpoints, func(c *snapshot.Manifest) bool { return c.Position.Step > *x.Back })
	}
	return nil
}

func (l *auditLog) attempt(run string) *auditAttempt {
	for i := len(l.attempts) - 1; i >= 0; i-- {
		if l.attempts[i].run == run {
			return l.attempts[i]
		}
	}
	return nil
}

// stretch is what one attempt has done of the result.
type stretch struct {
	*auditAttempt
	from, until uint64
}

// stretches are the attempts that made the checkpoint last, from step from on: the one that
// saved it, the one that saved what that one began with, and so on.
func (l *auditLog) stretches(from uint64, last *snapshot.Manifest) (ss []stretch) {
	for c := last; c != nil && c.Position.Step > from; {
		a := l.attempt(c.Run)
		if a == nil || a.plan.From >= c.Position.Step {
			return nil
		}
		ss = append(ss, stretch{a, max(a.plan.From, from), c.Position.Step})
		next := l.before(a)
		if next == nil && a.plan.From > from {
			return nil
		}
		c = next
	}
	slices.Reverse(ss)
	return ss
}

// before is the checkpoint that an attempt began with; nil: it began with the seed, or the
// log does not have it.
func (l *auditLog) before(a *auditAttempt) *snapshot.Manifest {
	for i := min(a.checkpoints, len(l.checkpoints)) - 1; i >= 0; i-- {
		if c := l.checkpoints[i]; c.Position.Step == a.plan.From {
			return c
		}
	}
	return nil
}

// AuditRange says what of a run is audited. The zero value is all from the checkpoint before the
// newest on.
type AuditRange struct {
	All     bool     // from the start on
	Between *Between // these two alone; nil: not given
	Units   int      // so many units from there on, in whole rounds; 0: to the newest checkpoint
	// Round ends it with the end of that round, from the checkpoint before it on or the start.
	Round *uint64
	// Replica has only those count, at the end, who trained it in the last round.
	Replica *int
}

// Between is what was trained between two checkpoints, or from the start, where From is nil.
type Between struct{ From, To *snapshot.Manifest }

// auditor is an audit under way.
type auditor struct {
	what AuditRange
	p    *project.Project
	log  *auditLog
	team *kernel.Team
	out  Output
	job  job.Spec // that was trained: flags may have changed the project's
	// classes are the numeric ones of its last attempt's providers, by name.
	classes map[string]string
	last    *snapshot.Manifest
	told    time.Time

	mu  sync.Mutex
	res *Audit
}

// AuditRun computes again what the last run of the project did, and holds against it what the
// providers saved and said. The error wraps ErrAudit where something differs.
func AuditRun(ctx context.Context, p *project.Project, what AuditRange, threads int, out Output) (Audit, error) {
	begin := time.Now()
	a := &auditor{what: what, p: p, out: out, res: &Audit{Command: "audit", Faults: []AuditFault{}}}
	var m *snapshot.Manifest
	var err error
	if b := what.Between; b != nil {
		m = b.To
	} else {
		m, err = readManifest(p)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no checkpoint to audit: %w: train with serve or demo first", err)
	}
	if err != nil {
		return *a.res, err
	}
	a.last = m
	if a.log, err = readAudit(p); err != nil {
		return *a.res, err
	}
	if a.job, a.classes, err = trainedJob(p); err != nil {
		return *a.res, err
	}
	var parts []*snapshot.Part
	switch b := what.Between; {
	case b != nil && b.From != nil:
		parts, err = a.parts(b.From)
	case b == nil && !what.All:
		parts, err = a.prior()
	}
	if err != nil {
		return *a.res, err
	}
	if parts != nil {
		a.res.From = parts[0].Position.Step
	}
	a.res.To = m.Position.Step
	a.team = kernel.NewTeam(threads)
	defer a.team.Close()
	err = a.run(ctx, parts)
	a.res.Seconds = time.Since(begin).Seconds()
	if err != nil {
		a.res.Error = err.Error()
	}
	return *a.res, err
}

// trainedJob is the job of the project's last run, and the numeric class of each of its providers.
func trainedJob(p *project.Project) (job.Spec, map[string]string, error) {
	path := filepath.Join(p.Dir, storeDir, runID(p.Job.Name), "job.json")
	f, size, err := project.OpenRegular(path, "record of the run")
	if err != nil {
		return job.Spec{}, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(size, maxAuditLine)))
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
		return job.Spec{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	j, err := job.Parse(rec.Job)
	if err != nil {
		return j, nil, fmt.Errorf("%s: %w", path, err)
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

// parseManifest reads a checkpoint's manifest.
func parseManifest(p *project.Project, path string) (*snapshot.Manifest, error) {
	f, size, err := project.OpenRegular(path, "manifest")
	if errors.Is(err, project.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(size, snapshot.MaxManifest)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	m, err := snapshot.ParseManifest(b)
	if err == nil {
		err = m.Check(len(p.Graph.Nodes))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// prior returns the parts of the last checkpoint before the newest that the store still has;
// nil: there is none.
func (a *auditor) prior() ([]*snapshot.Part, error) {
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
			if run.Round(run.At(c.Position.Step)) > *r {
				continue
			}
		}
		parts, err := a.parts(c)
		if errors.Is(err, project.ErrMissing) {
			return nil, nil
		}
		return parts, err
	}
	return nil, nil
}

// parts opens what a checkpoint consists of.
func (a *auditor) parts(c *snapshot.Manifest) (parts []*snapshot.Part, err error) {
	for _, e := range c.Parts {
		if e.Cluster != c.Parts[0].Cluster && !apart(a.job) {
			continue // the first cluster's are the same
		}
		q, err := openPart(a.p, c, e)
		if err != nil {
			return nil, fmt.Errorf("the checkpoint of step %d: %w", c.Position.Step, err)
		}
		parts = append(parts, q)
	}
	return parts, nil
}

// run goes through all stretches until one is not as it should be.
func (a *auditor) run(ctx context.Context, parts []*snapshot.Part) error {
	ss := a.log.stretches(a.res.From, a.last)
	if at := a.res.From; len(ss) == 0 || ss[0].from != at {
		// Nothing was kept for an audit: the newest checkpoint alone is looked at, as one
		// attempt over the stages that it has.
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
		a.out.say("the job did not ask for what an audit needs: a provider can be named only if one saved state alone is wrong. Set \"audit\": true in job.json for the next run")
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
	round := func(step uint64) uint64 { return run.Round(run.At(step)) }
	if n := a.what.Units; n > 0 && a.what.Round == nil {
		replicas := max(run.Replicas, 1)
		last := round(s.from) + uint64((n+replicas-1)/replicas) - 1
		a.what.Round = &last
	}
	if a.what.Round == nil {
		return false
	}
	n := sort.Search(int(s.until-s.from), func(i int) bool { return round(s.from+uint64(i)) > *a.what.Round })
	end := s.from + uint64(n)
	// The run's last round may be a short one.
	if over = end < s.until || round(end) > *a.what.Round || end == uint64(run.Total()) && round(end-1) == *a.what.Round; over {
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
		ss = append(ss, stretch{&auditAttempt{run: a.last.Run, plan: plan}, from, until})
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
	var jobs []job.Spec
	var clusters []stage.Cluster
	for c, raw := range append([]json.RawMessage{s.plan.Plan}, s.plan.Others...) {
		var plan provider.Plan
		if err := json.Unmarshal(raw, &plan); err != nil {
			return fail(err)
		}
		j, err := a.job.In(plan.Record)
		if err != nil {
			return fail(err)
		}
		if j.MicroBatches == 0 {
			j.MicroBatches = plan.MicroBatches
		}
		if j.InFlight == 0 {
			j.InFlight = plan.InFlight
		}
		if jobs = append(jobs, j); c == 0 {
			clusters = plan.Clusters
		}
	}
	if len(clusters) != len(jobs) {
		return fail(fmt.Errorf("it is one of %d clusters, and says how %d of them worked: an older version kept the log", len(clusters), len(jobs)))
	}
	n := 0
	for c, cl := range clusters {
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
	r, err := audit.NewReplay(a.p.Graph, clusters, jobs)
	if err != nil {
		return fail(err)
	}
	return r, jobs[0], room(r.Memory(), "training all stages of the run again in one process")
}

// stretch trains what one attempt did again, and returns the state at its end, and whether nothing
// more is asked for.
func (a *auditor) stretch(ctx context.Context, s stretch, parts []*snapshot.Part) (next []*snapshot.Part, over bool, err error) {
	r, j, err := a.replay(s)
	if err != nil {
		return nil, false, err
	}
	d, in := a.p.Data, readRows(ctx, a.p)
	defer in.close()
	run := j.Order(d.Train.Len(), d.Val.Len())
	over = a.cut(&s, run)
	r.Visits, r.Parts, r.From, r.Until, r.Marks = in.visits, parts, s.from, s.until, map[uint64]bool{}
	r.Config = stage.Config{
		TrainRows: d.Train.Len(), ValRows: d.Val.Len(), TrainX: in.trainX, TrainY: in.trainY, ValX: in.valX, ValY: in.valY,
		Order: data.Order, Team: a.team, Weights: a.p.Weights,
	}
	k := &comparison{auditor: a, stretch: s, run: run, trail: r.Trail(), names: map[stage.Peer]string{}, who: map[stage.Peer]machine.Who{}, kept: map[stage.Peer]*snapshot.Part{}, compared: map[uint64]bool{}}
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
		if c.Run == s.run && c.Position.Step > s.from && c.Position.Step <= s.until {
			k.against = append(k.against, c)
			if j.Schedule != job.Async {
				r.Marks[c.Position.Step] = true
			}
		}
	}
	err = r.Run(ctx, &audit.Watcher{Commit: k.commit, Kept: k.keep, Step: a.progress})
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
		a.out.say("auditing: %d of %d steps", done-a.res.From, a.res.To-a.res.From)
	}
}

// comparison is of one stretch.
type comparison struct {
	*auditor
	stretch
	run      order.Run
	first    int                   // cluster that is the replay's first: another than 0 only where there is no log
	names    map[stage.Peer]string // of providers
	who      map[stage.Peer]machine.Who
	trail    *audit.Trail
	against  []*snapshot.Manifest
	kept     map[stage.Peer]*snapshot.Part
	compared map[uint64]bool
	bad      uint64 // step of the first checkpoint that differs
	differs  map[stage.Peer]string
	of       *int // cluster that counts; nil: all do
}

// at is a stage of a cluster as the replay numbers it.
func (k *comparison) at(cluster, of int) stage.Peer {
	return stage.Peer{Cluster: cluster - k.first, Stage: of}
}

func (k *comparison) commit(p stage.Peer, d stage.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if said, ok := k.said[p][moment{d.Step, d.Round}]; ok {
		k.res.Updates++
		k.trail.Record(p, &said, d)
		return
	}
	k.trail.Record(p, nil, d)
}

// keep compares a stage's state with what was saved at the same place, and keeps it for the
// next stretch.
func (k *comparison) keep(p stage.Peer, x stage.Saved) error {
	b, err := x.Part.Bytes()
	if err != nil {
		return err
	}
	part, err := snapshot.Parse(bytes.Clone(b))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(b)
	sum := hex.EncodeToString(digest[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[p] = part
	for _, c := range k.against {
		if c.Position != part.Position {
			continue
		}
		k.compared[c.Position.Step] = true
		for _, e := range c.Parts {
			if k.at(e.Cluster, e.Stage) != p || e.SHA256 == sum || k.differs != nil && c.Position.Step > k.bad {
				continue
			}
			if k.differs == nil || c.Position.Step < k.bad {
				k.differs, k.bad = map[stage.Peer]string{}, c.Position.Step
			}
			k.differs[p] = "its saved state is not what the job makes" + k.which(c, e, part)
		}
	}
	return nil
}

// which names the first tensor of a saved state that is wrong, if the store still has it.
func (k *comparison) which(c *snapshot.Manifest, e snapshot.Entry, want *snapshot.Part) string {
	got, err := openPart(k.p, c, e)
	if err != nil {
		return ""
	}
	differ := func(got, want state.Dict, prefix string) string {
		for _, x := range want {
			if y, ok := got.Get(x.Name); !ok || !y.Equal(x) {
				return fmt.Sprintf(": first in %s%s", prefix, x.Name)
			}
		}
		return ""
	}
	if s := differ(got.State, want.State, ""); s != "" {
		return s
	}
	for i, slot := range want.Optimizer.Slots {
		if i < len(got.Optimizer.Slots) {
			if s := differ(got.Optimizer.Slots[i].Tensors, slot.Tensors, "the optimizer's "+slot.Name+" of "); s != "" {
				return s
			}
		}
	}
	return ""
}

// verdict says what is wrong, and whose doing it is.
func (k *comparison) verdict() error {
	for p, what := range k.differs {
		k.trail.Saved(p, k.bad, what)
		of := ""
		if len(k.plan.Others) > 0 {
			of = fmt.Sprintf(" of cluster %d", p.Cluster)
		}
		k.res.Differs = append(k.res.Differs, fmt.Sprintf("step %d: stage %d%s, saved by %s", k.bad, p.Stage, of, k.names[p]))
	}
	slices.Sort(k.res.Differs)
	if k.trail.Clean() {
		return nil
	}
	var said []string
	faults := k.trail.Faults()
	if k.of != nil {
		if faults = slices.DeleteFunc(faults, func(f audit.Fault) bool { return f.Of.Cluster != *k.of && (!f.Either || f.Or.Cluster != *k.of) }); len(faults) == 0 {
			return nil
		}
	}
	for _, f := range faults {
		y := k.blamed(f)
		k.res.Faults = append(k.res.Faults, y)
		said = append(said, y.String())
	}
	if len(said) == 0 {
		return fmt.Errorf("%w: %s; too little is on record to say whose doing it is: set \"audit\": true in job.json", ErrAudit, strings.Join(k.res.Differs, ", "))
	}
	return fmt.Errorf("%w: %s", ErrAudit, strings.Join(said, "; "))
}

// blamed names who is to blame.
func (k *comparison) blamed(f audit.Fault) AuditFault {
	y := AuditFault{Step: f.Step, Cluster: k.first + f.Of.Cluster, Stage: f.Of.Stage, Provider: k.names[f.Of], What: f.What, who: k.who[f.Of]}
	if f.Either {
		or := k.who[f.Or]
		y.Or, y.or = or.Name, &or
	}
	if k.run.Replicas < 2 {
		return y
	}
	last := f.Step // of the batches that it is about
	if f.Saved {
		last = max(last, 1) - 1
	}
	at := k.run.At(last)
	round := k.run.Round(at)
	if y.Round = &round; !f.Saved && !f.Round && !k.run.Splits() {
		replica := k.run.Replica(at.Epoch, at.Batch)
		y.Replica = &replica
	}
	return y
}
