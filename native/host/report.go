// What a run does, told and kept: messages, the record's files, copies of the checkpoints.

package host

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/server"
)

// reporter tells what a run does, and keeps it in the project's directory. While the server runs the
// job all of it belongs to the goroutine that hands over the events.
type reporter struct {
	*run
	rec    *journal.Record
	joined time.Time // when the last provider came
	first  time.Time // when the first loss did
	grew   bool      // the attempt before ended because more providers were there
	lines  []byte    // that the other hosts have not been told of yet

	files      []string           // the last checkpoint's files, one a stage
	uncopied   *snapshot.Manifest // checkpoint whose stages are not copied yet; nil: none
	uncopyable error              // why not
	retry      time.Time          // when what could not be written is tried again
	fail       error              // what keeps the results from being written; nil: nothing
}

func (r *run) reporter() *reporter {
	return &reporter{run: r, rec: journal.New(r.p, "serve", r.opt.Console)}
}

// end writes what is left of a run that has ended.
func (r *reporter) end() {
	r.learned()
	r.retry = time.Time{}
	r.write(time.Now())
}

// learned keeps what an attempt that is over has achieved, for the next plan and for the next run
// of the job.
func (r *reporter) learned() {
	samples, last := r.rec.Counted()
	f, ok := r.roster.learn(last, samples)
	if !ok {
		return
	}
	if err := r.p.SetAchieved(f); err != nil {
		r.opt.Console.Say("warning: %v", err)
	}
}

// resume has the record go on from where the store has the run, if it has it.
func (r *reporter) resume(ctx context.Context, job server.Job) (err error) {
	if r.shared != nil {
		if r.before, err = r.earlier(ctx, job); err != nil {
			return fmt.Errorf("the state in NATS: %w: use --fresh to start from the beginning", err)
		}
	}
	if r.before == nil || r.before.Checkpoint == nil {
		return nil
	}
	step := int64(r.before.Checkpoint.Position.Step)
	r.rec.Resume(step)
	if r.shared == nil {
		return nil
	}
	return r.replay(ctx, step)
}

// summary is that of a run which has ended with a result.
func (r *reporter) summary(res server.Result) journal.Summary {
	sum := r.rec.Summary()
	sum.Interrupted = res.Interrupted
	if plan := r.roster.current(); plan != nil {
		sum.Providers = 0
		for c, cl := range plan.Clusters {
			sum.Providers += len(cl.Stages)
			for _, s := range cl.Stages {
				if c == 0 {
					sum.Cuts = append(sum.Cuts, r.p.Graph.Nodes[s.Start].Name)
				}
			}
		}
	}
	if !r.first.IsZero() {
		from := r.joined
		if r.opt.Spawned != nil {
			from = r.opt.Spawned()
		}
		sum.FirstStepS = r.first.Sub(from).Seconds()
	}
	if res.Checkpoint != nil && r.rec.Opened() {
		sum.Saved = true
		sum.Files = append(sum.Files, r.files...)
	}
	return sum
}

// event handles an event of the run. It is called from one goroutine.
func (r *reporter) event(ev server.Event) {
	now := time.Now()
	r.share(now, ev)
	switch e := ev.(type) {
	case server.Joined:
		r.joined = now
		r.opt.Console.Say("%s joined (%s, %s RAM, %.3g GFLOP/s), %d of %d", e.Name, e.Hello.Platform, native.FormatSize(e.Hello.RAM), e.Hello.Bench.GEMM, e.Have, e.Want)
	case server.Left:
		if e.Run == "" { // otherwise a Recovering event follows
			r.opt.Console.Say("%s left: %s", e.Name, e.Reason)
		}
	case server.Returned:
		r.opt.Console.Say("%s lost its connection to this host and has another one after %.1f s: nothing is lost", e.Name, e.After.Seconds())
	case server.Refused:
		r.opt.Console.Say("refused %s at %s: %v", cmp.Or(e.Name, "somebody"), e.Addr, e.Err)
	case server.Waiting:
		r.opt.Console.Say("%s", e.Reason)
	case server.Planned:
		r.announce(e)
	case server.Ready:
		r.roster.measured(e.Name, e.RTT)
	case server.Started:
		r.rec.Begin(now, int64(e.Resume))
		samples, _ := r.rec.Counted()
		r.roster.trains(now, e.Run, samples, r.rec.Forecast())
		r.opt.Console.Say("%s", r.starts(e))
	case server.Recovering:
		r.learned()
		r.grew = e.Grows || e.Back
		if !e.Back {
			r.opt.Console.Say("%s: %s", e.Reason, redone(e))
			return
		}
		r.opt.Console.Say("%s", e.Reason)
		r.goBack(now, e.Step)
	case server.AuditPassed:
		r.opt.Console.Say("audited: steps %d to %d are what the job makes%s", e.From, e.To, by(e.By))
	case server.Condemned:
		r.condemned(e)
	case server.Resumed:
		r.opt.Console.Say("resuming the run that ended at step %d of epoch %d (--fresh starts from the beginning)", e.Step, e.Epoch+1)
	case server.Loss:
		if r.first.IsZero() {
			r.first = now
		}
		r.rec.Loss(now, e.Epoch, e.Step, float64(e.Loss.Loss))
		r.rec.Trained(e.Cluster, e.Step)
	case server.Val:
		r.rec.Val(now, validated(e.Val))
	case server.Progress:
		r.roster.loads.report(now, e.Name, e.Samples, e.Busy)
		r.rec.Progress(&e)
		r.rec.Tick(now)
		r.write(now)
	case server.Checkpointed:
		if e.After > 0 {
			r.opt.Console.Say("saved at step %d, after %.0f s in which nothing could be saved", e.Manifest.Position.Step, e.After.Seconds())
		}
		r.uncopied, r.retry = e.Manifest, time.Time{}
		r.write(now)
	case server.Warning:
		r.opt.Console.Say("warning: %v", e.Err)
	}
}

