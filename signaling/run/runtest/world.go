// Package runtest is a world around a run machine: providers that behave as real
// ones do, links that break, a store, and a clock that only the world moves. A
// whole run takes milliseconds, and the same script gives the same run.
//
// What the providers train is a number for each node of the model, to which every
// step adds something of its own. A step that is lost or done twice shows in it.
package runtest

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// Nodes is the length of the world's model, Batches that of its epochs.
const (
	Nodes   = 12
	Batches = 10
)

// Times of the world.
const (
	latency = time.Millisecond
	step    = 10 * time.Millisecond
	upload  = 3 * time.Millisecond
	notice  = 30 * time.Millisecond // until a peer's death is noticed
)

// World is a machine with everything around it. Make it with New.
type World struct {
	M     *run.Machine
	Now   time.Time
	Steps int // of the job
	// Stages is how many stages a plan has at most.
	Stages int
	// Before is called before message i between host and providers is delivered, counted
	// over both directions; false drops it.
	Before func(i int, id string, msg proto.Message) bool
	// Store is what the host keeps.
	Store map[string][]byte
	// Events are what the machine was told and what followed, if Record is set.
	Events []Told
	Record bool
	// Reports are what the requester was told.
	Reports []run.Report
	// Results has one entry for each run that ended.
	Results []run.Finish

	providers map[string]*Provider
	order     []*Provider
	queue     queue
	seq       int
	messages  int
	uploads   uint64
	waiting   map[uint64]func(run.Action)
	ticking   bool
}

// Told is an event with its time and what followed from it.
type Told struct {
	At   time.Time
	Ev   run.Event
	Acts []string
}

// Provider is a fake one.
type Provider struct {
	ID, Name string
	w        *World
	dead     bool
	frozen   bool
	left     bool
	Told     []proto.Message

	a        *proto.Assign
	seg      snapshot.Segment
	training bool
	weights  map[int]uint64
	at       int
	save     bool
	stop     bool
	over     bool
}

type timed struct {
	at  time.Time
	seq int
	do  func()
}

type queue []timed

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(timed)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// New returns a world without providers, in which a job of so many steps has been
// submitted.
func New(set run.Settings, job run.Job, steps int) *World {
	return begin(set, job, steps, false)
}

// Recorded is New with Record set from the first event on.
func Recorded(set run.Settings, job run.Job, steps int) *World {
	return begin(set, job, steps, true)
}

func begin(set run.Settings, job run.Job, steps int, record bool) *World {
	w := &World{
		M: run.New(set), Now: time.Unix(1_700_000_000, 0).UTC(), Steps: steps, Stages: 2, Store: map[string][]byte{}, Record: record,
		providers: map[string]*Provider{}, waiting: map[uint64]func(run.Action){},
	}
	w.Step(run.Submit{Job: job})
	return w
}

// after has do happen later.
func (w *World) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, timed{w.Now.Add(d), w.seq, do})
}

// Run lets the world go on for that long, or until the run has ended.
func (w *World) Run(d time.Duration) {
	end := w.Now.Add(d)
	if !w.ticking {
		w.ticking = true
		w.tick()
	}
	for len(w.queue) > 0 && len(w.Results) == 0 {
		if w.queue[0].at.After(end) {
			break
		}
		x := heap.Pop(&w.queue).(timed)
		w.Now = x.at
		x.do()
	}
	if len(w.Results) == 0 {
		w.Now = end
	}
}

// Settle lets what is on its way arrive after the run's end.
func (w *World) Settle(d time.Duration) {
	end := w.Now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		x := heap.Pop(&w.queue).(timed)
		w.Now = x.at
		x.do()
	}
	w.Now = end
}

func (w *World) tick() {
	w.Step(run.Tick{})
	w.after(50*time.Millisecond, w.tick)
}

