package runtest

// The providers of a world: each has the machine of a real one, with a driver that trains
// plain numbers.

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// Provider is a simulated provider.
type Provider struct {
	ID string
	// What every ping looks at stands together, for the sake of worlds with thousands of providers.
	w       *World
	delay   time.Duration // latency, where it stays the same; 0: not known
	offline int           // cuts of its connection that are not over
	dead    bool
	frozen  bool
	left    bool
	welcome bool // it is a member

	Name  string
	Hello proto.Hello
	// Nature is for a Nature's own data about the provider.
	Nature any
	// Segment is its part of the model in the current attempt.
	Segment snapshot.Segment
	// Told holds the host's messages, unless Nature.Forget is set.
	Told []proto.Message
	// Gone is called once, when the provider has left for good.
	Gone func()

	number int
	m      *machine.Machine
	held   []func()
	due    time.Duration

	a        *proto.Assign
	own      []int      // replicas; none: all
	order    *order.Run // of a run whose number of replicas is chosen
	team     *team
	training bool
	weights  map[int]uint64
	at       int
	save     bool
	hold     bool
	copies   bool
	stash    []stashed // states in memory, oldest first
	stop     bool
	over     bool
	saves    []func() // uploads waiting for the one in progress
	newest   int      // step of the last state to save
	saving   bool
	averaged int64          // counts what it receives at the ends of rounds
	said     []proto.Digest // that the host has not been told
}

type key struct {
	run     string
	cluster int
}

// team is the providers of one cluster, by stage.
type team struct {
	key
	ps    []*Provider
	of    int  // teams of the run
	turns bool // it is training
	turn  int  // counts what it was to do next, of which only the last counts

	from, to int          // steps of the round under way
	did      map[int]bool // steps of it, where there are several teams
}

// Join adds a provider, which then joins the host.
func (w *World) Join(id, name string) *Provider {
	return w.JoinAs(id, proto.Hello{Name: name, Class: proto.ClassFMA}, nil)
}

// JoinAs is Join with a given hello. prepare, unless nil, is called before the provider sends
// anything.
func (w *World) JoinAs(id string, hello proto.Hello, prepare func(*Provider)) *Provider {
	w.joined++
	p := &Provider{ID: id, Name: hello.Name, Hello: hello, w: w, number: w.joined, m: machine.New(machine.Rules{Seed: uint64(w.joined)})}
	w.providers[id] = p
	if n := number(id); n >= 0 {
		for len(w.numbered) <= n {
			w.numbered = append(w.numbered, nil)
		}
		w.numbered[n] = p
	}
	if prepare != nil {
		prepare(p)
	}
	p.step(machine.Start{})
	return p
}

// here reports whether the provider may still have a session with the host.
func (p *Provider) here() bool { return !p.dead && !p.left }

func (p *Provider) latency() time.Duration {
	if p.delay > 0 {
		return p.delay
	}
	d := p.w.nature.Latency(p)
	if p.w.nature.Forget {
		p.delay = d
	}
	return d
}

