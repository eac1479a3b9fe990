package run

// Audits of the run while it goes on: which stretches are computed again, and what follows when
// somebody has computed something else than the job says. Whoever did is barred, two of whom it is
// one have no link any more, and the run goes
// back to the newest checkpoint that does not depend on anything that it did and that was not
// computed again.

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Who is a provider to an audit: its key, or its name where it has none. Those whom one owner lends from
// one machine have the same key, and are the same to an audit.
type Who struct {
	Name string `json:"name"`
	Key  string `json:"key,omitempty"`
}

// is tells whether two are the same provider.
func (a Who) is(b Who) bool {
	if a.Key != "" || b.Key != "" {
		return a.Key == b.Key
	}
	return a.Name == b.Name
}

// owner is what tells those who are the same from others.
func (a Who) owner() string { return cmp.Or(a.Key, a.Name) }

// Culprit is who computed something else than the job says.
type Culprit struct {
	Who
	Or   *Who   // another one, which may have done it instead; nil: nobody else can
	What string // for people, with who and where
	// Twice is which of the two was in doubt with somebody else before; nil: neither, or both were.
	Twice *Who
}

// Kept is a checkpoint that the run can go back to.
type Kept struct {
	Manifest *snapshot.Manifest
	By       []Who // who trained from the one before it, or from the start
	Anybody  bool  `json:",omitempty"` // it is not known who did
	Right    bool  // what they trained was computed again, and is right
	Gone     bool  `json:",omitempty"` // what that needs is not there any more
}

// Trust is what a run knows of whom it depends on.
type Trust struct {
	Chain  []*Kept       // checkpoints that the run can go back to, the oldest first
	Teams  map[int][]Who // of the last attempts, by generation
	Barred []Who
	Apart  []Pair `json:",omitempty"` // that have no link any more
}

// auditing is an audit under way: of what was trained between two checkpoints.
type auditing struct {
	Seq      int
	From, To *snapshot.Manifest // From nil: the start
	Check    *checking          `json:",omitempty"` // spares make it
	Failed   string             `json:",omitempty"` // not that, but an attempt that has failed
}

const (
	maxChain = 4 // checkpoints in the store at a time, but for those of an audit under way
	maxTeams = 4
)

func stepOf(c *snapshot.Manifest) uint64 {
	if c == nil {
		return 0
	}
	return c.Position.Step
}

// team notes who trains in the attempt.
func (m *Machine) team(stages []Placed) {
	if m.Job.AuditEvery == 0 {
		return
	}
	if m.Teams == nil {
		m.Teams = map[int][]Who{}
	}
	delete(m.Teams, m.Attempt-maxTeams)
	var by []Who
	for _, s := range stages {
		by = append(by, s.who())
	}
	m.Teams[m.Attempt] = by
}

// link adds a new checkpoint to the chain, and drops what is of no use any more.
func (m *Machine) link(c *snapshot.Manifest) {
	m.Chain = slices.DeleteFunc(m.Chain, func(k *Kept) bool { return stepOf(k.Manifest) > stepOf(c) })
	by, known := m.Teams[c.Generation]
	next := &Kept{Manifest: c, By: by, Anybody: !known}
	if n := len(m.Chain); n > 0 && stepOf(m.Chain[n-1].Manifest) == stepOf(c) {
		// Another attempt has saved it again, before it trained anything.
		last := m.Chain[n-1]
		if m.Chain = m.Chain[:n-1]; alike(last.Manifest, c) {
			next = last
		} else {
			next.merge(last)
		}
	}
	m.Chain = append(m.Chain, next)
	m.prune()
}

// alike tells whether two checkpoints have the same states.
func alike(a, b *snapshot.Manifest) bool {
	return slices.EqualFunc(a.Parts, b.Parts, func(x, y snapshot.Entry) bool {
		return x.Cluster == y.Cluster && x.Segment == y.Segment && x.SHA256 == y.SHA256
	})
}

// prune drops checkpoints that the run would never go back to, since a newer one depends on nobody
// else; and beyond a number of them those after which the least is trained again. The last two stay,
// and those of an audit under way.
func (m *Machine) prune() {
	for {
		least, at := uint64(0), -1
		for i := 0; i+2 < len(m.Chain); i++ {
			k, next := m.Chain[i], m.Chain[i+1]
			if a := m.Audit; a != nil && (stepOf(a.From) == stepOf(k.Manifest) || stepOf(a.To) == stepOf(k.Manifest)) {
				continue
			}
			d := stepOf(next.Manifest) - stepOf(k.Manifest)
			if next.Right || !next.Anybody && !slices.ContainsFunc(next.By, func(w Who) bool { return !m.doubted(i, w) }) {
				d = 0
			}
			if d == 0 || len(m.Chain) > maxChain && (at < 0 || d < least) {
				if at, least = i, d; d == 0 {
					break
				}
			}
		}
		if at < 0 {
			return
		}
		m.Chain[at+1].merge(m.Chain[at])
		m.Chain = slices.Delete(m.Chain, at, at+1)
	}
}

