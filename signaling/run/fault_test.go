package run_test

// Stores that take nothing for a time.

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

var errFull = errors.New("no space left on device")

// failing is a world whose store refuses these writes.
func failing(w *runtest.World, fail func(i int) bool) *runtest.World {
	w.Fail = func(i int) error {
		if fail(i) {
			return errFull
		}
		return nil
	}
	return w
}

// kept checks that whatever the store's manifest names is there, at every moment.
func kept(t *testing.T, w *runtest.World) {
	w.Before = func(int, string, proto.Message) bool {
		if c := w.M.Checkpointed(); c != nil {
			if _, err := w.Weights(c); err != nil {
				t.Errorf("the newest checkpoint is damaged: %v", err)
			}
		}
		return true
	}
}

// warned are the warnings about the store, and how often it was said to work again.
func warned(w *runtest.World) (faults, mended int) {
	for _, r := range w.Reports {
		switch r := r.(type) {
		case run.Warning:
			if errors.Is(r.Err, errFull) {
				faults++
			}
		case run.Checkpointed:
			if r.After > 0 {
				mended++
			}
		}
	}
	return faults, mended
}

// Whichever writes fail, one or some in a row, the run ends with the undisturbed result, and says
// that something could not be saved.
func TestStoreFailsAtEveryWrite(t *testing.T) {
	plain := world()
	plain.Run(time.Minute)
	whole(t, plain)
	for _, length := range []int{1, 2, 7} {
		for at := range plain.Writes() {
			t.Run(fmt.Sprintf("%d at %d", length, at), func(t *testing.T) {
				w := failing(world(), func(i int) bool { return i >= at && i < at+length })
				kept(t, w)
				w.Run(5 * time.Minute)
				whole(t, w)
				if n, _ := warned(w); n == 0 && at+1 < plain.Writes() { // the last one fails when the run is over
					t.Error("nobody was told")
				}
			})
		}
	}
}

// A store that is full for long, while a provider is lost: the run goes on from what is in memory
// or in the store, and ends once there is room for its last state.
func TestStoreFullThroughALoss(t *testing.T) {
	for _, hold := range []bool{false, true} {
		for lost := range 12 {
			t.Run(fmt.Sprintf("held %t, after %d messages", hold, 8*lost), func(t *testing.T) {
				w := world()
				w.Hold, w.Copies = hold, hold
				var full, room time.Time
				failing(w, func(i int) bool {
					if i == 8 {
						full = w.Now
					}
					return !full.IsZero() && room.IsZero()
				})
				kept(t, w)
				check, at := w.Before, -1
				w.Before = func(i int, id string, msg proto.Message) bool {
					if !full.IsZero() && at < 0 {
						at = i + 8*lost
					}
					if i == at {
						w.Provider("p1").Kill()
					}
					return check(i, id, msg)
				}
				w.Run(10 * time.Minute)
				if len(w.Results) > 0 {
					t.Fatalf("it ended although its last state could not be saved: %+v", w.Results[0])
				}
				if st := w.M.Status(w.Now); !strings.Contains(st.Unsaved, errFull.Error()) {
					t.Errorf("the status says %q", st.Unsaved)
				}
				room = w.Now
				w.Run(10 * time.Minute)
				whole(t, w)
				if faults, mended := warned(w); faults == 0 || faults > 25 || mended != 1 {
					t.Errorf("%d warnings in ten minutes, and it was said %d times that there is room again", faults, mended)
				}
			})
		}
	}
}

// A strict job ends when a state or a manifest is not taken, and keeps what was saved before.
func TestStrictStore(t *testing.T) {
	strict := func(fail func(i int) bool) *runtest.World {
		set := run.Settings{Checkpoint: 100 * time.Millisecond}
		w := failing(runtest.New(set, run.Job{ID: "j", Raw: []byte(`{}`), Want: 1, Steps: steps, Strict: true}, steps), fail)
		w.Stages = 1
		w.Join("p0", "")
		kept(t, w)
		w.Run(time.Minute)
		return w
	}
	n := strict(func(int) bool { return false }).Writes()
	for at := range n - 1 { // the last one tells what is saved already
		w := strict(func(i int) bool { return i >= at })
		if len(w.Results) != 1 || !errors.Is(w.Results[0].Err, errFull) {
			t.Errorf("from write %d of %d on the store is full: %+v", at, n, w.Results)
		}
	}
}

// Whoever stops a run whose store is full keeps what was saved before.
func TestStopWhileTheStoreIsFull(t *testing.T) {
	w := failing(world(), func(i int) bool { return i >= 8 })
	kept(t, w)
	w.Run(time.Minute)
	if len(w.Results) > 0 {
		t.Fatalf("it ended: %+v", w.Results[0])
	}
	had := w.M.Checkpointed()
	if had == nil {
		t.Fatal("nothing was saved before: the test proves nothing")
	}
	w.Step(run.StopRequest{Mode: proto.Graceful, Reason: "Ctrl-C"})
	w.Run(time.Minute)
	if len(w.Results) != 1 || w.Results[0].Err != nil || !w.Results[0].Result.Interrupted || w.Results[0].Result.Checkpoint != had {
		t.Errorf("%+v", w.Results)
	}
}
