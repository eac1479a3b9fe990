package runtest

// States that providers hold in memory.

import (
	"encoding/json"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// stashed is a state that a provider holds: its own, or a copy of another stage's.
type stashed struct {
	run   string
	stage int
	ref   proto.Ref
	state []byte
}

// stow puts a state into the provider's memory. Of each stage it keeps the last two.
func (p *Provider) stow(s stashed) {
	p.stash = append(p.stash, s)
	n := 0
	for i := len(p.stash) - 1; i >= 0; i-- {
		if p.stash[i].run != s.run || p.stash[i].stage == s.stage {
			if n++; n > 2 || p.stash[i].run != s.run {
				p.stash = append(p.stash[:i], p.stash[i+1:]...)
			}
		}
	}
}

// keep holds the provider's state, and has a neighbour take a copy.
func (p *Provider) keep() {
	w := p.w
	b, err := json.Marshal(content{p.at, p.weights})
	if err != nil {
		panic(err)
	}
	s := stashed{p.a.Run, p.a.Stage, proto.RefOf(b, nil), b}
	raw, err := json.Marshal(order.Position{Epoch: p.at / Batches, Batch: p.at % Batches, Step: uint64(p.at)})
	if err != nil {
		panic(err)
	}
	p.stow(s)
	p.tell()
	p.toHost(&proto.Held{Run: s.run, Stage: s.stage, Step: int64(p.at), Blob: s.ref, Position: raw})
	if !p.copies {
		return
	}
	t, at, by := p.team, p.at, (p.a.Stage+1)%p.a.Stages
	bytes := w.nature.State(p.Segment)
	w.after(w.nature.Upload(p, bytes), func() {
		if q := t.ps[by]; q != nil && q.here() && !q.frozen && p.team == t && p.here() && !p.frozen {
			q.stow(s)
			q.toHost(&proto.Held{Run: s.run, Stage: s.stage, Step: int64(at), Blob: s.ref})
		}
	})
}

// bringHeld uploads a state that is held.
func (p *Provider) bringHeld(s stashed) {
	w := p.w
	w.after(p.latency(), func() {
		w.uploads++
		seq := w.uploads
		w.waiting[seq] = func(ans run.Action) {
			g, ok := ans.(run.Grant)
			if !ok {
				p.next()
				return
			}
			w.after(w.nature.Upload(p, w.nature.State(g.Segment)), func() {
				defer p.next()
				defer w.Step(run.UploadEnd{ID: p.ID})
				if !p.here() || p.frozen {
					return
				}
				w.Traffic.Uploaded += w.nature.State(g.Segment)
				if err := w.fail(); err != nil {
					w.Step(run.StoreFault{ID: p.ID, Upload: true, Err: err})
					w.after(again, func() { p.queue(func() { p.bringHeld(s) }) })
					return
				}
				w.Store[g.Object] = s.state
				w.Step(run.Upload{ID: p.ID, Run: s.run, Stage: s.stage, Object: g.Object, Blob: s.ref})
			})
		}
		w.Step(run.UploadRequest{Seq: seq, ID: p.ID, Run: s.run, Stage: s.stage, SHA256: s.ref.SHA256})
	})
}