// Step gives the machine an event and carries out what follows.
func (w *World) Step(ev run.Event) {
	acts := w.M.Step(w.Now, ev)
	if w.Record {
		told := Told{At: w.Now, Ev: ev}
		for _, a := range acts {
			told.Acts = append(told.Acts, Describe(a))
		}
		w.Events = append(w.Events, told)
	}
	for _, a := range acts {
		w.do(a)
	}
}

func (w *World) do(a run.Action) {
	switch a := a.(type) {
	case run.Send:
		msg := a.Msg
		if m, ok := msg.(*proto.Welcome); ok {
			c := *m
			c.Session = "secret"
			msg = &c
		}
		if _, err := proto.Encode(msg); err != nil {
			panic(fmt.Sprintf("the machine says what cannot be said: %v", err))
		}
		w.after(latency, func() { w.toProvider(a.ID, msg) })
	case run.HangUp:
		w.after(2*latency, func() {
			if p := w.providers[a.ID]; p != nil {
				p.left = true
				p.drop()
			}
		})
	case run.AskPlan:
		w.after(latency, func() { w.Step(w.plan(a)) })
	case run.Emit:
		w.Reports = append(w.Reports, a.Report)
	case run.Put:
		w.Store[a.Object] = a.Data
	case run.PutManifest:
		w.after(latency, func() {
			c, err := snapshot.ParseManifest(a.Data)
			if err != nil {
				panic(err)
			}
			for _, e := range c.Parts {
				if w.Store[e.Object] == nil {
					panic("a manifest names what is not in the store: " + e.Object)
				}
			}
			w.Store[a.Object] = a.Data
			w.Step(run.Commit{Run: a.Run})
		})
	case run.Discard:
		for _, o := range a.Objects {
			delete(w.Store, o)
		}
	case run.Grant:
		w.answer(a.Seq, a)
	case run.Denial:
		w.answer(a.Seq, a)
	case run.Finish:
		w.Results = append(w.Results, a)
	}
}

func (w *World) answer(seq uint64, a run.Action) {
	if f := w.waiting[seq]; f != nil {
		delete(w.waiting, seq)
		f(a)
	}
}

// plan cuts the model evenly over the first members of the pool.
func (w *World) plan(a run.AskPlan) run.Plan {
	n := min(len(a.Pool), w.Stages)
	if n == 0 {
		return run.Plan{Seq: a.Seq, Err: errors.New("nobody is here"), Wait: true}
	}
	p := run.Plan{Seq: a.Seq}
	for i := range n {
		seg := snapshot.Segment{From: Nodes * i / n, To: Nodes * (i + 1) / n}
		raw, err := json.Marshal(seg)
		if err != nil {
			panic(err)
		}
		p.Placed = append(p.Placed, run.Assignment{
			MemberID: a.Pool[i].ID, Stage: i, Stages: n, Segment: seg, Plan: raw,
			Graph: proto.Ref{SHA256: strings.Repeat("a", 64), Size: 1},
		})
	}
	return p
}

// Join lets a provider in.
func (w *World) Join(id, name string) *Provider {
	p := &Provider{ID: id, Name: name, w: w}
	w.providers[id] = p
	w.order = append(w.order, p)
	w.Step(run.Join{ID: id, Addr: "127.0.0.1:1", Hello: proto.Hello{Name: name, Class: proto.ClassFMA}})
	return p
}

// Messages is how many have been sent between host and providers.
func (w *World) Messages() int { return w.messages }

// Provider returns the one with this ID.
func (w *World) Provider(id string) *Provider { return w.providers[id] }

