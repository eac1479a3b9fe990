package run

// States that stages hold in memory. From time to time the root is asked for a mark at which
// every stage keeps its state in memory, and has a copy kept by a neighbour where no other
// cluster has the same state. When a stage is lost, survivors bring the newest such states
// that are complete among them, which become a checkpoint: the run goes on from there and not
// from the older checkpoint in the store.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// heldSet is the states that are held of one step.
type heldSet struct {
	Step     int64
	Position position // as the stages say
	Since    time.Time
	Claims   []*claim
}

// claim is what a member says that it holds: its own stage's state, or a copy of another one's
// of its cluster.
type claim struct {
	By      string // ID
	Own     bool
	Cluster int
	Stage   int
	Segment snapshot.Segment
	Limit   int64
	Name    string // of the provider whose state it is
	Blob    proto.Ref
}

func (c *claim) place() place { return place{c.Cluster, c.Stage} }

// owned returns the stages' own claims.
func (s *heldSet) owned() map[place]*claim {
	own := map[place]*claim{}
	for _, c := range s.Claims {
		if c.Own {
			own[c.place()] = c
		}
	}
	return own
}

// rescue is the states that are being brought after a loss.
type rescue struct {
	Run     string
	Attempt int
	Apart   bool
	Record  []order.Period `json:",omitempty"` // of the attempt
	Places  []place        // stages of the attempt
	Sets    []*heldSet     // to choose from, oldest first
	Avoid   []string       // IDs of members that are not asked
	Step    int64          // of the set that is being brought
	Parts   []*brought     // of it
	Until   time.Time      // they are given up if nothing happens before
	Began   time.Time
	From    time.Time // since when what they would save was trained
}

// brought is a state that is being brought.
type brought struct {
	claim
	Granted bool            // its upload has begun
	Entry   *snapshot.Entry // once it is in the store
}

// versions is how many states of one stage a member holds.
const versions = 2

// holds reports whether the attempt's stages hold states in memory.
func (m *Machine) holds() bool {
	ms := m.assigned()
	for _, x := range ms {
		if !x.Place.Hold {
			return false
		}
	}
	return len(ms) > 0 && m.set.Hold >= 0
}

// held notes what a member holds.
func (m *Machine) held(now time.Time, x *member, msg *proto.Held) {
	if m.Phase != Running || !m.holds() {
		return
	}
	owner := x
	if own := msg.Stage == x.Place.Stage; !own {
		i := slices.IndexFunc(m.assigned(), func(o *member) bool {
			return o.Place.Cluster == x.Place.Cluster && o.Place.Stage == msg.Stage
		})
		if i < 0 {
			m.violate(now, x, fmt.Errorf("it says that it holds a state of stage %d of %d", msg.Stage, x.Place.Stages))
			return
		}
		owner = m.assigned()[i]
	}
	c := &claim{
		By: x.ID, Own: owner == x, Cluster: x.Place.Cluster, Stage: msg.Stage, Segment: owner.Place.Segment,
		Limit: owner.Place.MaxUpload, Name: owner.Name, Blob: msg.Blob,
	}
	if c.Limit > 0 && c.Blob.Size > c.Limit {
		m.violate(now, x, fmt.Errorf("it says that it holds a state of %d bytes, but that of stage %d has at most %d", c.Blob.Size, c.Stage, c.Limit))
		return
	}
	set, err := m.setOf(now, msg, c.Own)
	if err != nil {
		m.violate(now, x, err)
		return
	}
	set.Claims = slices.DeleteFunc(set.Claims, func(o *claim) bool { return o.By == c.By && o.Stage == c.Stage })
	set.Claims = append(set.Claims, c)
	m.forget(c)
	if m.full(set) {
		// Whoever contributed has shown that it works.
		m.HoldAsked, m.HoldLast, m.HoldCost = time.Time{}, now, now.Sub(set.Since)
		m.Fruitless, m.Strikes = 0, keepForbidden(m.Strikes, now)
	}
}

