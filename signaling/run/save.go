package run

// Checkpoints: who may upload what, when the saved stages add up to a checkpoint of the
// whole run, when the next one is asked for, and which objects are no longer needed.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// saveSet holds the stages saved at one position. Committed means that those of the first
// cluster already make a checkpoint: the others follow at the end of a run.
type saveSet struct {
	Position  position
	Parts     []snapshot.Entry
	Committed bool `json:",omitempty"`
}

// of is the parts of a cluster.
func (s *saveSet) of(cluster int) []snapshot.Entry {
	var es []snapshot.Entry
	for _, e := range s.Parts {
		if e.Cluster == cluster {
			es = append(es, e)
		}
	}
	return es
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
	case m.Rescue != nil && e.Run == m.Rescue.Run && x.Taking.IsZero() && m.grantHeld(now, x, e):
	case !m.current(x, e.Run) || (m.Phase != Running && m.Phase != Draining) || x.Done:
		deny(proto.Stopped, "drop the run", "run %s takes no upload from this provider now", e.Run)
	case x.Place.Stage != e.Stage:
		deny(proto.Forbidden, "", "stage %d is not this provider's; it has stage %d", e.Stage, x.Place.Stage)
	case !x.Taking.IsZero():
		// One at a time, to bound what one provider can put into the store.
		deny(proto.Protocol, "", "another upload from this provider is in progress")
	default:
		x.Taking = now
		m.act(Grant{
			Seq: e.Seq, ID: x.ID, Run: e.Run, Object: objectOf(e.Run, x.Place.Cluster, e.Stage, e.SHA256),
			Limit: x.Place.MaxUpload, Cluster: x.Place.Cluster, Stage: e.Stage, Segment: x.Place.Segment,
		})
	}
}

// objectOf is where the store has a stage's state.
func objectOf(run string, cluster, stage int, sha256 string) string {
	return fmt.Sprintf("%s/cluster_%d/stage_%d/%s", run, cluster, stage, sha256)
}

// busyUploading reports whether a stage is being uploaded. The server ends uploads that
// make no progress.
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
	if x != nil && m.Rescue != nil && e.Run == m.Rescue.Run {
		m.takeHeld(now, x, e)
		return
	}
	if x == nil || !m.current(x, e.Run) {
		if m.Job == nil || !m.Objects[e.Object] {
			m.act(Discard{Objects: []string{e.Object}}) // the attempt ended in the meantime
		}
		return
	}
	if !x.Taking.IsZero() {
		c := m.Clusters[x.Place.Cluster]
		c.Cost = max(c.Cost, now.Sub(x.Taking))
		m.BringCost = c.Cost
	}
	m.Objects[e.Object] = true
	holds := e.Holds
	if holds == nil {
		holds = []string{snapshot.Weights}
	}
	// What names it may come late, over a connection that had to be made anew.
	x.Uploads = append(x.Uploads[max(0, len(x.Uploads)-maxUploads+1):], &saved{Position: e.Position, Entry: snapshot.Entry{
		Cluster: x.Place.Cluster, Stage: x.Place.Stage, Segment: x.Place.Segment,
		Object: e.Object, SHA256: e.Blob.SHA256, Size: e.Blob.Size, Holds: holds, Provider: x.Name,
	}})
	m.sweep()
	if m.Phase == Draining {
		m.extend(now)
	}
}

func (m *Machine) save(now time.Time, x *member, msg *proto.Saved) {
	i := slices.IndexFunc(x.Uploads, func(s *saved) bool { return s.SHA256 == msg.Blob.SHA256 && s.Size == msg.Blob.Size })
	if i < 0 {
		m.violate(now, x, errors.New("it reports a blob as saved that it did not upload"))
		return
	}
	s := x.Uploads[i]
	pos, err := positionOf(msg, s.Position)
	if err != nil {
		m.violate(now, x, err)
		return
	}
	x.Uploads, x.SavedAt = x.Uploads[i+1:], &pos // those before it were never named
	m.report(Saved{Run: m.Run, Step: msg.Step, Entry: s.Entry})
	i = slices.IndexFunc(m.Saves, func(o *saveSet) bool { return o.Position == pos })
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
	m.commitWhole()
}

// commitWhole commits the checkpoints whose stages are all there. With several clusters each
// leaf reports the losses of its own batches: until all before the position are known, going
// on from there would lose some.
func (m *Machine) commitWhole() {
	total := 0
	for _, c := range m.Clusters {
		total += c.Stages
	}
	for _, set := range slices.Clone(m.Saves) {
		switch {
		case len(m.Clusters) > 1 && m.Next < int64(set.Position.Step):
		case len(set.Parts) == total:
			m.commit(set, set.Parts, true)
		case !m.Job.Apart && !set.Committed && len(set.of(0)) == m.Clusters[0].Stages:
			set.Committed = true
			m.commit(set, set.of(0), false)
		}
	}
}

