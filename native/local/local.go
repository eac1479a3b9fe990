// Package local trains and evaluates a job in one process: the reference for every other placement.
package local

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
)

// observer records what the trainer reports.
type observer struct {
	rec  *journal.Record
	p    *project.Project
	kept *uint64 // batches before the last saved state; nil: none was saved

	stops func() bool           // it was asked to stop
	left  func(step uint64) int // batches before it can
	out   *console.Console
	told  bool
}

func (o *observer) Loss(l stage.Loss) {
	now := time.Now()
	o.rec.Loss(now, l.Epoch, int64(l.Step), float64(l.Value))
	o.rec.Tick(now)
	if n := o.left(l.Step); n > 0 && !o.told && o.stops() {
		o.told = true
		o.out.Say("stopping at the end of this round, with %d batches to go: interrupt again to stop at once", n)
	}
}

func (o *observer) Validated(v stage.Validation) {
	o.rec.Val(time.Now(), journal.Validation{Epoch: v.Epoch, Step: int64(v.Step), Correct: int64(v.Correct), Total: int64(v.Total), Loss: float64(v.Loss), Metrics: v.Metrics})
}

func (o *observer) Batch(int) {}

func (o *observer) Keep(s stage.Saved) error {
	if err := o.rec.Flush(); err != nil {
		return err
	}
	_, err := weights.Write(o.p, s.Part.State)
	if err == nil {
		o.kept = &s.Step
	}
	return err
}

// fits checks that the job fits into this process beside the data, which are loaded already.
func fits(p *project.Project, record []order.Period, what string) error {
	j := p.Job
	if j.Auto() {
		j.Replicas = 1
	}
	for _, p := range record { // the most replicas take the most
		j.Replicas = max(j.Replicas, job.Count(p.Replicas))
	}
	need, err := train.Bytes(j, p.Graph)
	if err != nil {
		return err
	}
	if err := native.Room(int64(need), what+" this job in one process"); err != nil {
		return fmt.Errorf("%w: choose a smaller batch_size, more micro_batches or recompute, or train on several machines (serve)", err)
	}
	return nil
}

// Train trains the project's job in this process. When ctx is cancelled it stops
// before the next update and keeps the state. Where the job leaves the number of replicas to the
// host, rounds is the file with the record to go by; "": there is one replica, since one process
// trains.
func Train(ctx context.Context, p *project.Project, threads int, rounds string, out *console.Console) (journal.Summary, error) {
	var record []order.Period
	switch {
	case rounds != "":
		if !p.Job.Auto() {
			return journal.Summary{}, fmt.Errorf("a record of replicas (--rounds) is for a job with replicas %q; this one has %d of them, and needs none", job.Auto, p.Job.Replica())
		}
		var err error
		if record, err = p.ReadRounds(rounds); err != nil {
			return journal.Summary{}, err
		}
	case p.Job.Auto():
		record = []order.Period{{Step: 0, Replicas: 1}}
		out.Say("replicas auto: one process trains one replica; to repeat a run of several providers give its record (--rounds FILE)")
	}
	if err := fits(p, record, "training"); err != nil {
		return journal.Summary{}, err
	}
	team := kernel.NewTeam(threads)
	defer team.Close()
	begin := time.Now()
	t, end, err := p.Trainer(context.WithoutCancel(ctx), record, team)
	defer end()
	if err != nil {
		return journal.Summary{}, err
	}
	r := journal.New(p, "train", out)
	if ctx.Err() != nil { // older results stay where they are
		s := r.Summary()
		s.Interrupted = true
		return s, nil
	}
	r.By(record)
	if err := r.Open(); err != nil {
		return journal.Summary{}, err
	}
	if record != nil {
		if err := p.WriteRounds(record); err != nil {
			return journal.Summary{}, err
		}
	}
	started := time.Now()
	r.Begin(started, 0)
	stops := func() bool { return ctx.Err() != nil }
	mark := func() order.Mark {
		if stops() {
			return order.Stop
		}
		return order.Continue
	}
	obs := &observer{rec: r, p: p, stops: stops, left: t.Left, out: out}
	err = t.Run(context.WithoutCancel(ctx), mark, obs)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	s := r.Summary()
	s.Providers = 1
	if errors.Is(err, stage.ErrDiverged) {
		var files []string
		files, err = diverged(err, p, obs, team)
		s.Files = append(s.Files, files...)
		s.Loss, s.Error = journal.Number(math.NaN()), err.Error()
	}
	if err != nil {
		return s, err
	}
	s.Interrupted, s.Saved = ctx.Err() != nil, s.Samples > 0
	s.FirstStepS = started.Sub(begin).Seconds()
	if rss, err := native.PeakRSS(); err == nil {
		s.PeakRSS = []int64{rss}
	}
	s.Files = append(s.Files, weights.Files(p.Dir)...)
	return s, nil
}

