// Package journal keeps the record of a run: the files of losses and figures, the progress line, and
// the summary at the end.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/server"
)

// Summary is a run's result: what --json prints.
type Summary struct {
	Command     string   `json:"command"`
	Schedule    string   `json:"schedule"`
	Wire        string   `json:"wire"`
	Seed        uint64   `json:"seed"`
	Providers   int      `json:"providers"`
	Epochs      int      `json:"epochs"`
	Steps       int64    `json:"steps"` // batches trained
	Samples     int64    `json:"samples"`
	Seconds     float64  `json:"seconds"`       // of training, including validation and saves
	SamplesPerS float64  `json:"samples_per_s"` // 0: in too short a time to tell
	Loss        Number   `json:"loss"`          // of the last batch
	ValLoss     Number   `json:"val_loss"`      // of the last validation pass; null: none
	ValAccuracy float64  `json:"val_accuracy"`  // percent, in the last pass; -1: none, or a regression
	BestVal     float64  `json:"best_val_accuracy"`
	Metrics     Figures  `json:"metrics,omitempty"`    // of the last pass, by name
	WireBytes   float64  `json:"wire_bytes_per_batch"` // tensors sent by all stages, including validation
	PeakRSS     []int64  `json:"peak_rss_bytes"`       // of each provider
	FirstStepS  float64  `json:"first_step_s"`         // time from the last provider's start
	Cuts        []string `json:"cuts,omitempty"`       // first node of each stage, of the first cluster
	// Where replicas train: their number, the rounds that were finished, and what each cluster did.
	Replicas int   `json:"replicas,omitempty"`
	Rounds   int64 `json:"rounds,omitempty"`
	// Record says how many there were from which step on, where the host chose.
	Record   []order.Period   `json:"record,omitempty"`
	Clusters []ClusterSummary `json:"clusters,omitempty"`
	// Forecast is the planner's samples_per_s; 0: nothing was measured.
	Forecast    float64  `json:"forecast_samples_per_s,omitempty"`
	Files       []string `json:"files"`
	Interrupted bool     `json:"interrupted"`
	Error       string   `json:"error,omitempty"` // why the run failed
	Saved       bool     `json:"-"`               // there are trained weights
}

// ClusterSummary is what a cluster did. Its figures are of all attempts that had a cluster of
// this number.
type ClusterSummary struct {
	Providers    []string `json:"providers"` // by stage, in the last attempt
	Cuts         []string `json:"cuts"`
	Replicas     []int    `json:"replicas"`
	Units        int64    `json:"units"` // a unit is what a replica trains in a round
	Samples      int64    `json:"samples"`
	AverageBytes int64    `json:"average_bytes"` // sent to other clusters
	WaitS        float64  `json:"wait_s"`        // for other clusters, of its average stage
	Forecast     float64  `json:"forecast_samples_per_s,omitempty"`
}

// Figures are the metrics of a validation pass by name.
type Figures map[string]Number

// FiguresOf names metrics.
func FiguresOf(ms []loss.Metric) Figures {
	f := make(Figures, len(ms))
	for _, m := range ms {
		f[m.Name] = Number(m.Value)
	}
	return f
}

// Number is a float64 that is null in JSON if it is not finite.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if n-n != 0 {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// Record keeps the files and the current figures of a run. One goroutine at a time may use it.
type Record struct {
	p                       *project.Project
	job                     job.Spec // in the period of the record that is trained
	record                  []order.Period
	losses, vals, valLosses *lines
	metrics                 *metrics
	out                     *console.Console
	opened                  bool
	resume                  int64 // step from which an earlier run is resumed; 0: none
	sum                     Summary
	batches                 int // per epoch
	total                   int64
	started                 time.Time
	ended                   time.Time
	printed                 time.Time
	atPass                  map[int64]float64 // the loss before each validation pass that has not come, by its step
	wire                    map[string]int64  // by provider, in this attempt
	before                  int64             // wire bytes of earlier attempts
	busy                    map[string]float64
	rss                     map[string]int64
	roles                   []string
	clusters                []ClusterSummary     // what was done so far
	average                 map[string]averaging // by provider, in this attempt
	at                      []int64              // step of each cluster
	share                   []int                // replicas of each cluster
	samples                 int64                // trained since started, including repeated steps
	lastEpoch               int
	dirty                   bool
	failed                  error         // of writing the metrics
	told                    []loss.Metric // of the last validation pass
}

