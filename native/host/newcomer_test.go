package host

import (
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestSettled: a plan with newcomers is set beside one without them where the members that train are
// all here, others have come, and the job's replicas are theirs to share.
func TestSettled(t *testing.T) {
	plan := &project.Stored{}
	plan.Clusters = []planner.Cluster{{Stages: []planner.Stage{{Name: "a"}, {Name: "b"}}}, {Stages: []planner.Stage{{Name: "c"}}}}
	for _, c := range []struct {
		pool     string
		replicas job.Count
		opt      Options
		plan     *project.Stored
		want     string
	}{
		{"abcde", 4, Options{Providers: 3}, plan, "abc"},
		{"dacb", 4, Options{Providers: 3}, plan, "acb"},
		{"abc", 4, Options{Providers: 3}, plan, ""},
		{"abde", 4, Options{Providers: 3}, plan, ""},
		{"abcde", 4, Options{Providers: 3}, nil, ""},
		{"abcde", 1, Options{Providers: 3}, plan, ""},
		{"abcde", 4, Options{Providers: 3, Clusters: 2}, plan, ""},
		{"abcde", 4, Options{}, plan, ""},
	} {
		r := newRoster(&project.Project{Job: job.Default()}, &c.opt)
		r.plan = c.plan
		r.p.Job.Replicas = c.replicas
		var pool []server.Member
		for _, n := range c.pool {
			pool = append(pool, server.Member{Name: string(n)})
		}
		got := ""
		for _, m := range r.settled(pool) {
			got += m.Name
		}
		if got != c.want {
			t.Errorf("%s of %d replicas, %+v: %q, want %q", c.pool, c.replicas, c.opt.Providers, got, c.want)
		}
	}
}

// A figure that no machine reaches counts as not measured.
func TestImpossibleSpeeds(t *testing.T) {
	h := proto.Hello{Threads: 2, Bench: proto.Bench{GEMM: 200, Conv: 1e9, Vector: 1e6, Alone: 1e4}}
	if got, want := speeds(h), (planner.Speeds{Product: 200}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
