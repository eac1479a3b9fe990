package run

// The audit log lies in the store as segments: objects of bounded size, named by what they hold, and
// an index that lists them. The last one is written anew with more lines until it is full. All that
// is about the steps before a checkpoint is in the store before its manifest is, so a host that is
// lost leaves no gap: what came later is trained again by another attempt. Segments that no audit
// needs are kept up to a number of bytes, the newest ones.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// AuditSegment is a piece of the log.
type AuditSegment struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Top    uint64 `json:"top"` // nothing in it is about a later step
}

// AuditIndex lists the segments of a run's log, the oldest first.
type AuditIndex struct {
	Version  int            `json:"version"`
	Since    uint64         `json:"since"` // what is about earlier steps is not kept any more
	Segments []AuditSegment `json:"segments"`
}

const (
	auditVersion = 1
	maxSegments  = 1 << 16
	// MaxAuditSegment bounds a segment, and MaxAuditLine a line, which is about one message.
	MaxAuditSegment, MaxAuditLine = 16 << 20, 4 << 20
)

// AuditObjects are the names of the segments of a job's log, without their digests, and AuditIndexOf
// is that of the index.
func AuditObjects(job string) string { return job + "/audit/" }
func AuditIndexOf(job string) string { return job + "/audit.json" }

// ParseAuditIndex reads an index.
func ParseAuditIndex(b []byte) (x AuditIndex, err error) {
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fmt.Errorf("the index of the audit log: %w", err)
	}
	if x.Version != auditVersion || len(x.Segments) > maxSegments {
		return x, fmt.Errorf("the index of the audit log has version %d and %d segments: this program reads version %d", x.Version, len(x.Segments), auditVersion)
	}
	for _, s := range x.Segments {
		if d, err := hex.DecodeString(s.SHA256); err != nil || len(d) != sha256.Size || s.Size < 1 || s.Size > MaxAuditSegment {
			return x, fmt.Errorf("the index of the audit log names a segment %.80q of %d bytes", s.SHA256, s.Size)
		}
	}
	return x, nil
}

// auditLog is the machine's end of the log.
type auditLog struct {
	AuditIndex
	Open    []byte          `json:",omitempty"` // lines of the last segment, if that is not full
	Top     uint64          `json:",omitempty"` // of them
	Listed  bool            `json:",omitempty"` // the last segment of the index is the beginning of Open
	Changed bool            `json:",omitempty"` // Open has lines, or the index is one, that the store was not given
	Recent  []recent        `json:",omitempty"` // segments that may not be in the store yet
	Refused bool            `json:",omitempty"` // the store has refused some of them, or the index
	Old     []string        `json:",omitempty"` // segments that are of no use once the index is stored
	Free    []string        `json:",omitempty"` // of them, those that it does not list any more
	Covered int             `json:",omitempty"` // of Old and of Recent, how many
	Held    int             `json:",omitempty"` // the store was given before the newest manifest
	Head    json.RawMessage `json:",omitempty"` // the attempt's plan, with which each segment begins
}

// recent is a segment that the store was given.
type recent struct {
	Object string
	Data   []byte
}

// audit adds a line to the log. step is the last that it is about.
func (m *Machine) audit(l AuditLine, step uint64) {
	if !m.Job.Audit {
		return
	}
	if l.Run == "" {
		l.Run = m.Run
	}
	b, err := json.Marshal(l) // all of it came as JSON
	if err == nil && len(b) > MaxAuditLine {
		err = fmt.Errorf("it has %d bytes, the limit is %d", len(b), MaxAuditLine)
	}
	if err != nil {
		m.report(Warning{Err: fmt.Errorf("a line is missing in the audit log: %w", err)})
		return
	}
	g := &m.Log
	if len(g.Open) > 0 && len(g.Open)+len(b) >= m.set.AuditSegment {
		m.storeLog()
		g.Open, g.Top, g.Listed = nil, 0, false
	}
	if len(g.Open) == 0 && len(g.Head) > 0 && l.Plan == nil {
		g.Open = append(append(g.Open, g.Head...), '\n')
	}
	g.Open = append(append(g.Open, b...), '\n')
	g.Top, g.Changed = max(g.Top, step), true
}

// beginLog notes the plan of an attempt, which later segments repeat. The first attempt begins the
// log anew.
func (m *Machine) beginLog(p *AuditPlan) {
	if !m.Job.Audit {
		return
	}
	if g := &m.Log; m.Attempt == 1 {
		for _, s := range g.Segments {
			g.Old = append(g.Old, AuditObjects(m.Job.ID)+s.SHA256)
		}
		*g = auditLog{Old: g.Old}
	}
	m.Log.Head = nil
	m.audit(AuditLine{Plan: p}, p.From)
	again := *p
	again.Again = true
	if b, err := json.Marshal(AuditLine{Run: m.Run, Plan: &again}); err == nil {
		m.Log.Head = b
	}
}