// announce tells of an attempt's plan.
func (r *reporter) announce(e server.Planned) {
	var names []string
	for _, s := range e.Stages {
		names = append(names, s.Name)
	}
	r.rec.Attempt(names)
	plan, j := r.roster.of(e.Run)
	if plan == nil {
		return // so many were planned since that it is not kept any more
	}
	r.rec.Placed(&plan.Plan, r.p.Graph, j)
	r.opt.Console.Say("%s", strings.TrimRight(plan.String(), "\n"))
	if len(plan.GA.Spares) > 0 && r.opt.Providers > 0 && r.opt.Clusters == 0 {
		r.opt.Console.Say("--clusters 1 would have all %d providers take part, in one pipeline", r.opt.Providers)
	}
	if n := len(j.Periods); n > 0 {
		r.opt.Console.Say("replicas auto: %d from step %d on, one for each provider that trains as far as rounds and memory allow", j.Replica(), j.Periods[n-1].Step)
	}
}

// starts says how an attempt's training begins.
func (r *reporter) starts(e server.Started) string {
	switch {
	case e.After > 0 && r.grew:
		return fmt.Sprintf("training resumes from step %d, %.1f s later", e.Resume, e.After.Seconds())
	case e.After > 0:
		return fmt.Sprintf("training resumes from step %d, %.1f s after the loss", e.Resume, e.After.Seconds())
	case e.Resume > 0:
		return fmt.Sprintf("training resumes from step %d", e.Resume)
	}
	return "training"
}

// rewrite is the time between attempts to write results that a disk has not taken.
const rewrite = 10 * time.Second

// write writes what is not in the project's directory yet: lines of the record, and copies of the
// newest checkpoint. What fails, as on a full disk, is told and tried again.
func (r *reporter) write(now time.Time) {
	err := r.rec.Flush()
	if r.uncopied != nil && !now.Before(r.retry) {
		if r.uncopyable = r.saved(r.uncopied); r.uncopyable == nil {
			r.uncopied = nil
		}
		r.retry = now.Add(rewrite)
	}
	if err == nil {
		err = r.uncopyable
	}
	if (err == nil) != (r.fail == nil) {
		if err != nil {
			why, _, _ := strings.Cut(err.Error(), "\n")
			r.opt.Console.Say("warning: %s: training goes on, and it is tried again", why)
		} else {
			r.opt.Console.Say("the results can be written again")
		}
	}
	r.fail = err
}

// redone says which work a recovery repeats.
func redone(e server.Recovering) string {
	switch {
	case e.Reached > e.Step && e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d; %d steps are repeated", e.Step, e.Reached-e.Step)
	case e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d", e.Step)
	case e.Reached > 0:
		return fmt.Sprintf("nothing had been saved yet; %d steps are repeated", e.Reached)
	}
	return "the run goes on"
}

// saved copies a checkpoint's stages to the directories of the plan, for people, and then its
// manifest, which fuse and eval read.
func (r *reporter) saved(c *snapshot.Manifest) error {
	plan := r.roster.current()
	files := []string{}
	for _, e := range c.Parts {
		if plan == nil || e.Cluster >= len(plan.Clusters) || e.Stage >= len(plan.Clusters[e.Cluster].Stages) {
			continue // the cuts have changed since
		}
		rel := filepath.Join(plan.StageDir(e.Cluster, e.Stage), project.WeightsFile)
		if err := r.p.Inside(rel); err != nil {
			return err
		}
		path := filepath.Join(r.p.Dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("creating the directory of stage %d: %w", e.Stage, err)
		}
		f, err := r.store.Get(context.Background(), e.Object)
		if err != nil {
			return fmt.Errorf("reading the saved stage %d: %w", e.Stage, err)
		}
		err = native.Save(path, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, f)
			return err
		})
		_ = f.Close()
		if err != nil {
			return err
		}
		files = append(files, path)
	}
	b, err := c.JSON()
	if err != nil {
		return err
	}
	r.files = files
	return native.WriteFile(filepath.Join(r.p.Dir, project.ManifestFile), b, 0o644)
}
