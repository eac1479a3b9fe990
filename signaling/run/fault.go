package run

// A store that takes nothing for a time, as on a full disk. Training goes on: providers keep
// their states and try again to upload them, the checkpoint before stays where it is, and the
// requester is told.

import (
	"fmt"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
)

// fault is such a time.
type fault struct {
	Since time.Time
	Why   string
	Told  time.Time
	Doing string // what was told that the run does meanwhile
	// Manifest is a checkpoint whose parts are in the store but which is not; it is tried again
	// at Again. nil: there is none.
	Manifest *snapshot.Manifest `json:",omitempty"`
	Again    time.Time
}

// waits reports whether a checkpoint waits for its manifest.
func (f *fault) waits() bool { return f != nil && f.Manifest != nil }

const (
	nameEvery = 2 * time.Second // between attempts to store a manifest
	tellEvery = time.Minute     // between warnings
)

// storeFault takes the failure to store something other than a manifest.
func (m *Machine) storeFault(now time.Time, e StoreFault) {
	switch {
	case m.Job == nil:
		return
	case !e.Upload:
		if m.Job.Audit && (e.Object == AuditIndexOf(m.Job.ID) || strings.HasPrefix(e.Object, AuditObjects(m.Job.ID))) {
			m.Log.Refused = true
		}
		m.report(Warning{Err: e.Err})
		return
	}
	if r := m.Rescue; r != nil {
		for _, p := range r.Parts {
			if p.By == e.ID && p.Granted && p.Entry == nil {
				p.Granted = false // its upload comes again
			}
		}
		if by := r.patience(); by.After(r.Until) {
			r.Until = by
		}
	}
	m.unsaved(now, e.Err)
	m.sweep()
}

// commitFault takes the failure to store the manifest of a checkpoint whose parts are stored. It
// is tried again, unless a newer one waits already or the attempt is over.
func (m *Machine) commitFault(now time.Time, c *snapshot.Manifest, cause error) {
	err := fmt.Errorf("%w: %w", ErrStore, cause)
	rescued := m.Rescue != nil && c.Generation == m.Rescue.Attempt
	m.unsaved(now, err)
	switch f := m.Fault; {
	case m.Job == nil: // that has ended the run
		return
	case rescued && now.After(m.Rescue.patience()):
		m.giveUp(now, err)
	case (rescued || c.Generation == m.Attempt && m.Run != "") && (f.Manifest == nil || f.Manifest.Position.Step < c.Position.Step):
		f.Manifest, f.Again = c, now.Add(nameEvery)
	}
	m.sweep()
}

// nameAgain tries again to store a manifest.
func (m *Machine) nameAgain(now time.Time) {
	if f := m.Fault; f.waits() && len(m.Pending) == 0 && !now.Before(f.Again) {
		c := f.Manifest
		f.Manifest = nil
		if err := m.putManifest(c); err != nil {
			m.report(Warning{Err: err})
		}
	}
}

// trained reports whether all stages have had their last batch.
func (m *Machine) trained() bool {
	for _, x := range m.assigned() {
		if x.Last.Step < m.Job.Steps {
			return false
		}
	}
	return m.Job.Steps > 0
}

// unsaved notes that the store takes nothing. What can be done without makes room with the next
// sweep.
func (m *Machine) unsaved(now time.Time, err error) {
	switch {
	case m.Job.Strict:
		m.end(err)
		return
	case m.Phase == Draining && m.Interrupted:
		m.fallBack(err)
		return
	}
	if m.Fault == nil {
		m.Fault = &fault{Since: now}
	}
	m.Fault.Why = err.Error()
	doing := "training goes on, and saving is tried again"
	switch {
	case m.Phase == Gathering:
		doing = "the run waits for it"
	case m.trained():
		doing = "the run ends when its last state can be saved"
	}
	if f := m.Fault; f.Doing != doing || now.Sub(f.Told) >= tellEvery {
		f.Told, f.Doing = now, doing
		if c := m.state.Saved; c != nil {
			doing += fmt.Sprintf("; what was saved at step %d is kept", c.Position.Step)
		}
		m.report(Warning{Err: fmt.Errorf("%w: %s", err, doing)})
	}
	m.Prior = nil
	for len(m.Chain) > 1 { // going back would cost more
		m.Chain[1].merge(m.Chain[0])
		m.Chain = m.Chain[1:]
	}
	m.Saves = m.Saves[max(0, len(m.Saves)-1):] // older ones are not complete, and will not be
	if m.Phase == Draining {
		m.extend(now)
	}
}
