package run

// Spares that compute again what others trained, in the host's place. A spare is given the stretch and
// not what its end should be, and tells the digests of the states that come of it. If they are those of
// the checkpoint, the stretch is right. If not, the host computes it itself, with what the stages said
// of every update, and finds whose doing it is: one of those who trained, or the spare. Who trained
// any of it is not asked.

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Stretch is what it takes to compute again what was trained between two checkpoints.
type Stretch struct {
	Graph     proto.Ref
	Data      map[string]proto.Ref
	Weights   map[string]proto.Ref
	Stretches []proto.Stretch
	Memory    int64  // bytes
	Class     string // numeric, of whoever can compare; "": any
}

// checking is an audit that spares make.
type checking struct {
	Stretch
	Tried  []Who     // who were asked
	By     string    // ID of the one who computes; "": nobody does
	Run    string    // id of what it does
	Moved  int64     // how far it has come, in whatever it reports
	Until  time.Time // it is given up if nothing is heard of it before
	Ends   time.Time // it is given up then, whatever is heard of it
	Began  bool      `json:",omitempty"` // it has fetched everything
	Denied *Who      // who has said that something else comes of it
}

// stretched has a spare compute an audit's stretch, or the host, if none can.
func (m *Machine) stretched(now time.Time, e Stretched) {
	a := m.Audit
	if m.Job == nil || a == nil || e.Seq != a.Seq || a.Check != nil {
		return
	}
	a.Check = &checking{Stretch: e.Stretch}
	if e.Err != nil {
		m.report(Warning{Err: fmt.Errorf("steps %d to %d are computed again by the host: %w", stepOf(a.From), stepOf(a.To), e.Err)})
		m.act(AskAudit{Seq: a.Seq, From: a.From, To: a.To})
		return
	}
	m.giveCheck(now)
}

// giveCheck asks the next spare.
func (m *Machine) giveCheck(now time.Time) {
	a := m.Audit
	c := a.Check
	c.By, c.Moved, c.Began = "", 0, false
	x := m.checker(now)
	if x == nil {
		m.act(AskAudit{Seq: a.Seq, From: a.From, To: a.To})
		return
	}
	c.Tried = append(c.Tried, x.who())
	msg := &proto.Assign{
		Run: m.Job.ID + "-a" + strconv.Itoa(a.Seq), Stages: 1, Name: x.Name, Job: m.Job.Raw, Graph: c.Graph, Data: c.Data, Weights: c.Weights,
		Generation: m.Attempt, Check: &proto.Check{From: int64(stepOf(a.From)), Stretches: c.Stretches}, Resume: m.wholeOf(a.From),
	}
	if _, err := proto.Encode(msg); err != nil { // as of hundreds of clusters
		m.report(Warning{Err: fmt.Errorf("steps %d to %d are computed again by the host: %w", stepOf(a.From), stepOf(a.To), err)})
		m.act(AskAudit{Seq: a.Seq, From: a.From, To: a.To})
		return
	}
	c.By, c.Run, c.Until = x.ID, msg.Run, now.Add(m.checkPatience())
	c.Ends = now.Add(slowest * m.checkPatience())
	m.send(x, msg)
}

// wholeOf names all that is needed to go on from a checkpoint; nil: from the start.
func (m *Machine) wholeOf(c *snapshot.Manifest) *proto.Resume {
	if c == nil {
		return nil
	}
	pos, err := json.Marshal(c.Position)
	if err != nil {
		panic(fmt.Sprintf("run: position: %v", err)) // integers
	}
	r := &proto.Resume{Position: pos}
	for _, p := range c.Parts {
		if m.Job.Apart || p.Cluster == c.Parts[0].Cluster {
			r.Parts = append(r.Parts, proto.Part{Ref: proto.Ref{SHA256: p.SHA256, Size: p.Size}, Start: p.Segment.From, End: p.Segment.To})
		}
	}
	return r
}

// checker chooses a spare who can compute the stretch and has not trained any of it; nil: there is
// none. Nobody can tell beforehand who it will be.
func (m *Machine) checker(now time.Time) *member {
	a := m.Audit
	var able []*member
	for _, x := range m.sorted() {
		w := x.who()
		switch {
		case !x.Met || x.Place != nil || x.Wish != "" || x.Away != "" || !x.Taking.IsZero() || m.outOfPool(now, x.Name):
		case a.Check.Class != "" && x.Hello.Class != a.Check.Class:
		case x.Hello.RAM > 0 && x.Hello.RAM < a.Check.Memory:
		case slices.ContainsFunc(a.Check.Tried, w.is) || m.hasTrained(a, w):
		default:
			able = append(able, x)
		}
	}
	if len(able) == 0 {
		return nil
	}
	draw := func(of string) string {
		s := sha256.Sum256([]byte(m.Job.AuditSecret + " " + strconv.Itoa(a.Seq) + " " + of))
		return string(s[:])
	}
	// One lot for an owner, however many it lends, and then one for each of these.
	return slices.MinFunc(able, func(x, y *member) int {
		return cmp.Or(cmp.Compare(draw(cmp.Or(x.Hello.Key, x.ID)), draw(cmp.Or(y.Hello.Key, y.ID))), cmp.Compare(draw(x.ID), draw(y.ID)))
	})
}

// hasTrained tells whether a provider may have trained some of what an audit is about.
func (m *Machine) hasTrained(a *auditing, w Who) (has bool) {
	m.checked(a, func(k *Kept) { has = has || k.Anybody || slices.ContainsFunc(k.By, w.is) })
	return has
}