// Alive are the providers that should be members.
func (w *World) Alive() (ids []string) {
	for _, p := range w.order {
		if !p.dead && !p.left && !p.frozen {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// deliver counts a message and asks Before about it.
func (w *World) deliver(id string, msg proto.Message) bool {
	i := w.messages
	w.messages++
	return w.Before == nil || w.Before(i, id, msg)
}

// toHost sends a provider's message.
func (p *Provider) toHost(msg proto.Message) {
	p.w.after(latency, func() {
		if !p.left && p.w.deliver(p.ID, msg) {
			p.w.Step(run.Message{ID: p.ID, Msg: msg})
		}
	})
}

func (w *World) toProvider(id string, msg proto.Message) {
	p := w.providers[id]
	if p == nil || p.dead || p.left || !w.deliver(id, msg) || p.dead || p.left {
		return
	}
	if p.frozen {
		return
	}
	p.Told = append(p.Told, msg)
	p.hear(msg)
}

// Kill ends a provider as a power cut does: its connection closes.
func (p *Provider) Kill() {
	if p.dead || p.left {
		return
	}
	p.dead = true
	p.w.after(latency, func() { p.w.Step(run.Leave{ID: p.ID, Reason: "its connection closed"}) })
	p.drop()
}

// Freeze stops a provider without closing anything.
func (p *Provider) Freeze() { p.frozen = true }

// Leave is a polite wish to go.
func (p *Provider) Leave() {
	if !p.dead && !p.frozen && !p.left {
		p.toHost(&proto.Leaving{Reason: "lunch"})
	}
}

// drop forgets the assignment; the others notice.
func (p *Provider) drop() {
	a := p.a
	p.a, p.training, p.save, p.stop, p.over = nil, false, false, false, false
	if a == nil {
		return
	}
	p.w.after(notice, func() {
		for _, o := range p.w.order {
			if o.a != nil && o.a.Run == a.Run && o != p && !o.dead && !o.frozen && !o.over {
				o.toHost(&proto.Failed{Run: a.Run, Stage: o.a.Stage, Error: "lost " + p.Name, Kind: proto.FailedPeer, Peer: p.ID})
				o.a, o.training = nil, false
			}
		}
	})
}

func (p *Provider) hear(msg proto.Message) {
	switch m := msg.(type) {
	case *proto.Welcome:
		p.Name = m.Name
	case *proto.Ping:
		p.toHost(&proto.Pong{Seq: m.Seq})
	case *proto.Bye:
		p.left = true
		p.drop()
		p.w.after(latency, func() { p.w.Step(run.Leave{ID: p.ID, Reason: "it has left"}) })
	case *proto.Error:
		p.left = true
	case *proto.Assign:
		p.assigned(m)
	case *proto.Start:
		if p.a != nil && p.a.Run == m.Run {
			p.training = true
			if p.a.Stage == 0 {
				p.w.after(step, func() { p.w.train(m.Run) })
			}
		}
	case *proto.Checkpoint:
		if p.a != nil && p.a.Run == m.Run {
			p.save = true
		}
	case *proto.Stop:
		if p.a == nil || p.a.Run != m.Run {
			return
		}
		if m.Mode == proto.Now {
			p.a, p.training = nil, false
		} else {
			p.stop = true
		}
	}
}

func (p *Provider) assigned(m *proto.Assign) {
	p.a, p.training, p.save, p.stop, p.over, p.at = m, false, false, false, false, 0
	if err := json.Unmarshal(m.Plan, &p.seg); err != nil {
		panic(err)
	}
	p.weights = map[int]uint64{}
	for n := p.seg.From; n < p.seg.To; n++ {
		p.weights[n] = uint64(n)
	}
	if m.Resume != nil {
		var pos order.Position
		if err := json.Unmarshal(m.Resume.Position, &pos); err != nil {
			panic(err)
		}
		p.at = int(pos.Step)
		have := map[int]uint64{}
		for _, part := range m.Resume.Parts {
			for name, b := range p.w.Store {
				if strings.HasSuffix(name, "/"+part.SHA256) {
					var c content
					if err := json.Unmarshal(b, &c); err != nil || c.Step != p.at {
						panic(fmt.Sprintf("%s: %v, step %d, want %d", name, err, c.Step, p.at))
					}
					for n, v := range c.Weights {
						have[n] = v
					}
				}
			}
		}
		for n := range p.weights {
			v, ok := have[n]
			if !ok {
				panic(fmt.Sprintf("nothing to resume node %d from", n))
			}
			p.weights[n] = v
		}
	}
	run := m.Run
	p.w.after(2*latency, func() {
		if p.a != nil && p.a.Run == run && !p.dead && !p.frozen {
			p.toHost(&proto.Ready{Run: run, Peak: 1})
		}
	})
}

type content struct {
	Step    int
	Weights map[int]uint64
}

// team is the attempt's providers by stage, nil if somebody is missing.
func (w *World) team(run string) []*Provider {
	var ps []*Provider
	n := 0
	for _, p := range w.order {
		if p.a != nil && p.a.Run == run && !p.dead && !p.frozen && p.training {
			ps = append(ps, p)
			n = p.a.Stages
		}
	}
	if len(ps) < n {
		return nil
	}
	slices.SortFunc(ps, func(a, b *Provider) int { return a.a.Stage - b.a.Stage })
	return ps
}

// train does one step of an attempt.
func (w *World) train(name string) {
	ps := w.team(name)
	if len(ps) == 0 {
		for _, p := range w.order { // not all have started yet, or somebody is frozen
			if p.a != nil && p.a.Run == name && !p.dead && p.training {
				w.after(step, func() { w.train(name) })
				return
			}
		}
		return
	}
	root, leaf := ps[0], ps[len(ps)-1]
	if root.over {
		return
	}
	last := root.at >= w.Steps || root.stop
	if root.save || last {
		root.save = false
		for _, p := range ps {
			p.over = last
			p.upload()
		}
		if last {
			return
		}
	}
	for _, p := range ps {
		for n := range p.weights {
			p.weights[n] = p.weights[n]*31 + uint64(p.at+n)
		}
		p.at++
	}
	leaf.toHost(&proto.Progress{
		Run: name, Stage: leaf.a.Stage, Step: int64(leaf.at),
		Losses: []proto.Loss{{Step: int64(leaf.at - 1), Epoch: (leaf.at - 1) / Batches, Loss: proto.Real(1 / float64(leaf.at))}},
	})
	w.after(step, func() { w.train(name) })
}

// upload brings the provider's state to the host.
func (p *Provider) upload() {
	b, err := json.Marshal(content{p.at, p.weights})
	if err != nil {
		panic(err)
	}
	a, at, w, over := p.a, p.at, p.w, p.over
	sum := sha256.Sum256(b)
	ref := proto.Ref{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b))}
	mine := func() bool { return p.a == a && !p.dead && !p.frozen && !p.left }
	w.after(latency, func() {
		w.uploads++
		seq := w.uploads
		w.waiting[seq] = func(ans run.Action) {
			g, ok := ans.(run.Grant)
			if !ok {
				return
			}
			w.after(upload, func() {
				defer w.Step(run.UploadEnd{ID: p.ID})
				if !mine() {
					return
				}
				w.Store[g.Object] = b
				w.Step(run.Upload{ID: p.ID, Run: a.Run, Stage: a.Stage, Object: g.Object, Blob: ref})
				raw, err := json.Marshal(order.Position{Epoch: at / Batches, Batch: at % Batches, Step: uint64(at)})
				if err != nil {
					panic(err)
				}
				p.toHost(&proto.Saved{Run: a.Run, Stage: a.Stage, Step: int64(at), Epoch: at / Batches, Blob: ref, Position: raw})
				if over {
					p.toHost(&proto.Done{Run: a.Run, Stage: a.Stage, Step: int64(at)})
				}
			})
		}
		if !mine() {
			return
		}
		w.Step(run.UploadRequest{Seq: seq, ID: p.ID, Run: a.Run, Stage: a.Stage, SHA256: ref.SHA256})
	})
}

// Weights are those that a manifest of the store names.
func (w *World) Weights(c *snapshot.Manifest) (map[int]uint64, error) {
	all := map[int]uint64{}
	for _, e := range c.Parts {
		var x content
		if err := json.Unmarshal(w.Store[e.Object], &x); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Object, err)
		}
		if x.Step != int(c.Position.Step) {
			return nil, fmt.Errorf("%s is of step %d, the manifest of %d", e.Object, x.Step, c.Position.Step)
		}
		for n, v := range x.Weights {
			all[n] = v
		}
	}
	return all, nil
}

