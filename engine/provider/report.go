// Reports to the host about a stage in training.

package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/proto"
)

// reportEvery is the interval between reports to the host.
const reportEvery = 250 * time.Millisecond

// report sends reports to the host until the returned function is called, which sends the
// last one.
func (r *attempt) report() (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.lastTime = r.cfg.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(reportEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.news: // the first batch is reported at once
			case <-t.C:
			}
			// r.ctx and not ctx, so that a report once begun is sent whole. The machine learns
			// by other means that a session is over.
			if r.flush(r.ctx) != nil {
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		_ = r.flush(r.d.ctx) // also where the host has stopped it: it is told how far it was
	}
}

func (r *attempt) flush(ctx context.Context) error {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	var out, in, frames int64
	for _, l := range r.links {
		s := l.Stats()
		out, in, frames = out+s.SentPayload, in+s.ReceivedPayload, frames+s.SentBytes+s.ReceivedBytes
	}
	r.mu.Lock()
	p, busy, now := r.prog, time.Duration(0), r.cfg.Now()
	r.prog.Losses, r.prog.Vals, r.prog.Digests = nil, nil, nil
	if r.stage != nil { // it is no check
		busy = r.stage.Busy()
		a := r.stage.Averages()
		p.Shared, p.Waited = a.Sent, a.Waited.Milliseconds()
	}
	u := r.at
	r.mu.Unlock()
	if d := now - r.lastTime; d > 0 {
		p.Busy = min(max((busy-r.lastBusy).Seconds()/d.Seconds(), 0), 1)
	}
	r.lastBusy, r.lastTime = busy, now
	p.Run, p.Stage, p.Out, p.In = r.a.Run, r.a.Stage, out, in
	p.Work = r.d.work.told() + frames
	p.FLOPs = float64(p.Samples) * r.flopsEach
	if r.cfg.RSS != nil {
		p.RSS = r.cfg.RSS()
	}
	u.Progress = p
	u.State, _ = r.d.shown.Load().(machine.State)
	r.cfg.Watch(u)
	// A message holds a bounded number of losses.
	losses, vals, digests := p.Losses, p.Vals, p.Digests
	for first := true; first || len(losses)+len(vals)+len(digests) > 0; first = false {
		n, k, d := min(len(losses), proto.MaxLosses), min(len(vals), proto.MaxVals), few(digests)
		p.Losses, losses = losses[:n], losses[n:]
		p.Vals, vals = vals[:k], vals[k:]
		p.Digests, digests = digests[:d], digests[d:]
		m := p
		if err := r.host.Send(ctx, &m); err != nil {
			return err
		}
	}
	return nil
}

// digestBytes bounds the sums of a message, which holds other things besides.
const digestBytes = 256 << 10

// few is how many digests one message takes.
func few(ds []proto.Digest) int {
	size := 0
	for i, d := range ds {
		if size += len(d.Sums) + len(d.Rings); i == proto.MaxDigests || i > 0 && size > digestBytes {
			return i
		}
	}
	return len(ds)
}

// Loss implements stage.Observer.
func (r *attempt) Loss(l stage.Loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog.Losses = append(r.prog.Losses, proto.Loss{Step: int64(l.Step), Epoch: l.Epoch, Loss: proto.Real(l.Value)})
}

// Commit implements stage.Committer.
func (r *attempt) Commit(d stage.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ways, rings := d.Text()
	m := proto.Digest{Step: int64(d.Step), Round: d.Round, Sums: ways, Rings: rings}
	if n := d.Open; n != nil {
		m.Open = slices.Concat(n.In[:], n.Out[:])
	}
	r.prog.Digests = append(r.prog.Digests, m)
}

// Validated implements stage.Observer.
func (r *attempt) Validated(v stage.Validation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	val := proto.Val{Step: int64(v.Step), Epoch: v.Epoch, Correct: int64(v.Correct), Total: int64(v.Total), Loss: proto.Real(v.Loss)}
	for _, m := range v.Metrics {
		val.Metrics = append(val.Metrics, proto.Metric{Name: m.Name, Value: proto.Real(m.Value)})
	}
	r.prog.Vals = append(r.prog.Vals, val)
}