// storeLog has the store take what it was not given yet.
func (m *Machine) storeLog() {
	g := &m.Log
	if m.Job == nil || !m.Job.Audit || !g.Changed {
		return
	}
	g.Changed = false
	if len(g.Open) > 0 {
		d := sha256.Sum256(g.Open)
		s := AuditSegment{SHA256: hex.EncodeToString(d[:]), Size: int64(len(g.Open)), Top: g.Top}
		if n := len(g.Segments) - 1; g.Listed {
			m.dropSegment(g.Segments[n])
			g.Segments[n] = s
		} else {
			g.Segments, g.Listed = append(g.Segments, s), true
		}
		x := recent{AuditObjects(m.Job.ID) + s.SHA256, slices.Clone(g.Open)}
		g.Recent = append(g.Recent, x)
		m.act(Put(x))
	}
	m.putIndex()
}

// putIndex has the index stored.
func (m *Machine) putIndex() {
	m.Log.Version = auditVersion
	if b, err := json.Marshal(m.Log.AuditIndex); err == nil { // numbers and digests
		m.act(Put{Object: AuditIndexOf(m.Job.ID), Data: b})
	}
}

// dropSegment marks a segment that the index does not list any more.
func (m *Machine) dropSegment(s AuditSegment) {
	g := &m.Log
	o := AuditObjects(m.Job.ID) + s.SHA256
	g.Old = append(g.Old, o)
	if i := slices.IndexFunc(g.Recent, func(r recent) bool { return r.Object == o }); i >= 0 {
		g.Recent = slices.Delete(g.Recent, i, i+1)
		if i < g.Held {
			g.Held--
		}
	}
}

// logGiven notes that a manifest is about to be stored: behind all that the store was given.
func (m *Machine) logGiven() {
	m.storeLog()
	m.Log.Covered, m.Log.Held = len(m.Log.Old), len(m.Log.Recent)
}

// logStored is called when the newest manifest is stored, and with it all that was given before,
// but for what was refused. That is given again.
func (m *Machine) logStored() {
	g := &m.Log
	if !m.Job.Audit || len(m.Pending) > 0 {
		return
	}
	if g.Refused {
		g.Refused = false
		for _, r := range g.Recent {
			m.act(Put(r))
		}
		m.putIndex()
		return
	}
	g.Free = append(g.Free, g.Old[:g.Covered]...)
	m.freeLog()
	g.Old, g.Covered = slices.Delete(g.Old, 0, g.Covered), 0
	g.Recent, g.Held = slices.Delete(g.Recent, 0, g.Held), 0
	m.trimLog()
}

// freeLog discards what no index in the store lists any more, nor one that an audit under way has read.
func (m *Machine) freeLog() {
	if g := &m.Log; m.Audit == nil && len(g.Free) > 0 {
		m.act(Discard{Objects: g.Free})
		g.Free = nil
	}
}

// trimLog drops the oldest segments, if there are more than are kept and no audit needs them.
func (m *Machine) trimLog() {
	g := &m.Log
	all, need := int64(0), m.auditsFrom()
	for _, s := range g.Segments {
		all += s.Size
	}
	n := 0
	for n+1 < len(g.Segments) && g.Segments[n].Top < need && (all > m.set.AuditKeep || len(g.Segments)-n > maxSegments/2) {
		all -= g.Segments[n].Size
		g.Since = max(g.Since, g.Segments[n].Top+1)
		n++
	}
	if n == 0 {
		return
	}
	for _, x := range g.Segments[:n] {
		m.dropSegment(x)
	}
	g.Segments, g.Changed = slices.Delete(g.Segments, 0, n), true // and the index goes with the next manifest
}

// auditsFrom is the step from which on an audit may still ask for what was said.
func (m *Machine) auditsFrom() uint64 {
	at := stepOf(m.state.Saved)
	if m.Prior != nil {
		at = min(at, stepOf(m.Prior))
	}
	if m.Audit != nil {
		at = min(at, stepOf(m.Audit.From))
	}
	if m.Job.AuditEvery > 0 {
		at = min(at, stepOf(m.audits()))
	}
	return at
}

// audits is the checkpoint from which the next audit begins; nil: the start.
func (m *Machine) audits() *snapshot.Manifest {
	i := len(m.Chain) - 2
	if m.Job.AuditEvery == 1 {
		for i = -1; i+1 < len(m.Chain) && (m.Chain[i+1].Right || m.Chain[i+1].Gone); i++ {
		}
	}
	if i < 0 {
		return nil
	}
	return m.Chain[i].Manifest
}

// A stage says something once for each of its updates, and for each round. Whoever says more, or
// tells of what cannot be trained yet, would fill the store.
const slackDigests = 8192

// plausible are the digests of a message that can be true, and the last step that they are about.
func (m *Machine) plausible(x *member, ds []proto.Digest) (own []proto.Digest, top uint64) {
	reached := max(m.From, m.Next)
	if m.Loss != nil {
		reached = max(reached, m.Loss.Step)
	}
	reached += slackDigests + 2*m.span()
	for _, d := range ds {
		if x.Digests >= 2*(reached-m.From) || d.Step > reached {
			continue
		}
		x.Digests++
		own, top = append(own, d), max(top, uint64(d.Step))
	}
	return own, top
}
