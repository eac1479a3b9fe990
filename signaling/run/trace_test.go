package run_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// TestReplay records a run in which providers are lost, and replays it to another machine.
func TestReplay(t *testing.T) {
	w := worldOf(runtest.Recorded)
	w.Before = func(i int, _ string, _ proto.Message) bool {
		switch i {
		case 50:
			w.Provider("p0").Kill()
		case 70:
			w.Join("p9", "")
			w.Step(run.Refusal{Name: "x", Err: errors.New("a wrong token")})
		case 75:
			w.Step(run.StoreFault{Err: errors.New("a slow disk")})
		case 90:
			w.Provider("p1").Leave()
		case 95:
			w.Step(run.Violation{ID: "p9", Err: errors.New("it stutters")})
			w.Join("p10", "")
		}
		return true
	}
	w.Run(time.Minute)
	whole(t, w)
	var b bytes.Buffer
	tr := run.NewTrace(&b, w.Events[0].At, run.Settings{Checkpoint: 100 * time.Millisecond})
	for _, e := range w.Events {
		tr.Event(e.At, e.Ev)
	}
	if err := tr.Flush(); err != nil {
		t.Fatal(err)
	}
	i := 0
	m, err := run.Replay(bytes.NewReader(b.Bytes()), func(_ time.Time, ev run.Event, acts []run.Action) {
		if i >= len(w.Events) || len(acts) != len(w.Events[i].Acts) {
			t.Fatalf("event %d (%T): %d actions", i, ev, len(acts))
		}
		for k, a := range acts {
			if got, want := runtest.Describe(a), w.Events[i].Acts[k]; got != want {
				t.Fatalf("event %d (%T): action %d is\n%s\nit was\n%s", i, ev, k, got, want)
			}
		}
		i++
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	want, err := w.M.Snapshot()
	if err != nil || !bytes.Equal(got, want) || i != len(w.Events) {
		t.Errorf("after %d of %d events (%v) the machine is\n%s\nit was\n%s", i, len(w.Events), err, got, want)
	}
}

func TestBadTraces(t *testing.T) {
	const head = `{"at":"2024-01-01T00:00:00Z","event":"settings","body":{}}` + "\n"
	for name, text := range map[string]string{
		"empty":       "",
		"no JSON":     "hello\n",
		"no settings": `{"event":"tick"}` + "\n",
		"unknown":     head + `{"event":"dance"}` + "\n",
		"cut off":     head + `{"event":"tick"}` + "\n" + `{"event":"jo`,
		"no message":  head + `{"event":"message","body":{"ID":"a"}}`,
		"no error":    head + `{"event":"violation","body":{"ID":"a"}}`,
		"wrong type":  head + `{"event":"join","body":{"ID":7}}`,
	} {
		if _, err := run.Replay(strings.NewReader(text), nil); !errors.Is(err, run.ErrTrace) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTraceHasNoToken(t *testing.T) {
	var b bytes.Buffer
	tr := run.NewTrace(&b, time.Unix(1, 0), run.Settings{})
	tr.Event(time.Unix(2, 0), run.Join{ID: "a", Hello: proto.Hello{Name: "amy", Token: "sesame"}})
	if err := tr.Flush(); err != nil || strings.Contains(b.String(), "sesame") || !strings.Contains(b.String(), "amy") {
		t.Errorf("%v: %s", err, b.String())
	}
}