// Batch implements stage.Observer.
func (r *attempt) Batch(rows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.prog.Samples == 0
	r.prog.Samples += int64(rows)
	r.prog.Step = r.track.after(r.prog.Step)
	r.prog.Raw = r.stage.Raw()
	if first {
		r.news <- struct{}{}
	}
}

// Share implements stage.Sharer.
func (r *attempt) Share(own order.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog.Share = own.Len()
	if r.track.own != 0 {
		r.track.own = own
	}
}

// track is where a cluster stands in the run. Its step counts the batches of all clusters, so
// that the host can see who is behind.
type track struct {
	run order.Run
	own order.Set // replicas; none: every batch is its own
}

// after is the step that a cluster stands at which was at step and has trained its next batch:
// that of the batch after it, or the end of the round where it has none left in it.
func (t track) after(step int64) int64 {
	if t.own == 0 {
		return step + 1
	}
	mine := func() bool { return t.own.Has(t.run.Replica(uint64(step))) }
	for !mine() {
		step++
	}
	for step++; step < int64(t.run.Total()) && !t.run.Opens(uint64(step)) && !mine(); step++ {
	}
	return step
}

// Keep implements stage.Observer. The state is uploaded while training goes on; uploads of
// a stage never overlap. One that the host has no room for is tried again until there is a newer
// state, or the last one is saved.
func (r *attempt) Keep(s stage.Saved) error {
	if s.Held {
		return r.hold.keep(r, s)
	}
	r.stale()
	resume := r.d.work.elsewhere()
	r.saves.Wait()
	resume()
	if r.saveErr != nil {
		return r.saveErr
	}
	var file bytes.Buffer // a copy: the part's tensors change after Keep returns
	if err := r.cfg.write(&file, s.Part); err != nil {
		return err
	}
	wait, stale := context.WithCancel(r.ctx)
	r.stale = stale
	r.saves.Go(func() {
		r.post(machine.Saving{Run: r.a.Run, Begins: true})
		err := r.save(wait, s, file.Bytes())
		if outdated := errors.Is(err, proto.ErrStorage) && wait.Err() != nil; err != nil && !outdated {
			r.saveErr = fmt.Errorf("saving stage %d after step %d: %w", r.a.Stage, s.Step, err)
		}
		r.post(machine.Saving{Run: r.a.Run})
	})
	return nil
}

// save uploads a state. wait bounds how long it waits for room at the host.
func (r *attempt) save(wait context.Context, s stage.Saved, b []byte) error {
	at, err := json.Marshal(s.Part.Position)
	if err != nil {
		return err
	}
	ref, err := r.d.upload(r.ctx, wait, r.host, r.a.Run, r.a.Stage, b)
	if err != nil {
		return err
	}
	// The host must know all losses up to a checkpoint before the checkpoint itself.
	if err := r.flush(r.ctx); err != nil {
		return err
	}
	return r.host.Send(r.ctx, &proto.Saved{Run: r.a.Run, Stage: r.a.Stage, Step: int64(s.Step), Epoch: s.Epoch, Blob: ref, Position: at})
}

// The pause before an upload that the host had no room for is tried again doubles up to a bound.
const firstPause, longestPause = time.Second, 10 * time.Second

// upload uploads a state, again and again while the host has no room for it. When wait ends, it
// gives up after the next try.
func (d *driver) upload(ctx, wait context.Context, host Host, run string, stage int, b []byte) (proto.Ref, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		ref, err := host.Upload(ctx, run, stage, b)
		if !errors.Is(err, proto.ErrStorage) {
			return ref, err
		}
		if pause == firstPause {
			d.cfg.Event("%v: trying again", err)
		}
		select {
		case <-time.After(pause):
		case <-wait.Done():
			return ref, err
		}
	}
}