// checkPatience is how long whoever computes a stretch may stand still.
func (m *Machine) checkPatience() time.Duration {
	var all time.Duration // it does what all stages did
	for _, c := range m.Clusters {
		all += time.Duration(c.Stages) * c.LongGap
	}
	return max(m.set.ReadyTimeout, m.set.Stall, 4*all)
}

// slowest bounds a check: so many times as long as it may stand still, for fetching and for computing.
const slowest = 10

// checkTime is how long whoever computes a stretch may take, however it comes on: at least four times as
// long as all who trained it did, one after the other.
func (m *Machine) checkTime(now time.Time) time.Duration {
	a, all := m.Audit, m.Trained
	if !m.Started.IsZero() {
		all += now.Sub(m.Started)
	}
	share := float64(stepOf(a.To)-stepOf(a.From)) / float64(stepOf(a.To))
	return max(slowest*m.checkPatience(), time.Duration(4*float64(m.Used)*share*float64(all)))
}

// checks takes a message of whoever computes a stretch, if it is about that.
func (m *Machine) checks(now time.Time, x *member, msg proto.Message) bool {
	if m.Audit == nil || m.Audit.Check == nil || m.Audit.Check.By != x.ID {
		return false
	}
	c := m.Audit.Check
	moved := func(run string, to int64) bool {
		if run == c.Run && to > c.Moved {
			c.Moved, c.Until = to, now.Add(m.checkPatience())
		}
		return run == c.Run
	}
	switch msg := msg.(type) {
	case *proto.Fetching:
		return moved(msg.Run, msg.Have)
	case *proto.Ready:
		if msg.Run != c.Run {
			return false
		}
		if c.Began {
			return true
		}
		c.Began, c.Moved, c.Until, c.Ends = true, 0, now.Add(m.checkPatience()), now.Add(m.checkTime(now))
		m.send(x, &proto.Start{Run: c.Run})
	case *proto.Progress:
		return moved(msg.Run, msg.Step)
	case *proto.Failed:
		if msg.Run != c.Run {
			return false
		}
		if msg.Kind == proto.FailedDiverged { // the checkpoint has not
			m.compare(now, x, nil)
			return true
		}
		m.report(Warning{Err: fmt.Errorf("%s could not compute steps %d to %d again: %s", x.Name, stepOf(m.Audit.From), stepOf(m.Audit.To), msg.Error)})
		m.giveCheck(now)
	case *proto.Done:
		if msg.Run != c.Run {
			return false
		}
		m.compare(now, x, msg.States)
	default:
		return false
	}
	return true
}

// compare holds what a spare has computed against the checkpoint.
func (m *Machine) compare(now time.Time, x *member, states []proto.State) {
	a := m.Audit
	a.Check.By = ""
	for _, e := range a.To.Parts {
		if !slices.Contains(states, proto.State{Cluster: e.Cluster, Stage: e.Stage, SHA256: e.SHA256}) {
			a.Check.Denied = new(x.who())
			m.report(Warning{Err: fmt.Errorf("%s has computed steps %d to %d again, and something else comes of them: the host computes them, too", x.Name, stepOf(a.From), stepOf(a.To))})
			m.act(AskAudit{Seq: a.Seq, From: a.From, To: a.To})
			return
		}
	}
	m.Audit = nil
	m.freeLog()
	m.passed(a, x.Name)
	m.check(false)
	m.finishIfDone(now)
}

// watchCheck asks another one where whoever computes a stretch is gone, has got a stage, or stands still.
func (m *Machine) watchCheck(now time.Time) {
	if m.Audit == nil || m.Audit.Check == nil || m.Audit.Check.By == "" {
		return
	}
	c := m.Audit.Check
	x := m.Members[c.By]
	switch {
	case x == nil || x.Place != nil:
	case now.Before(c.Until) && now.Before(c.Ends):
		return
	case now.Before(c.Until):
		m.send(x, &proto.Stop{Run: c.Run, Reason: "it takes too long", Mode: proto.Now})
		m.report(Warning{Err: fmt.Errorf("%s takes too long to compute steps %d to %d again", x.Name, stepOf(m.Audit.From), stepOf(m.Audit.To))})
	default:
		m.send(x, &proto.Stop{Run: c.Run, Reason: "it stands still", Mode: proto.Now})
		m.report(Warning{Err: fmt.Errorf("%s stands still and does not compute steps %d to %d again", x.Name, stepOf(m.Audit.From), stepOf(m.Audit.To))})
		m.blame(now, x.Name)
	}
	m.giveCheck(now)
}

// stopCheck lets whoever computes a stretch go.
func (m *Machine) stopCheck(why string) {
	if m.Audit == nil || m.Audit.Check == nil {
		return
	}
	if x := m.Members[m.Audit.Check.By]; x != nil && x.Place == nil {
		m.send(x, &proto.Stop{Run: m.Audit.Check.Run, Reason: why, Mode: proto.Now})
	}
}

// denied bars who has said that something else comes of a stretch which is right.
func (m *Machine) denied(now time.Time, a *auditing, w Who) {
	c := Culprit{Who: w, What: fmt.Sprintf("what %s says that comes of steps %d to %d is not what the job makes of them", w.Name, stepOf(a.From), stepOf(a.To))}
	trained := slices.ContainsFunc(m.Teams[m.Attempt], w.is) // what came of that may be under way
	if n := len(m.Chain) - 1; trained || n >= 0 && m.doubted(n, w) {
		m.condemn(now, math.MaxUint64, []Culprit{c})
		return
	}
	m.Barred = append(m.Barred, w)
	m.cleared(w)
	m.report(Condemned(c))
	m.dismissBarred()
	if m.Phase == Planning {
		m.Phase = Gathering
		m.PlanSeq++ // the plan being made may be for it
	}
	m.persist()
	m.gather(now)
}
