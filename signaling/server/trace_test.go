package server_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/client"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
	"github.com/ravnest/ravnest/signaling/server"
)

// log is a buffer that may be read while a host writes it.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestTraceReplays replays the trace of a real run. The machine must report the same, word
// for word.
func TestTraceReplays(t *testing.T) {
	var trace log
	s, addr := start(t, server.Config{Token: "open sesame", Trace: &trace, Heartbeat: 20 * time.Millisecond})
	var ev events
	done := run(t, s, testJob(blobs{}, 2), &ev)
	gone := dial(t, addr, client.Options{Token: "open sesame", Hello: hello("")})
	await[server.Joined](t, &ev) // so that the job has begun
	gone.Close("lunch")
	await[server.Left](t, &ev)
	var wg sync.WaitGroup
	for range 2 {
		c := dial(t, addr, client.Options{Token: "open sesame", Hello: hello("")})
		wg.Go(func() {
			if err := provider(t.Context(), c, 20); err != nil {
				t.Error(err)
			}
		})
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	wg.Wait()
	if strings.Contains(trace.String(), "sesame") {
		t.Error("the trace has the join token")
	}
	var got []string
	var res *machine.Finish
	for end := time.Now().Add(patience); res == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		got = nil
		text := trace.String() // up to the last tick
		text = text[:strings.LastIndexByte(text, '\n')+1]
		if text == "" {
			continue // the job was done before the first tick
		}
		_, err := machine.Replay(strings.NewReader(text), func(_ time.Time, _ machine.Event, acts []machine.Action) {
			for _, a := range acts {
				switch a := a.(type) {
				case machine.Emit:
					got = append(got, runtest.Describe(a))
				case machine.Finish:
					res = &a
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if res == nil || res.Err != nil || res.Result.Checkpoint.Position != r.Checkpoint.Position {
		t.Fatalf("replayed, the run ends with %+v, it was %+v", res, r.Result)
	}
	for i, x := range ev.all {
		if want := runtest.Describe(machine.Emit{Report: x}); i >= len(got) || got[i] != want {
			t.Fatalf("report %d of %d is\n%s\nit was\n%s", i, len(ev.all), got[min(i, len(got)-1)], want)
		}
	}
}
