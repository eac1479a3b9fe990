package host

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestRosterTogether: plans are asked for and measurements told from several goroutines at once, as
// the server does. Every plan is whole, room for the results is made once, before the first, and none
// is made after the end.
func TestRosterTogether(t *testing.T) {
	p := opened(t, "cnn", 2)
	r := newRoster(p, &Options{Providers: 2, All: true})
	opened := 0 // under the roster's lock
	r.begin(func() error {
		if opened++; opened == 1 {
			return errors.New("the disk is full")
		}
		return nil
	}, false)
	var pool []server.Member
	for _, name := range []string{"a", "b"} {
		pool = append(pool, server.Member{ID: "p" + name, Name: name, Hello: proto.Hello{
			Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1, Bench: proto.Bench{GEMM: 10, Conv: 10, Up: 1e7, Down: 1e7},
		}})
	}
	if _, err := r.place(t.Context(), server.Ask{Run: "r-1", Pool: pool}); err == nil || opened != 1 {
		t.Fatalf("a plan is made without room for the results: %v", err)
	}
	var wg sync.WaitGroup
	for k := range 3 {
		wg.Go(func() {
			as, err := r.place(t.Context(), server.Ask{Run: "r-1", Pool: pool, Single: k == 1, Free: k > 0})
			if err != nil || len(as) != 2 {
				t.Errorf("plan %d has %d assignments: %v", k, len(as), err)
			}
		})
		wg.Go(func() {
			r.worth(pool)
			r.measured("a", map[string]time.Duration{"b": time.Millisecond})
			r.trains(time.Unix(1000, 0), "r-1", 0, 1)
			r.learn(time.Unix(1100, 0), 1e6)
			r.current()
		})
	}
	wg.Wait()
	if opened != 2 {
		t.Errorf("room was made %d times, want 2", opened)
	}
	// What is told of an attempt is its own plan, though the next one is made already.
	if _, err := r.place(t.Context(), server.Ask{Run: "r-2", Pool: pool[:1], Free: true}); err != nil {
		t.Fatal(err)
	}
	for run, want := range map[string]int{"r-1": 2, "r-2": 1, "r-3": 0} {
		got := 0
		if plan, _ := r.of(run); plan != nil {
			got = len(plan.Clusters[0].Stages)
		}
		if got != want {
			t.Errorf("the plan of %s has %d stages, want %d", run, got, want)
		}
	}
	if plan := r.current(); plan == nil || len(plan.Clusters[0].Stages) != 1 {
		t.Errorf("the newest plan is %v", plan)
	}
	r.end()
	if _, err := r.place(t.Context(), server.Ask{Run: "r-2", Pool: pool}); !errors.Is(err, server.ErrStopped) {
		t.Errorf("a plan after the end: %v", err)
	}
}

// TestPlaceCountsData: who reads the data needs memory for them beside the stage, which the plan says,
// and copies of states take what is left then.
func TestPlaceCountsData(t *testing.T) {
	p := opened(t, "cnn", 2)
	plan, err := form.Plan(p, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{plan.Clusters[0].Stages[0].Name, plan.Clusters[0].Stages[1].Name}
	r := newRoster(p, &Options{})
	r.begin(func() error { return nil }, false)
	r.plan = plan
	place := func(ram int64) ([]server.Assignment, error) {
		var pool []server.Member
		for _, name := range names {
			pool = append(pool, server.Member{ID: "p" + name, Name: name, Hello: proto.Hello{Class: proto.ClassFMA, RAM: ram, Threads: 1}})
		}
		return r.place(t.Context(), server.Ask{Run: "r-1", Pool: pool})
	}
	as, err := place(1 << 30)
	if err != nil || !as[0].Hold {
		t.Fatalf("%+v, %v", as, err)
	}
	j := p.Job
	j.MicroBatches = plan.Clusters[0].MicroBatches
	first, err := stage.Bytes(j, r.placed[0].stages[0][0], stage.Placement{})
	if err != nil {
		t.Fatal(err)
	}
	need := int64(plan.Clusters[0].Stages[0].Memory)
	if least := int64(first + p.Data.Train.X().Bytes() + p.Data.Val.X().Bytes() + 4*p.Data.Train.Len()); need < least || need > least+least/100 || plan.GA.Clusters[0].Stages[0].Memory != float64(need) {
		t.Errorf("the plan says %d bytes and prints %v, stage and inputs take %d", need, plan.GA.Clusters[0].Stages[0].Memory, least)
	}
	if _, err := place(need - 1); !errors.Is(err, ga.ErrRAM) || !errors.Is(err, server.ErrPool) {
		t.Errorf("a byte too little for the inputs: %v", err)
	}
	if as, err = place(need); err != nil || as[0].Hold {
		t.Errorf("no memory for copies beside the inputs: %v", err)
	}
}

// opened is a project of an example, for so many nodes.
func opened(t *testing.T, example string, nodes int) *project.Project {
	t.Helper()
	dir := t.TempDir()
	if err := project.Init(dir, example, nodes, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
