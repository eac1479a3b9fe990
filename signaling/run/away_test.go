package run_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// count counts the reports of a kind.
func count[R run.Report](w *runtest.World) (n int) {
	for _, r := range w.Reports {
		if _, ok := r.(R); ok {
			n++
		}
	}
	return n
}

// A provider whose connection to the host ends, at any message and twice, and comes back,
// costs the run nothing: nobody plans again.
func TestDroppedConnections(t *testing.T) {
	plain := world()
	plain.Run(time.Minute)
	for at := range plain.Messages() {
		for _, id := range []string{"p0", "p1"} {
			w := world()
			w.Before = func(i int, _ string, _ proto.Message) bool {
				if i == at || i == at+7 {
					w.Provider(id).Drop(150 * time.Millisecond)
				}
				return true
			}
			w.Run(2 * time.Minute)
			whole(t, w)
			if n := count[run.Recovering](w); n != 0 {
				t.Errorf("%d recoveries", n)
			}
			if t.Failed() {
				t.Fatalf("after %s had no connection from message %d on", id, at)
			}
		}
	}
}

// TestAwayTooLong: a member without a connection is given up when nothing of its cluster
// moves, and at the latest when its time is over, where it has no stage.
func TestAwayTooLong(t *testing.T) {
	w := world()
	w.Run(250 * time.Millisecond)
	at := w.Now
	w.Step(run.Away{ID: "p2", Reason: "its connection closed"}) // the spare
	w.Provider("p0").Freeze()                                   // nothing moves
	w.Step(run.Away{ID: "p0", Reason: "its connection closed"})
	var left []string
	var after []time.Duration
	for range 1000 {
		n := len(w.Reports)
		w.Run(10 * time.Millisecond)
		for _, r := range w.Reports[n:] {
			if l, ok := r.(run.Left); ok {
				left, after = append(left, l.Name+": "+l.Reason), append(after, w.Now.Sub(at))
			}
		}
		if len(left) == 2 {
			break
		}
	}
	if len(left) != 2 || !strings.HasPrefix(left[0], "node_0") || !strings.HasPrefix(left[1], "node_2") || !strings.Contains(left[0], "did not return") {
		t.Fatalf("left are %q", left)
	}
	if after[0] < 500*time.Millisecond || after[0] > 1500*time.Millisecond {
		t.Errorf("one that holds the others up is given up after %v", after[0])
	}
	if after[1] < 4400*time.Millisecond || after[1] > 4700*time.Millisecond {
		t.Errorf("one that holds nobody up is given up after %v", after[1])
	}
}

// TestStartedAnew: a provider that is started again while the session of its name waits for
// it takes the name.
func TestStartedAnew(t *testing.T) {
	w := world()
	w.Run(250 * time.Millisecond)
	w.Provider("p1").Kill()
	w.Run(100 * time.Millisecond)
	w.Join("p3", "node_1")
	w.Run(2 * time.Minute)
	whole(t, w)
	if n := count[run.Refused](w); n != 0 {
		t.Errorf("%d were refused", n)
	}
}
