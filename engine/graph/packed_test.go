package graph

import (
	"strings"
	"testing"
)

// mask is a node that adds constants.
func mask(name, in string, v ...float32) Node {
	return Node{Name: name, Op: &Binary{Function: "add", Operand: &Operand{Shape: []int{len(v)}, Data: PackFloats(v)}}, Inputs: []string{in}}
}

// TestListsAreShared: nodes with equal constants have them in one place after Parse, and what a model
// may have of them is bounded.
func TestListsAreShared(t *testing.T) {
	g, err := Sequential("g", Input{Name: "x", Shape: Shape{3}}, mask("a", "x", 1, 2, 3), mask("b", "a", 1, 2, 3), mask("c", "b", 1, 2, 4))
	if err != nil {
		t.Fatal(err)
	}
	if n := g.PackedBytes(); n != 3*3*4 {
		t.Errorf("%d bytes of constants in three lists of 3", n)
	}
	b, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if n := h.PackedBytes(); n != 2*3*4 {
		t.Errorf("%d bytes of constants, two of three lists are equal", n)
	}
	if again, err := h.JSON(); err != nil || string(again) != string(b) {
		t.Errorf("JSON changed in a round trip (%v)", err)
	}
	for words, ok := range map[int]bool{maxLists - 3: true, maxLists - 2: false} {
		ls := newLists()
		ls.words = words
		err := ls.take(mask("a", "x", 1, 2, 3).Op)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "constants") {
			t.Errorf("3 words behind %d: %v", words, err)
		}
	}
}
