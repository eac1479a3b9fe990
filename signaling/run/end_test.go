package run

// How runs end, and how providers leave them in good order.

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"

	"github.com/ravnest/ravnest/signaling/proto"
)

func TestLeavingSavesFirst(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p1", Msg: &proto.Leaving{Reason: "lunch"}})
	if _, ok := r.last("p0").(*proto.Checkpoint); !ok {
		t.Fatalf("the root was told %#v", r.last("p0"))
	}
	r.saveAt(17, 0, 1, 2)
	r.commit(nil)
	if _, ok := r.last("p1").(*proto.Bye); !ok {
		t.Errorf("it was told %#v", r.last("p1"))
	}
	if e := r.recovering("node_1", "lunch"); e.Step != 17 {
		t.Errorf("it goes on from step %d", e.Step)
	}
	if s := r.l.Strikes["node_1"]; s != nil && s.Count > 0 {
		t.Error("it is blamed for it")
	}
	r.join("p5", "node_1")
	p, _ := find[AskPlan](r)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	a, ok := r.last("p5").(*proto.Assign)
	if !ok || a.Resume == nil || len(a.Resume.Parts) != 1 || a.Resume.Parts[0].Start != 1 {
		t.Fatalf("the new one was told %#v", r.last("p5"))
	}
}

func TestLeavingIsNotHeldForEver(t *testing.T) {
	r := started(t, nil)
	r.step(Message{ID: "p1", Msg: &proto.Leaving{}})
	r.silence(15*time.Second, "p0", "p1", "p2")
	if _, ok := r.last("p1").(*proto.Bye); !ok {
		t.Errorf("it was told %#v", r.last("p1"))
	}
	r = newRig(t, nil)
	r.join("p0", "")
	r.step(Message{ID: "p0", Msg: &proto.Leaving{}})
	if _, ok := r.last("p0").(*proto.Bye); !ok {
		t.Errorf("one without a stage was told %#v", r.last("p0"))
	}
}

func TestGracefulStop(t *testing.T) {
	r := started(t, nil)
	r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
	r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
	r.phase(Draining)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		n := 0
		for _, m := range r.sent[id] {
			if s, ok := m.(*proto.Stop); ok && s.Mode == proto.Graceful {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s was told to stop %d times", id, n)
		}
	}
	r.saveAt(4, 0, 1, 2)
	r.commit(nil)
	for i := range 3 {
		id := fmt.Sprintf("p%d", i)
		r.step(Message{ID: id, Msg: &proto.Done{Run: "j-1", Stage: i, Step: 4}})
	}
	e, ok := event[Done](r)
	if !ok || !e.Interrupted {
		t.Errorf("got %+v, %v", e, ok)
	}
}

// TestStopBehindARound checks that replicas stop between two rounds. A stage that makes
// progress towards the end of its round is given the time; one that goes beyond it or
// makes no progress is not.
func TestStopBehindARound(t *testing.T) {
	for name, last := range map[string]int64{"moves": 8, "stands still": 2, "goes on for ever": 60} {
		r := started(t, func(s *Settings) { s.StopTimeout = 2 * time.Second })
		r.l.Job.Rounds = &order.Run{Train: 80, BatchSize: 1, Epochs: 1, MicroBatches: 1, UpdateFrequency: 1, Replicas: 2, ReduceFactor: 4}
		moved := func(step int64) {
			for i := range 3 {
				r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Progress{Run: "j-1", Stage: i, Step: step, Samples: step}})
				r.pong(fmt.Sprintf("p%d", i))
			}
		}
		moved(1)
		r.step(StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
		for step := int64(2); step <= 40 && r.l.Phase == Draining; step++ {
			r.now = r.now.Add(time.Second)
			if step <= last {
				moved(step)
			}
			for i := range 3 {
				r.pong(fmt.Sprintf("p%d", i))
			}
			r.step(Tick{})
			if w, _ := event[Waiting](r); step == 2 && !strings.Contains(w.Reason, "6 batches to go") {
				t.Errorf("at step 2 of a round of 8 it says %q", w.Reason)
			}
			if name == "moves" && step == 8 {
				break
			}
		}
		if still := r.l.Phase == Draining; still != (name == "moves") {
			t.Errorf("a stage that %s: still waited for: %v", name, still)
		}
	}
}

