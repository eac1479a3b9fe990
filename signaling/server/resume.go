package server

// Resuming a run after the host was restarted, and serving its checkpoint to the providers
// that continue it.

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
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/run"
)

// maxStored bounds a run's state or manifest in the store.
const maxStored = 64 << 20

// Earlier returns what the store has of an unfinished run of this job, or nil. Runs of a job
// with the same name but other contents do not count.
func Earlier(ctx context.Context, st Store, id string, raw json.RawMessage) (*run.Earlier, error) {
	b, err := object(ctx, st, run.StateObject(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var e *run.Earlier
	if m, err := run.Restore(run.Settings{}, b); err == nil {
		var job *run.Job
		if job, e = m.Earlier(); job == nil || !sameJSON(job.Raw, raw) {
			return nil, nil
		}
	} else if e = recorded(ctx, st, id, raw); e == nil {
		return nil, fmt.Errorf("the run's state %s: %w", run.StateObject(id), err)
	}
	if b, err = object(ctx, st, run.AuditIndexOf(id)); err == nil {
		if x, err := run.ParseAuditIndex(b); err == nil { // a damaged log is begun anew
			e.Log = x
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The manifest decides: it may be newer than the state by one commit.
	b, err = object(ctx, st, run.ManifestObject(id))
	if errors.Is(err, fs.ErrNotExist) {
		e.Checkpoint = nil
		return e, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := snapshot.ParseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("the run's checkpoint %s: %w", run.ManifestObject(id), err)
	}
	e.Checkpoint = c
	return e, nil
}

// recorded is what the run's record in the store tells of it, for when its state is damaged: the
// record names the job and the last attempt. It returns nil if it is of another job or damaged
// too.
func recorded(ctx context.Context, st Store, id string, raw json.RawMessage) *run.Earlier {
	b, err := object(ctx, st, id+"/job.json")
	if err != nil {
		return nil
	}
	var rec struct {
		Run string          `json:"run"`
		Job json.RawMessage `json:"job"`
	}
	if json.Unmarshal(b, &rec) != nil || !sameJSON(rec.Job, raw) {
		return nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rec.Run, id+"-"))
	if err != nil || n < 1 {
		return nil
	}
	return &run.Earlier{Attempt: n}
}

// Intact verifies that the parts of a checkpoint in the store are what its manifest says: a disk
// may have lost some of what it was given. Errors wrap snapshot.ErrFormat or fs.ErrNotExist.
func Intact(ctx context.Context, st Store, c *snapshot.Manifest) error {
	for _, e := range c.Parts {
		r, err := st.Get(ctx, e.Object)
		if err != nil {
			return fmt.Errorf("the checkpoint of step %d: %w", c.Position.Step, err)
		}
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(r, e.Size+1))
		_ = r.Close()
		if err == nil && (n != e.Size || hex.EncodeToString(h.Sum(nil)) != e.SHA256) {
			err = fmt.Errorf("%w: it is not what was saved, or not all of it", snapshot.ErrFormat)
		}
		if err != nil {
			return fmt.Errorf("the checkpoint of step %d: %s: %w", c.Position.Step, e.Object, err)
		}
	}
	return nil
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func object(ctx context.Context, st Store, name string) ([]byte, error) {
	r, err := st.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxStored+1))
	if err == nil && len(b) > maxStored {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxStored)
	}
	return b, err
}

// earlier returns what the job resumes from, and the objects of older runs that are not
// needed once this one has begun.
func (s *Server) earlier(ctx context.Context, job *Job) (e *run.Earlier, stale []string, err error) {
	if !job.Fresh {
		if e, err = Earlier(ctx, s.store, job.ID, job.Raw); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
	need := map[string]bool{}
	if e == nil {
		stale = append(stale, run.ManifestObject(job.ID))
	} else if e.Checkpoint != nil {
		for _, p := range e.Checkpoint.Parts {
			need[p.Object] = true
		}
	}
	old, err := s.store.List(ctx, job.ID+"-")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	if e != nil && job.AuditEvery > 0 {
		for _, k := range e.Trust.Chain {
			for _, p := range k.Manifest.Parts {
				if need[p.Object] = true; !slices.Contains(old, p.Object) {
					e.Trust.Chain = nil // a checkpoint that it could go back to is not there
				}
			}
		}
	}
	logs, err := s.store.List(ctx, run.AuditObjects(job.ID))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	if e != nil {
		for _, x := range e.Log.Segments {
			need[run.AuditObjects(job.ID)+x.SHA256] = true
		}
	}
	for _, o := range append(old, logs...) {
		if !need[o] {
			stale = append(stale, o)
		}
	}
	return e, stale, nil
}

// part opens a blob of the newest checkpoint. The caller must close it.
func (s *Server) part(ctx context.Context, sum string) (io.ReaderAt, int64, io.Closer, error) {
	s.mu.Lock()
	e, ok := s.parts[sum]
	s.mu.Unlock()
	if !ok {
		return nil, 0, nil, fs.ErrNotExist
	}
	r, err := s.store.Get(ctx, e.Object)
	if err != nil {
		return nil, 0, nil, err
	}
	if ra, ok := r.(io.ReaderAt); ok {
		return ra, e.Size, r, nil
	}
	b, err := io.ReadAll(io.LimitReader(r, e.Size))
	if err != nil {
		_ = r.Close()
		return nil, 0, nil, err
	}
	return bytes.NewReader(b), e.Size, r, nil
}
