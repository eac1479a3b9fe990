package server

// The lobby's part about saved state: who may upload what, when the stages that
// were saved make up a state of the whole run, and which objects are of no use
// any more.

import (
	"cmp"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// grant says where the session that holds this secret may upload the stage to.
func (l *lobby) grant(secret, run string, stage int, sha string) (id, object string, err *proto.Error) {
	for _, m := range l.members {
		if subtle.ConstantTimeCompare([]byte(m.secret), []byte(secret)) != 1 {
			continue
		}
		if !l.current(m, run) || (l.phase != running && l.phase != draining) || m.done {
			return "", "", &proto.Error{Code: proto.Stopped, Message: fmt.Sprintf("the run %s takes no uploads from this provider now", run), Hint: "drop the run"}
		}
		if m.job.Stage != stage {
			return "", "", &proto.Error{Code: proto.Forbidden, Message: fmt.Sprintf("stage %d is not this provider's, which is %d", stage, m.job.Stage)}
		}
		// One at a time: what a provider can make the store hold is bounded.
		if m.taking {
			return "", "", &proto.Error{Code: proto.Protocol, Message: "an upload of this provider is under way"}
		}
		m.taking = true
		return m.ID, fmt.Sprintf("%s/cluster_%d/stage_%d/%s", run, m.job.Cluster, stage, sha), nil
	}
	return "", "", &proto.Error{Code: proto.Forbidden, Message: "no live session with this secret", Hint: "join again"}
}

func (l *lobby) uploaded(e uploaded) {
	m := l.members[e.id]
	if m == nil || !l.current(m, e.run) {
		return // the run ended meanwhile; the object is nobody's and harmless
	}
	l.objects[e.object] = true
	m.upload = &SavedStage{
		Cluster: m.job.Cluster, Stage: m.job.Stage, Stages: m.job.Stages, Name: m.Name,
		Object: e.object, SHA256: e.blob.SHA256, Size: e.blob.Size,
	}
	l.sweep()
}

func (l *lobby) save(now time.Time, m *member, msg *proto.Saved) {
	s := m.upload
	if s == nil || s.SHA256 != msg.Blob.SHA256 || s.Size != msg.Blob.Size {
		l.violate(now, m, errors.New("it says saved of a blob that it did not upload"))
		return
	}
	m.upload = nil
	s.Step, s.Epoch = msg.Step, msg.Epoch
	p := place{s.Cluster, s.Stage}
	l.latest[p] = s
	l.emit(Saved{Run: l.run, SavedStage: *s})
	set := l.saves[s.Step]
	if set == nil {
		if len(l.saves) >= maxSaves {
			oldest := s.Step
			for step := range l.saves {
				oldest = min(oldest, step)
			}
			delete(l.saves, oldest)
		}
		set = map[place]*SavedStage{}
		l.saves[s.Step] = set
	}
	set[p] = s
	l.sweep()
	if len(set) == l.total {
		l.commit(set)
	}
}

// commit asks for the record that makes these stages the run's saved state.
func (l *lobby) commit(set map[place]*SavedStage) {
	c := &Checkpoint{Run: l.run}
	for _, s := range set {
		c.Stages = append(c.Stages, *s)
		c.Step, c.Epoch = max(c.Step, s.Step), max(c.Epoch, s.Epoch)
	}
	slices.SortFunc(c.Stages, func(a, b SavedStage) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Stage, b.Stage))
	})
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("lobby: checkpoint: %v", err)) // strings and integers
	}
	l.pending = append(l.pending, c)
	l.act(commit{object: l.run + "/saved.json", data: append(b, '\n'), checkpoint: c})
}

// isSaved reports whether the committed state is these objects.
func (l *lobby) isSaved(set map[place]*SavedStage) bool {
	if l.saved == nil {
		return false
	}
	for _, s := range l.saved.Stages {
		if o := set[place{s.Cluster, s.Stage}]; o == nil || o.Object != s.Object {
			return false
		}
	}
	return true
}

func (l *lobby) committed(now time.Time, e committed) {
	if l.job == nil || e.run != l.run {
		return // the run ended meanwhile
	}
	l.pending = l.pending[1:]
	l.commitErr = e.err
	if e.err != nil {
		l.emit(Warning{Err: fmt.Errorf("%w: %w", ErrStore, e.err)})
		l.finishIfDone()
		return
	}
	l.saved = e.checkpoint
	l.emit(Checkpointed{Checkpoint: *e.checkpoint})
	for step := range l.saves {
		if step <= e.checkpoint.Step {
			delete(l.saves, step)
		}
	}
	l.sweep()
	l.finishIfDone()
}

// sweep discards the objects that nothing can need any more.
func (l *lobby) sweep() {
	need := map[string]bool{}
	if l.saved != nil {
		for _, s := range l.saved.Stages {
			need[s.Object] = true
		}
	}
	for _, c := range l.pending {
		for _, s := range c.Stages {
			need[s.Object] = true
		}
	}
	for _, set := range l.saves {
		for _, s := range set {
			need[s.Object] = true
		}
	}
	for _, s := range l.latest {
		need[s.Object] = true
	}
	for _, m := range l.members {
		if m.upload != nil {
			need[m.upload.Object] = true
		}
	}
	var old []string
	for o := range l.objects {
		if !need[o] {
			old = append(old, o)
			delete(l.objects, o)
		}
	}
	if len(old) > 0 {
		slices.Sort(old)
		l.act(discard{objects: old})
	}
}