// averaging is what a stage says of the ends of rounds.
type averaging struct {
	cluster int
	share   float64 // of the cluster's stages
	out     int64
	waited  float64 // seconds
}

// New begins the record of a run by a command. Nothing is written before Open.
func New(p *project.Project, command string, out *console.Console) *Record {
	j := p.Job
	return &Record{
		p: p, job: p.Job, out: out, batches: j.Batches(p.Data.Train.Len()), total: int64(j.Total(p.Data.Train.Len())),
		atPass: map[int64]float64{}, wire: map[string]int64{}, busy: map[string]float64{}, rss: map[string]int64{}, lastEpoch: -1,
		sum: Summary{Command: command, Schedule: j.Schedule, Wire: j.Wire, Seed: j.Seed, Epochs: j.Epochs, Loss: Number(math.NaN()), ValLoss: Number(math.NaN()), ValAccuracy: -1, BestVal: -1},
	}
}

// Open moves an older run's results aside and opens the files of this one. It is called as
// late as possible, when only training itself can still fail, so that older results are kept
// in place until then. Further calls do nothing.
func (r *Record) Open() error {
	if r.opened {
		return nil
	}
	if r.resume == 0 {
		if n, err := r.p.MoveAside(); err != nil {
			return err
		} else if n > 0 {
			r.out.Say("the older run's results are in %s", filepath.Join(r.p.Dir, project.OldDir, fmt.Sprint(n)))
		}
	}
	for name, l := range map[string]**lines{project.LossesFile: &r.losses, project.ValsFile: &r.vals, project.ValLossFile: &r.valLosses} {
		if err := r.p.Inside(name); err != nil {
			return err
		}
		var err error
		if *l, err = openLines(filepath.Join(r.p.Dir, name)); err != nil {
			return err
		}
	}
	if n := r.resume - r.losses.n; n > 0 {
		r.out.Say("warning: the last %d losses before step %d are not in %s: nan takes their place", n, r.resume, project.LossesFile)
	}
	var err error
	if r.metrics, err = openMetrics(r.p, r.resume, time.Now()); err != nil {
		return err
	}
	r.opened = true
	if r.resume > 0 {
		r.best()
	}
	return nil
}

// Close flushes the files.
func (r *Record) Close() error {
	r.out.Leave()
	if !r.opened {
		return nil
	}
	return errors.Join(r.losses.close(), r.vals.close(), r.valLosses.close(), r.metrics.close(), r.failed)
}

// Flush writes what is not in the files yet. It can be called again after an error.
func (r *Record) Flush() error {
	if !r.opened {
		return nil
	}
	return errors.Join(r.losses.flush(), r.vals.flush(), r.valLosses.flush(), r.metrics.flush(), r.failed)
}

// Attempt begins a new attempt, in which these providers have the stages.
func (r *Record) Attempt(providers []string) {
	r.before = r.wireTotal()
	r.clusters = r.fold()
	r.roles, r.wire, r.busy, r.average = providers, map[string]int64{}, map[string]float64{}, map[string]averaging{}
}

// Placed notes the clusters of an attempt, in which the job is j.
func (r *Record) Placed(plan *planner.Plan, g *graph.Graph, j job.Spec) {
	r.job, r.record = j, j.Periods
	for len(r.clusters) < len(plan.Clusters) {
		r.clusters = append(r.clusters, ClusterSummary{})
	}
	for c := range r.clusters {
		r.clusters[c].Providers, r.clusters[c].Cuts, r.clusters[c].Replicas = nil, nil, nil
	}
	for c, s := range form.Clusters(plan, j) {
		t := &r.clusters[c]
		t.Replicas, t.Forecast = s.Replicas, plan.Clusters[c].Rate
		for _, st := range plan.Clusters[c].Stages {
			t.Providers, t.Cuts = append(t.Providers, st.Name), append(t.Cuts, g.Nodes[st.Start].Name)
		}
	}
	r.at, r.share = make([]int64, len(plan.Clusters)), nil
	for c := range plan.Clusters {
		r.share = append(r.share, len(r.clusters[c].Replicas))
	}
	r.sum.Forecast = plan.Rate
}

