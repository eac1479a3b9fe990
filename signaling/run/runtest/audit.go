package runtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// sums is a digest's text. What it says does not matter to the machine.
var sums = strings.Repeat("0123456789abcdef", 4)

// sayOften is how many digests a provider keeps before it tells the host, so that some are lost
// with it.
const sayOften = 4

// says adds the digest of an update, or of a round's average, if the job asks for them.
func (p *Provider) says(step int64, round bool) {
	if !p.w.audit {
		return
	}
	p.said = append(p.said, proto.Digest{Step: step, Round: round, Sums: sums})
	if len(p.said) >= sayOften {
		p.tell()
	}
}

// tell tells the host the digests that it has not been told. It comes before a state.
func (p *Provider) tell() {
	if len(p.said) == 0 {
		return
	}
	m := &proto.Progress{Run: p.a.Run, Stage: p.a.Stage, Step: int64(p.at), Digests: p.said}
	p.said = nil
	p.toHost(m)
}

// AuditIndex lists what the store has of the log that an audit reads.
func (w *World) AuditIndex() (x run.AuditIndex) {
	if b := w.Store[run.AuditIndexOf("j")]; b != nil {
		var err error
		if x, err = run.ParseAuditIndex(b); err != nil {
			panic(err)
		}
	}
	return x
}

// Audit reads that log.
func (w *World) Audit() []run.AuditLine { return w.read(w.AuditIndex()) }

func (w *World) read(x run.AuditIndex) (ls []run.AuditLine) {
	for _, s := range x.Segments {
		b := w.Store[run.AuditObjects("j")+s.SHA256]
		if d := sha256.Sum256(b); hex.EncodeToString(d[:]) != s.SHA256 || int64(len(b)) != s.Size {
			panic("the index of the audit log names a segment that is not in the store: " + s.SHA256)
		}
		for line := range bytes.Lines(b) {
			var l run.AuditLine
			if err := json.Unmarshal(line, &l); err != nil {
				panic(err)
			}
			ls = append(ls, l)
		}
	}
	return ls
}

// lie is a change that a provider made to its weights.
type lie struct {
	who  run.Who
	seg  snapshot.Segment
	step int
}

// lies spoils the weights behind a step, if the script says so. It is noted.
func (p *Provider) lies(step int) {
	if p.w.Lies == nil || !p.w.Lies(p, step) {
		return
	}
	p.weights[p.Segment.From]++
	p.w.lied = append(p.w.lied, lie{run.Who{Name: p.Name, Key: p.Hello.Key}, p.Segment, step})
}

// judge computes again what was trained between two checkpoints, and names who has lied about it.
func (w *World) judge(a run.AskAudit) run.Audited {
	e := run.Audited{Seq: a.Seq}
	to := int(a.To.Position.Step)
	for _, part := range a.To.Parts {
		weights, at := w.before(a.From, part)
		learn(weights, at, to)
		for n, v := range w.content(part).Weights {
			if weights[n] == v {
				continue
			}
			i := len(w.lied) - 1 // the last who has: others did in attempts of which nothing is left
			for i >= 0 && !(w.lied[i].seg.From <= n && n < w.lied[i].seg.To && at <= w.lied[i].step && w.lied[i].step < to) {
				i--
			}
			if i < 0 {
				panic("a checkpoint is wrong, and nobody has lied")
			}
			if who := w.lied[i].who; !slices.ContainsFunc(e.Culprits, func(c run.Culprit) bool { return c.Who == who }) {
				c := run.Culprit{Who: who, What: who.Name + " has lied"}
				if w.Doubt != nil {
					w.Doubt(&c)
				}
				e.Culprits = append(e.Culprits, c)
			}
		}
	}
	return e
}

// stretch says what it takes to compute a stretch again: the plan is which stages' states are saved at
// its end.
func stretch(a run.AskStretch) run.Stretched {
	raw, err := json.Marshal(a.To.Parts)
	if err != nil {
		panic(err)
	}
	return run.Stretched{Seq: a.Seq, Stretch: run.Stretch{
		Graph: proto.Ref{SHA256: strings.Repeat("0", 64), Size: 1}, Class: proto.ClassFMA,
		Stretches: []proto.Stretch{{Until: int64(a.To.Position.Step), Plans: []json.RawMessage{raw}}},
	}}
}

// check computes a stretch again.
func (p *Provider) check(a *proto.Assign) {
	s := a.Check.Stretches[0]
	var parts []snapshot.Entry
	if err := json.Unmarshal(s.Plans[0], &parts); err != nil {
		panic(err)
	}
	weights := Undisturbed(0)
	if a.Resume != nil {
		weights = p.w.resumed(a.Resume, int(a.Check.From))
	}
	learn(weights, int(a.Check.From), int(s.Until))
	if p.w.Denies != nil && p.w.Denies(p) {
		weights[0]++
	}
	var states []proto.State
	for _, e := range parts {
		own := content{Step: int(s.Until), Weights: map[int]uint64{}}
		for n := e.Segment.From; n < e.Segment.To; n++ {
			own.Weights[n] = weights[n]
		}
		b, err := json.Marshal(own)
		if err != nil {
			panic(err)
		}
		states = append(states, proto.State{Cluster: e.Cluster, Stage: e.Stage, SHA256: proto.RefOf(b, nil).SHA256})
	}
	p.w.after(p.w.Auditing, func() {
		if p.a == a {
			p.quit()
			p.step(machine.Ended{Run: a.Run, Outcome: machine.Done, Step: s.Until, States: states})
		}
	})
}

// before is what a part was made from: at a checkpoint, or nil, at the start.
func (w *World) before(c *snapshot.Manifest, part snapshot.Entry) (weights map[int]uint64, step int) {
	weights = Undisturbed(0)
	if c == nil {
		return weights, 0
	}
	for _, own := range []bool{false, true} { // its own cluster's, if they are there
		for _, e := range c.Parts {
			if (e.Cluster == part.Cluster) == own {
				maps.Copy(weights, w.content(e).Weights)
			}
		}
	}
	return weights, int(c.Position.Step)
}

// content is a part in the store.
func (w *World) content(e snapshot.Entry) (x content) {
	if err := json.Unmarshal(w.Store[e.Object], &x); err != nil {
		panic(e.Object + ": " + err.Error())
	}
	return x
}

// learn adds what the steps between two add to the weights.
func learn(weights map[int]uint64, from, to int) {
	for s := from; s < to; s++ {
		for n := range weights {
			weights[n] = weights[n]*31 + uint64(s+n)
		}
	}
}
