package infer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/dataset"
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
	m, err := newDecoder(p, l.Export(s), Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.team.Close()
	prompt := []int32{2, 1, 0}
	draw := func(o Options) (ids []int32) {
		for k := range uint64(40) {
			ids = append(ids, m.next(prompt, o, k))
		}
		return ids
	}
	best := draw(Options{})
	if !slices.Equal(best, draw(Options{Temperature: 5, TopK: 1, Seed: 9})) {
		t.Error("the choice among one is not the likeliest")
	}
	a := draw(Options{Temperature: 2, Seed: 1})
	if !slices.Equal(a, draw(Options{Temperature: 2, Seed: 1})) || slices.Equal(a, draw(Options{Temperature: 2, Seed: 2})) {
		t.Error("draws do not follow from the seed")
	}
	for _, x := range draw(Options{Temperature: 50, TopK: 2, Seed: 4}) {
		if x < 0 || x > 2 {
			t.Errorf("token %d of 3", x)
		}
	}
	if !slices.Equal(best, draw(Options{Temperature: 5, TopP: 1e-9, Seed: 9})) {
		t.Error("the choice among the likeliest alone is not the likeliest")
	}
	if !slices.Equal(draw(Options{Temperature: 3, Seed: 5}), draw(Options{Temperature: 3, TopK: 3, TopP: 1, Seed: 5})) {
		t.Error("the choice among as many as there are is not that among all")
	}
	row := p.Graph.Inputs[0].Shape.Elems()
	long := append(slices.Repeat([]int32{1}, row), 0, 2, 0)
	if m.next(long, Options{}, 0) != m.next(long[len(long)-row:], Options{}, 0) {
		t.Error("a long prompt's beginning counts")
	}
}

// TestPrompt: a prompt begins as the texts did that the model learned to answer.
func TestPrompt(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "gpt-sorter", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := project.OpenModel(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, project.TokenizerFile)
	const tokenizer = `{"model":{"type":"BPE","vocab":{"<s>":0,"a":1,"\n":2},"merges":[]},"post_processor":{"type":"TemplateProcessing",
"single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":0}}],"special_tokens":{"<s>":{"ids":[0]}}}}`
	if err := os.WriteFile(file, []byte(tokenizer), 0o600); err != nil {
		t.Fatal(err)
	}
	for columns, want := range map[string][]int32{
		`[{"name":"q","text":true},{"name":"a","text":true}]`: {0, 1, 2},
		`[{"name":"a","text":true}]`:                          {0, 1},
		`[]`:                                                  {1}, // pieces of a text
	} {
		if err := os.WriteFile(filepath.Join(dir, project.ColumnsFile), []byte(columns), 0o600); err != nil {
			t.Fatal(err)
		}
		prompt, err := Prompt(p, "a")
		if err != nil {
			t.Fatal(err)
		}
		v, err := vocabularyOf(p, 3)
		if err != nil {
			t.Fatal(err)
		}
		if ids, err := v.encode(prompt); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: %v %v, want %v", columns, ids, err, want)
		}
	}
}

