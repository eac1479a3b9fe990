package run

// The machine as a whole.

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

func TestRunLife(t *testing.T) {
	r := started(t, nil)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		if _, ok := r.last(id).(*proto.Start); !ok {
			t.Errorf("%s was not started: %#v", id, r.last(id))
		}
		var a *proto.Assign
		for _, m := range r.sent[id] {
			if x, ok := m.(*proto.Assign); ok {
				a = x
			}
		}
		if a == nil || a.Stage != i || a.Stages != 3 || a.Name != fmt.Sprintf("node_%d", i) || len(a.Peers) != 2 {
			t.Fatalf("%s was assigned %+v", id, a)
		}
		for _, p := range a.Peers {
			if p.ID == id || p.ID != fmt.Sprintf("p%d", p.Stage) {
				t.Errorf("%s has the peer %+v", id, p)
			}
		}
	}
	r.step(Message{ID: "p2", Msg: &proto.Progress{
		Run: "j-1", Stage: 2, Step: 2, Losses: []proto.Loss{{Step: 1, Loss: 0.5}, {Step: 2, Loss: 0.4}},
		Vals: []proto.Val{{Step: 2, Correct: 1, Total: 2}},
	}})
	if e, ok := event[Loss](r); !ok || e.Step != 2 || e.Loss.Loss != 0.4 || e.Stage != 2 {
		t.Errorf("loss event %+v", e)
	}
	if e, ok := event[Val](r); !ok || e.Correct != 1 {
		t.Errorf("val event %+v", e)
	}
	line, ok := find[AppendLine](r)
	if !ok || line.Log != "j/metrics" || !strings.Contains(string(line.Line), `"losses":[{"step":1`) {
		t.Errorf("metrics line %s", line.Line)
	}
	r.saveAt(9, 0, 1, 2)
	r.commit(nil)
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0, Step: 9}})
	r.phase(Draining)
	r.step(Message{ID: "p1", Msg: &proto.Done{Run: "j-1", Stage: 1, Step: 9}})
	r.step(Leave{ID: "p1", Reason: "its connection closed"}) // it is done, so it may
	r.phase(Draining)
	r.step(Message{ID: "p2", Msg: &proto.Done{Run: "j-1", Stage: 2, Step: 9}})
	r.phase(Idle)
	if e, ok := event[Done](r); !ok || e.Interrupted || e.Run != "j-1" {
		t.Errorf("done event %+v, %v", e, ok)
	}
	if f, ok := find[Finish](r); !ok || f.Err != nil {
		t.Errorf("finished with %v", f.Err)
	}
	if len(r.l.Members) != 2 {
		t.Errorf("%d providers stay, want 2", len(r.l.Members))
	}
}

func TestStatus(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p2", Msg: &proto.Progress{Run: "j-1", Stage: 2, Step: 7, Samples: 448, Losses: []proto.Loss{{Step: 7, Loss: 0.25}}}})
	r.now = r.now.Add(time.Second)
	s := r.l.Status(r.now)
	if s.Phase != "running" || s.Run != "j-1" || len(s.Members) != 3 || s.RunningMS < 1000 || s.Loss == nil || s.Loss.Loss != 0.25 {
		t.Errorf("got %+v", s)
	}
	if m := s.Members[2]; m.State != "training" || m.Stage != 2 || m.Samples != 448 {
		t.Errorf("got %+v", m)
	}
	b, err := json.Marshal(s)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("%v: %s", err, b)
	}
}

// walk lets random things happen to a machine.
type walk struct {
	r    *rig
	rng  *rand.Rand
	ids  []string // of all members that ever joined, and one that never did
	next int
}

