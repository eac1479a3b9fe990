package server

// The history of a run for dashboards that are opened late: events as text, losses and
// validation results. All of it is bounded.

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

const (
	maxPoints = 1024 // of a curve; longer ones are thinned out
	maxNotes  = 256
)

// History is what has happened in a run.
type History struct {
	Run    string       `json:"run,omitempty"`
	Losses [][2]float64 `json:"losses"` // step and loss; means once the curve is thinned out
	Vals   [][2]float64 `json:"vals"`   // step and accuracy of validation passes; empty for a regression
	// ValLosses is step and loss of validation passes.
	ValLosses [][2]float64 `json:"val_losses"`
	Out       int64        `json:"wire_out"` // payload bytes that the stages have sent each other
	Raw       int64        `json:"raw_out"`  // what Out would be in uncompressed float32
	Notes     []Note       `json:"notes"`    // those later than asked for
}

// Note is an event as text.
type Note struct {
	// At is the Unix time in microseconds and identifies the note: it increases from note
	// to note, even across restarts of the host.
	At   int64  `json:"at_us"`
	Kind string `json:"kind"` // joined, left, refused, waiting, planned, ready, started, saved, recovering, resumed, audited, barred, warning, done, failed
	Text string `json:"text"`
}

// curve keeps at most maxPoints points of a growing series. When it is full it merges
// neighbours, so that from then on each point is the mean of twice as many values.
type curve struct {
	points [][2]float64
	each   int // values per point
	n      int // values in the last point, which is incomplete
	sum    float64
}

func (c *curve) add(x, y float64) {
	if c.each == 0 {
		c.each = 1
	}
	c.n++
	c.sum += y
	if c.n < c.each {
		return
	}
	c.points = append(c.points, [2]float64{x, c.sum / float64(c.n)})
	c.n, c.sum = 0, 0
	if len(c.points) < maxPoints {
		return
	}
	for i := range maxPoints / 2 {
		a, b := c.points[2*i], c.points[2*i+1]
		c.points[i] = [2]float64{b[0], (a[1] + b[1]) / 2}
	}
	c.points = c.points[:maxPoints/2]
	c.each *= 2
}

// traffic is what a stage has sent.
type traffic struct{ out, raw int64 }

// history belongs to the loop.
type history struct {
	run                     string
	losses, vals, valLosses curve
	before                  traffic            // of earlier attempts
	sent                    map[string]traffic // by provider, as last reported; kept when a provider leaves
	notes                   []Note
	refused                 time.Time     // when the last refusal was noted
	news                    chan struct{} // closed at the next note; nil if nobody waits
}

func (h *history) note(now time.Time, kind, format string, a ...any) {
	at := now.UnixMicro()
	if n := len(h.notes); n > 0 {
		at = max(at, h.notes[n-1].At+1)
	}
	if len(h.notes) == maxNotes {
		h.notes = append(h.notes[:0], h.notes[1:]...)
	}
	h.notes = append(h.notes, Note{at, kind, proto.Text(fmt.Sprintf(format, a...))})
	if h.news != nil {
		close(h.news)
		h.news = nil
	}
}

// after returns a copy with the notes later than at.
func (h *history) after(at int64) History {
	c := History{
		Run:       h.run,
		Losses:    append([][2]float64{}, h.losses.points...),
		Vals:      append([][2]float64{}, h.vals.points...),
		ValLosses: append([][2]float64{}, h.valLosses.points...),
		Notes:     []Note{},
	}
	t := h.total()
	c.Out, c.Raw = t.out, t.raw
	for i, n := range h.notes {
		if n.At > at {
			c.Notes = append(c.Notes, h.notes[i:]...)
			break
		}
	}
	return c
}

func (h *history) total() traffic {
	t := h.before
	for _, x := range h.sent {
		t.out, t.raw = t.out+x.out, t.raw+x.raw
	}
	return t
}

// cut drops the points from x on, which will be added again.
func (c *curve) cut(x float64) {
	for len(c.points) > 0 && c.points[len(c.points)-1][0] >= x {
		c.points = c.points[:len(c.points)-1]
	}
	c.n, c.sum = 0, 0
}

