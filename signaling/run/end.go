package run

// How a run ends: on request, at its end, or for want of a way on.

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// stopAll tells the stages of the attempt to abandon it.
func (m *Machine) stopAll(why string) {
	for _, x := range m.assigned() {
		if !x.Done && !x.Failed {
			m.send(x, &proto.Stop{Run: m.Run, Reason: why, Mode: proto.Now})
		}
	}
}

func (m *Machine) stop(now time.Time, e StopRequest) {
	switch {
	case m.Phase == Idle:
	case m.Phase == Draining && m.Interrupted && e.Mode == proto.Graceful: // already stopping
	case (m.Phase == Running || m.Phase == Draining) && e.Mode == proto.Graceful:
		m.Interrupted = true
		m.Phase = Draining
		m.extend(now)
		m.StopBy = 0
		for _, x := range m.assigned() {
			m.StopBy = max(m.StopBy, x.Last.Step+m.span())
			if !x.Done {
				m.send(x, &proto.Stop{Run: m.Run, Reason: e.Reason, Mode: proto.Graceful})
			}
		}
		m.finishIfDone(now) // of which only an audit is left
	case m.Began && e.Mode == proto.Graceful && m.state.Saved != nil:
		// Between two attempts nothing newer than the checkpoint can be saved.
		m.Interrupted = true
		m.stopAll(e.Reason)
		m.end(nil)
	default:
		if e.Reason == "" {
			m.end(ErrStopped)
		} else {
			m.end(fmt.Errorf("%w: %s", ErrStopped, e.Reason))
		}
	}
}

// extend restarts the deadline of draining, after a sign of progress.
func (m *Machine) extend(now time.Time) {
	wait := m.set.DrainTimeout
	if m.Interrupted {
		wait = m.set.StopTimeout
	}
	for _, c := range m.Clusters {
		wait = max(wait, min(4*c.LongGap+2*c.Cost, 2*time.Minute))
	}
	m.Deadline = now.Add(wait)
}

// diverged takes a report of a number that is not finite, by a stage that may have got it from another
// one. It would come again, so it ends the run; but whoever is not trusted may have made it up, and so a
// run that audits itself finds out.
func (m *Machine) diverged(now time.Time, err error, by, from *member) {
	if m.Job.AuditEvery == 0 || m.Interrupted {
		m.end(err)
		return
	}
	l := loss{sentinel: ErrDiverged, why: err.Error() + ": it is computed again to find out whether that is so", blame: []string{by.Name}}
	q := inquest{
		By: by.who(), ByID: by.ID, Told: by.Closed, Err: strings.TrimPrefix(err.Error(), ErrDiverged.Error()+": "),
		Self: (from == nil || from == by) && len(m.Clusters) == 1 && !m.Job.Sums,
	}
	if from != nil && from != by {
		l.blame = append(l.blame, from.Name)
	}
	m.inquire(now, l, q)
}

// drain waits for the stages to finish, up to the deadline.
func (m *Machine) drain(now time.Time) {
	var late, names []string
	for _, x := range m.assigned() {
		if !x.Done {
			late, names = append(late, m.where(x)), append(names, x.Name)
		}
	}
	if m.busyUploading() {
		m.extend(now)
	}
	if now.Before(m.Deadline) {
		if m.Interrupted && len(late) > 0 && now.Sub(m.Warned) >= warnEvery {
			m.Warned = now
			m.report(Waiting{Reason: m.stopping(now, late)})
		}
		return
	}
	if len(late) == 0 && m.Audit != nil && !m.Interrupted {
		m.say("all is trained; the last rounds are computed again")
		return
	}
	if len(late) == 0 { // only the store is late
		m.end(fmt.Errorf("%w: the store did not answer", ErrTimeout))
		return
	}
	m.lose(now, loss{sentinel: ErrTimeout, why: "not finished in time: " + strings.Join(late, ", "), blame: names})
}

// warnEvery is how often a run that is being stopped says what it waits for.
const warnEvery = 5 * time.Second

// stopping says what a run that is being stopped waits for.
func (m *Machine) stopping(now time.Time, late []string) string {
	if n := m.left(); n > 0 {
		return fmt.Sprintf("stopping at the end of this round, with %d batches to go: interrupt again to stop at once", n)
	}
	return fmt.Sprintf("stopping: waiting up to %v for %s to save", m.Deadline.Sub(now).Round(time.Second), strings.Join(late, ", "))
}

