package run

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TestIndex checks the indexes that are kept up to date against rebuilt ones.
func TestIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := New(Settings{MaxMembers: 60})
	now := time.Unix(1, 0)
	m.Step(now, Submit{Job: Job{ID: "j", Names: []string{"zoe", "node_3", "amy"}, Spares: true, Want: 3}})
	for i := range 3000 {
		now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
		switch id := fmt.Sprintf("p%d", rng.IntN(80)); {
		case rng.IntN(400) == 0:
			m.Step(now, Tick{})
		case m.Members[id] != nil:
			switch rng.IntN(6) {
			case 0:
				m.Step(now, Message{ID: id, Msg: &proto.Leaving{Reason: "lunch"}})
			case 1:
				m.Step(now, Away{ID: id})
			case 2:
				m.Step(now, Back{ID: id})
			default:
				m.Step(now, Leave{ID: id, Reason: "test"})
			}
		default:
			name := []string{"", "", "zoe", "amy"}[rng.IntN(4)]
			m.Step(now, Join{ID: id, Hello: proto.Hello{Name: name}})
		}
		fresh := &Machine{set: m.set, state: m.state}
		if got, want := m.sorted(), fresh.sorted(); !slices.Equal(got, want) {
			t.Fatalf("step %d: the order is wrong: %d and %d members", i, len(got), len(want))
		}
		if got, want := m.assigned(), fresh.assigned(); !slices.Equal(got, want) {
			t.Fatalf("step %d: %d and %d members have stages", i, len(got), len(want))
		}
		if got, want := m.missing(), fresh.missing(); !slices.Equal(got, want) {
			t.Fatalf("step %d: %d and %d members have no connection", i, len(got), len(want))
		}
		if got, want := m.wishing(), fresh.wishing(); !slices.Equal(got, want) {
			t.Fatalf("step %d: %d and %d members want to leave", i, len(got), len(want))
		}
		if len(m.names()) != len(fresh.names()) {
			t.Fatalf("step %d: %d names of %d members", i, len(m.names()), len(m.Members))
		}
		a, errA := m.name(now, "")
		b, errB := fresh.name(now, "")
		if a != b || (errA == nil) != (errB == nil) {
			t.Fatalf("step %d: the next name is %q, afresh %q", i, a, b)
		}
	}
}