// setOf finds the set that a message is about, or begins it.
func (m *Machine) setOf(now time.Time, msg *proto.Held, own bool) (*heldSet, error) {
	var pos position
	if own {
		if err := json.Unmarshal(msg.Position, &pos); err != nil {
			return nil, fmt.Errorf("the position of a state that it holds cannot be read: %w", err)
		}
		if pos.Epoch < 0 || pos.Batch < 0 || pos.Step != uint64(msg.Step) {
			return nil, fmt.Errorf("the position of the state of step %d that it holds is not possible", msg.Step)
		}
	}
	i := slices.IndexFunc(m.Held, func(s *heldSet) bool { return s.Step == msg.Step })
	if i < 0 {
		s := &heldSet{Step: msg.Step, Position: pos, Since: now}
		m.Held = append(m.Held, s)
		slices.SortFunc(m.Held, func(a, b *heldSet) int { return int(a.Step - b.Step) })
		return s, nil
	}
	s := m.Held[i]
	if own && len(s.owned()) > 0 && s.Position != pos {
		return nil, errors.New("it holds a state of another position than the others")
	}
	if own {
		s.Position = pos
	}
	return s, nil
}

// forget removes what the holder of a new claim has forgotten for it.
func (m *Machine) forget(c *claim) {
	n := 0
	for i := len(m.Held) - 1; i >= 0; i-- {
		s := m.Held[i]
		s.Claims = slices.DeleteFunc(s.Claims, func(o *claim) bool {
			if o.By == c.By && o.Stage == c.Stage {
				n++
				return n > versions
			}
			return false
		})
	}
	m.Held = slices.DeleteFunc(m.Held, func(s *heldSet) bool { return len(s.Claims) == 0 })
}

// full reports whether all stages hold a set, with all copies.
func (m *Machine) full(s *heldSet) bool {
	own := s.owned()
	for _, x := range m.assigned() {
		c := own[place{x.Place.Cluster, x.Place.Stage}]
		if c == nil || x.Place.Copied && !slices.ContainsFunc(s.Claims, c.copiedAs) {
			return false
		}
	}
	return true
}

// copiedAs reports whether o is a copy of the state that c is about.
func (c *claim) copiedAs(o *claim) bool { return !o.Own && o.place() == c.place() && o.Blob == c.Blob }

// askHold has the root set the mark to hold states, when it is time. As with checkpoints the
// interval follows from what it takes and how often somebody is lost.
func (m *Machine) askHold(now time.Time) {
	switch {
	case !m.holds():
		return
	case !m.HoldAsked.IsZero() && now.Sub(m.HoldAsked) < max(30*time.Second, 4*m.HoldCost):
		return // under way
	case now.Sub(m.HoldLast) < max(m.set.Hold, Spacing(m.HoldCost, m.meanTime(now, m.Losses))):
		return
	}
	if x := m.assigned()[0]; !x.Done {
		m.HoldAsked = now
		m.send(x, &proto.Checkpoint{Run: m.Run, Hold: true})
	}
}

// recall begins to bring the newest states that the survivors of the attempt hold. It is for
// when the attempt ends, before it is forgotten. A set counts when every stage has held it, so
// that all losses before it are known.
func (m *Machine) recall(now time.Time, blame []string) *rescue {
	r := &rescue{Run: m.Run, Attempt: m.Attempt, Apart: m.Job.Apart, Record: m.Record, Began: now, From: m.Started}
	for _, c := range m.clusters() { // whoever was lost is no member any more
		for k := range m.Clusters[c].Stages {
			r.Places = append(r.Places, place{c, k})
		}
	}
	for _, x := range m.Members {
		if slices.Contains(blame, x.Name) {
			r.Avoid = append(r.Avoid, x.ID)
		}
	}
	slices.Sort(r.Avoid)
	saved := int64(-1)
	if c := m.state.Saved; c != nil {
		saved = int64(c.Position.Step)
	}
	for _, p := range m.Pending {
		saved = max(saved, int64(p.Manifest.Position.Step))
	}
	// It pays if bringing the states takes less time than training up to them did. Until an upload
	// was seen, what copying takes is the measure.
	cost := max(m.BringCost, m.HoldCost)
	if m.SavedAt.After(r.From) {
		r.From = m.SavedAt
	}
	for _, s := range m.Held {
		if s.Step > max(saved, 0) && s.Since.Sub(r.From) > cost && len(s.owned()) == len(r.Places) && (len(m.Clusters) == 1 || m.Next >= s.Step) {
			r.Sets = append(r.Sets, s)
		}
	}
	if m.Phase != Running && m.Phase != Draining || !m.choose(now, r) {
		return nil
	}
	return r
}

