package run

import (
	"fmt"
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

// TestInside: providers of one owner that are in doubt with each other prove nothing, up to a number of pairs.
func TestInside(t *testing.T) {
	who := func(name, key string) Who { return Who{Name: name, Key: key} }
	m := Machine{}
	m.Apart = []Pair{{who("x", "2"), who("y", "2")}, {who("a", "1"), who("x", "2")}}
	for i := range maxInside {
		for range 2 { // again, as what was trained before they were parted may show
			if proven := m.part(Pair{who("b", "1"), who(fmt.Sprint(i), "1")}); len(proven) > 0 {
				t.Errorf("pair %d: proven is %v", i, proven)
			}
		}
	}
	if len(m.Apart) != 2+maxInside {
		t.Errorf("apart are %v", m.Apart)
	}
	if proven := m.part(Pair{who("0", "1"), who("1", "1")}); len(proven) != 1 || proven[0].Key != "1" {
		t.Errorf("one pair more: proven is %v", proven)
	}
	m.cleared(who("", "1"))
	if len(m.Apart) != 1 {
		t.Errorf("apart are %v", m.Apart)
	}
}

// TestUnlinkedOwners: of an owner's providers each is told of alone when it could not connect.
func TestUnlinkedOwners(t *testing.T) {
	of := func(name, key string) *member {
		return &member{Member: Member{ID: "id_" + name, Name: name, Hello: proto.Hello{Key: key}}}
	}
	a, b, c, d := of("a", "1"), of("b", "1"), of("c", "2"), of("d", "2")
	var m Machine
	for i, p := range [][2]*member{{a, c}, {c, b}, {a, b}, {a, d}} {
		if !m.disconnected(t0, p[0], p[1]) || m.disconnected(t0, p[1], p[0]) || len(m.Unlinked) != i+1 {
			t.Errorf("%s and %s: unlinked are %v", p[0].Name, p[1].Name, m.Unlinked)
		}
	}
}
