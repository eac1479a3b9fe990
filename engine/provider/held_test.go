package provider

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/signaling/proto"
)

// silent is a host that takes messages.
type silent struct {
	Host
	said chan proto.Message
}

func (h *silent) Send(_ context.Context, m proto.Message) error { h.said <- m; return nil }

// FuzzCopy: pieces of copies, in any order and of any size, make a state that is what was sent or
// none at all, within the limit that the plan says.
func FuzzCopy(f *testing.F) {
	f.Add([]byte{0, 3, 1, 3}, uint16(6))
	f.Add([]byte{0, 3, 0, 3, 1, 3}, uint16(6))
	f.Add([]byte{0, 3, 2, 3, 1, 3}, uint16(6))
	f.Add([]byte{0, 200}, uint16(200))
	f.Fuzz(func(t *testing.T, pieces []byte, total uint16) {
		host := &silent{said: make(chan proto.Message, len(pieces))}
		d := &driver{host: host}
		r := &attempt{d: d, cfg: &d.cfg, host: host, a: &proto.Assign{Run: "r"}, ctx: t.Context()}
		in := &incoming{r: r, of: Copy{Of: 1, By: 0, Bytes: 128}, receipts: make(chan wire.Header, copyAhead+1)}
		var sent []byte // of the copy that began last
		next, broken := uint32(0), true
		for i := 0; i+1 < len(pieces); i += 2 {
			h := wire.Header{Kind: wire.Copy, Rows: uint32(pieces[i]), Seq: 7, Elems: uint32(total)}
			piece := bytes.Repeat([]byte{byte(i)}, int(pieces[i+1]))
			if len(piece) == 0 {
				continue
			}
			in.take(h, piece)
			if h.Rows == 0 {
				sent, next, broken = nil, 0, total > 128
			}
			if h.Rows != next || len(sent)+len(piece) > int(total) {
				broken = true
			}
			if !broken {
				sent, next = append(sent, piece...), next+1
			}
			d.wg.Wait()
			if whole := !broken && len(sent) == int(total); whole {
				m := (<-host.said).(*proto.Held)
				if b := d.stash.find(m.Blob.SHA256); !bytes.Equal(b, sent) || m.Step != 7 || m.Stage != 1 {
					t.Fatalf("a copy of %d bytes arrived as %d", len(sent), len(b))
				}
				broken = true
			}
			if len(host.said) > 0 {
				t.Fatal("a copy that was not sent")
			}
		}
	})
}

// TestCopiesAtOnce: of copies that come faster than the host is told of them, one is told.
func TestCopiesAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	host := &silent{said: make(chan proto.Message, 100)}
	d := &driver{host: host}
	r := &attempt{d: d, cfg: &d.cfg, host: host, a: &proto.Assign{Run: "r"}, ctx: ctx}
	in := &incoming{r: r, of: Copy{Of: 1, By: 0, Bytes: 128}, receipts: make(chan wire.Header, copyAhead+1), every: time.Hour}
	for i := range 100 {
		in.take(wire.Header{Kind: wire.Copy, Seq: uint64(i), Elems: 1}, []byte{byte(i)})
	}
	if m := (<-host.said).(*proto.Held); m.Step != 0 {
		t.Errorf("the host is told of the copy of step %d", m.Step)
	}
	cancel()
	d.wg.Wait()
	if n := len(host.said); n > 0 || len(d.stash.all) != 1 {
		t.Errorf("%d more copies are told of, and %d kept", n, len(d.stash.all))
	}
}

// TestStash: of each stage two states are held, and the memory of the oldest is used again.
func TestStash(t *testing.T) {
	var s stash
	for i := range 5 {
		for stage := range 2 {
			b := append(s.buffer("r", stage), byte(i), byte(stage))
			if i >= versions && cap(b) < 2 {
				t.Error("the memory of an older state was not used")
			}
			s.add(&held{run: "r", stage: stage, step: int64(i), ref: proto.RefOf(b, nil), file: b})
		}
	}
	if len(s.all) != 2*versions {
		t.Errorf("%d states are held, want %d", len(s.all), 2*versions)
	}
	for stage := range 2 {
		for i := range 5 {
			if got := s.find(proto.RefOf([]byte{byte(i), byte(stage)}, nil).SHA256) != nil; got != (i >= 3) {
				t.Errorf("state %d of stage %d: held %v", i, stage, got)
			}
		}
	}
}

// TestStashKeepsWhatIsRead: a state that is on its way to the host keeps its bytes while its stage
// goes on to hold others.
func TestStashKeepsWhatIsRead(t *testing.T) {
	var s stash
	hold := func(i int) {
		b := append(s.buffer("r", 0), byte(i), byte(i))
		s.add(&held{run: "r", step: int64(i), ref: proto.RefOf(b, nil), file: b})
	}
	hold(0)
	hold(1)
	read := s.find(proto.RefOf([]byte{0, 0}, nil).SHA256)
	for i := range 2 * versions {
		hold(2 + i)
	}
	if !bytes.Equal(read, []byte{0, 0}) {
		t.Errorf("a state that was being read became %v", read)
	}
	if len(s.all) != versions {
		t.Errorf("%d states are held, want %d", len(s.all), versions)
	}
}

// TestPlanIn: a plan says what a job leaves open, and nothing that the job's result depends on.
func TestPlanIn(t *testing.T) {
	j := job.Spec{Schedule: job.Sync, BatchSize: 8, Replicas: job.Count(2)}
	got, err := Plan{MicroBatches: 4, InFlight: 2, Halves: true}.In(j)
	if err != nil || got.MicroBatches != 4 || got.InFlight != 2 || got.Schedule != job.ZB {
		t.Errorf("%+v, %v", got, err)
	}
	j.MicroBatches, j.InFlight = 2, 1
	if got, err = (Plan{MicroBatches: 4, InFlight: 2}).In(j); err != nil || got.MicroBatches != 2 || got.InFlight != 1 || got.Schedule != job.Sync {
		t.Errorf("of a job that says it: %+v, %v", got, err)
	}
	j.MicroBatches, j.InFlight = 0, 0
	async := j
	async.Schedule = job.Async
	for _, c := range []struct {
		plan Plan
		job  job.Spec
	}{{Plan{MicroBatches: 9}, j}, {Plan{MicroBatches: -1}, j}, {Plan{InFlight: 3}, j}, {Plan{InFlight: -1}, j}, {Plan{Halves: true}, async}} {
		if _, err := c.plan.In(c.job); err == nil {
			t.Errorf("%+v is taken for %s", c.plan, c.job.Schedule)
		}
	}
}