// take records an event of the run.
func (h *history) take(now time.Time, ev Event) {
	switch e := ev.(type) {
	case Joined:
		h.note(now, "joined", "%s joined (%s, %.3g GFLOP/s), %d of %d", e.Name, e.Hello.Platform, e.Hello.Bench.GEMM, e.Have, e.Want)
	case Left:
		h.note(now, "left", "%s left: %s", e.Name, e.Reason)
	case Refused:
		// Anybody can provoke refusals without end; they must not push out other notes.
		if now.Sub(h.refused) < time.Second {
			return
		}
		h.refused = now
		h.note(now, "refused", "refused %s: %v", cmp.Or(e.Name, "somebody"), e.Err)
	case Planned:
		h.planned(now, e)
	case Ready:
		h.note(now, "ready", "%s is ready", e.Name)
	case Started:
		switch {
		case e.After > 0:
			h.note(now, "started", "training resumes from step %d, %.1f s later", e.Resume, e.After.Seconds())
		case e.Resume > 0:
			h.note(now, "started", "training resumes from step %d", e.Resume)
		default:
			h.note(now, "started", "training has begun")
		}
	case Waiting:
		h.note(now, "waiting", "%s", e.Reason)
	case Recovering:
		again := ""
		if e.Reached > e.Step && !e.Back { // where it goes back, the reason says so
			again = fmt.Sprintf("; steps %d to %d are trained again", e.Step, e.Reached-1)
		}
		h.note(now, "recovering", "%s%s", e.Reason, again)
	case Resumed:
		h.note(now, "resumed", "resuming %s from step %d", e.Run, e.Step)
	case Loss:
		if finite(e.Loss.Loss) {
			h.losses.add(float64(e.Step), float64(e.Loss.Loss))
		}
	case Val:
		if e.Total > 0 {
			h.vals.add(float64(e.Step), float64(e.Correct)/float64(e.Total))
		}
		if finite(e.Val.Loss) {
			h.valLosses.add(float64(e.Step), float64(e.Val.Loss))
		}
	case Progress:
		h.sent[e.Name] = traffic{e.Out, e.Raw}
	case Checkpointed:
		again := ""
		if e.After > 0 {
			again = fmt.Sprintf(", after %.0f s in which nothing could be saved", e.After.Seconds())
		}
		h.note(now, "saved", "saved at epoch %d, step %d%s", e.Manifest.Position.Epoch, e.Manifest.Position.Step, again)
	case AuditPassed:
		by := ""
		if e.By != "" {
			by = " by " + e.By
		}
		h.note(now, "audited", "computed again%s: steps %d to %d are what the job makes", by, e.From, e.To)
	case Condemned:
		h.note(now, "barred", "%s", e.What)
	case Warning:
		h.note(now, "warning", "%v", e.Err)
	case Done:
		if e.Interrupted {
			h.note(now, "done", "the run was stopped; its trained state is saved")
		} else {
			h.note(now, "done", "the run is over")
		}
	case Failed:
		h.note(now, "failed", "the run failed: %v", e.Err)
	}
}

// planned begins an attempt: what comes after the step that it resumes from is told again.
func (h *history) planned(now time.Time, e Planned) {
	if e.Generation == 1 {
		h.losses, h.vals, h.valLosses, h.before = curve{}, curve{}, curve{}, traffic{}
	} else {
		h.losses.cut(float64(e.Resume))
		h.vals.cut(float64(e.Resume))
		h.valLosses.cut(float64(e.Resume))
		h.before = h.total()
	}
	h.run, h.sent = e.Run, map[string]traffic{}
	for _, p := range e.Stages {
		of := ""
		if e.Stages[len(e.Stages)-1].Cluster > 0 {
			of = fmt.Sprintf(" of cluster %d", p.Cluster)
		}
		h.note(now, "planned", "%s gets stage %d of %d%s", p.Name, p.Stage+1, p.Stages, of)
	}
}

// finite reports whether r is a number that JSON and charts can represent.
func finite(r proto.Real) bool { return r-r == 0 }
