package run

import (
	"slices"
	"testing"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TestApartOwners: who is in doubt with a provider gets no link to any other one of the same owner, and
// two that could not connect are these two only.
func TestApartOwners(t *testing.T) {
	member := func(name, key string) Member {
		return Member{ID: "id_" + name, Name: name, Hello: proto.Hello{Key: key}}
	}
	pool := []Member{member("a", "1"), member("b", "2"), member("c", "1"), member("d", "")}
	var m Machine
	m.Apart = []Pair{{pool[1].who(), pool[0].who()}}
	if got, want := m.apart(pool), [][2]string{{"id_b", "id_a"}, {"id_b", "id_c"}}; !slices.Equal(got, want) {
		t.Errorf("apart are %v, not %v", got, want)
	}
	// Where a has left, its owner's other provider stands for it.
	if got, want := m.apart(pool[1:]), [][2]string{{"id_b", "id_c"}}; !slices.Equal(got, want) {
		t.Errorf("apart are %v, not %v", got, want)
	}
	m.Unlinked = []unlinked{{Pair: m.Apart[0], Until: t0.Add(banned)}, {Pair: Pair{pool[0].who(), pool[2].who()}, Until: t0.Add(banned)}}
	if got, want := m.unlinked(t0, pool), [][2]string{{"id_b", "id_a"}, {"id_a", "id_c"}}; !slices.Equal(got, want) {
		t.Errorf("unlinked are %v, not %v", got, want)
	}
	// Two of one owner are these two only, and nobody is proven to be false by them.
	for range 2 {
		if proven := m.part(Pair{pool[0].who(), pool[2].who()}); len(proven) > 0 || len(m.Apart) != 2 {
			t.Errorf("proven is %v, apart are %v", proven, m.Apart)
		}
	}
	pool = append(pool, member("e", "1"))
	if got, want := m.apart(pool), [][2]string{{"id_b", "id_a"}, {"id_b", "id_c"}, {"id_b", "id_e"}, {"id_a", "id_c"}}; !slices.Equal(got, want) {
		t.Errorf("apart are %v, not %v", got, want)
	}
	if proven := m.part(Pair{pool[4].who(), pool[3].who()}); len(proven) != 1 || proven[0].Key != "1" {
		t.Errorf("in doubt with a second owner: proven is %v", proven)
	}
}