// diverged writes the last good weights of a run that has diverged, and says in the error
// what to change. If none were saved yet they are the initial weights, which are computed
// again from the seed. It returns the files with the weights.
func diverged(err error, p *project.Project, obs *observer, team *kernel.Team) ([]string, error) {
	was := "the initial weights"
	if obs.kept != nil {
		was = fmt.Sprintf("the last saved weights, after %d batches,", *obs.kept)
	} else {
		t, end, ierr := p.Trainer(context.Background(), nil, team)
		defer end()
		if ierr == nil {
			_, ierr = weights.Write(p, t.State())
		}
		if ierr != nil {
			return nil, errors.Join(err, ierr)
		}
	}
	return weights.Files(p.Dir), fmt.Errorf("%w; %s are in %s: %s", err, was, filepath.Join(p.Dir, project.TrainedDir), p.WhenDiverged())
}

// Evaluation is the result of ravnest eval.
type Evaluation struct {
	Command  string          `json:"command"`
	File     string          `json:"file"`
	Correct  int             `json:"correct"`
	Total    int             `json:"total"`        // 0: a regression
	Accuracy float64         `json:"val_accuracy"` // percent; -1: a regression
	Loss     journal.Number  `json:"val_loss"`
	Metrics  journal.Figures `json:"metrics,omitempty"` // the job's other figures, by name

	Told []loss.Metric `json:"-"` // Metrics in their order
}

// Eval evaluates the fused model on the validation set.
func Eval(ctx context.Context, p *project.Project, threads int) (Evaluation, error) {
	if p.Data.Val.Len() == 0 {
		return Evaluation{}, fmt.Errorf("the data set %q has no validation rows to evaluate the model on", p.Job.Data)
	}
	file := weights.Files(p.Dir)[0]
	d, err := weights.Read(file, "fused model")
	if errors.Is(err, project.ErrMissing) {
		err = fmt.Errorf("no trained weights at %s: train first, then run fuse", file)
	}
	if err != nil {
		return Evaluation{}, err
	}
	if err := fits(p, nil, "measuring"); err != nil {
		return Evaluation{}, err
	}
	team := kernel.NewTeam(threads)
	defer team.Close()
	t, end, err := p.Trainer(ctx, nil, team)
	defer end()
	if err != nil {
		return Evaluation{}, err
	}
	if err := t.Load(d); err != nil {
		return Evaluation{}, fmt.Errorf("%s: %w", file, err)
	}
	v, err := t.Evaluate(ctx)
	if err != nil {
		return Evaluation{}, err
	}
	e := Evaluation{Command: "eval", File: file, Correct: v.Correct, Total: v.Total, Accuracy: -1, Loss: journal.Number(v.Loss), Metrics: journal.FiguresOf(v.Metrics), Told: v.Metrics}
	if v.Total > 0 {
		e.Accuracy = 100 * float64(v.Correct) / float64(v.Total)
	}
	if v.Loss-v.Loss != 0 {
		return e, fmt.Errorf("%s: %w: the validation loss is %v: train again with a lower lr", file, stage.ErrDiverged, v.Loss)
	}
	return e, nil
}