func (w *walk) step() {
	w.r.now = w.r.now.Add(time.Duration(w.rng.IntN(150)) * time.Millisecond)
	id := w.ids[w.rng.IntN(len(w.ids))]
	if live := w.r.l.sorted(); len(live) > 0 && w.rng.IntN(5) > 0 {
		id = live[w.rng.IntN(len(live))].ID
	}
	run, stage := w.r.l.Run, w.rng.IntN(3)
	if m := w.r.l.Members[id]; m != nil && m.Place != nil && w.rng.IntN(8) > 0 {
		stage = m.Place.Stage
	}
	if run == "" {
		run = "j-1"
	}
	switch w.rng.IntN(16) {
	case 0, 1:
		id = fmt.Sprintf("p%d", w.next)
		w.next++
		w.ids = append(w.ids, id)
		w.r.join(id, "")
	case 2:
		if w.rng.IntN(4) == 0 {
			w.r.step(Leave{ID: id, Reason: "x"})
		}
	case 3:
		if w.r.l.Job == nil {
			w.r.step(Submit{Job: Job{ID: "j", Raw: json.RawMessage(`{}`), Replan: true, Want: 1 + w.rng.IntN(3)}})
		}
	case 4:
		if p, ok := find[AskPlan](w.r); ok {
			w.r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
		}
	case 5, 6, 7, 8:
		w.r.step(Message{ID: id, Msg: &proto.Ready{Run: run}})
	case 9:
		w.r.step(Message{ID: id, Msg: &proto.Progress{Run: run, Stage: stage, Losses: make([]proto.Loss, w.rng.IntN(40)/39)}})
	case 10:
		if o, err := w.r.grant(id, run, stage, sumA); err == nil {
			w.r.step(Upload{ID: id, Run: run, Stage: stage, Object: o, Blob: proto.Ref{SHA256: sumA, Size: 1}})
			w.r.step(UploadEnd{ID: id})
			w.r.step(Message{ID: id, Msg: &proto.Saved{Run: run, Stage: stage, Step: 1, Blob: proto.Ref{SHA256: sumA, Size: 1}}})
		}
	case 11:
		if len(w.r.l.Pending) > 0 {
			w.r.step(Commit{Run: w.r.l.Job.ID})
		}
	case 12:
		w.r.step(Message{ID: id, Msg: &proto.Done{Run: run, Stage: stage}})
	case 13:
		if w.rng.IntN(6) == 0 {
			w.r.step(StopRequest{Mode: []proto.Mode{proto.Graceful, proto.Now}[w.rng.IntN(2)]})
		}
	case 14:
		w.r.step(Message{ID: id, Msg: &proto.Signal{Run: run, To: w.ids[w.rng.IntN(len(w.ids))], Body: json.RawMessage(`1`)}})
	case 15:
		w.r.step(Tick{})
		for _, x := range w.ids {
			w.r.pong(x)
		}
	}
}

// Whatever strangers send and whenever they leave, the machine must neither panic nor
// keep a run that cannot end, and the same events must lead to the same actions.
func TestRandomEvents(t *testing.T) {
	play := func(seed uint64) (trace string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t, func(s *Settings) { s.MaxMembers, s.ReadyTimeout, s.DrainTimeout = 6, 20*time.Second, 20*time.Second })
		w := walk{r: r, rng: rng, ids: []string{"nobody"}}
		for range 600 {
			w.step()
			if r.l.Phase == Idle != (r.l.Job == nil) {
				t.Fatalf("seed %d: phase %s, job %v", seed, r.l.Phase, r.l.Job)
			}
		}
		// Everybody falls silent: any run beyond gathering must end by itself.
		for range 200 {
			r.now = r.now.Add(time.Second)
			r.step(Tick{})
		}
		if r.l.Phase != Idle && r.l.Phase != Gathering || len(r.l.Members) != 0 {
			t.Fatalf("seed %d: stuck in %s with %d members", seed, r.l.Phase, len(r.l.Members))
		}
		begun, ended := 0, 0
		for _, a := range r.acts {
			if _, ok := a.(Finish); ok {
				ended++
			}
		}
		for _, e := range r.evs {
			switch e.(type) {
			case Done, Failed:
				begun++
			}
		}
		if begun != ended {
			t.Fatalf("seed %d: %d final events, %d ends", seed, begun, ended)
		}
		for _, e := range r.evs {
			b, err := json.Marshal(e)
			trace += fmt.Sprintf("%T %s %v\n", e, b, err)
		}
		return trace
	}
	finished := 0
	for seed := range uint64(40) {
		a := play(seed)
		if b := play(seed); a != b {
			t.Fatalf("seed %d: the same events led elsewhere:\n%s\n%s", seed, a, b)
		}
		if strings.Contains(a, "run.Checkpointed ") {
			finished++
		}
	}
	if finished == 0 {
		t.Error("no random run ever saved anything: the test proves nothing about it")
	}
}
