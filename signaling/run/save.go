package run

// Saved state: who may upload what, when the stages that were saved make up a state
// of the whole run, when the next one is asked for, and which objects are of no use
// any more.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// saveSet is the stages that were saved at one position.
type saveSet struct {
	Position position
	Parts    []snapshot.Entry
}

// grant answers an upload request.
func (m *Machine) grant(now time.Time, e UploadRequest) {
	deny := func(code proto.Code, hint, format string, a ...any) {
		m.act(Denial{Seq: e.Seq, Err: &proto.Error{Code: code, Message: fmt.Sprintf(format, a...), Hint: hint}})
	}
	x := m.Members[e.ID]
	switch {
	case x == nil:
		deny(proto.Forbidden, "join again", "no live session with this secret")
	case !m.current(x, e.Run) || (m.Phase != Running && m.Phase != Draining) || x.Done:
		deny(proto.Stopped, "drop the run", "the run %s takes no uploads from this provider now", e.Run)
	case x.Place.Stage != e.Stage:
		deny(proto.Forbidden, "", "stage %d is not this provider's, which is %d", e.Stage, x.Place.Stage)
	case !x.Taking.IsZero():
		// One at a time: what a provider can make the store hold is bounded.
		deny(proto.Protocol, "", "an upload of this provider is under way")
	default:
		x.Taking = now
		m.act(Grant{
			Seq: e.Seq, ID: x.ID, Object: fmt.Sprintf("%s/cluster_%d/stage_%d/%s", e.Run, x.Place.Cluster, e.Stage, e.SHA256),
			Limit: x.Place.MaxUpload, Cluster: x.Place.Cluster, Stage: e.Stage, Segment: x.Place.Segment,
		})
	}
}

// busyUploading tells whether a stage is being brought; the server ends those that
// stand still.
func (m *Machine) busyUploading() bool {
	for _, x := range m.assigned() {
		if !x.Taking.IsZero() {
			return true
		}
	}
	return false
}

func (m *Machine) uploaded(now time.Time, e Upload) {
	x := m.Members[e.ID]
	if x == nil || !m.current(x, e.Run) {
		if m.Job == nil || !m.Objects[e.Object] {
			m.act(Discard{Objects: []string{e.Object}}) // the attempt has ended meanwhile
		}
		return
	}
	if !x.Taking.IsZero() {
		c := m.Clusters[x.Place.Cluster]
		c.Cost = max(c.Cost, now.Sub(x.Taking))
	}
	m.Objects[e.Object] = true
	holds := e.Holds
	if holds == nil {
		holds = []string{snapshot.Weights}
	}
	x.Upload = &saved{Position: e.Position, Entry: snapshot.Entry{
		Cluster: x.Place.Cluster, Stage: x.Place.Stage, Segment: x.Place.Segment,
		Object: e.Object, SHA256: e.Blob.SHA256, Size: e.Blob.Size, Holds: holds, Provider: x.Name,
	}}
	m.sweep()
	if m.Phase == Draining {
		m.extend(now)
	}
}

func (m *Machine) save(now time.Time, x *member, msg *proto.Saved) {
	s := x.Upload
	if s == nil || s.SHA256 != msg.Blob.SHA256 || s.Size != msg.Blob.Size {
		m.violate(now, x, errors.New("it says saved of a blob that it did not upload"))
		return
	}
	pos, err := positionOf(msg, s.Position)
	if err != nil {
		m.violate(now, x, err)
		return
	}
	x.Upload, x.SavedAt = nil, &pos
	m.report(Saved{Run: m.Run, Step: msg.Step, Entry: s.Entry})
	i := slices.IndexFunc(m.Saves, func(o *saveSet) bool { return o.Position == pos })
	if i < 0 {
		if len(m.Saves) >= maxSaves {
			m.Saves = m.Saves[1:]
		}
		m.Saves = append(m.Saves, &saveSet{Position: pos})
		i = len(m.Saves) - 1
	}
	set := m.Saves[i]
	set.Parts = slices.DeleteFunc(set.Parts, func(o snapshot.Entry) bool { return o.Cluster == s.Cluster && o.Stage == s.Stage })
	set.Parts = append(set.Parts, s.Entry)
	m.sweep()
	if m.Phase == Draining {
		m.extend(now)
	}
	total := 0
	for _, c := range m.Clusters {
		total += c.Stages
	}
	if len(set.Parts) == total {
		m.commit(now, set)
	}
}