// Undisturbed is what training so many steps gives.
func Undisturbed(steps int) map[int]uint64 {
	all := map[int]uint64{}
	for n := range Nodes {
		v := uint64(n)
		for s := range steps {
			v = v*31 + uint64(s+n)
		}
		all[n] = v
	}
	return all
}

// Leaked are the stages' objects in the store that the manifest does not name.
func (w *World) Leaked(c *snapshot.Manifest) (names []string) {
	need := map[string]bool{}
	if c != nil {
		for _, e := range c.Parts {
			need[e.Object] = true
		}
	}
	for o := range w.Store {
		if strings.Contains(o, "/cluster_") && !need[o] {
			names = append(names, o)
		}
	}
	slices.Sort(names)
	return names
}

// Losses is the curve as the requester keeps it: a step that is done again replaces
// the earlier one.
func (w *World) Losses() map[int64]float64 {
	all := map[int64]float64{}
	for _, r := range w.Reports {
		if l, ok := r.(run.Loss); ok {
			all[l.Step] = float64(l.Loss.Loss)
		}
	}
	return all
}

// Describe is an action as text that tells all of it.
func Describe(a run.Action) string {
	switch a := a.(type) {
	case run.Send:
		b, err := json.Marshal(a.Msg)
		return fmt.Sprintf("send %s %s %s %v", a.ID, a.Msg.Type(), b, err)
	case run.Emit:
		b, err := json.Marshal(a.Report)
		return fmt.Sprintf("emit %T %s %v %s", a.Report, b, err, errorOf(a.Report))
	case run.Denial:
		return fmt.Sprintf("deny %d %+v", a.Seq, *a.Err)
	case run.Finish:
		b, err := json.Marshal(a.Result)
		return fmt.Sprintf("finish %s %v %v", b, err, a.Err)
	case run.Put:
		return fmt.Sprintf("put %s %s", a.Object, a.Data)
	case run.PutManifest:
		return fmt.Sprintf("put manifest %s %s %s", a.Run, a.Object, a.Data)
	case run.AppendLine:
		return fmt.Sprintf("append %s %s", a.Log, a.Line)
	}
	return fmt.Sprintf("%T %+v", a, a)
}

