package simulate_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/simulate"
)

func simulated(t *testing.T, o simulate.Options) simulate.Result {
	t.Helper()
	r, err := simulate.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Error == "" && !r.Exact {
		t.Errorf("an update was lost or counted twice: %+v", r)
	}
	if r.Missing > 0 {
		t.Errorf("%d live providers are not members", r.Missing)
	}
	return r
}

func TestSameSeedSameOutput(t *testing.T) {
	var traces [3]bytes.Buffer
	var rs [3]simulate.Result
	for i := range rs {
		rs[i] = simulated(t, simulate.Options{Providers: 20, Time: 30 * time.Minute, Seed: uint64(1 + i/2), Session: 6 * time.Minute, Trace: &traces[i]})
	}
	if rs[0] != rs[1] || !bytes.Equal(traces[0].Bytes(), traces[1].Bytes()) {
		t.Errorf("the same seed gives\n%+v and\n%+v", rs[0], rs[1])
	}
	if rs[0].Steps == rs[2].Steps && rs[0].Messages == rs[2].Messages {
		t.Error("the seed makes no difference")
	}
	if rs[0].Recoveries == 0 || rs[0].Joined <= 20 || rs[0].Polite*rs[0].Closed*rs[0].Silent == 0 {
		t.Errorf("too little happened: %+v", rs[0])
	}

	// The trace, replayed to another machine, gives the same run.
	redone, last := 0, -1
	_, err := run.Replay(&traces[0], func(_ time.Time, _ run.Event, acts []run.Action) {
		for _, a := range acts {
			switch a := a.(type) {
			case run.Finish:
				last = int(a.Result.Checkpoint.Position.Step)
			case run.Emit:
				if r, ok := a.Report.(run.Recovering); ok {
					redone += int(max(r.Reached, r.Step) - r.Step)
				}
			}
		}
	})
	if err != nil || last != rs[0].Steps || redone != rs[0].Redone {
		t.Errorf("replayed, the run ends at step %d with %d steps done again (%v), it was %d and %d", last, redone, err, rs[0].Steps, rs[0].Redone)
	}
}

// TestClusters: clusters share the replicas, train more than one alone, and end with the weights
// of one process, whoever comes and goes.
func TestClusters(t *testing.T) {
	o := simulate.Options{Providers: 30, Time: 3 * time.Hour, Seed: 2, Session: 6 * time.Hour, Updates: 16}
	alone := simulated(t, o)
	o.Replicas = 4
	several, again := simulated(t, o), simulated(t, o)
	if several != again {
		t.Errorf("the same seed gives\n%+v and\n%+v", several, again)
	}
	if several.Error != "" || several.Clusters < 2 || several.Recoveries == 0 || several.PerHour < 1.1*alone.PerHour {
		t.Errorf("4 replicas:\n%+v\none:\n%+v", several, alone)
	}
	o.Session = -1
	if quiet := simulated(t, o); quiet.Recoveries+quiet.Redone > 0 || quiet.Throughput < 0.85 || quiet.Throughput > 1.15 {
		t.Errorf("nobody left, and %+v", quiet)
	}
}

// TestChurnChangesWhenNotWhat checks that a run with churn gives the result of one without.
func TestChurnChangesWhenNotWhat(t *testing.T) {
	o := simulate.Options{Providers: 20, Time: 100 * time.Hour, Seed: 3, Steps: 300}
	for seed := range uint64(4) {
		o.Seed, o.Session = seed, -1
		quiet := simulated(t, o)
		o.Session = 20 * time.Minute
		churn := simulated(t, o)
		for _, r := range []simulate.Result{quiet, churn} {
			if r.Error != "" || r.Steps != 300 || !r.Exact {
				t.Errorf("seed %d: %+v", seed, r)
			}
		}
		if quiet.Recoveries+quiet.Redone > 0 || quiet.Throughput < 0.9 {
			t.Errorf("seed %d: nobody left, and %+v", seed, quiet)
		}
		if churn.Throughput > quiet.Throughput && churn.Redone > 0 {
			t.Logf("seed %d: later members were faster", seed)
		}
	}
}

func TestImpossibleOptions(t *testing.T) {
	for _, o := range []simulate.Options{
		{Time: time.Hour},
		{Providers: simulate.MaxProviders + 1, Time: time.Hour},
		{Providers: 1},
		{Providers: 1, Time: time.Hour, Session: time.Millisecond},
		{Providers: 1, Time: time.Hour, Replicas: simulate.MaxReplicas + 1},
		{Providers: 1, Time: time.Hour, Updates: -1},
	} {
		if _, err := simulate.Run(t.Context(), o); !errors.Is(err, simulate.ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