// number is that of an ID such as p123, or -1: looking in a list is faster than in a map.
func number(id string) int {
	n := 0
	if len(id) < 2 || len(id) > 8 || id[0] != 'p' {
		return -1
	}
	for _, c := range []byte(id[1:]) {
		if c < '0' || c > '9' {
			return -1
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// find returns a provider, or nil.
func (w *World) find(id string) *Provider {
	if n := number(id); n >= 0 && n < len(w.numbered) {
		if p := w.numbered[n]; p != nil && p.ID == id {
			return p
		}
	}
	return w.providers[id]
}

// toHost sends a message to the host.
func (p *Provider) toHost(msg proto.Message) {
	p.w.after(p.latency(), func() {
		p.online(msg, func() {
			if !p.left && p.w.deliver(p.ID, msg) {
				p.w.Step(run.Message{ID: p.ID, Msg: msg})
			}
		})
	})
}

// online does something now, or when the provider has a connection to the host again. What is
// of one connection only goes with it.
func (p *Provider) online(msg proto.Message, do func()) {
	switch {
	case p.offline == 0:
		do()
	case proto.Counted(msg):
		p.held = append(p.held, do)
	}
}

// Drop ends the provider's connection to the host, and no other, for d: it goes on, and so
// does its session.
func (p *Provider) Drop(d time.Duration) {
	if !p.here() || p.frozen || !p.welcome {
		return
	}
	p.offline++
	if p.offline == 1 {
		p.w.Step(run.Away{ID: p.ID, Reason: "its connection closed"})
	}
	p.w.after(d, func() {
		if p.offline--; p.offline > 0 || !p.here() {
			return
		}
		p.w.Step(run.Back{ID: p.ID})
		held := p.held
		p.held = nil
		for _, do := range held {
			do()
		}
	})
}

// told delivers a message from the host.
func (p *Provider) told(msg proto.Message) { p.online(msg, func() { p.takes(msg) }) }

func (p *Provider) takes(msg proto.Message) {
	if p.here() && p.w.deliver(p.ID, msg) && p.here() && !p.frozen {
		if !p.w.nature.Forget {
			p.Told = append(p.Told, msg)
		}
		p.hear(msg)
	}
}

func (p *Provider) hear(msg proto.Message) {
	switch m := msg.(type) {
	case *proto.Ping:
		p.toHost(&proto.Pong{Seq: m.Seq})
		return
	case *proto.Welcome:
		p.Name, p.welcome = m.Name, true
		p.step(machine.Joined{})
		return
	}
	p.step(machine.Heard{Msg: msg})
}

// pong answers a ping after the latency of both directions.
func (p *Provider) pong(seq uint64) {
	if p.here() && !p.frozen && p.offline == 0 {
		p.w.messages += 2
		p.w.Traffic.Messages += 2
		p.w.Step(run.Message{ID: p.ID, Msg: &proto.Pong{Seq: seq}})
	}
}

// hungUp ends the session on behalf of the host.
func (p *Provider) hungUp(_, reason string) {
	switch {
	case !p.here():
	case p.frozen:
		p.gone()
	case p.welcome:
		p.step(machine.Lost{Why: reason, Goodbye: reason == "bye"})
	default:
		p.step(machine.JoinFailed{Why: reason})
	}
}

// Kill ends a provider as its system does: its connection closes, without a word.
func (p *Provider) Kill() {
	if !p.here() {
		return
	}
	p.dead = true
	p.w.after(p.latency(), func() { p.w.Step(run.Away{ID: p.ID, Reason: "its connection closed"}) })
	p.cut(p.w.nature.Closed)
	p.forget()
}

// Freeze stops a provider without closing anything.
func (p *Provider) Freeze() {
	if p.frozen || !p.here() {
		return
	}
	p.frozen = true
	if d := p.w.nature.Silent; d > 0 {
		p.cut(d)
	}
}

// Leave makes the provider ask to leave.
func (p *Provider) Leave() {
	if p.here() && !p.frozen {
		p.step(machine.Leave{Reason: "lunch"})
	}
}

// gone ends a provider for good.
func (p *Provider) gone() {
	p.left = true
	p.cut(p.w.nature.Closed)
	p.w.after(p.latency(), func() { p.w.Step(run.Leave{ID: p.ID, Reason: "it has left"}) })
	p.forget()
}

func (p *Provider) forget() {
	if p.w.nature.Forget {
		delete(p.w.providers, p.ID)
		if n := number(p.ID); n >= 0 && n < len(p.w.numbered) && p.w.numbered[n] == p {
			p.w.numbered[n] = nil
		}
	}
	if p.Gone != nil {
		p.Gone()
	}
}

// cut takes a provider out of its team; the others notice after d.
func (p *Provider) cut(d time.Duration) {
	t := p.team
	if t == nil {
		return
	}
	p.quit()
	p.w.after(d, func() {
		for _, o := range p.w.linked(t, p) {
			if !o.over && o.here() && !o.frozen {
				o.quit()
				o.step(machine.Ended{Run: t.run, Outcome: machine.Failed, Why: "lost " + p.Name, Kind: proto.FailedPeer, Peer: p.ID})
			}
		}
	})
}

// linked are the providers that have a link to p, which is of team t.
func (w *World) linked(t *team, p *Provider) (ps []*Provider) {
	for c := range t.of {
		x := w.teams[key{t.run, c}]
		if x == nil {
			continue
		}
		for _, o := range x.ps {
			if o != nil && slices.ContainsFunc(o.a.Peers, func(q proto.Peer) bool { return q.ID == p.ID }) {
				ps = append(ps, o)
			}
		}
	}
	return ps
}

// quit ends the provider's part in its team.
func (p *Provider) quit() {
	if t := p.team; t != nil {
		t.ps[p.a.Stage] = nil
		p.team = nil
		p.w.disband(t)
	}
	p.a, p.training, p.save, p.hold, p.stop, p.over = nil, false, false, false, false, false
}

func (w *World) disband(t *team) {
	for _, p := range t.ps {
		if p != nil {
			return
		}
	}
	delete(w.teams, t.key)
}

// step gives the machine an event and carries out the actions that follow.
func (p *Provider) step(ev machine.Event) {
	if !p.here() || p.frozen {
		return
	}
	for _, a := range p.m.Step(p.w.Now.Sub(p.w.start), ev) {
		p.do(a)
	}
	if at, ok := p.m.Deadline(); ok && at != p.due && p.here() {
		p.due = at
		p.w.after(max(0, at-p.w.Now.Sub(p.w.start)), func() {
			if p.due == at {
				p.due = 0
				p.step(machine.Tick{})
			}
		})
	}
}

func (p *Provider) do(a machine.Action) {
	switch a := a.(type) {
	case machine.Join:
		p.w.Step(run.Join{ID: p.ID, Addr: "127.0.0.1:1", Hello: p.Hello})
	case machine.Send:
		p.toHost(a.Msg)
	case machine.Begin:
		p.begin(a.Assign)
	case machine.Train:
		if p.a == nil || p.a.Run != a.Run {
			return
		}
		if p.training = true; p.a.Check != nil {
			p.check(p.a)
			return
		}
		if t := p.team; p.a.Stage == 0 && !t.turns {
			t.turns = true
			p.w.later(t, step)
		}
	case machine.SetMark:
		if p.a != nil && p.a.Run == a.Run {
			p.hold = p.hold || a.Mark == order.Hold
			p.save = p.save || a.Mark == order.Checkpoint
			p.stop = p.stop || a.Mark == order.Stop
		}
	case machine.Cancel:
		if p.a != nil && p.a.Run == a.Run {
			p.cut(p.w.nature.Closed)
		}
		p.w.after(latency, func() {
			p.step(machine.Ended{Run: a.Run, Outcome: a.Outcome, Why: a.Why, Kind: a.Kind, Peer: a.Peer})
		})
	case machine.Bring:
		for _, s := range p.stash {
			if s.ref == a.Blob && s.run == a.Run && s.stage == a.Stage {
				p.queue(func() { p.bringHeld(s) })
			}
		}
	case machine.Quit:
		if p.welcome {
			p.toHostLast(&proto.Bye{Reason: a.Why})
		}
		p.gone()
	}
}

// toHostLast sends a message that arrives even if the provider has left by then.
func (p *Provider) toHostLast(msg proto.Message) {
	p.w.after(p.latency(), func() {
		if p.w.deliver(p.ID, msg) {
			p.w.Step(run.Message{ID: p.ID, Msg: msg})
		}
	})
}

// begin takes on an assignment.
func (p *Provider) begin(a *proto.Assign) {
	w := p.w
	p.quit()
	if a.Check != nil {
		p.a = a
		p.fetch(a, 0, w.Now, w.Now)
		return
	}
	k := key{a.Run, a.Cluster}
	t := w.teams[k]
	if t == nil {
		t = &team{key: k, ps: make([]*Provider, a.Stages), to: -1, did: map[int]bool{}}
		w.teams[k] = t
	}
	p.a, p.team, p.at = a, t, 0
	t.ps[a.Stage] = p
	var plan placement
	if err := json.Unmarshal(a.Plan, &plan); err != nil {
		panic(err)
	}
	p.Segment, p.own, p.order, t.of, p.copies = plan.Segment, plan.Own, w.order(plan.Record), plan.Clusters, plan.Copies
	p.load(a)
	p.stash, p.said = nil, nil
	bytes := int64(0)
	if a.Resume != nil {
		for _, part := range a.Resume.Parts {
			bytes += w.nature.State(snapshot.Segment{From: part.Start, To: part.End})
		}
	}
	w.Traffic.Fetched += bytes
	p.fetch(a, bytes, w.Now, w.Now.Add(w.nature.Fetch(p, bytes)))
}

// fetch reports the progress of a download until it is complete.
func (p *Provider) fetch(a *proto.Assign, bytes int64, from, to time.Time) {
	const often = 15 * time.Second
	w := p.w
	if left := to.Sub(w.Now); left > often {
		w.after(often, func() {
			if p.a == a {
				p.step(machine.Fetched{Run: a.Run, Have: int64(float64(bytes) * float64(w.Now.Sub(from)) / float64(to.Sub(from))), Want: bytes})
				p.fetch(a, bytes, from, to)
			}
		})
		return
	}
	w.after(to.Sub(w.Now)+2*p.latency(), func() {
		if p.a == a {
			p.step(machine.Prepared{Run: a.Run})
			p.step(machine.Compiled{Run: a.Run, Peak: 1})
		}
	})
}

type content struct {
	Step    int
	Weights map[int]uint64
}

// load sets the weights: those of the seed, or of the parts to resume from.
func (p *Provider) load(a *proto.Assign) {
	p.weights = map[int]uint64{}
	for n := p.Segment.From; n < p.Segment.To; n++ {
		p.weights[n] = uint64(n)
	}
	if a.Resume == nil {
		return
	}
	var pos order.Position
	if err := json.Unmarshal(a.Resume.Position, &pos); err != nil {
		panic(err)
	}
	p.at = int(pos.Step)
	have := p.w.resumed(a.Resume, p.at)
	for n := range p.weights {
		v, ok := have[n]
		if !ok {
			panic(fmt.Sprintf("nothing to resume node %d from", n))
		}
		p.weights[n] = v
	}
}

// resumed is the weights of a checkpoint.
func (w *World) resumed(r *proto.Resume, step int) map[int]uint64 {
	have := map[int]uint64{}
	for _, part := range r.Parts {
		for name, b := range w.Store {
			if strings.HasSuffix(name, "/"+part.SHA256) {
				var c content
				if err := json.Unmarshal(b, &c); err != nil || c.Step != step {
					panic(fmt.Sprintf("%s: %v, step %d, want %d", name, err, c.Step, step))
				}
				maps.Copy(have, c.Weights)
			}
		}
	}
	return have
}

// ready tells whether all of a cluster train, and whether some do.
func (t *team) ready() (all, some bool) {
	all = true
	for _, p := range t.ps {
		ok := p != nil && p.here() && p.training
		some = some || ok
		all = all && ok && !p.frozen
	}
	return all, some
}

// train does one step of a cluster.
func (w *World) train(t *team) {
	if w.teams[t.key] != t {
		return
	}
	ready, some := t.ready()
	switch {
	case !some:
		return
	case !ready: // not all have started yet, or one is frozen
		w.later(t, step)
		return
	case t.ps[0].over:
		return
	case t.to < 0:
		t.from, t.to = t.ps[0].at, w.roundEnd(t.ps[0].at, t.ps[0].order)
	}
	var pause time.Duration
	if t.ps[0].at >= t.to || t.of == 1 && t.ps[0].at == t.from {
		all := w.together(t)
		if all == nil { // it waits for another cluster
			w.later(t, cmp.Or(w.nature.Wait, step))
			return
		}
		if w.nature.Average != nil && t.of > 1 {
			pause = w.nature.Average(members(all))
		}
		w.average(all)
		for _, o := range all {
			if o != t && w.nature.Wait > 0 && !o.ps[0].over {
				w.later(o, pause)
			}
		}
		if t.ps[0].over {
			return
		}
		if pause > 0 {
			w.transfer(all, pause)
			w.later(t, pause)
			return
		}
	}
	w.work(t)
	w.later(t, w.nature.Step(t.ps))
}

// transfer reports, every few seconds of d, that clusters receive what they average.
func (w *World) transfer(all []*team, d time.Duration) {
	const often = 10 * time.Second
	if d <= often {
		return
	}
	w.after(often, func() {
		for _, t := range all {
			if w.teams[t.key] != t {
				return
			}
			for _, p := range t.ps {
				if p != nil && p.here() && !p.frozen {
					p.averaged++
					p.toHost(&proto.Progress{Run: t.run, Stage: p.a.Stage, Step: int64(p.at), In: p.averaged})
				}
			}
		}
		w.transfer(all, d-often)
	})
}

// later lets a cluster go on after d, instead of when it was to go on before.
func (w *World) later(t *team, d time.Duration) {
	t.turn++
	n := t.turn
	w.after(d, func() {
		if t.turn == n {
			w.train(t)
		}
	})
}

// members are the providers of some clusters.
func members(all []*team) [][]*Provider {
	ps := make([][]*Provider, len(all))
	for i, t := range all {
		ps[i] = t.ps
	}
	return ps
}

// work is a cluster's next batch.
func (w *World) work(t *team) {
	leaf := t.ps[len(t.ps)-1]
	at := leaf.at
	for at < t.to && !leaf.owns(w, at) {
		at++
	}
	var losses []proto.Loss
	if at < t.to {
		if losses = []proto.Loss{{Step: int64(at), Epoch: at / w.epoch(), Loss: proto.Real(1 / float64(at+1))}}; t.of > 1 {
			t.did[at] = true
		}
		for at++; at < t.to && !leaf.owns(w, at); at++ {
		}
	}
	for _, p := range t.ps {
		if t.of == 1 {
			p.learn(p.at)
		}
		if len(losses) > 0 {
			p.says(losses[0].Step, false)
		}
		if p.at = at; t.of > 1 && p != leaf && w.nature.Wait > 0 { // the host looks who is behind
			p.toHost(&proto.Progress{Run: t.run, Stage: p.a.Stage, Step: int64(at)})
		}
	}
	m := &proto.Progress{Run: t.run, Stage: leaf.a.Stage, Step: int64(at), Losses: losses, Digests: leaf.said}
	leaf.said = nil
	leaf.toHost(m)
}

// learn adds what a step does to the weights.
func (p *Provider) learn(step int) {
	learn(p.weights, step, step+1)
	p.lies(step)
}

// owns tells whether a batch is of one of the provider's replicas.
func (p *Provider) owns(w *World, step int) bool {
	if len(p.own) == 0 {
		return true
	}
	return slices.Contains(p.own, p.order.Replica(uint64(step)))
}

// order is that of an attempt with a record, if the job's number of replicas is chosen; nil: it has
// one replica.
func (w *World) order(record []order.Period) *order.Run {
	if w.Auto == nil {
		return w.Rounds
	}
	r := *w.Auto
	r.Periods, r.Replicas = record, record[len(record)-1].Replicas
	return &r
}

// roundEnd is where the round ends that step at is in.
func (w *World) roundEnd(at int, o *order.Run) int {
	if o == nil {
		return min(at+1, w.Steps)
	}
	for at++; at < w.Steps && !o.Opens(uint64(at)); at++ {
	}
	return at
}

// together are all teams of a run, once all of them are at their round's end.
func (w *World) together(t *team) []*team {
	var all []*team
	for c := range t.of {
		o := w.teams[key{t.run, c}]
		if o == nil {
			return nil
		}
		if ready, _ := o.ready(); !ready || o.to != t.to || o.ps[0].at != t.ps[0].at {
			return nil
		}
		all = append(all, o)
	}
	return all
}

// average ends a round of all clusters. A step that none of them has done, or two of them,
// is missing from the weights.
func (w *World) average(all []*team) {
	save, hold, stop := false, false, false
	for _, t := range all {
		save, hold, stop = save || t.ps[0].save, hold || t.ps[0].hold, stop || t.ps[0].stop
		t.ps[0].save, t.ps[0].hold = false, false
	}
	at := all[0].ps[0].at
	last := at >= w.Steps || stop
	for _, t := range all {
		for _, p := range t.ps {
			for s := t.from; s < at && t.of > 1; s++ {
				n := 0
				for _, o := range all {
					if o.did[s] {
						n++
					}
				}
				if n == 1 {
					p.learn(s)
				}
			}
		}
	}
	for _, t := range all {
		for _, p := range t.ps {
			if t.of > 1 && at > t.from {
				p.says(int64(at)-1, true)
			}
		}
		clear(t.did)
		t.from, t.to = at, w.roundEnd(at, t.ps[0].order)
		if hold && !save && !last {
			for _, p := range t.ps {
				p.keep()
			}
		}
		if !last && !(save && (t.cluster == 0 || w.apart)) {
			continue
		}
		for _, p := range t.ps {
			p.over = last
			p.upload()
		}
	}
}

// upload sends the provider's state to the host, after earlier uploads.
func (p *Provider) upload() {
	b, err := json.Marshal(content{p.at, p.weights})
	if err != nil {
		panic(err)
	}
	a, at, over := p.a, p.at, p.over
	p.newest = at
	p.queue(func() { p.bring(a, b, at, over) })
}

// queue calls do after the uploads before it.
func (p *Provider) queue(do func()) {
	p.saves = append(p.saves, do)
	if !p.saving {
		p.next()
	}
}

func (p *Provider) next() {
	p.saving = len(p.saves) > 0
	if p.saving {
		do := p.saves[0]
		p.saves = p.saves[1:]
		do()
	}
}

func (p *Provider) bring(a *proto.Assign, b []byte, at int, over bool) {
	w := p.w
	ref := proto.RefOf(b, nil)
	mine := func() bool { return p.a == a && p.here() && !p.frozen }
	p.step(machine.Saving{Run: a.Run, Begins: true})
	w.after(p.latency(), func() {
		w.uploads++
		seq := w.uploads
		w.waiting[seq] = func(ans run.Action) {
			g, ok := ans.(run.Grant)
			if !ok {
				p.next()
				return
			}
			bytes := w.nature.State(p.Segment)
			w.after(w.nature.Upload(p, bytes), func() {
				defer p.next()
				defer w.Step(run.UploadEnd{ID: p.ID})
				if !mine() {
					return
				}
				w.Traffic.Uploaded += bytes
				if err := w.fail(); err != nil {
					w.Step(run.StoreFault{ID: p.ID, Upload: true, Err: err})
					w.after(again, func() {
						if mine() && p.newest == at {
							p.queue(func() { p.bring(a, b, at, over) })
						}
					})
					return
				}
				w.Store[g.Object] = b
				w.Step(run.Upload{ID: p.ID, Run: a.Run, Stage: a.Stage, Object: g.Object, Blob: ref})
				raw, err := json.Marshal(order.Position{Epoch: at / w.epoch(), Batch: at % w.epoch(), Step: uint64(at)})
				if err != nil {
					panic(err)
				}
				p.tell()
				p.toHost(&proto.Saved{Run: a.Run, Stage: a.Stage, Step: int64(at), Epoch: at / w.epoch(), Blob: ref, Position: raw})
				p.step(machine.Saving{Run: a.Run})
				if over {
					p.step(machine.Ended{Run: a.Run, Outcome: machine.Done, Step: int64(at)})
				}
			})
		}
		if !mine() {
			delete(w.waiting, seq)
			p.next()
			return
		}
		w.Step(run.UploadRequest{Seq: seq, ID: p.ID, Run: a.Run, Stage: a.Stage, SHA256: ref.SHA256})
	})
}