func errorOf(r run.Report) string {
	switch r := r.(type) {
	case run.Refused:
		return fmt.Sprint(r.Err)
	case run.Warning:
		return fmt.Sprint(r.Err)
	case run.Failed:
		return fmt.Sprint(r.Err)
	}
	return ""
}

// Repeat has a message delivered again after a while, in the direction that it has.
func (w *World) Repeat(d time.Duration, id string, msg proto.Message) {
	w.after(d+latency, func() {
		p := w.providers[id]
		if p == nil || p.left || p.dead {
			return
		}
		switch msg.(type) {
		case *proto.Pong, *proto.Ready, *proto.Progress, *proto.Saved, *proto.Done, *proto.Failed, *proto.Leaving, *proto.Fetching:
			w.Step(run.Message{ID: id, Msg: msg})
		case *proto.Welcome, *proto.Assign: // a connection keeps the order of what a host says once
		default:
			if !p.frozen {
				p.hear(msg)
			}
		}
	})
}

// Restart puts a new machine in the place of the one that was killed, as a host does
// that finds its state in the store. No session lives on.
func (w *World) Restart(set run.Settings) error {
	for _, p := range w.order {
		p.left, p.a, p.training = true, nil, false
	}
	old, err := run.Restore(set, w.Store[run.StateObject("j")])
	if err != nil {
		return err
	}
	job, earlier := old.Earlier()
	w.queue, w.ticking, w.M = nil, false, run.New(set)
	var stale []string
	if c := earlier.Checkpoint; c != nil {
		stale = w.Leaked(c)
	}
	w.Step(run.Submit{Job: *job, Earlier: earlier, Stale: stale})
	return nil
}
