package run_test

// Runs of several clusters, which train their own replicas and meet at the end of each round.

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// clustered is a world with clusters of two and three stages, whose cuts do not nest, and one
// provider to spare. Rounds are of four batches; the last one of an epoch of ten is short, or, where
// clusters have states of their own, that of three epochs.
func clustered(apart bool) *runtest.World {
	return clusteredBy(runtest.New, apart)
}

func clusteredBy(begin func(run.Settings, run.Job, int) *runtest.World, apart bool) *runtest.World {
	set := run.Settings{Checkpoint: 40 * time.Millisecond}
	every := 1
	if apart {
		every = 3
	}
	w := begin(set, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 5, Replan: true, Steps: steps, Rounds: runtest.Rounds(2, 2, every, steps), Apart: apart}, steps)
	w.Stages, w.Clusters = 3, 2
	for i := range 6 {
		w.Join(fmt.Sprintf("p%d", i), "")
	}
	return w
}

// inOrder checks that losses were told in the order of their batches, from where each attempt
// went on.
func inOrder(t *testing.T, w *runtest.World) {
	t.Helper()
	next := int64(0)
	for _, r := range w.Reports {
		switch r := r.(type) {
		case run.Started:
			next = int64(r.Resume)
		case run.Loss:
			if r.Step != next {
				t.Fatalf("the loss of step %d follows that of step %d", r.Step, next-1)
			}
			next++
		}
	}
}

func TestClusters(t *testing.T) {
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("apart=%v", apart), func(t *testing.T) {
			w := clustered(apart)
			trained := map[int]int{} // losses by cluster
			w.Run(time.Minute)
			whole(t, w)
			inOrder(t, w)
			middle := 0
			for _, r := range w.Reports {
				switch r := r.(type) {
				case run.Loss:
					trained[r.Cluster]++
				case run.Checkpointed:
					if r.Manifest.Position.Step == steps {
						break
					}
					middle++
					of := map[int]int{}
					for _, p := range r.Manifest.Parts {
						of[p.Cluster]++
					}
					want := map[int]int{0: 2}
					if apart {
						want[1] = 3
					}
					if !maps.Equal(of, want) {
						t.Errorf("the checkpoint of step %d has parts %v of clusters, want %v", r.Manifest.Position.Step, of, want)
					}
				}
			}
			if !maps.Equal(trained, map[int]int{0: steps / 2, 1: steps / 2}) {
				t.Errorf("batches by cluster: %v", trained)
			}
			if middle < 2 {
				t.Errorf("%d checkpoints before the last", middle)
			}
			of := map[int]int{}
			for _, p := range w.Results[0].Result.Checkpoint.Parts {
				of[p.Cluster]++
			}
			if !maps.Equal(of, map[int]int{0: 2, 1: 3}) {
				t.Errorf("the last checkpoint has parts %v of clusters", of)
			}
		})
	}
}

// Whatever happens to any provider of either cluster at any message, the run ends as the
// undisturbed one does.
func TestEveryFaultInClusters(t *testing.T) {
	stride := 2
	if testing.Short() {
		stride = 11
	}
	for name, fault := range map[string]func(p *runtest.Provider){
		"kill": (*runtest.Provider).Kill, "freeze": (*runtest.Provider).Freeze, "leave": (*runtest.Provider).Leave,
	} {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/apart=%v", name, apart), func(t *testing.T) {
				t.Parallel()
				plain := clustered(apart)
				plain.Run(time.Minute)
				for at := 0; at < plain.Messages(); at += stride {
					for _, id := range []string{"p0", "p1", "p2", "p3", "p5"} {
						w := clustered(apart)
						w.Before = func(i int, _ string, _ proto.Message) bool {
							if i == at {
								fault(w.Provider(id))
							}
							return true
						}
						w.Run(5 * time.Minute)
						whole(t, w)
						inOrder(t, w)
						if t.Failed() {
							t.Fatalf("%s at message %d of %d", id, at, plain.Messages())
						}
					}
				}
			})
		}
	}
}

// Two faults and newcomers, so that an attempt has another number of clusters than the one
// before it.
func TestOtherClustersGoOn(t *testing.T) {
	numbers := map[int]int{} // attempts by their number of clusters
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 11))
		w := clustered(seed%2 == 1)
		comeAndGo(w, rng, 17, 2)
		w.Run(time.Hour)
		whole(t, w)
		inOrder(t, w)
		for _, r := range w.Reports {
			if p, ok := r.(run.Planned); ok {
				numbers[p.Stages[len(p.Stages)-1].Cluster+1]++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if numbers[1] < 20 || numbers[2] < 20 {
		t.Errorf("attempts by their number of clusters: %v: the test proves little", numbers)
	}
}

// A graceful stop ends all clusters after the same round.
func TestStopInClusters(t *testing.T) {
	for at := 100 * time.Millisecond; at < 300*time.Millisecond; at += 7 * time.Millisecond {
		w := clustered(false)
		w.Run(at)
		if w.M.Status(w.Now).Phase != "running" {
			continue
		}
		w.Step(run.StopRequest{Mode: proto.Graceful, Reason: "enough"})
		w.Run(time.Minute)
		if len(w.Results) != 1 || w.Results[0].Err != nil || !w.Results[0].Result.Interrupted {
			t.Fatalf("stopped after %v: %+v", at, w.Results)
		}
		c := w.Results[0].Result.Checkpoint
		got, err := w.Weights(c)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, runtest.Undisturbed(int(c.Position.Step))) || len(c.Parts) != 5 {
			t.Errorf("stopped after %v: step %d, %d parts: an update was lost or counted twice", at, c.Position.Step, len(c.Parts))
		}
		inOrder(t, w)
		if n := len(w.Losses()); n != int(c.Position.Step) {
			t.Errorf("%d losses are known of %d", n, c.Position.Step)
		}
	}
}
