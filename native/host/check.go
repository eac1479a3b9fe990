// Audits that a host makes of its own run while it goes on.

package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/native/audit"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/member"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
)

// audits has the job's stretches audited while it runs, if that is wanted. The rules are the run
// machine's; which stretches it draws follows from a secret, so that no provider knows when it may lie.
func (r *run) audits(job *server.Job) {
	if r.opt.AuditEvery == 0 {
		return
	}
	job.AuditEvery, job.AuditSecret, job.Verify, job.Inquire = r.opt.AuditEvery, rand.Text(), r.check, r.inquire
	job.Sums = r.p.Job.ClipNorm > 0 || len(r.p.Graph.Ties()) > 0
	if r.opt.AuditSpares {
		job.AuditSpares, job.Stretch = true, r.stretch
	}
}

// stretch tells what it takes a spare to compute again what was trained between two checkpoints.
func (r *run) stretch(ctx context.Context, from, to *snapshot.Manifest) (server.Stretch, error) {
	x, err := audit.Stretch(ctx, r.p, r.store, audit.Between{From: from, To: to})
	x.Graph, x.Data, x.Weights = r.refs.graph, r.refs.data, r.refs.weights
	return x, err
}

// check computes again what was trained between two checkpoints, and names whose doing it is if that
// is not what the job makes.
func (r *run) check(ctx context.Context, from, to *snapshot.Manifest) ([]server.Culprit, error) {
	a, err := audit.RunIn(ctx, r.p, r.store, audit.Range{Between: &audit.Between{From: from, To: to}}, 1, nil)
	switch {
	case audit.Missing(err):
		return nil, errors.Join(server.ErrGone, err)
	case errors.Is(err, audit.ErrDiffers) && len(a.Faults) > 0:
		return culprits(a.Faults), nil
	case err != nil && !errors.Is(err, audit.ErrDiffers):
		return nil, fmt.Errorf("the run cannot be audited: %w", err)
	}
	return nil, err
}

// inquire computes what an attempt did that has failed.
func (r *run) inquire(ctx context.Context, ask machine.AskAudit) ([]server.Culprit, error) {
	what := audit.Range{Between: &audit.Between{From: ask.From, To: ask.Last}, Failed: ask.Failed, Until: ask.Until}
	a, err := audit.RunIn(ctx, r.p, r.store, what, 1, nil)
	if len(a.Faults) > 0 {
		return culprits(a.Faults), nil
	}
	return nil, diverges(err)
}

// diverges is an error of the computation as the server knows it: the job itself comes to numbers that are
// not finite, or something else.
func diverges(err error) error {
	if errors.Is(err, stage.ErrDiverged) {
		return fmt.Errorf("%w: %w", server.ErrDiverged, err)
	}
	return err
}

// culprits names who is to blame to the run machine.
func culprits(fs []audit.Fault) (cs []server.Culprit) {
	for _, f := range fs {
		cs = append(cs, server.Culprit{Who: f.Who, Or: f.Other, What: f.String()})
	}
	return cs
}

// by says which spare has computed something.
func by(name string) string {
	if name == "" {
		return ""
	}
	return ", as " + name + " has computed"
}

// condemned bans who was found to compute something else, if there is no doubt about it and it has
// a key.
func (r *reporter) condemned(c server.Condemned) {
	switch {
	case c.Twice != nil:
		r.opt.Console.Say("barred: %s, in doubt with a second provider: %s", c.Twice.Name, c.What)
		return
	case c.Or != nil:
		r.opt.Console.Say("in doubt: %s", c.What)
		return
	}
	r.opt.Console.Say("barred: %s", c.What)
	if c.Key == "" || r.opt.Members == nil {
		return
	}
	err := r.opt.Members.Change(func(b *member.Book) error { return b.Set(c.Key, member.Banned) })
	if err != nil {
		r.opt.Console.Say("warning: %v: %s is barred from this run only", err, c.Name)
		return
	}
	r.opt.Console.Say("the key of %s is banned: ravnest members shows it", c.Name)
}

// goBack takes back what was told of what is false, and forgets the copies of such checkpoints: a right
// one is told next, unless the run begins anew.
func (r *reporter) goBack(now time.Time, step uint64) {
	r.rec.Undo(now, int64(step))
	r.uncopied, r.uncopyable = nil, nil
	if step > 0 {
		return
	}
	r.files = nil
	if err := os.Remove(filepath.Join(r.p.Dir, project.ManifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.opt.Console.Say("warning: %v: it is of a checkpoint that is not what the job makes", err)
	}
}