// choose chooses the newest set of a rescue for which there are members to ask, and whom to ask
// for what.
func (m *Machine) choose(now time.Time, r *rescue) bool {
	for i := len(r.Sets) - 1; i >= 0; i-- {
		s := r.Sets[i]
		if parts := m.sources(r, s); parts != nil {
			for _, p := range parts {
				for _, had := range r.Parts {
					if r.Step == s.Step && had.place() == p.place() && had.Entry != nil {
						p.claim, p.Entry = had.claim, had.Entry
					}
				}
			}
			r.Step, r.Parts, r.Until = s.Step, parts, now.Add(m.patience())
			return true
		}
	}
	return false
}

// patience is how long a rescue may stand still.
func (m *Machine) patience() time.Duration { return 2 * m.set.Timeout }

// sources returns the states that make up a set and who brings them: those of one cluster, or of
// all where clusters have states of their own. It returns nil if some are held by nobody.
func (m *Machine) sources(r *rescue, s *heldSet) []*brought {
	own := s.owned()
	of := map[int][]*brought{}
	missing := map[int]bool{}
	for _, p := range r.Places {
		var from *claim
		for _, c := range s.Claims {
			x := m.Members[c.By]
			if c.place() != p || x == nil || !x.Met || x.Away != "" || slices.Contains(r.Avoid, c.By) {
				continue
			}
			if c.Own || own[p].copiedAs(c) && from == nil {
				from = c
			}
		}
		if from == nil {
			missing[p.Cluster] = true
			continue
		}
		of[p.Cluster] = append(of[p.Cluster], &brought{claim: *from})
	}
	if r.Apart {
		if len(missing) > 0 {
			return nil
		}
		return slices.Concat(slices.Collect(maps.Values(of))...)
	}
	for _, p := range r.Places {
		if !missing[p.Cluster] {
			return of[p.Cluster]
		}
	}
	return nil
}

// bring asks for the states of a rescue that are not here yet.
func (m *Machine) bring() {
	r := m.Rescue
	slices.SortFunc(r.Parts, func(a, b *brought) int { return (a.Cluster-b.Cluster)<<16 + a.Stage - b.Stage })
	for _, p := range r.Parts {
		if x := m.Members[p.By]; x != nil && p.Entry == nil {
			m.send(x, &proto.Bring{Run: r.Run, Stage: p.Stage, Blob: p.Blob})
		}
	}
}

// unreachable gives up asking these members, and asks others or for older states. If there are
// none, the run goes on from the last checkpoint.
func (m *Machine) unreachable(now time.Time, ids ...string) {
	r := m.Rescue
	if !slices.ContainsFunc(r.Parts, func(p *brought) bool { return p.Entry == nil && slices.Contains(ids, p.By) }) {
		return
	}
	r.Avoid = append(r.Avoid, ids...)
	if m.choose(now, r) {
		m.bring()
		m.sweep()
		m.brought(now)
		return
	}
	m.giveUp(now, errors.New("the states in the memory of providers could not be brought"))
}

// ended notes that an upload of a member has ended. If it was one of a rescue and has not
// succeeded, others are asked.
func (m *Machine) ended(now time.Time, x *member) {
	if m.Rescue != nil && slices.ContainsFunc(m.Rescue.Parts, func(p *brought) bool { return p.By == x.ID && p.Granted && p.Entry == nil }) {
		m.unreachable(now, x.ID)
	}
}