// fold adds what the stages said in this attempt to what was before.
func (r *Record) fold() []ClusterSummary {
	cs := slices.Clone(r.clusters)
	for _, a := range r.average {
		cs[a.cluster].AverageBytes += a.out
		cs[a.cluster].WaitS += a.waited * a.share
	}
	return cs
}

// Progress records a provider's report.
func (r *Record) Progress(e *server.Progress) {
	r.wire[e.Name], r.busy[e.Name] = e.Out, e.Busy
	r.rss[e.Name] = max(r.rss[e.Name], e.RSS)
	if e.Cluster < len(r.share) && e.Share > 0 {
		r.share[e.Cluster] = e.Share
	}
	if e.Cluster < len(r.at) {
		n := len(r.clusters[e.Cluster].Providers)
		r.average[e.Name] = averaging{e.Cluster, 1 / float64(max(n, 1)), e.Shared, float64(e.Waited) / 1e3}
		if e.Stage == n-1 {
			r.at[e.Cluster] = e.Step
		}
	}
}

// Trained notes the units and samples of a batch whose loss a cluster has reported. Batches
// that are split over the replicas are reported by one cluster for all.
func (r *Record) Trained(cluster int, step int64) {
	r.goTo(step)
	j, run := r.job, r.order()
	b, n := int(step)%r.batches, j.Replica()
	rows := j.Rows(r.p.Data.Train.Len(), b)
	over := step+1 == r.total
	if j.Gradients() {
		for c := range r.at {
			own := r.share[c]
			r.clusters[c].Samples += int64(rows * own / n)
			if over || b+1 == r.batches || (b+1)%j.UpdateFrequency == 0 {
				r.clusters[c].Units += int64(own)
			}
		}
		return
	}
	if cluster >= len(r.at) {
		return
	}
	c := &r.clusters[cluster]
	c.Samples += int64(rows)
	if next := step + int64(n); next >= r.total || run.Round(uint64(next)) != run.Round(uint64(step)) {
		c.Units++
	}
}

// Begin records that training begins at a step, 0 or the one it resumes from.
func (r *Record) Begin(now time.Time, step int64) {
	if r.started.IsZero() {
		r.started = now
	}
	r.ended = now
	r.sum.Steps = step
	if r.p.Job.Auto() && r.opened {
		r.cut(step) // with other replicas than before what follows becomes something else
	}
}

// cut takes back the losses and validation passes behind a step.
func (r *Record) cut(step int64) {
	r.losses.cut(step)
	if every := int64(max(r.p.Job.ValEvery, 1)); step < r.total {
		passes := step / int64(r.batches) / every
		r.vals.cut(passes)
		r.valLosses.cut(passes)
	}
	r.best()
}

// Undo takes back what is told of the steps behind one: it is not what the job makes.
func (r *Record) Undo(now time.Time, step int64) {
	nan := Number(math.NaN())
	r.sum.Steps, r.sum.Loss, r.sum.ValLoss, r.sum.ValAccuracy, r.sum.Metrics, r.told = step, nan, nan, -1, nil, nil
	if r.opened {
		r.cut(step)
		r.keep(r.metrics.undo(now, step))
	}
}

// best finds the best accuracy of all passes that count.
func (r *Record) best() {
	r.sum.BestVal = -1
	if v := r.vals.largest(); v >= 0 {
		r.sum.BestVal = v
	}
}

// order is the run's in the period at hand.
func (r *Record) order() order.Run { return r.job.Order(r.p.Data.Train.Len(), r.p.Data.Val.Len()) }

// goTo makes the period that a step is in the one at hand.
func (r *Record) goTo(step int64) {
	n := len(r.record)
	for n > 1 && r.record[n-1].Step > uint64(step) {
		n--
	}
	if n > 0 && n != len(r.job.Periods) {
		if j, err := r.p.Job.In(r.record[:n]); err == nil {
			r.job = j
		}
	}
}

