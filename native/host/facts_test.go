package host

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestMachines: providers that share processors are found by what they say of their machine;
// what says nothing is alone, except a tab on the host's own machine. Threads of one core are one.
func TestMachines(t *testing.T) {
	m := func(machine, addr string, cores, threads int) server.Member {
		return server.Member{Addr: addr, Hello: proto.Hello{Machine: machine, Cores: cores, Threads: threads}}
	}
	siblings := m("d", "10.0.0.4:1", 4, 1)
	siblings.Hello.Physical = 2
	wide := m("e", "10.0.0.5:1", 16, 15)
	wide.Hello.Physical = 8
	number, cores, spare := machines([]server.Member{
		m("a", "10.0.0.1:5", 8, 2), m("b", "10.0.0.1:6", 2, 1), m("a", "10.0.0.9:5", 8, 4),
		m("", "10.0.0.2:7", 0, 1), m("", "10.0.0.2:8", 0, 1), m("", "127.0.0.1:9", 0, 1), m("", "127.0.0.1:10", 0, 1), m("c", "10.0.0.3:1", 0, 1),
		siblings, wide,
	})
	wantNumber, wantCores, wantSpare := []int{0, 1, 0, -1, -1, 2, 2, 3, 4, 5}, []float64{8, 2, 8, 0, 0, 0, 0, 0, 2, 8}, []float64{1, 1, 1, 0, 0, 0, 0, 0, 3, 1}
	for i := range number {
		if number[i] != wantNumber[i] || cores[i] != wantCores[i] || spare[i] != wantSpare[i] {
			t.Errorf("member %d: machine %d of %v cores and %v spare, want %d, %v, %v", i, number[i], cores[i], spare[i], wantNumber[i], wantCores[i], wantSpare[i])
		}
	}
}

// TestTrips: what a link has measured comes before what the ways to the host say.
func TestTrips(t *testing.T) {
	a := server.Member{Name: "a", RTT: 20 * time.Millisecond}
	b := server.Member{Name: "b", RTT: 10 * time.Millisecond}
	tr := trips{}
	if got := tr.between(a, b); math.Abs(got-30e-3) > 1e-9 {
		t.Errorf("by way of the host: %v s, want 0.03", got)
	}
	if got := tr.between(a, server.Member{Name: "c"}); got != 0 {
		t.Errorf("not measured: %v s, want 0", got)
	}
	tr.note("b", map[string]time.Duration{"a": 3 * time.Millisecond})
	if x, y := tr.between(a, b), tr.between(b, a); x != 3e-3 || y != x {
		t.Errorf("measured: %v and %v s, want 0.003", x, y)
	}
}

// TestLearn: a forecast that was twice too high is halved the next time, and one that is then
// right stays.
func TestLearn(t *testing.T) {
	at := time.Unix(1000, 0)
	p := pace{began: at, samples: 100, forecast: 2000}
	f, ok := p.learn(at.Add(10*time.Second), 10100, 32)
	if !ok || math.Abs(f-0.5) > 1e-9 {
		t.Fatalf("factor %v, %v, want 0.5", f, ok)
	}
	p = pace{began: at, forecast: 2000 * f, factor: f}
	if f, ok = p.learn(at.Add(10*time.Second), 10000, 32); !ok || math.Abs(f-0.5) > 1e-9 {
		t.Errorf("factor %v, %v, want 0.5 still", f, ok)
	}
	for what, q := range map[string]pace{"no forecast": {began: at}, "not begun": {forecast: 1}} {
		if f, ok := q.learn(at.Add(time.Minute), 1e6, 32); ok {
			t.Errorf("%s: learned %v", what, f)
		}
	}
	if f, ok := (pace{began: at, forecast: 1}).learn(at.Add(time.Second), 1e6, 32); ok {
		t.Errorf("a second: learned %v", f)
	}
	if f, ok := (pace{began: at, forecast: 1}).learn(at.Add(time.Minute), 100, 32); ok {
		t.Errorf("three batches: learned %v", f)
	}
}

// TestThreadsAreAssigned: providers of one machine that each lend all of its cores are told to compute with
// a part of them, and one that is alone on its machine is told nothing.
func TestThreadsAreAssigned(t *testing.T) {
	p := opened(t, "char-gpt", 2)
	for _, c := range []struct {
		machines []string
		want     []int
	}{
		{[]string{"m", "m"}, []int{2, 2}}, {[]string{"m", "n"}, nil},
	} {
		r := newRoster(p, &Options{Providers: 2, All: true})
		r.begin(nil, false)
		var pool []server.Member
		for k, m := range c.machines {
			name := string(rune('a' + k))
			pool = append(pool, server.Member{ID: name, Name: name, Hello: proto.Hello{
				Class: proto.ClassFMA, RAM: 8 << 30, Machine: m, Cores: 4, Threads: 4,
				Bench: proto.Bench{GEMM: 400, Conv: 300, Vector: 0.8, Alone: 110, Up: 1e10, Down: 1e10},
			}})
		}
		as, err := r.place(t.Context(), server.Ask{Run: "r", Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range as {
			var plan provider.Plan
			if err := json.Unmarshal(a.Plan, &plan); err != nil || !slices.Equal(plan.Threads, c.want) {
				t.Errorf("machines %v: %s is told %v threads, %v, want %v", c.machines, a.MemberID, plan.Threads, err, c.want)
			}
		}
	}
}