// merge makes k follow what the one before it followed.
func (k *Kept) merge(before *Kept) {
	switch {
	case k.Right && before.Right:
		k.By = nil
		return
	case k.Right:
		k.By, k.Anybody = nil, false
	case before.Right:
		before = &Kept{}
	}
	k.Right, k.Gone, k.Anybody = false, k.Gone && before.Gone, k.Anybody || before.Anybody
	for _, w := range before.By {
		if !slices.ContainsFunc(k.By, w.is) {
			k.By = append(slices.Clip(k.By), w)
		}
	}
}

// doubted tells whether entry i of the chain depends on something that a provider trained and that
// was not computed again.
func (m *Machine) doubted(i int, w Who) bool {
	return slices.ContainsFunc(m.Chain[:i+1], func(k *Kept) bool {
		return !k.Right && (k.Anybody || slices.ContainsFunc(k.By, w.is))
	})
}

// check has a stretch computed again, if one is due: with AuditEvery 1 all that was trained since
// the last one, else what was trained before a new checkpoint, if that is drawn.
func (m *Machine) check(fresh bool) {
	n := len(m.Chain)
	if m.Job == nil || m.Job.AuditEvery == 0 || m.Audit != nil || m.Inquest != nil || n == 0 || m.Interrupted {
		return
	}
	to := m.Chain[n-1]
	if to.Right || to.Gone || m.Job.AuditEvery > 1 && (!fresh || !m.drawn(to.Manifest.Position.Step)) {
		return
	}
	m.Audits++
	m.Audit = &auditing{Seq: m.Audits, From: m.audits(), To: to.Manifest}
	m.storeLog()
	if m.Job.AuditSpares {
		m.act(AskStretch{m.Audit.Seq, m.Audit.From, m.Audit.To})
		return
	}
	m.act(AskAudit{Seq: m.Audit.Seq, From: m.Audit.From, To: m.Audit.To})
}

// drawn tells whether the checkpoint of a step is one of those to audit. No provider knows the
// secret that it follows from.
func (m *Machine) drawn(step uint64) bool {
	s := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(m.Job.AuditSecret), step))
	return binary.LittleEndian.Uint64(s[:])%uint64(m.Job.AuditEvery) == 0
}

// audited takes what an audit has found.
func (m *Machine) audited(now time.Time, e Audited) {
	a := m.Audit
	if m.Job == nil || a == nil || e.Seq != a.Seq {
		return
	}
	m.Audit = nil
	m.freeLog()
	switch {
	case a.Failed != "":
		m.found(now, a, e)
	case e.Gone:
		m.report(Warning{Err: fmt.Errorf("steps %d to %d are not computed again: %w", stepOf(a.From), stepOf(a.To), e.Err)})
		m.checked(a, func(k *Kept) { k.Gone = k.Gone || a.saw(k) })
	case e.Err != nil:
		m.end(e.Err)
		return
	case len(e.Culprits) > 0:
		m.condemn(now, stepOf(a.From), e.Culprits)
	default:
		m.passed(a, "")
		if a.Check != nil && a.Check.Denied != nil {
			m.denied(now, a, *a.Check.Denied)
		}
	}
	m.check(false)
	m.finishIfDone(now)
}

// passed notes that what an audit was about is right, as somebody has computed; "": the host.
func (m *Machine) passed(a *auditing, by string) {
	m.checked(a, func(k *Kept) { k.Right = k.Right || a.saw(k) })
	m.prune()
	m.report(AuditPassed{From: stepOf(a.From), To: stepOf(a.To), By: by})
	m.persist()
	m.sweep()
}

// saw tells whether an audit was about what the chain has of a checkpoint, and not about what was there
// before it was saved again.
func (a *auditing) saw(k *Kept) bool {
	return stepOf(k.Manifest) != stepOf(a.To) || alike(k.Manifest, a.To)
}

// checked marks what an audit was about.
func (m *Machine) checked(a *auditing, mark func(k *Kept)) {
	begins := uint64(0)
	for _, k := range m.Chain {
		ends := stepOf(k.Manifest)
		if begins >= stepOf(a.From) && ends <= stepOf(a.To) {
			mark(k)
		}
		begins = ends
	}
}

