package run

// What follows when an attempt of a run that audits itself ends with a number that is not finite, or
// because clusters did not agree. Nobody is believed: the host computes from a checkpoint up to behind the
// place where it happened, and compares with what the stages said, of the last tensors, too, which every
// stage tells of when it ends. If it comes to the same, the run diverges and ends. Else somebody who
// trained is to blame, and is barred; if that cannot be told, those through whose hands the number came are
// left out for a while.

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// inquest is about an attempt that has failed.
type inquest struct {
	Run    string
	From   *snapshot.Manifest // it is computed from there; nil: the start
	Until  uint64             // up to this step at least
	Places map[string]place   // its members', by ID
	Since  map[string]int     // digests that they have told since
	Begins time.Time          // when it does: all have told what they know by then
	By     Who                // who reports it
	ByID   string             // its ID
	Told   bool               // it has told what it got last
	Self   bool               // the number is its own, of what it got
	Blame  []string           // names, if nobody is found
	Err    string             // ends the run if it is true
	Round  bool               // clusters did not agree, which nobody can have come to
}

const (
	// maxLast bounds the digests that a member tells of an attempt that is over.
	maxLast = 4096
	// settle is how long they may take to come.
	settle = 2 * time.Second
)

// inquire ends the attempt, and finds out.
func (m *Machine) inquire(now time.Time, l loss, q inquest) {
	q.Run, q.Places, q.Since, q.Begins = m.Run, map[string]place{}, map[string]int{}, now.Add(settle)
	q.Blame, l.blame = l.blame, nil
	// It happened where the one who reports it was, who may say that it was anywhere: the others were near.
	top, near := m.From, m.From
	alone := true
	for _, x := range m.assigned() {
		q.Places[x.ID] = place{x.Place.Cluster, x.Place.Stage}
		if x.ID == q.ByID {
			top = max(top, x.Last.Step)
			continue
		}
		near, alone = max(near, x.Last.Step), false
	}
	if !alone {
		top = min(top, near+slackDigests)
	}
	q.Until = uint64(top + 2*max(m.span(), 1) + 64) // nobody is further ahead
	if m.Job.Steps > 0 {
		q.Until = min(q.Until, uint64(m.Job.Steps))
	}
	if a := m.Audit; a != nil && m.Job.AuditSpares && m.Job.AuditEvery == 1 && (a.Check == nil || a.Check.By != "") {
		m.stopCheck("the host computes it with what came after it") // nobody trains until then
		m.Audit = nil
	}
	l.inquest = &q
	m.lose(now, l)
}

// lastWords takes what a member says of an attempt that has failed.
func (m *Machine) lastWords(x *member, msg *proto.Progress) {
	q := m.Inquest
	p, ok := q.Places[x.ID]
	if !ok || msg.Run != q.Run || q.Since[x.ID]+len(msg.Digests) > maxLast || m.Audit != nil && m.Audit.Failed != "" {
		return
	}
	if len(msg.Digests) > 0 {
		q.Since[x.ID] += len(msg.Digests)
		q.Told = q.Told || x.ID == q.ByID && slices.ContainsFunc(msg.Digests, proto.Digest.Last)
		m.audit(AuditLine{Run: q.Run, Said: &AuditSaid{p.Cluster, p.Stage, msg.Digests}}, q.Until)
	}
}

// inquiring begins the audit of a failed attempt once all that is known of it has come, and no other is under
// way.
func (m *Machine) inquiring(now time.Time) {
	q := m.Inquest
	if q == nil || m.Audit != nil || len(m.Pending) > 0 || now.Before(q.Begins) {
		return
	}
	m.Audits++
	q.From = m.audits()
	m.Audit = &auditing{Seq: m.Audits, From: q.From, Failed: q.Run}
	m.storeLog()
	m.say("an attempt has failed: it is computed again to find out why")
	m.act(AskAudit{Seq: m.Audits, From: q.From, Failed: q.Run, Last: m.state.Saved, Until: q.Until})
}

// found ends an inquest.
func (m *Machine) found(now time.Time, a *auditing, e Audited) {
	q := m.Inquest
	m.Inquest = nil
	switch {
	case len(e.Culprits) > 0:
		m.condemn(now, stepOf(a.From), e.Culprits)
		return
	case e.Diverges && !q.Round:
		m.end(fmt.Errorf("%w: %s, and it comes again", ErrDiverged, q.Err))
		return
	case e.Err == nil && q.Self && q.Told:
		m.condemn(now, ^uint64(0), []Culprit{{Who: q.By, What: fmt.Sprintf("%s says that it came to a number that is not finite from what it got, which is right: %s", q.By.Name, q.Err)}})
		return
	case e.Err != nil:
		m.report(Warning{Err: fmt.Errorf("why attempt %s has failed is not known: %w", q.Run, e.Err)})
	}
	if q.Round {
		m.Disagreed++
	}
	for _, name := range q.Blame {
		m.blame(now, name)
	}
	if len(q.Blame) > 0 {
		m.report(Warning{Err: fmt.Errorf("it does not come again where the job is computed: %s left out for now", strings.Join(slices.Compact(q.Blame), " and "))})
	}
	m.persist()
	m.gather(now)
}
