// The record of a run: the loss and accuracy files, the progress line, and the summary at the
// end.

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
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
	Seconds     float64  `json:"seconds"` // of training, including validation and saves
	SamplesPerS float64  `json:"samples_per_s"`
	Loss        Number   `json:"loss"`         // of the last batch
	ValLoss     Number   `json:"val_loss"`     // of the last validation pass; null: none
	ValAccuracy float64  `json:"val_accuracy"` // percent, in the last pass; -1: none, or a regression
	BestVal     float64  `json:"best_val_accuracy"`
	Metrics     Figures  `json:"metrics,omitempty"`    // of the last pass, by name
	WireBytes   float64  `json:"wire_bytes_per_batch"` // tensors sent by all stages, including validation
	PeakRSS     []int64  `json:"peak_rss_bytes"`       // of each provider
	FirstStepS  float64  `json:"first_step_s"`         // time from the last provider's start
	Cuts        []string `json:"cuts,omitempty"`       // first node of each stage
	Files       []string `json:"files"`
	Interrupted bool     `json:"interrupted"`
	Error       string   `json:"error,omitempty"` // why the run failed
	Saved       bool     `json:"-"`               // there are trained weights
}

// Figures are the metrics of a validation pass by name.
type Figures map[string]Number

func figures(ms []loss.Metric) Figures {
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

// record keeps the files and the current figures of a run.
type record struct {
	p                       *project.Project
	losses, vals, valLosses *lines
	metrics                 *metrics
	Output
	opened    bool
	resume    int64 // step from which an earlier run is resumed; 0: none
	sum       Summary
	batches   int // per epoch
	total     int64
	started   time.Time
	ended     time.Time
	printed   time.Time
	wire      map[string]int64 // by provider, in this attempt
	before    int64            // wire bytes of earlier attempts
	busy      map[string]float64
	rss       map[string]int64
	roles     []string
	samples   int64 // trained since started, including repeated steps
	lastEpoch int
	dirty     bool
	failed    error         // of writing the metrics
	told      []loss.Metric // of the last validation pass
}

func newRecord(p *project.Project, command string, out Output) *record {
	j := p.Job
	return &record{
		p: p, Output: out, batches: j.Batches(p.Data.Train.Len()), total: int64(j.Total(p.Data.Train.Len())),
		wire: map[string]int64{}, busy: map[string]float64{}, rss: map[string]int64{}, lastEpoch: -1,
		sum: Summary{Command: command, Schedule: j.Schedule, Wire: j.Wire, Seed: j.Seed, Epochs: j.Epochs, Loss: Number(math.NaN()), ValLoss: Number(math.NaN()), ValAccuracy: -1, BestVal: -1},
	}
}

// open moves an older run's results aside and opens the files of this one. It is called as
// late as possible, when only training itself can still fail, so that older results are kept
// in place until then. Further calls do nothing.
func (r *record) open() error {
	if r.opened {
		return nil
	}
	if r.resume == 0 {
		if n, err := r.p.MoveAside(); err != nil {
			return err
		} else if n > 0 {
			r.say("the older run's results are in %s", filepath.Join(r.p.Dir, project.OldDir, fmt.Sprint(n)))
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
	var err error
	if r.metrics, err = openMetrics(r.p, r.resume, time.Now()); err != nil {
		return err
	}
	r.opened = true
	return nil
}

// close flushes the files.
func (r *record) close() error {
	r.clear()
	if !r.opened {
		return nil
	}
	return errors.Join(r.losses.close(), r.vals.close(), r.valLosses.close(), r.metrics.close(), r.failed)
}

func (r *record) flush() error {
	if !r.opened {
		return nil
	}
	return errors.Join(r.losses.flush(), r.vals.flush(), r.valLosses.flush(), r.metrics.flush(), r.failed)
}

// attempt begins a new attempt, in which other providers may have the stages.
func (r *record) attempt() {
	r.before = r.wireTotal()
	r.roles, r.wire, r.busy = nil, map[string]int64{}, map[string]float64{}
}

// progress records a provider's report.
func (r *record) progress(name string, out int64, busy float64, rss int64) {
	r.wire[name], r.busy[name] = out, busy
	r.rss[name] = max(r.rss[name], rss)
}

// begin records that training begins at a step, 0 or the one it resumes from.
func (r *record) begin(now time.Time, step int64) {
	if r.started.IsZero() {
		r.started = now
	}
	r.ended = now
	r.sum.Steps = step
}

// loss records a batch's loss.
func (r *record) loss(now time.Time, epoch int, step int64, loss float64) {
	r.losses.set(step, fmt.Sprintf("%.4f", loss))
	r.keep(r.metrics.loss(now, epoch, step, loss, r.rate(epoch)))
	r.ended, r.lastEpoch = now, epoch
	r.sum.Loss, r.sum.Steps = Number(loss), step+1
	r.samples += int64(r.p.Job.Rows(r.p.Data.Train.Len(), int(step)%r.batches))
	r.dirty = true
}

// keep remembers the first failure to write the metrics.
func (r *record) keep(err error) {
	if r.failed == nil {
		r.failed = err
	}
}

// val records a validation pass.
func (r *record) val(now time.Time, v validation) {
	pass, epoch := int64(v.epoch)/int64(max(r.p.Job.ValEvery, 1)), v.epoch
	r.valLosses.set(pass, fmt.Sprintf("%.4f", v.loss))
	r.keep(r.metrics.val(now, v))
	r.sum.ValLoss, r.sum.Metrics, r.told = Number(v.loss), figures(v.metrics), v.metrics
	if v.total > 0 {
		acc := v.accuracy()
		r.vals.set(pass, fmt.Sprintf("%.4f", acc))
		r.sum.ValAccuracy, r.sum.BestVal = acc, max(r.sum.BestVal, acc)
	}
	r.ended = now
	if !r.TTY {
		every := max(r.p.Job.Epochs/20, 1)
		if (epoch+1)%every == 0 || epoch+1 == r.p.Job.Epochs {
			r.print(now)
		}
	}
}

// tick draws the progress line, at most four times a second.
func (r *record) tick(now time.Time) {
	if r.TTY && now.Sub(r.printed) >= 250*time.Millisecond {
		r.print(now)
	}
}

// rate is the learning rate of an epoch.
func (r *record) rate(epoch int) float64 {
	return optim.Rate(r.p.Job.LR, r.p.Job.Optimizer.LR, epoch)
}

func (r *record) print(now time.Time) {
	if r.Err == nil || !r.dirty {
		return
	}
	r.printed = now
	line := r.line(now)
	if r.TTY {
		fmt.Fprintf(r.Err, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(r.Err, line)
}

// clear ends the progress line before something else is written.
func (r *record) clear() {
	if r.Err != nil && r.TTY && !r.printed.IsZero() {
		fmt.Fprintln(r.Err)
		r.printed = time.Time{}
	}
}

func (r *record) line(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d/%d  step %d/%d  loss %.4f", r.lastEpoch+1, r.p.Job.Epochs, r.sum.Steps, r.total, r.sum.Loss)
	if r.sum.ValAccuracy >= 0 {
		fmt.Fprintf(&b, "  val %.2f %%", r.sum.ValAccuracy)
	} else if v := float64(r.sum.ValLoss); !math.IsNaN(v) {
		fmt.Fprintf(&b, "  val loss %.4f", v)
	}
	for _, m := range r.told {
		fmt.Fprintf(&b, "  %s %.4g", m.Name, m.Value)
	}
	if s := now.Sub(r.started).Seconds(); s > 0 {
		fmt.Fprintf(&b, "  %.0f samples/s", float64(r.samples)/s)
	}
	if w := r.wireTotal(); w > 0 && r.sum.Steps > 0 {
		fmt.Fprintf(&b, "  %s/batch", bytesText(float64(w)/float64(r.sum.Steps)))
	}
	for _, name := range r.roles {
		fmt.Fprintf(&b, "  %s %.0f %%", name, 100*r.busy[name])
	}
	return b.String()
}

func (r *record) wireTotal() int64 {
	n := r.before
	for _, b := range r.wire {
		n += b
	}
	return n
}

// summary returns the final figures.
func (r *record) summary() Summary {
	s := r.sum
	for i := range s.Steps { // each counts once, even if it was repeated
		s.Samples += int64(r.p.Job.Rows(r.p.Data.Train.Len(), int(i)%r.batches))
	}
	s.Seconds = r.ended.Sub(r.started).Seconds()
	if s.Seconds > 0 {
		s.SamplesPerS = float64(r.samples) / s.Seconds
	}
	if s.Steps > 0 {
		s.WireBytes = float64(r.wireTotal()) / float64(s.Steps)
	}
	for _, name := range r.roles {
		s.PeakRSS = append(s.PeakRSS, r.rss[name])
	}
	if !r.opened {
		return s
	}
	s.Files = append(s.Files, filepath.Join(r.p.Dir, project.LossesFile), filepath.Join(r.p.Dir, project.ValsFile), filepath.Join(r.p.Dir, project.ValLossFile), filepath.Join(r.p.Dir, project.MetricsFile))
	return s
}

func bytesText(b float64) string { return native.FormatSize(int64(b)) }
