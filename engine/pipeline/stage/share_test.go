package stage_test

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// clock is a cluster's time in a test: what the kernels of its root take.
type clock struct {
	at      atomic.Int64
	kernels int
	each    func(kernels int) time.Duration
}

func (c *clock) now() time.Duration { return time.Duration(c.at.Load()) }

func (c *clock) kernel() {
	c.kernels++
	c.at.Add(int64(c.each(c.kernels)))
}

// steady is a clock of kernels that take as long.
func steady(each time.Duration) *clock { return &clock{each: func(int) time.Duration { return each }} }

// slowed is one of kernels that take four times as long from the n-th on.
func slowed(n int) *clock {
	return &clock{each: func(k int) time.Duration {
		if k > n {
			return 4 * time.Second
		}
		return time.Second
	}}
}

// moving lets the team's clusters take as many replicas as the job leaves them.
func (m *team) moving(clocks ...*clock) *team {
	for c := range m.clusters {
		m.clusters[c].Room = m.job.Replica() - len(m.clusters) + 1
	}
	m.clocks = clocks
	return m
}

// shared is how the shares of a cluster changed, as all its stages were told.
func (m *team) shared(t *testing.T, cluster int) []int {
	t.Helper()
	logs := m.logs[cluster]
	for _, l := range logs[1:] {
		if !slices.Equal(l.shares, logs[0].shares) {
			t.Errorf("the stages of cluster %d have %v and %v replicas in turn", cluster, logs[0].shares, l.shares)
		}
	}
	return logs[0].shares
}

// many is a job of short rounds, and enough of them.
func many(replicas int, how string) func(*job.Spec) {
	return func(j *job.Spec) {
		replicated(replicas, how)(j)
		if j.Epochs, j.BatchSize = 4, 4; j.ReduceFactor > 0 {
			j.ReduceFactor = 1
		}
		if how == "gradients" { // each has rows of every batch
			j.BatchSize = 2 * replicas
		}
	}
}

// TestSharesFollowSpeed: where a cluster becomes slow in the middle of a run, others get replicas of
// its in the next rounds, and not a bit changes.
func TestSharesFollowSpeed(t *testing.T) {
	for i, how := range slices.Sorted(maps.Keys(averages)) {
		if how == "keep" {
			continue
		}
		for k, n := range []int{4, 6} {
			t.Run(fmt.Sprintf("%s/%d", how, n), func(t *testing.T) {
				w := newWorld(many(n, how))
				if how == "gradients" { // batch norm needs two rows
					w = small(many(n, how))
				}
				if k == 1 {
					w.job.ClipNorm = 0.05
				}
				want, dict := w.local(t)
				for c, cut := range [][][]int{{w.starts(1), w.starts(2)}, {w.starts(1), w.starts(3)}, {w.starts(1), w.starts(3), w.starts(2)}} {
					w.job.InFlight = (i + k + c) % 3
					w.job.Schedule = []string{job.Sync, job.Sync, job.ZB}[(i+c)%3]
					clocks := []*clock{slowed(300), steady(time.Second), steady(time.Second)}[:len(cut)]
					m := w.shareOut(cut...).moving(clocks...)
					got, err := m.run(t, at(2, order.Checkpoint), nil)
					if err != nil {
						t.Fatalf("%v: %v", cut, err)
					}
					m.check(t, fmt.Sprint(cut), got, want, dict)
					has := len(m.clusters[0].Replicas)
					if s := m.shared(t, 0); has > 1 && (len(s) == 0 || s[len(s)-1] >= has) {
						t.Errorf("%v: the cluster that became slow had %d replicas, and then %v", cut, has, s)
					}
					m.shared(t, 1)
				}
			})
		}
	}
}

// TestSharesAfterAStop: clusters whose shares have changed stop, and others go on with their state.
func TestSharesAfterAStop(t *testing.T) {
	w := newWorld(many(6, "parameters"))
	want, dict := w.local(t)
	m := w.shareOut(w.starts(2), w.starts(1)).moving(slowed(0), steady(time.Second))
	before, err := m.run(t, at(8, order.Stop), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := m.shared(t, 1); len(s) == 0 {
		t.Fatal("no share has changed")
	}
	parts := m.saved(t)
	n := w.shareOut(w.starts(1), w.starts(2), w.starts(3)).moving(steady(time.Second), slowed(0), steady(time.Second))
	after, err := n.run(t, nil, parts)
	if err != nil {
		t.Fatal(err)
	}
	joined := &log{losses: slices.Concat(before.losses, after.losses), vals: slices.Concat(before.vals, after.vals)}
	n.check(t, "after a stop", joined, want, dict)
}

// TestRoom: room for replicas is checked against the job.
func TestRoom(t *testing.T) {
	two := func(rooms ...int) stage.Placement {
		return stage.Placement{Clusters: []stage.Cluster{
			{Starts: []int{0}, Replicas: []int{0, 1}, Room: rooms[0]}, {Starts: []int{0}, Replicas: []int{2, 3}, Room: rooms[1]},
		}}
	}
	j := job.Default()
	j.Replicas, j.ReduceFactor = 4, 1
	for _, c := range []struct {
		a, b   int
		change func(*job.Spec)
		ok     bool
	}{
		{0, 0, func(*job.Spec) {}, true},
		{2, 3, func(*job.Spec) {}, true},
		{1, 3, func(*job.Spec) {}, false},
		{2, 5, func(*job.Spec) {}, false},
		{-1, 2, func(*job.Spec) {}, false},
		{3, 3, func(j *job.Spec) { j.Audit = true }, false},
		{3, 3, func(j *job.Spec) { j.Average.Optimizer = job.KeepState }, false},
	} {
		k := j
		c.change(&k)
		if err := two(c.a, c.b).Check(k, 1); (err == nil) != c.ok {
			t.Errorf("room for %d and %d: %v", c.a, c.b, err)
		}
	}
}