// Loss records a batch's loss.
func (r *Record) Loss(now time.Time, epoch int, step int64, loss float64) {
	r.losses.set(step, fmt.Sprintf("%.4f", loss))
	r.keep(r.metrics.loss(now, epoch, step, loss, r.rate(step)))
	r.ended, r.lastEpoch = now, epoch
	r.sum.Loss, r.sum.Steps = Number(loss), step+1
	r.samples += int64(r.p.Job.Rows(r.p.Data.Train.Len(), int(step)%r.batches))
	r.dirty = true
	if (epoch+1)%max(r.p.Job.ValEvery, 1) == 0 && (step+1)%int64(r.batches) == 0 && r.p.Data.Val.Len() > 0 {
		r.atPass[step+1] = loss
	}
}

// keep remembers the first failure to write the metrics.
func (r *Record) keep(err error) {
	if r.failed == nil {
		r.failed = err
	}
}

// Val records a validation pass.
func (r *Record) Val(now time.Time, v Validation) {
	pass, epoch := int64(v.Epoch)/int64(max(r.p.Job.ValEvery, 1)), v.Epoch
	r.valLosses.set(pass, fmt.Sprintf("%.4f", v.Loss))
	r.keep(r.metrics.val(now, v))
	r.sum.ValLoss, r.sum.Metrics, r.told = Number(v.Loss), FiguresOf(v.Metrics), v.Metrics
	if v.Total > 0 {
		acc := v.accuracy()
		r.vals.set(pass, fmt.Sprintf("%.4f", acc))
		r.sum.ValAccuracy, r.sum.BestVal = acc, max(r.sum.BestVal, acc)
	}
	r.ended = now
	if !r.out.Redraws() {
		every := max(r.p.Job.Epochs/20, 1)
		if (epoch+1)%every == 0 || epoch+1 == r.p.Job.Epochs {
			// Losses and passes come in reports: others may have come before, or not yet.
			loss, ok := r.atPass[v.Step]
			if !ok {
				loss = float64(r.sum.Loss)
			}
			r.draw(now, v.Epoch, v.Step, loss)
		}
	}
	maps.DeleteFunc(r.atPass, func(step int64, _ float64) bool { return step <= v.Step })
}

// Tick draws the progress line: on a terminal at most four times a second, elsewhere where
// validation passes are far apart.
func (r *Record) Tick(now time.Time) {
	often, last := 30*time.Second, r.printed
	if r.out.Redraws() {
		often = 250 * time.Millisecond
	} else if last.IsZero() {
		last = r.started
	}
	if now.Sub(last) >= often {
		r.print(now)
	}
}

// rate is the learning rate of the update that a batch is a part of.
func (r *Record) rate(step int64) float64 {
	r.goTo(step)
	run := r.order()
	epoch := run.At(run.Last(uint64(step))).Epoch
	return optim.Rate(r.p.Job.LR, r.p.Job.Optimizer.LR, optim.When{Epoch: epoch, Update: run.Update(uint64(step)), Total: run.AllUpdates()})
}

func (r *Record) print(now time.Time) { r.draw(now, r.lastEpoch, r.sum.Steps, float64(r.sum.Loss)) }

func (r *Record) draw(now time.Time, epoch int, step int64, loss float64) {
	if r.dirty {
		r.printed = now
		r.out.Draw(r.line(now, epoch, step, loss))
	}
}

func (r *Record) line(now time.Time, epoch int, step int64, loss float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d/%d  step %d/%d  loss %.4f", epoch+1, r.p.Job.Epochs, step, r.total, loss)
	if r.sum.ValAccuracy >= 0 {
		fmt.Fprintf(&b, "  val %.2f %%", r.sum.ValAccuracy)
	} else if v := float64(r.sum.ValLoss); !math.IsNaN(v) {
		fmt.Fprintf(&b, "  val loss %.4f", v)
	}
	for _, m := range r.told {
		fmt.Fprintf(&b, "  %s %.4g", m.Name, m.Value)
	}
	if v := rate(r.samples, now.Sub(r.started)); v > 0 {
		fmt.Fprintf(&b, "  %s", planner.Speed(v))
	}
	if w := r.wireTotal(); w > 0 && r.sum.Steps > 0 {
		fmt.Fprintf(&b, "  %s/batch", native.FormatSize(w/r.sum.Steps))
	}
	if len(r.at) > 1 {
		r.ahead(&b)
		return b.String()
	}
	for _, name := range r.roles {
		fmt.Fprintf(&b, "  %s %.0f %%", name, 100*r.busy[name])
	}
	return b.String()
}

