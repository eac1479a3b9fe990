// What a run kept for audits: a log in the store, in segments that an index lists.

package audit

import (
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

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/native/project"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// Objects is where an audit reads what the run has stored. What is not there is fs.ErrNotExist or
// project.ErrMissing.
type Objects interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
}

// stored is the store of a project's directory, which nobody serves.
type stored struct{ p *project.Project }

// Get implements Objects.
func (s stored) Get(_ context.Context, name string) (io.ReadCloser, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("the object %q is not inside the store", name)
	}
	f, _, err := project.OpenRegular(filepath.Join(s.p.Dir, project.StoreDir, filepath.FromSlash(name)), "object of the store")
	return f, err
}

// Missing tells that something is not in the store.
func Missing(err error) bool {
	return errors.Is(err, project.ErrMissing) || errors.Is(err, fs.ErrNotExist)
}

// readObject reads a small one.
func readObject(ctx context.Context, in Objects, name string, most int64) ([]byte, error) {
	r, err := in.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return b, err
}

// maxAuditIndex bounds the index, and the record of a run.
const maxAuditIndex = 16 << 20

// log is what the host kept for an audit. What stages said is read stretch by stretch.
type log struct {
	in          Objects
	job         string
	index       machine.AuditIndex
	attempts    []*attempt
	checkpoints []*snapshot.Manifest
}

// moment is the update, or the average of the round, that ends with a batch.
type moment struct {
	step  uint64
	round bool
}

// attempt is an attempt.
type attempt struct {
	run  string
	plan *machine.AuditPlan
	// checkpoints is how many there were when it began.
	checkpoints int
}

// testimony is what the stages of an attempt said.
type testimony map[stage.Peer]map[moment]stage.Digest

// readAudit reads who trained from a step on, or from the checkpoint before it.
func readAudit(ctx context.Context, in Objects, job string, from uint64) (*log, error) {
	l := &log{in: in, job: job}
	b, err := readObject(ctx, in, machine.AuditIndexOf(job), maxAuditIndex)
	if Missing(err) {
		return l, nil
	}
	if err == nil {
		l.index, err = machine.ParseAuditIndex(b)
	}
	if err != nil {
		return nil, err
	}
	err = l.lines(ctx, from, func(line []byte) error {
		if saidBy(line) != nil {
			return nil
		}
		var x machine.AuditLine
		if err := json.Unmarshal(line, &x); err != nil {
			return err
		}
		return l.add(&x)
	})
	return l, err
}

// lines calls f for each line of the segments that have something about a step or later ones.
func (l *log) lines(ctx context.Context, from uint64, f func(line []byte) error) error {
	for _, s := range l.index.Segments {
		if s.Top < from {
			continue
		}
		name := machine.AuditObjects(l.job) + s.SHA256
		b, err := readObject(ctx, l.in, name, s.Size)
		if d := sha256.Sum256(b); err == nil && hex.EncodeToString(d[:]) != s.SHA256 {
			err = errors.New("it is not what was stored there, or not all of it")
		}
		if err == nil {
			for line := range bytes.Lines(b) {
				if err = f(line); err != nil {
					break
				}
			}
		}
		if err != nil {
			return fmt.Errorf("the audit log, %s: %w", name, err)
		}
	}
	return nil
}

// saidBy returns how a line begins in which a stage says something; nil: it is another one.
func saidBy(line []byte) []byte {
	const head, middle = `{"run":"`, `","said":`
	if !bytes.HasPrefix(line, []byte(head)) {
		return nil
	}
	n := bytes.IndexByte(line[len(head):], '"')
	if n < 0 || !bytes.HasPrefix(line[len(head)+n:], []byte(middle)) {
		return nil
	}
	return line[:len(head)+n+len(middle)]
}

// said reads what the stages of an attempt said of a stretch.
func (l *log) said(ctx context.Context, s stretch) (testimony, map[stage.Peer]stage.Digest, error) {
	all, last := testimony{}, map[stage.Peer]stage.Digest{}
	begins, err := json.Marshal(struct {
		Run  string `json:"run"`
		Said int    `json:"said"`
	}{s.run, 0})
	if err != nil {
		return nil, nil, err
	}
	begins = bytes.TrimSuffix(begins, []byte("0}"))
	return all, last, l.lines(ctx, s.from, func(line []byte) error {
		if !bytes.Equal(saidBy(line), begins) {
			return nil
		}
		var x machine.AuditLine
		if err := json.Unmarshal(line, &x); err != nil || x.Said == nil {
			return errors.Join(err, errors.New("a line without digests"))
		}
		by := stage.Peer{Cluster: x.Said.Cluster, Stage: x.Said.Stage}
		for _, d := range x.Said.Digests {
			g, err := stage.ParseDigest(uint64(d.Step), d.Round, d.Sums, d.Rings)
			if err != nil {
				return err
			}
			if n := d.Open; len(n) == 2*int(stage.OpenWays) {
				if s.open {
					g.Open = &stage.Open{In: [stage.OpenWays]int(n), Out: [stage.OpenWays]int(n[stage.OpenWays:])}
					last[by] = g
				}
				continue
			}
			if g.Step < s.from || g.Step >= s.until {
				continue
			}
			if all[by] == nil {
				all[by] = map[moment]stage.Digest{}
			}
			all[by][moment{g.Step, g.Round}] = g
		}
		return nil
	})
}

// add takes a line of another kind.
func (l *log) add(x *machine.AuditLine) error {
	switch {
	case x.Plan != nil && x.Plan.Again:
		if l.attempt(x.Run) == nil { // what came before is not read
			l.attempts = append(l.attempts, &attempt{run: x.Run, plan: x.Plan})
		}
	case x.Plan != nil:
		if x.Plan.Generation == 1 { // begun anew
			l.attempts, l.checkpoints = nil, nil
		}
		l.attempts = append(l.attempts, &attempt{run: x.Run, plan: x.Plan, checkpoints: len(l.checkpoints)})
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

func (l *log) attempt(run string) *attempt {
	for i := len(l.attempts) - 1; i >= 0; i-- {
		if l.attempts[i].run == run {
			return l.attempts[i]
		}
	}
	return nil
}

// stretch is what one attempt has done of the result.
type stretch struct {
	*attempt
	from, until uint64
	open        bool // the attempt has failed
}

// stretches are the attempts that made the checkpoint last, from step from on: the one that
// saved it, the one that saved what that one began with, and so on. One that has saved what it began with
// has an empty stretch.
func (l *log) stretches(from uint64, last *snapshot.Manifest) (ss []stretch) {
	for c := last; c != nil && c.Position.Step > from; {
		a := l.attempt(c.Run)
		if a == nil || a.plan.From > c.Position.Step {
			return nil
		}
		ss = append(ss, stretch{attempt: a, from: max(a.plan.From, from), until: c.Position.Step})
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
func (l *log) before(a *attempt) *snapshot.Manifest {
	for i := min(a.checkpoints, len(l.checkpoints)) - 1; i >= 0; i-- {
		if c := l.checkpoints[i]; c.Position.Step == a.plan.From {
			return c
		}
	}
	return nil
}
