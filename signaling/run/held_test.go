package run_test

// Runs whose stages hold states in memory, from which the run goes on after a loss.

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

const holdSteps = 80

// holding is settings without any checkpoint in the store before the end.
var holding = run.Settings{Checkpoint: -1, Hold: 20 * time.Millisecond}

// holdingWorld is a world whose stages hold states: one cluster of two stages with copies, one of
// three, or two clusters of two and three stages. One provider is to spare.
func holdingWorld(kind string, begin func(run.Settings, run.Job, int) *runtest.World) *runtest.World {
	return longWorld(kind, begin, holdSteps)
}

func longWorld(kind string, begin func(run.Settings, run.Job, int) *runtest.World, steps int) *runtest.World {
	job := run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 2, Replan: true, Steps: int64(steps)}
	if kind == "three" {
		job.Want = 3
	}
	if strings.HasPrefix(kind, "clusters") {
		job.Want, job.Rounds, job.Apart = 5, runtest.Rounds(2, 2, 1, steps), kind == "clusters apart"
	}
	w := begin(holding, job, steps)
	w.Hold, w.Copies = true, kind != "clusters"
	switch kind {
	case "three":
		w.Stages = 3
	case "clusters", "clusters apart":
		w.Stages, w.Clusters = 3, 2
	}
	for i := range job.Want + 1 {
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	return w
}

var holdingKinds = []string{"two", "three", "clusters", "clusters apart"}

// redone returns, for each loss, how many steps were done again.
func redone(w *runtest.World) (all []int64) {
	for _, r := range w.Reports {
		if r, ok := r.(run.Recovering); ok && r.Reached > 0 {
			all = append(all, int64(r.Reached)-int64(r.Step))
		}
	}
	return all
}

func TestHold(t *testing.T) {
	for _, kind := range holdingKinds {
		for _, at := range []time.Duration{210, 250, 290, 330} {
			w := holdingWorld(kind, runtest.New)
			w.Run(at * time.Millisecond)
			w.Provider("p1").Kill()
			w.Run(time.Minute)
			whole(t, w)
			inOrder(t, w)
			// The host looks every 50 ms, and the others notice after 30 ms; clusters do two steps in
			// 10 ms, and a round is four.
			if all := redone(w); len(all) != 1 || all[0] > 24 {
				t.Errorf("%s: killed after %v ms, done again: %v steps", kind, int(at), all)
			}
			for _, r := range w.Reports {
				switch r := r.(type) {
				case run.Started:
					if r.After > 500*time.Millisecond+3*time.Second {
						t.Errorf("%s: training again after %v", kind, r.After)
					}
				case run.Warning:
					t.Errorf("%s: %v", kind, r.Err)
				}
			}
		}
	}
}

// Without copies and without another cluster the states of the others are of no use.
func TestHoldWithoutCopies(t *testing.T) {
	w := holdingWorld("two", runtest.New)
	w.Copies = false
	w.Run(300 * time.Millisecond)
	w.Provider("p0").Kill()
	w.Run(time.Minute)
	whole(t, w)
	for _, r := range w.Reports {
		if r, ok := r.(run.Recovering); ok && r.Step > 0 {
			t.Errorf("the run goes on from step %d, which nobody holds whole", r.Step)
		}
	}
}

// Whatever happens to any provider at any message, and to a second one a moment later, while the
// states of the others are being brought, the run ends as the undisturbed one does.
func TestHoldEveryFault(t *testing.T) {
	faults := map[string]func(p *runtest.Provider){
		"kill": (*runtest.Provider).Kill, "freeze": (*runtest.Provider).Freeze, "leave": (*runtest.Provider).Leave,
	}
	for _, kind := range holdingKinds {
		for name, fault := range faults {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				plain := holdingWorld(kind, runtest.New)
				plain.Run(time.Minute)
				stride := 11
				if testing.Short() {
					stride = 31
				}
				for at := 0; at < plain.Messages(); at += stride {
					for first := range 3 {
						w := holdingWorld(kind, runtest.New)
						w.Join("spare", "")
						w.Before = func(i int, _ string, _ proto.Message) bool {
							switch i {
							case at:
								fault(w.Provider(fmt.Sprintf("p%d", first)))
							case at + 1 + (at*7+first)%40:
								fault(w.Provider(fmt.Sprintf("p%d", (first+1)%3)))
							}
							return true
						}
						w.Run(10 * time.Minute)
						whole(t, w)
						inOrder(t, w)
						if t.Failed() {
							t.Fatalf("p%d at message %d of %d", first, at, plain.Messages())
						}
					}
				}
			})
		}
	}
}

// Losses at random, more of them than attempts may be fruitless in a row: each makes some
// progress, although nothing is ever saved in between.
func TestHoldManyLosses(t *testing.T) {
	for _, kind := range holdingKinds {
		losses := 0
		for seed := range uint64(6) {
			rng := rand.New(rand.NewPCG(seed, 5))
			w := longWorld(kind, runtest.New, 1500)
			next := 0
			kill := func() {
				if ids := w.Alive(); len(ids) > 3 && next < 30 {
					w.Provider(ids[rng.IntN(len(ids))]).Kill()
				}
				w.Join(fmt.Sprintf("n%d", next), "")
				next++
			}
			var again func()
			again = func() {
				kill()
				w.After(time.Duration(400+rng.IntN(1500))*time.Millisecond, again)
			}
			w.After(200*time.Millisecond, again)
			w.Run(time.Hour)
			whole(t, w)
			inOrder(t, w)
			losses += len(redone(w))
			if t.Failed() {
				t.Fatalf("%s, seed %d", kind, seed)
			}
		}
		if losses < 40 {
			t.Errorf("%s: %d losses while training: the test proves little", kind, losses)
		}
	}
}

// A survivor that does not bring what it holds is passed over, and one that brings something else
// is too.
func TestHoldNotBrought(t *testing.T) {
	for name, spoil := range map[string]func(*runtest.World, string) bool{
		"silent":   func(*runtest.World, string) bool { return false },
		"vanished": func(w *runtest.World, id string) bool { w.Provider(id).Kill(); return true },
	} {
		for _, kind := range holdingKinds {
			w := holdingWorld(kind, runtest.New)
			spoiled := 0
			w.Before = func(_ int, id string, msg proto.Message) bool {
				if _, ok := msg.(*proto.Bring); ok && spoiled == 0 {
					spoiled++
					return spoil(w, id)
				}
				return true
			}
			w.Run(300 * time.Millisecond)
			w.Provider("p1").Kill()
			w.Join("n1", "")
			w.Join("n2", "")
			w.Run(time.Minute)
			whole(t, w)
			inOrder(t, w)
			if spoiled == 0 {
				t.Errorf("%s, %s: nothing was brought", name, kind)
			}
		}
	}
}

func TestHoldRestored(t *testing.T) {
	w := holdingWorld("clusters apart", runtest.Recorded)
	w.Run(300 * time.Millisecond)
	w.Provider("p1").Kill()
	w.Run(time.Minute)
	whole(t, w)
	restored(t, w, holding)
}