// left is the number of batches to the end of the round that a run with replicas is in, where
// it can stop.
func (m *Machine) left() int64 {
	r, known := m.order()
	if !known {
		return 0
	}
	least, last := int64(math.MaxInt64), int64(r.Start().Step) // last: the batch that somebody is at
	for _, x := range m.assigned() {
		least, last = min(least, x.Last.Step), max(last, x.Last.Step-1)
	}
	_, end := r.Span(uint64(last))
	return max(int64(end)-least, 0)
}

// fallBack ends an interrupted run whose last state could not be saved.
func (m *Machine) fallBack(err error) {
	if m.state.Saved == nil {
		m.end(err)
		return
	}
	m.report(Warning{Err: fmt.Errorf("%w; the state of step %d is kept", err, m.state.Saved.Position.Step)})
	m.stopAll(err.Error())
	m.end(nil)
}

// complete reports whether the last state of all stages is committed. By the time a leaf
// is done, its last state is saved and all losses up to it were reported. An attempt that had nothing left
// to train saves nothing.
func (m *Machine) complete() bool {
	c := m.state.Saved
	if c == nil || len(m.Pending) > 0 || len(m.Clusters) == 0 {
		return false
	}
	if m.Job.Steps > 0 && m.From >= m.Job.Steps {
		return true
	}
	if c.Generation != m.Attempt {
		return false
	}
	for _, k := range m.Clusters {
		if k.Over == nil || *k.Over != c.Position {
			return false
		}
	}
	return true
}

// finishIfDone ends a run whose stages are all done and stored.
func (m *Machine) finishIfDone(now time.Time) {
	if m.Phase != Draining || len(m.Pending) > 0 || m.Fault.waits() || m.Audit != nil && !m.Interrupted {
		return
	}
	for _, x := range m.assigned() {
		if !x.Done {
			return
		}
	}
	switch {
	case m.complete():
		m.end(nil)
	case m.Interrupted && m.state.Saved != nil:
		m.fallBack(fmt.Errorf("%w: the stages did not all save their last state at the same position", ErrStore))
	default:
		m.end(fmt.Errorf("%w: the stages are done but did not all save their last state at the same position", ErrStore))
	}
}

// end ends the run, successfully if err is nil.
func (m *Machine) end(err error) {
	c := m.state.Saved
	if err != nil {
		m.stopAll(err.Error())
		if c != nil {
			err = fmt.Errorf("%w; the last saved state (step %d, epoch %d) is kept", err, c.Position.Step, c.Position.Epoch)
		} else if m.Began {
			err = fmt.Errorf("%w; nothing had been saved yet", err)
		}
	}
	m.storeLog()
	m.freeLog()
	res := Result{Run: m.Run, Interrupted: m.Interrupted, Checkpoint: c}
	job := m.Job
	m.stopCheck("the run is over")
	m.clearAttempt()
	m.Pending, m.Rescue, m.Audit, m.Inquest = nil, nil, nil, nil
	if err == nil && !res.Interrupted {
		m.Chain = nil
	}
	m.sweep()
	m.Phase = Gathering // the phase in which a restarted host would continue
	if err == nil && !res.Interrupted {
		m.act(Discard{Objects: []string{StateObject(job.ID)}})
	} else if m.Began {
		m.persist()
	}
	if err != nil {
		m.report(Failed{Result: res, Err: err})
	} else {
		m.report(Done{Result: res})
	}
	m.act(Finish{Result: res, Err: err})
	m.runState, m.planState, m.inOrder = newRun(nil), planState{}, nil
	if !m.set.Once {
		return
	}
	why := "the run is over"
	if err != nil {
		why = "the run failed: " + err.Error()
	}
	m.dismiss(proto.Text(why))
}

// deposed sends every provider to the host that leads now, and ends the run here.
func (m *Machine) deposed(err *proto.Error) {
	for _, x := range m.sorted() {
		m.send(x, err)
		m.act(HangUp{ID: x.ID, Reason: string(err.Code)})
		m.remove(x)
	}
	if m.Job != nil {
		m.end(ErrDeposed)
	}
}

// clearAttempt forgets the current attempt.
func (m *Machine) clearAttempt() {
	for _, x := range m.Members {
		x.part = part{}
	}
	m.attemptState, m.placed = newAttempt(), nil
	if m.Fault != nil {
		m.Fault.Manifest = nil
	}
}

func (m *Machine) dismiss(reason string) {
	for _, x := range m.sorted() {
		m.send(x, &proto.Bye{Reason: reason})
		m.act(HangUp{ID: x.ID, Reason: reason})
		m.remove(x)
	}
}

func (m *Machine) shutdown(now time.Time, reason string) {
	m.Closed = true
	if m.Job != nil {
		m.stop(now, StopRequest{Mode: proto.Now, Reason: reason})
	}
	m.dismiss(reason)
}