// TestRanking: the likeliest come first, of equal ones the smaller number.
func TestRanking(t *testing.T) {
	logits := []float32{1, 5, 3, 5, -2, 3, 0}
	r := ranking{logits: logits}
	for i := range logits {
		r.tokens = append(r.tokens, int32(i))
	}
	r.begin()
	var got []int32
	for range logits {
		got = append(got, r.next())
	}
	if !slices.Equal(got, []int32{1, 3, 2, 5, 0, 6, 4}) {
		t.Error(got)
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

// grouped is a decoder as Hugging Face's Llama exports: a rotation by position, two heads of
// queries for one of keys, a mask that is added. Its mask has a hole where hole is set.
// The head is the embedding.
func grouped(t *testing.T, hole bool) *graph.Graph {
	t.Helper()
	const n, d = 7, 8
	mask, turn := make([]float32, n*n), make([]float32, n*d)
	for i := range mask {
		if i%n > i/n && (!hole || i != 3*n+5) {
			mask[i] = -3.4e38
		}
	}
	for i := range turn {
		turn[i] = float32(i%5) - 2
	}
	node := func(name string, op graph.Op, in ...string) graph.Node {
		return graph.Node{Name: name, Op: op, Inputs: in}
	}
	g := &graph.Graph{Name: "grouped", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{n}, Constant: true}}, Output: "head", Nodes: []graph.Node{
		node("wte", &graph.Embedding{Num: 11, Dim: d}, "x"),
		node("wpe", &graph.Parameter{Operand: graph.Operand{Shape: []int{n, d}, Param: []int{n + 2, d}, Index: graph.Packed(upTo(n * d))}}),
		node("sum", &graph.Add{}, "wte", "wpe"),
		node("norm", &graph.LayerNorm{Shape: []int{d}, Eps: 1e-5, Affine: true}, "sum"),
		node("q", &graph.Linear{In: d, Out: 2 * d}, "norm"),
		node("qs", &graph.Reshape{Shape: []int{n, 2, d}}, "q"), node("qh", &graph.Permute{Axes: []int{1, 0, 2}}, "qs"),
		node("k", &graph.Linear{In: d, Out: d}, "norm"), node("v", &graph.Linear{In: d, Out: d, Bias: true}, "norm"),
		node("kr", &graph.Binary{Function: "mul", Operand: &graph.Operand{Shape: []int{n, d}, Data: graph.PackFloats(turn)}}, "k"),
		node("kl", &graph.Slice{Axis: 1, Count: d / 2}, "kr"), node("kh", &graph.Slice{Axis: 1, Start: d / 2, Count: d / 2}, "kr"),
		node("kc", &graph.Concat{Axis: 1}, "kh", "kl"),
		node("ks", &graph.Reshape{Shape: []int{1, n, d}}, "kc"), node("ke", &graph.Expand{Shape: []int{2, n, d}}, "ks"),
		node("vs", &graph.Reshape{Shape: []int{1, n, d}}, "v"), node("ve", &graph.Expand{Shape: []int{2, n, d}}, "vs"),
		node("pairs", &graph.MatMul{TransB: true, Scale: 0.5}, "qh", "ke"),
		node("masked", &graph.Binary{Function: "add", Operand: &graph.Operand{Shape: []int{1, n, n}, Data: graph.PackFloats(mask)}}, "pairs"),
		node("p", &graph.Softmax{}, "masked"), node("drop", &graph.Dropout{P: 0.5}, "p"),
		node("heads", &graph.MatMul{}, "drop", "ve"),
		node("back", &graph.Permute{Axes: []int{1, 0, 2}}, "heads"), node("flat", &graph.Reshape{Shape: []int{n, 2 * d}}, "back"),
		node("out", &graph.Linear{In: 2 * d, Out: d}, "flat"), node("act", &graph.Unary{Function: "silu"}, "out"),
		node("res", &graph.Add{}, "act", "sum"),
		node("mean", &graph.Reduce{Function: "mean", Axes: 1, Keep: true}, "res"), node("centred", &graph.Binary{Function: "sub"}, "res", "mean"),
		{Name: "head", Op: &graph.Linear{In: d, Out: 11}, Inputs: []string{"centred"}, Names: map[string]string{"weight": "wte.weight"}},
	}}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

func upTo(n int) []uint32 {
	v := make([]uint32, n)
	for i := range v {
		v[i] = uint32(i)
	}
	return v
}

// TestKeptKeys: logits of the newest token alone are, to the bit, those of the whole row, also
// where the row is full, or the text is another than before.
func TestKeptKeys(t *testing.T) {
	sorter, err := zoo.Find("gpt-sorter")
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*graph.Graph{"sorter": sorter.Graph, "grouped": grouped(t, false)} {
		for _, precision := range []string{"fp32", "bf16"} {
			p := &project.Project{Graph: g, Job: job.Default()}
			p.Job.Precision = precision
			l := exec.NewLayout(g, 0)
			s := l.NewState()
			l.Init(s, 5)
			var two [2]*decoder
			for i := range two {
				if two[i], err = newDecoder(p, l.Export(s), Options{Threads: 1}); err != nil {
					t.Fatal(err)
				}
				defer two[i].team.Close()
			}
			if two[0].steps == nil {
				t.Fatalf("%s is not computed by positions", name)
			}
			two[1].steps = nil
			row := g.Inputs[0].Shape[0]
			for text := range int32(2) {
				tokens := []int32{1, text}
				for range row + 2 {
					got, want := two[0].logits(tokens), two[1].logits(tokens)
					if !slices.Equal(got, want) {
						t.Fatalf("%s in %s: token %d: %v, not %v", name, precision, len(tokens), got, want)
					}
					tokens = append(tokens, int32(kernel.Argmax(want)))
				}
			}
		}
	}
}

// TestNoSteps: a model whose tokens see later ones is computed as a whole.
func TestNoSteps(t *testing.T) {
	bert, err := zoo.Find("bert")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../engine/importer/testdata/tied_decoder.pt2")
	if err != nil {
		t.Fatal(err)
	}
	a, err := pt2.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	mixer, err := importer.Import(a, importer.Options{Name: "mixer"})
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*graph.Graph{"bert": bert.Graph, "mixer": mixer.Graph, "a mask with a hole": grouped(t, true)} {
		if _, err := g.Steps(); !errors.Is(err, graph.ErrStep) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTokenizerOf: a tokenizer that is there and cannot be read is not passed over.
func TestTokenizerOf(t *testing.T) {
	p := &project.Project{Dir: t.TempDir()}
	if k, _, err := dataset.ReadTokenizer(filepath.Join(p.Dir, project.TokenizerFile)); k != nil || !errors.Is(err, project.ErrMissing) {
		t.Errorf("none is there: %v %v", k, err)
	}
	if err := os.Mkdir(filepath.Join(p.Dir, project.TokenizerFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := vocabularyOf(p, 256); err == nil || !strings.Contains(err.Error(), "is a directory: a regular file is needed") {
		t.Error(err)
	}
}