// ahead tells of several clusters how busy they are and who is ahead.
func (r *Record) ahead(b *strings.Builder) {
	fmt.Fprintf(b, "  round %d", r.rounds(max(r.sum.Steps-1, 0))+1)
	least := slices.Min(r.at)
	for c, at := range r.at {
		busy := 0.0
		for _, name := range r.clusters[c].Providers {
			busy += r.busy[name] / float64(len(r.clusters[c].Providers))
		}
		fmt.Fprintf(b, "  cluster %d %.0f %%", c, 100*busy)
		if at > least {
			fmt.Fprintf(b, " +%d", at-least)
		}
	}
}

// rounds is how many rounds are over after so many batches. The run's end ends one, too.
func (r *Record) rounds(steps int64) int64 {
	r.goTo(max(steps-1, 0))
	return int64(r.order().Rounds(uint64(steps)))
}

func (r *Record) wireTotal() int64 {
	n := r.before
	for _, b := range r.wire {
		n += b
	}
	return n
}

// rate is samples a second; 0: the time is too short to tell.
func rate(samples int64, in time.Duration) float64 {
	if in < 10*time.Millisecond {
		return 0
	}
	return float64(samples) / in.Seconds()
}

// Summary returns the final figures.
func (r *Record) Summary() Summary {
	s := r.sum
	for i := range s.Steps { // each counts once, even if it was repeated
		s.Samples += int64(r.p.Job.Rows(r.p.Data.Train.Len(), int(i)%r.batches))
	}
	s.Seconds, s.SamplesPerS = r.ended.Sub(r.started).Seconds(), rate(r.samples, r.ended.Sub(r.started))
	if s.Steps > 0 {
		s.WireBytes = float64(r.wireTotal()) / float64(s.Steps)
	}
	if (r.p.Job.Auto() || r.p.Job.Replica() > 1) && r.at != nil {
		s.Rounds, s.Clusters = r.rounds(s.Steps), r.fold()
		s.Replicas, s.Record = r.job.Replica(), r.record
	}
	for _, name := range r.roles {
		s.PeakRSS = append(s.PeakRSS, r.rss[name])
	}
	if !r.opened {
		return s
	}
	if r.record != nil {
		s.Files = append(s.Files, filepath.Join(r.p.Dir, project.RoundsFile))
	}
	s.Files = append(s.Files, filepath.Join(r.p.Dir, project.LossesFile), filepath.Join(r.p.Dir, project.ValsFile), filepath.Join(r.p.Dir, project.ValLossFile), filepath.Join(r.p.Dir, project.MetricsFile))
	return s
}

// Resume has it go on from a step, instead of moving the older run's files aside.
func (r *Record) Resume(step int64) { r.resume = step }

// Replay opens the files and has f note in them what was done before. Nothing is told of that, and
// it does not count as trained now.
func (r *Record) Replay(f func() error) error {
	out := r.out
	r.out = nil // what is missing in the files is about to be made
	defer func() { r.out, r.samples = out, 0 }()
	if err := r.Open(); err != nil {
		return err
	}
	return f()
}

// Reach says that so many batches are trained.
func (r *Record) Reach(steps int64) { r.sum.Steps = steps }

// By notes how many replicas there are from which step on.
func (r *Record) By(record []order.Period) { r.record = record }

// Opened tells whether Open has opened the files.
func (r *Record) Opened() bool { return r.opened }

// Forecast is the planner's samples a second of this attempt.
func (r *Record) Forecast() float64 { return r.sum.Forecast }

// Counted is the number of samples since Begin, those of repeated steps too, and when the last of
// them were reported.
func (r *Record) Counted() (samples int64, last time.Time) { return r.samples, r.ended }

// ReplicaChanges tells of a run whose number of replicas was chosen how many there were.
func (s Summary) ReplicaChanges() string { return project.Changes(s.Record) }