// giveUp ends a rescue without success.
func (m *Machine) giveUp(now time.Time, err error) {
	m.Rescue = nil
	at := "the start"
	if c := m.state.Saved; c != nil {
		at = fmt.Sprintf("step %d", c.Position.Step)
	}
	m.Deep++
	m.report(Warning{Err: fmt.Errorf("%w: the run goes on from %s", err, at)})
	m.sweep()
	m.gather(now)
}

// rescuing watches over a rescue.
func (m *Machine) rescuing(now time.Time) {
	r := m.Rescue
	var late []string
	for _, p := range r.Parts {
		if p.Entry != nil {
			continue
		}
		if x := m.Members[p.By]; x != nil && !x.Taking.IsZero() {
			r.Until = now.Add(m.patience()) // the server ends uploads that stand still
			return
		}
		late = append(late, p.By)
	}
	if !now.Before(r.Until) && len(late) > 0 {
		m.unreachable(now, late...)
	}
}

// grantHeld answers a request to upload a state of a rescue.
func (m *Machine) grantHeld(now time.Time, x *member, e UploadRequest) bool {
	for _, p := range m.Rescue.Parts {
		if p.By == x.ID && p.Stage == e.Stage && p.Blob.SHA256 == e.SHA256 && p.Entry == nil {
			x.Taking, p.Granted = now, true
			m.act(Grant{
				Seq: e.Seq, ID: x.ID, Run: e.Run, Object: objectOf(e.Run, p.Cluster, p.Stage, e.SHA256),
				Limit: p.Limit, Cluster: p.Cluster, Stage: p.Stage, Segment: p.Segment,
			})
			return true
		}
	}
	return false
}

// takeHeld takes a state of a rescue that has been uploaded.
func (m *Machine) takeHeld(now time.Time, x *member, e Upload) {
	r := m.Rescue
	i := slices.IndexFunc(r.Parts, func(p *brought) bool {
		return p.By == x.ID && p.Stage == e.Stage && p.Blob == e.Blob && p.Entry == nil
	})
	if i < 0 {
		m.act(Discard{Objects: []string{e.Object}})
		return
	}
	p := r.Parts[i]
	if !x.Taking.IsZero() {
		m.BringCost = max(m.BringCost, now.Sub(x.Taking))
	}
	if e.Position != nil && *e.Position != r.position() {
		m.act(Discard{Objects: []string{e.Object}})
		m.unreachable(now, x.ID)
		return
	}
	m.Objects[e.Object] = true
	holds := e.Holds
	if holds == nil {
		holds = []string{snapshot.Weights}
	}
	p.Entry = &snapshot.Entry{
		Cluster: p.Cluster, Stage: p.Stage, Segment: p.Segment, Object: e.Object,
		SHA256: e.Blob.SHA256, Size: e.Blob.Size, Holds: holds, Provider: p.Name,
	}
	r.Until = now.Add(m.patience())
	m.brought(now)
}

func (r *rescue) set() *heldSet {
	return r.Sets[slices.IndexFunc(r.Sets, func(s *heldSet) bool { return s.Step == r.Step })]
}

func (r *rescue) position() position { return r.set().Position }

// patience is until when a store that takes nothing is waited for: for as long as it would take
// to train again what would be lost.
func (r *rescue) patience() time.Time { return r.Began.Add(r.set().Since.Sub(r.From)) }

// brought commits the checkpoint that a rescue makes, once all of it is here.
func (m *Machine) brought(now time.Time) {
	r := m.Rescue
	c := &snapshot.Manifest{Version: snapshot.Version, Run: r.Run, Generation: r.Attempt, Position: r.position(), Record: r.Record}
	for _, p := range r.Parts {
		if p.Entry == nil {
			return
		}
		c.Parts = append(c.Parts, *p.Entry)
	}
	c.Sort()
	if err := m.putManifest(c); err != nil {
		m.giveUp(now, err)
	}
}
