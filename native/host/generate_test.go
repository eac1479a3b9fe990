package host

import (
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/native/project"
)

// TestNextToken: draws follow from the seed and the token's number; the likeliest token is that
// of the temperature 0, and of a choice among one; and a prompt longer than the model's row keeps
// its end.
func TestNextToken(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "gpt-sorter", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.OpenModel(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := exec.NewLayout(p.Graph, 0)
	s := l.NewState()
	l.Init(s, 3)
	m, err := newDecoder(p, l.Export(s), GenerateOptions{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.team.Close()
	prompt := []int32{2, 1, 0}
	draw := func(o GenerateOptions) (ids []int32) {
		for k := range uint64(40) {
			ids = append(ids, m.next(prompt, o, k))
		}
		return ids
	}
	best := draw(GenerateOptions{})
	if !slices.Equal(best, draw(GenerateOptions{Temperature: 5, TopK: 1, Seed: 9})) {
		t.Error("the choice among one is not the likeliest")
	}
	a := draw(GenerateOptions{Temperature: 2, Seed: 1})
	if !slices.Equal(a, draw(GenerateOptions{Temperature: 2, Seed: 1})) || slices.Equal(a, draw(GenerateOptions{Temperature: 2, Seed: 2})) {
		t.Error("draws do not follow from the seed")
	}
	for _, x := range draw(GenerateOptions{Temperature: 50, TopK: 2, Seed: 4}) {
		if x < 0 || x > 2 {
			t.Errorf("token %d of 3", x)
		}
	}
	row := p.Graph.Inputs[0].Shape.Elems()
	long := append(slices.Repeat([]int32{1}, row), 0, 2, 0)
	if m.next(long, GenerateOptions{}, 0) != m.next(long[len(long)-row:], GenerateOptions{}, 0) {
		t.Error("a long prompt's beginning counts")
	}
}

// TestPieces: bytes come as whole characters.
func TestPieces(t *testing.T) {
	var v vocabulary
	text := ""
	for _, b := range []byte("a\u00e9\u4e2d!") {
		text += v.text(int32(b))
	}
	if text += v.rest(); text != "a\u00e9\u4e2d!" {
		t.Errorf("%q", text)
	}
	if v.text(0xe4); v.rest() != "\uFFFD" {
		t.Error("half a character is lost in silence")
	}
	c := vocabulary{names: []string{"x", "y"}}
	ids, err := c.encode("yx")
	if err != nil || !slices.Equal(ids, []int32{1, 0}) || c.text(1) != "y" {
		t.Errorf("%v, %v", ids, err)
	}
	if _, err := c.encode("z"); err == nil {
		t.Error("a character that the model does not know was taken")
	}
}