// condemn bars culprits and has the run go back behind what depends on them, to a step at most.
func (m *Machine) condemn(now time.Time, most uint64, cs []Culprit) {
	// Where somebody is proven to be false, others may be in doubt because of it. Who is to blame for more is
	// found by the next audit.
	if proof := func(c Culprit) bool { return c.Or == nil }; slices.ContainsFunc(cs, proof) {
		cs = slices.DeleteFunc(slices.Clone(cs), func(c Culprit) bool { return !proof(c) })
	}
	var all []Who
	var said, do []string
	bar := func(w Who) {
		if !slices.ContainsFunc(m.Barred, w.is) {
			m.Barred = append(m.Barred, w)
			do = append(do, "without "+w.Name)
		}
		m.cleared(w)
	}
	for _, c := range cs {
		all, said = append(all, c.Who), append(said, c.What)
		if c.Or == nil {
			bar(c.Who)
			m.report(Condemned(c))
			continue
		}
		all = append(all, *c.Or)
		proven := m.part(Pair{c.Who, *c.Or})
		for _, w := range proven {
			bar(w)
			c.Twice = &w
		}
		if len(proven) == 0 {
			do = append(do, fmt.Sprintf("without a link between %s and %s", c.Name, c.Or.Name))
		}
		m.report(Condemned(c))
	}
	i := len(m.Chain) - 1
	for i >= 0 && (stepOf(m.Chain[i].Manifest) > most || slices.ContainsFunc(all, func(w Who) bool { return m.doubted(i, w) })) {
		i--
	}
	m.Chain = m.Chain[:i+1]
	var c *snapshot.Manifest
	if i >= 0 {
		c = m.Chain[i].Manifest
	}
	if stepOf(c) < stepOf(m.state.Saved) {
		m.Inquest = nil // that attempt went on from what is false: all that it did would look wrong
	}
	m.goBack(c)
	at := "the start"
	if c != nil {
		at = fmt.Sprintf("the checkpoint of step %d", c.Position.Step)
	}
	again := ""
	if m.Loss != nil && uint64(m.Loss.Step) >= stepOf(c) {
		again = fmt.Sprintf(": steps %d to %d are trained again", stepOf(c), m.Loss.Step)
	}
	l := loss{
		sentinel: ErrFalse, polite: true, back: true,
		why: fmt.Sprintf("an audit has found: %s; the run goes on %s from %s%s", strings.Join(said, "; "), strings.Join(do, " and "), at, again),
	}
	m.dismissBarred()
	if m.Run != "" {
		m.lose(now, l)
		return
	}
	m.report(Recovering{Reason: l.why, Step: stepOf(c), Back: true})
	m.Rescue, m.Phase = nil, Gathering
	m.PlanSeq++ // what is being planned would go on from what is false
	m.sweep()
	m.persist()
	m.gather(now)
}

// goBack makes an older checkpoint the run's saved state; nil: there is none, and it begins anew.
func (m *Machine) goBack(c *snapshot.Manifest) {
	for _, p := range m.Pending {
		p.Void = true
	}
	m.state.Saved, m.Prior, m.SavedAt = c, nil, time.Time{}
	if m.Fault != nil {
		m.Fault.Manifest = nil
	}
	step := stepOf(c)
	m.audit(AuditLine{Back: &step}, step)
	if c == nil {
		m.storeLog()
		m.act(Discard{Objects: []string{ManifestObject(m.Job.ID)}})
		return
	}
	if err := m.putManifest(c); err != nil {
		m.report(Warning{Err: err})
	}
}

// barred tells whether a provider may not take part in this run any more.
func (m *Machine) barred(name, key string) bool {
	return slices.ContainsFunc(m.Barred, Who{name, key}.is)
}

var errBarred = &proto.Error{Code: proto.Banned, Message: "an audit has found that this provider computed something else than the job says"}

// dismissBarred lets go of those who are barred. The attempt is lost with them.
func (m *Machine) dismissBarred() {
	for _, x := range m.sorted() {
		if !m.barred(x.Name, x.Hello.Key) {
			continue
		}
		left := Left{Member: x.Member, Reason: "it is barred from this run"}
		if x.Place != nil {
			left.Run = m.Run
		}
		m.send(x, errBarred)
		m.act(HangUp{ID: x.ID, Reason: string(proto.Banned)})
		m.remove(x)
		m.report(left)
	}
}

// ErrFalse is why an attempt ends whose result is not what the job makes.
var ErrFalse = errors.New("a provider computed something else than the job says")
