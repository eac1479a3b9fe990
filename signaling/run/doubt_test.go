package run_test

// Who is blamed when providers are lost one after the other.

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// struck returns the names of the providers that a machine blames.
func struck(t *testing.T, w *runtest.World) (names []string) {
	t.Helper()
	b, err := w.M.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var st struct {
		Strikes map[string]struct{ Count int }
	}
	if err := json.Unmarshal(b, &st); err != nil {
		t.Fatal(err)
	}
	for n, s := range st.Strikes {
		if s.Count > 0 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// TestLossesInARow: providers are killed or freeze shortly after one another, among them those
// that took the place of the first. Nobody else is blamed, whoever reports what first.
func TestLossesInARow(t *testing.T) {
	faults := map[string]func(*runtest.Provider){"kill": (*runtest.Provider).Kill, "freeze": (*runtest.Provider).Freeze}
	for first, one := range faults {
		for second, two := range faults {
			t.Run(first+" and "+second, func(t *testing.T) {
				t.Parallel()
				for delay := time.Duration(0); delay < 9*time.Second; delay += 450 * time.Millisecond {
					for _, stages := range []int{2, 3, 4} {
						for k := range stages {
							// Nothing is saved or held, which would clear who was blamed. Steps are long, so
							// that the host cannot tell early who is gone.
							slow := func([]*runtest.Provider) time.Duration { return time.Second }
							w := runtest.NewWorld(runtest.Nature{Silent: 3500 * time.Millisecond, Step: slow}, run.Settings{Checkpoint: -1, Hold: -1})
							w.Stages = stages
							w.Submit(run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: stages, Replan: true}, 1<<30)
							for i := range stages + 3 {
								w.Join(fmt.Sprintf("p%d", i), "")
							}
							w.Run(2500 * time.Millisecond)
							var lost []string
							lose := func(fault func(*runtest.Provider), k int) {
								ids := w.Alive()
								p := w.Provider(ids[k%len(ids)])
								lost = append(lost, p.Name)
								fault(p)
							}
							lose(one, k)
							w.Run(delay)
							lose(two, k)
							w.Run(delay / 3)
							lose(one, k+1)
							w.Run(12 * time.Second)
							for _, n := range struck(t, w) {
								if !slices.Contains(lost, n) {
									t.Fatalf("%d stages, the %d. lost, %v later two more: %v are lost, %s is blamed", stages, k, delay, lost, n)
								}
							}
						}
					}
				}
			})
		}
	}
}

// TestWhoReportsFirst: whatever the order in which the reports about broken links and the answers
// arrive, only the one that is lost is blamed.
func TestWhoReportsFirst(t *testing.T) {
	report := func(from, peer int) run.Message {
		return run.Message{ID: fmt.Sprintf("p%d", from), Msg: &proto.Failed{
			Run: "j-1", Stage: from, Error: fmt.Sprintf("lost node_%d", peer), Kind: proto.FailedPeer, Peer: fmt.Sprintf("p%d", peer),
		}}
	}
	// node_2 of five is frozen. Its neighbours fail, and then theirs.
	reports := []run.Message{report(1, 2), report(3, 2), report(0, 1), report(4, 3)}
	var orders func(rest, order []int)
	n := 0
	orders = func(rest, order []int) {
		if len(rest) > 0 {
			for i, k := range rest {
				orders(slices.Concat(rest[:i], rest[i+1:]), append(slices.Clone(order), k))
			}
			return
		}
		w := runtest.New(run.Settings{Checkpoint: -1, Hold: -1}, run.Job{ID: "j", Raw: json.RawMessage(`{}`), Want: 5, Replan: true}, 1<<30)
		w.Stages = 5
		for i := range 5 {
			w.Join(fmt.Sprintf("p%d", i), "")
		}
		w.Run(300 * time.Millisecond)
		w.Provider("p2").Freeze()
		w.Before = func(_ int, _ string, msg proto.Message) bool {
			_, pong := msg.(*proto.Pong)
			return !pong // whoever has failed said so before it would answer
		}
		for _, k := range order {
			w.Step(reports[k])
			w.Run(5 * time.Millisecond)
		}
		w.Run(3 * time.Second)
		if got := struck(t, w); !slices.Equal(got, []string{"node_2"}) {
			t.Errorf("reports in the order %v: %v are blamed", order, got)
		}
		n++
	}
	orders([]int{0, 1, 2, 3}, nil)
	if n != 24 {
		t.Errorf("%d orders", n)
	}
}