// positionOf returns the position of a saved state: the one in the message, which must
// agree with the one found in the state itself.
func positionOf(msg *proto.Saved, found *position) (position, error) {
	var pos position
	switch {
	case len(msg.Position) > 0:
		if err := json.Unmarshal(msg.Position, &pos); err != nil {
			return pos, fmt.Errorf("the position of a saved state cannot be read: %w", err)
		}
		if found != nil && *found != pos {
			return pos, fmt.Errorf("it reports a state of step %d, but the state itself says step %d", pos.Step, found.Step)
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

// commit asks for the manifest that makes these stages of a set the run's saved state. whole
// tells that no others will come.
func (m *Machine) commit(set *saveSet, parts []snapshot.Entry, whole bool) {
	c := &snapshot.Manifest{
		Version: snapshot.Version, Run: m.Run, Generation: m.Attempt, Position: set.Position, Record: m.Record, Parts: slices.Clone(parts),
	}
	c.Sort()
	if err := m.putManifest(c); err != nil {
		m.report(Warning{Err: err})
		return
	}
	m.Saves = slices.DeleteFunc(m.Saves, func(o *saveSet) bool {
		return o.Position.Step < set.Position.Step || o == set && whole
	})
}

// putManifest asks for the manifest to be stored.
func (m *Machine) putManifest(c *snapshot.Manifest) error {
	b, err := c.JSON()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	m.logGiven()
	m.Pending = append(m.Pending, &pending{Manifest: c})
	m.act(PutManifest{Run: m.Job.ID, Object: ManifestObject(m.Job.ID), Data: b})
	return nil
}

func (m *Machine) committed(now time.Time, e Commit) {
	if m.Job == nil || e.Run != m.Job.ID || len(m.Pending) == 0 {
		return // the run ended in the meantime
	}
	c := m.Pending[0].Manifest
	void := m.Pending[0].Void
	m.Pending = m.Pending[1:]
	if void {
		m.sweep()
		m.gather(now)
		return
	}
	if e.Err != nil {
		m.commitFault(now, c, e.Err)
		return
	}
	if m.Job.Audit {
		if m.state.Saved != nil && m.state.Saved.Position != c.Position {
			m.Prior = m.state.Saved
		}
		m.audit(AuditLine{Checkpoint: c}, c.Position.Step)
	}
	m.state.Saved = c
	if m.Job.AuditEvery > 0 {
		m.link(c)
	}
	m.logStored()
	m.SavedAt = now.Add(-m.BringCost)
	m.Fruitless, m.Disagreed = 0, 0
	m.Strikes = keepForbidden(m.Strikes, now)
	done := Checkpointed{Manifest: c}
	if m.Fault != nil {
		done.After, m.Fault = now.Sub(m.Fault.Since), nil
	}
	m.report(done)
	if c.Generation == m.Attempt {
		for _, k := range m.Clusters {
			k.Asked, k.Last = time.Time{}, now
		}
	}
	if r := m.Rescue; r != nil && c.Generation == r.Attempt && c.Position == r.position() {
		m.Rescue = nil
	}
	m.check(true)
	m.persist()
	m.sweep()
	m.gather(now)
	if m.Phase == Running {
		for _, x := range m.wishing() {
			// Letting the first go ends the attempt, and then the others may leave too.
			if !x.gone {
				m.letGo(now, x, "the state is saved")
			}
		}
	}
	m.regroup(now, c)
	m.finishIfDone(now)
}

// keepForbidden returns the strikes still being served. The others are forgotten at a
// checkpoint: whoever contributed to it has shown that it works.
func keepForbidden(all map[string]*strike, now time.Time) map[string]*strike {
	kept := map[string]*strike{}
	for name, s := range all {
		if now.Before(s.Until) {
			kept[name] = s
		}
	}
	return kept
}

// ask tells the root to save a checkpoint, when one is due or at once. Intervals are
// chosen so that uploads take at most a twentieth of the time. Only the root of the first
// cluster is asked: all clusters agree on its answer at the end of the round, and another
// root that hears of it later would have them save again.
func (m *Machine) ask(now time.Time, atOnce bool) {
	if m.set.Checkpoint < 0 && !atOnce {
		return
	}
	cost := time.Duration(0)
	for _, c := range m.Clusters {
		cost = max(cost, c.Cost)
	}
	c := m.Clusters[0]
	switch {
	case !c.Asked.IsZero() && now.Sub(c.Asked) < max(30*time.Second, 4*cost):
		return // under way
	case !atOnce && now.Sub(c.Last) < max(m.set.Checkpoint, Spacing(cost, m.meanTime(now, m.Deep))):
		return
	}
	for _, x := range m.assigned() {
		if x.Place.Cluster == 0 && x.Place.Stage == 0 && !x.Done {
			c.Asked = now
			m.send(x, &proto.Checkpoint{Run: m.Run})
		}
	}
}

// sweep discards the objects that are no longer needed.
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
	if m.Prior != nil {
		mark(m.Prior.Parts)
	}
	for _, k := range m.Chain {
		mark(k.Manifest.Parts)
	}
	if m.Audit != nil {
		if m.Audit.From != nil {
			mark(m.Audit.From.Parts)
		}
		if m.Audit.To != nil {
			mark(m.Audit.To.Parts)
		}
	}
	for _, p := range m.Pending {
		mark(p.Manifest.Parts)
	}
	if m.Fault.waits() {
		mark(m.Fault.Manifest.Parts)
	}
	for _, s := range m.Saves {
		mark(s.Parts)
	}
	if m.Rescue != nil {
		for _, p := range m.Rescue.Parts {
			if p.Entry != nil {
				need[p.Entry.Object] = true
			}
		}
	}
	for _, x := range m.assigned() {
		for _, s := range x.Uploads {
			need[s.Object] = true
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