// positionOf is where a saved state belongs: what the message says, which must be
// what was found in the state itself.
func positionOf(msg *proto.Saved, found *position) (position, error) {
	var pos position
	switch {
	case len(msg.Position) > 0:
		if err := json.Unmarshal(msg.Position, &pos); err != nil {
			return pos, fmt.Errorf("the position of a saved state: %w", err)
		}
		if found != nil && *found != pos {
			return pos, fmt.Errorf("it says that a state is of step %d, the state itself says %d", pos.Step, found.Step)
		}
	case found != nil:
		pos = *found
	default:
		pos.Step, pos.Epoch = uint64(msg.Step), msg.Epoch
	}
	if pos.Epoch < 0 || pos.Batch < 0 {
		return pos, errors.New("the position of a saved state is negative")
	}
	return pos, nil
}

// commit asks for the manifest that makes these stages the run's saved state.
func (m *Machine) commit(now time.Time, set *saveSet) {
	c := &snapshot.Manifest{
		Version: snapshot.Version, Run: m.Run, Generation: m.Attempt, Position: set.Position, Parts: slices.Clone(set.Parts),
	}
	c.Sort()
	b, err := c.JSON()
	if err != nil {
		m.report(Warning{Err: fmt.Errorf("%w: %w", ErrStore, err)})
		return
	}
	m.Saves = slices.DeleteFunc(m.Saves, func(o *saveSet) bool { return o.Position.Step <= set.Position.Step })
	m.Pending = append(m.Pending, &pending{Manifest: c, Asked: now})
	m.act(PutManifest{Run: m.Job.ID, Object: ManifestObject(m.Job.ID), Data: b})
}

func (m *Machine) committed(now time.Time, e Commit) {
	if m.Job == nil || e.Run != m.Job.ID || len(m.Pending) == 0 {
		return // the run has ended meanwhile
	}
	c := m.Pending[0].Manifest
	m.Pending = m.Pending[1:]
	m.CommitOK = e.Err == nil
	if e.Err != nil {
		m.StoreErr = e.Err.Error()
		m.report(Warning{Err: fmt.Errorf("%w: %w", ErrStore, e.Err)})
		m.sweep()
		m.finishIfDone(now)
		return
	}
	m.state.Saved = c
	m.Fruitless = 0
	m.Strikes = keepForbidden(m.Strikes, now)
	m.report(Checkpointed{Manifest: c})
	if c.Generation == m.Attempt {
		for _, k := range m.Clusters {
			k.Asked, k.Last = time.Time{}, now
		}
	}
	m.persist()
	m.sweep()
	if m.Phase == Running {
		for _, x := range m.wishing() {
			// One at a time: the first ends the attempt, and the others are then free to go.
			if !x.gone {
				m.letGo(now, x, "the state is saved")
			}
		}
	}
	m.finishIfDone(now)
}

// keepForbidden forgets failures before a checkpoint: those who took part in it have
// shown that they can.
func keepForbidden(all map[string]*strike, now time.Time) map[string]*strike {
	kept := map[string]*strike{}
	for name, s := range all {
		if now.Before(s.Until) {
			kept[name] = s
		}
	}
	return kept
}

// ask has the roots save when it is time to, or at once. Uploads may take a twentieth
// of the time.
func (m *Machine) ask(now time.Time, atOnce bool) {
	if m.set.Checkpoint < 0 && !atOnce {
		return
	}
	for _, k := range m.clusters() {
		c := m.Clusters[k]
		every := max(m.set.Checkpoint, 20*c.Cost)
		switch {
		case !c.Asked.IsZero() && now.Sub(c.Asked) < max(30*time.Second, 4*c.Cost):
			continue // under way
		case !atOnce && now.Sub(c.Last) < every:
			continue
		}
		for _, x := range m.assigned() {
			if x.Place.Cluster == k && x.Place.Stage == 0 && !x.Done {
				c.Asked = now
				m.send(x, &proto.Checkpoint{Run: m.Run})
			}
		}
	}
}

// sweep discards the objects that nothing can need any more.
func (m *Machine) sweep() {
	need := map[string]bool{}
	mark := func(es []snapshot.Entry) {
		for _, e := range es {
			need[e.Object] = true
		}
	}
	if m.state.Saved != nil {
		mark(m.state.Saved.Parts)
	}
	for _, p := range m.Pending {
		mark(p.Manifest.Parts)
	}
	for _, s := range m.Saves {
		mark(s.Parts)
	}
	for _, x := range m.assigned() {
		if x.Upload != nil {
			need[x.Upload.Object] = true
		}
	}
	var old []string
	for o := range m.Objects {
		if !need[o] {
			old = append(old, o)
			delete(m.Objects, o)
		}
	}
	if len(old) > 0 {
		slices.Sort(old)
		m.act(Discard{Objects: old})
	}
}
