package server

import (
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// What a member may fetch, by a virtual clock: what its assignment needs several times over,
// again with each assignment, what is in shards in each epoch, and more with time.
func TestRations(t *testing.T) {
	r, now := newRations(), time.Unix(1e9, 0)
	const graph, table, part, shards = 1 << 20, 40 << 20, 59 << 20, 900 << 20
	a := &proto.Assign{
		Graph: proto.Ref{Size: graph}, Data: map[string]proto.Ref{"train_x": {Size: table}},
		Resume: &proto.Resume{Parts: []proto.Part{{Ref: proto.Ref{Size: part}}}},
	}
	// fetch takes in pieces until there is nothing left.
	fetch := func() (n int) {
		for r.take(now, r.of["s"], 1<<20) == 0 {
			n += 1 << 20
		}
		return n
	}
	const need = graph + table + part
	r.assigned(now, "s", a, 0)
	if n := fetch(); n != rationFactor*need {
		t.Errorf("%d bytes at once, want %d", n, rationFactor*need)
	}
	wait := r.take(now, r.of["s"], 1)
	if wait < time.Second || wait > time.Minute {
		t.Errorf("told to come again in %v", wait)
	}
	now = now.Add(wait)
	if r.take(now, r.of["s"], 1) != 0 {
		t.Error("refused after the time that it was told to wait")
	}
	r.passed() // nothing is in shards
	if n := fetch(); n > rationFactor*need/100 {
		t.Errorf("%d bytes after a moment", n)
	}
	r.assigned(now, "s", a, 0) // after a loss
	if n := fetch(); n != rationFactor*need {
		t.Errorf("a second assignment: %d bytes, want %d", n, rationFactor*need)
	}
	now = now.Add(rationIn)
	if n := fetch(); n < rationFactor*need-1<<20 || n > rationFactor*need {
		t.Errorf("after a while %d bytes, want %d", n, rationFactor*need)
	}

	r.assigned(now, "s", a, shards)
	for epoch := range 20 {
		if epoch > 0 {
			r.passed()
		}
		for range shards >> 20 {
			if r.take(now, r.of["s"], 1<<20) != 0 {
				t.Fatalf("epoch %d: refused what each epoch needs", epoch)
			}
		}
	}
	if n := fetch(); n > rationFactor*(need+shards) {
		t.Errorf("%d bytes were saved up", n)
	}
	// Small shards are requests more than bytes.
	const n, size = 2000, 100
	r.assigned(now, "s", &proto.Assign{Graph: a.Graph, Data: a.Data}, ShardCost(n, n*size))
	fetch()
	for epoch := range 50 {
		r.passed()
		for range n {
			if r.take(now, r.of["s"], rationRequest) != 0 || r.take(now, r.of["s"], size) != 0 {
				t.Fatalf("epoch %d of small shards: refused what each epoch needs", epoch)
			}
		}
	}
	r.assigned(now, "s", &proto.Assign{Graph: a.Graph}, shards) // a stage between reads no data
	if n := fetch(); n != rationLeast {
		t.Errorf("a stage without data: %d bytes, want %d", n, rationLeast)
	}
	r.forget("s")
	if len(r.of) != 0 {
		t.Error("a session that has ended is remembered")
	}
}
