package host

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestLoad: what a provider computes for a sample follows from its reports, newer ones count more, and
// what a provider says of another attempt or of no time says nothing.
func TestLoad(t *testing.T) {
	at := time.Unix(1000, 0)
	var l load
	for i := range int64(41) {
		l = l.report(at, 100*i, 0.5)
		at = at.Add(250 * time.Millisecond)
	}
	if got := l.busy / l.trained; math.Abs(got-0.125/100) > 1e-12 {
		t.Errorf("%v s a sample, want %v", got, 0.125/100)
	}
	if same := l.report(l.last, l.samples, 1); same != l {
		t.Errorf("a report in no time: %+v, want %+v", same, l)
	}
	if anew := l.report(at, 0, 1); anew.busy != l.busy || anew.trained != l.trained {
		t.Errorf("an attempt that begins anew: %+v, want the sums of %+v", anew, l)
	}
	slow := l
	for i := int64(1); i <= 480; i++ { // two minutes at a quarter of the speed
		slow = slow.report(at, l.samples+25*i, 0.5)
		at = at.Add(250 * time.Millisecond)
	}
	if got := slow.busy / slow.trained; got < 0.004 || got > 0.005 {
		t.Errorf("after two minutes at a quarter of the speed: %v s a sample, want nearly %v", got, 0.125/25)
	}
}

// TestTook: providers are set beside one another, what is known comes half as far, little says nothing,
// and a forecast that was right stays.
func TestTook(t *testing.T) {
	of := func(busy ...float64) map[string]load {
		m := map[string]load{}
		for i, b := range busy {
			m[string(rune('a'+i))] = load{busy: b, trained: 1000}
		}
		return m
	}
	forecast := map[string]float64{"a": 1e-3, "b": 1e-3, "c": 1e-3, "short": 1e-4}
	for what, c := range map[string]struct {
		loads  map[string]load
		before map[string]float64
		want   map[string]float64
	}{
		"as forecast":               {of(1, 1, 1), nil, map[string]float64{}},
		"all twice as slow":         {of(2, 2, 2), nil, map[string]float64{}},
		"nearly":                    {of(1, 1.05, 1.1), nil, map[string]float64{}},
		"one eight times as slow":   {of(1, 1, 8), nil, map[string]float64{"a": 0.5, "b": 0.5, "c": 4}},
		"the correction was right":  {of(1, 1, 1), map[string]float64{"c": 4, "d": 2}, map[string]float64{"c": 4, "d": 2}},
		"it is as fast as ever now": {of(2, 2, 0.25), map[string]float64{"c": 4}, map[string]float64{"c": 2, "a": 2, "b": 2}},
		"alone":                     {of(5), nil, map[string]float64{}},
		"nobody knows it":           {map[string]load{"x": {busy: 1, trained: 1e6}, "a": {busy: 1, trained: 1e6}}, nil, map[string]float64{}},
		"steps that are too short":  {map[string]load{"short": {busy: 9, trained: 1e6}, "a": {busy: 1, trained: 1e6}}, nil, map[string]float64{}},
		"too little":                {map[string]load{"a": {busy: 9, trained: 100}, "b": {busy: 1, trained: 1e6}}, nil, map[string]float64{}},
	} {
		got := took(c.loads, forecast, c.before, 10)
		same := len(got) == len(c.want)
		for name, w := range c.want {
			same = same && math.Abs(got[name]-w) < 1e-9
		}
		if !same {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

// TestSlowOneGetsLess: a provider that takes four times as long as its benchmark says is planned for less
// after a loss, or is left out, and one that is as fast as it says is not.
func TestSlowOneGetsLess(t *testing.T) {
	p := opened(t, "char-gpt", 2)
	plan := func(times float64) (before, after *project.Stored) {
		r := newRoster(p, &Options{Providers: 2, All: true})
		r.begin(nil, false)
		var pool []server.Member
		for _, name := range []string{"a", "b", "c"} {
			pool = append(pool, server.Member{ID: name, Name: name, Hello: proto.Hello{
				Class: proto.ClassFMA, RAM: 8 << 30, Threads: 1, Bench: proto.Bench{GEMM: 100, Conv: 80, Vector: 0.2, Up: 1e10, Down: 1e10},
			}})
		}
		if _, err := r.place(t.Context(), server.Ask{Run: "r-1", Pool: pool}); err != nil {
			t.Fatal(err)
		}
		before = r.current()
		at := time.Unix(1000, 0)
		r.trains(at, "r-1", 0, 0)
		for _, s := range before.Clusters[0].Stages {
			if s.Seconds <= 0 {
				t.Fatalf("no forecast for %+v", s)
			}
			k := 1.0
			if s.Name == "b" {
				k = times
			}
			for i := range int64(100) {
				r.loads.report(at.Add(time.Duration(i)*time.Second), s.Name, i*100, 100*k*s.Seconds)
			}
		}
		if _, err := r.place(t.Context(), server.Ask{Run: "r-2", Pool: pool, Free: true}); err != nil {
			t.Fatal(err)
		}
		return before, r.current()
	}
	nodes := func(plan *project.Stored, name string) int {
		for _, c := range plan.Clusters {
			for k, s := range c.Stages {
				end := len(p.Graph.Nodes)
				if k+1 < len(c.Stages) {
					end = c.Stages[k+1].Start
				}
				if s.Name == name {
					return end - s.Start
				}
			}
		}
		return 0
	}
	if before, after := plan(1); fmt.Sprint(cuts(t, before)) != fmt.Sprint(cuts(t, after)) {
		t.Errorf("as forecast, and yet the plan becomes %v, was %v", cuts(t, after), cuts(t, before))
	}
	if before, after := plan(4); nodes(after, "b") >= nodes(before, "b") {
		t.Errorf("four times as slow: %d nodes of the model, before %d", nodes(after, "b"), nodes(before, "b"))
	}
}

// TestSeen: people are told who turned out to be slower or faster.
func TestSeen(t *testing.T) {
	if got := seen(map[string]float64{"b": 2.5, "a": 0.5}); got != "a took 0.50 times, b 2.50 times as long as forecast, beside the others" {
		t.Error(got)
	}
}

// cuts are who has what in a plan.
func cuts(t *testing.T, p *project.Stored) string {
	t.Helper()
	var who [][]planner.Stage
	for _, c := range p.Clusters {
		var stages []planner.Stage
		for _, s := range c.Stages {
			stages = append(stages, planner.Stage{Name: s.Name, Start: s.Start})
		}
		who = append(who, stages)
	}
	b, err := json.Marshal(who)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