func TestStopNow(t *testing.T) {
	for _, from := range []Phase{Gathering, Planning, Connecting, Running, Draining} {
		t.Run(string(from), func(t *testing.T) {
			r := newRig(t, nil)
			r.step(Submit{Job: *job()})
			if from != Gathering {
				for i := range 3 {
					r.join(fmt.Sprintf("p%d", i), "")
				}
			}
			p, _ := find[AskPlan](r)
			if from != Gathering && from != Planning {
				r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
			}
			if from == Running || from == Draining {
				for i := range 3 {
					r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Ready{Run: "j-1"}})
				}
			}
			if from == Draining {
				r.step(StopRequest{Mode: proto.Graceful})
			}
			r.phase(from)
			r.step(StopRequest{Mode: proto.Now, Reason: "enough"})
			r.phase(Idle)
			f, ok := find[Finish](r)
			if !ok || !errors.Is(f.Err, ErrStopped) || !strings.Contains(f.Err.Error(), "enough") {
				t.Errorf("got %v", f.Err)
			}
			if from != Gathering && from != Planning {
				if s, ok := r.last("p1").(*proto.Stop); !ok || s.Mode != proto.Now {
					t.Errorf("p1 was told %#v", r.last("p1"))
				}
			}
			// The next job finds the machine ready.
			r.step(Submit{Job: *job()})
			if from != Gathering {
				r.phase(Planning)
			}
		})
	}
}

func TestNotDoneInTime(t *testing.T) {
	r := started(t, func(s *Settings) { s.DrainTimeout = 2 * time.Second })
	r.step(Message{ID: "p0", Msg: &proto.Done{Run: "j-1", Stage: 0}})
	r.now = r.now.Add(2 * time.Second)
	r.step(Tick{})
	if e := r.recovering("not finished", "node_1"); strings.Contains(e.Reason, "node_0") {
		t.Errorf("%q blames one that is done", e.Reason)
	}
}

func TestOnceSaysBye(t *testing.T) {
	r := started(t, func(s *Settings) { s.Once = true })
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i}})
	}
	for i := range 3 {
		if _, ok := r.last(fmt.Sprintf("p%d", i)).(*proto.Bye); !ok {
			t.Errorf("p%d was told %#v", i, r.last(fmt.Sprintf("p%d", i)))
		}
	}
	if len(r.l.Members) != 0 {
		t.Error("providers stay")
	}
}

func TestDoneWaitsForTheCommit(t *testing.T) {
	r := started(t, nil)
	r.saveAt(30, 0, 1, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 30}})
	}
	r.phase(Draining)
	r.commit(nil)
	r.phase(Idle)
	e, ok := event[Done](r)
	if !ok || e.Checkpoint == nil || e.Checkpoint.Position.Step != 30 {
		t.Errorf("got %+v", e)
	}
}

// Stages of different steps never make a checkpoint, whatever they report.
func TestUnevenSavesAreNoResult(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1, 2)
	r.commit(nil)
	r.saveAt(255, 0)
	r.saveAt(51, 1)
	r.saveAt(255, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 255}})
	}
	f, ok := find[Finish](r)
	if !ok || !errors.Is(f.Err, ErrStore) || f.Result.Checkpoint.Position.Step != 10 {
		t.Errorf("got %+v", f)
	}
}

func TestFullDiskAtTheEnd(t *testing.T) {
	r := started(t, nil)
	r.saveAt(10, 0, 1, 2)
	r.commit(nil)
	r.saveAt(20, 0, 1, 2)
	for i := range 3 {
		r.step(Message{ID: fmt.Sprintf("p%d", i), Msg: &proto.Done{Run: "j-1", Stage: i, Step: 20}})
	}
	r.phase(Draining)
	full := errors.New("no space left on device")
	r.commit(full)
	if e, ok := event[Warning](r); !ok || !errors.Is(e.Err, full) {
		t.Errorf("warning %v", e.Err)
	}
	if d, ok := find[Discard](r); ok {
		t.Errorf("discarded %s", d.Objects)
	}
	r.phase(Draining)
	r.now = r.now.Add(nameEvery)
	r.step(Tick{})
	r.commit(nil)
	if d, ok := event[Done](r); !ok || d.Checkpoint.Position.Step != 20 {
		t.Errorf("got %+v", d)
	}
}

func TestShutdown(t *testing.T) {
	r := started(t, nil)
	r.step(Shutdown{Reason: "the host is shutting down"})
	r.phase(Idle)
	if f, ok := find[Finish](r); !ok || !errors.Is(f.Err, ErrStopped) {
		t.Errorf("got %v", f.Err)
	}
	if _, ok := r.last("p0").(*proto.Bye); !ok {
		t.Errorf("p0 was told %#v", r.last("p0"))
	}
	r.join("p9", "")
	if e, ok := r.last("p9").(*proto.Error); !ok || e.Code != proto.Stopped {
		t.Errorf("a latecomer was told %#v", r.last("p9"))
	}
}
