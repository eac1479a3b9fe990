// Text from a trained decoder.

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// ErrGenerate is wrapped by errors about models and prompts that give no text.
var ErrGenerate = errors.New("no text can be generated")

// GenerateOptions say how tokens are chosen.
type GenerateOptions struct {
	Prompt      string
	Tokens      int     // that are generated
	Temperature float64 // that logits are divided by; 0: always the likeliest token
	TopK        int     // choose among so many of the likeliest; 0: among all
	Seed        uint64
	Threads     int
}

// Generate continues a prompt and gives the text piece by piece. The same weights, prompt and
// options have the same text, on every machine.
func Generate(ctx context.Context, p *project.Project, d state.Dict, o GenerateOptions, give func(piece string) error) error {
	g := p.Graph
	in, out := g.Inputs[0].Shape, g.Shape(g.OutputValue())
	if len(g.Inputs) != 1 || len(in) != 1 || len(out) != 2 || out[0] != in[0] {
		return fmt.Errorf("%w: the model takes %s and answers %s; a decoder takes tokens [N,T] and answers [N,T,vocabulary]", ErrGenerate, in, out)
	}
	v, err := vocabularyOf(p, out[1])
	if err != nil {
		return err
	}
	tokens, err := v.encode(o.Prompt)
	if err != nil {
		return fmt.Errorf("%w: the prompt: %w", ErrGenerate, err)
	}
	if len(tokens) == 0 {
		return fmt.Errorf("%w: the prompt is empty: give at least one token", ErrGenerate)
	}
	for _, t := range tokens {
		if t < 0 || int(t) >= out[1] {
			return fmt.Errorf("%w: the prompt has token %d, the model has %d: the tokenizer is another model's", ErrGenerate, t, out[1])
		}
	}
	m, err := newDecoder(p, d, o)
	if err != nil {
		return err
	}
	defer m.team.Close()
	for k := range o.Tokens {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		next := m.next(tokens, o, uint64(k))
		tokens = append(tokens, next)
		if err := give(v.text(next)); err != nil {
			return err
		}
	}
	return give(v.rest())
}

// decoder runs a decoder on rows of one length.
type decoder struct {
	e    *exec.Exec
	s    exec.State
	team *kernel.Team
	g    *graph.Graph
	out  graph.Shape
	p    []float32 // probabilities of the next token
	best []int32   // tokens, the likeliest first
}

func newDecoder(p *project.Project, d state.Dict, o GenerateOptions) (*decoder, error) {
	precision, err := exec.ParsePrecision(p.Job.Precision)
	if err != nil {
		return nil, err
	}
	out := p.Graph.OutputValue()
	plan, err := exec.Compile(p.Graph, 0, exec.Config{Rows: 1, Outputs: []int{out}, Precision: precision})
	if err != nil {
		return nil, err
	}
	mem := plan.Memory()
	if err := room(int64(mem.Total()+mem.Params), "this model"); err != nil {
		return nil, err
	}
	m := &decoder{s: plan.Layout.NewState(), g: p.Graph, out: p.Graph.Shape(out)}
	if err := plan.Layout.Import(m.s, d); err != nil {
		return nil, err
	}
	m.team = kernel.NewTeam(o.Threads)
	m.e = plan.New(m.team)
	m.p, m.best = make([]float32, m.out[1]), make([]int32, m.out[1])
	return m, nil
}

// next chooses the token that follows the newest of tokens; step names the draw.
func (m *decoder) next(tokens []int32, o GenerateOptions, step uint64) int32 {
	x := m.e.Value(0, 0, 1)
	tokens = tokens[max(len(tokens)-len(x), 0):]
	clear(x) // what comes after the newest token is not looked at
	for i, t := range tokens {
		x[i] = float32(t)
	}
	m.e.Forward(0, exec.Batch{Rows: 1}, m.s.Params, &m.s)
	logits := m.e.Value(0, m.g.OutputValue(), 1)[(len(tokens)-1)*m.out[1]:][:m.out[1]]
	if o.Temperature == 0 {
		return int32(kernel.Argmax(logits))
	}
	for i := range m.best {
		m.best[i] = int32(i)
	}
	slices.SortStableFunc(m.best, func(a, b int32) int {
		switch x, y := logits[a], logits[b]; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	k := len(m.best)
	if o.TopK > 0 {
		k = min(k, o.TopK)
	}
	top, sum := logits[m.best[0]], 0.0
	for i, t := range m.best[:k] {
		m.p[i] = kernel.Exp((logits[t] - top) / float32(o.Temperature))
		sum += float64(m.p[i])
	}
	draws := kernel.NewStream(o.Seed, kernel.DomainGenerate, step, 0)
	at := float64(float64(draws.Uint32(0))/(1<<32)) * sum
	for i, t := range m.best[:k] {
		if at -= float64(m.p[i]); at < 0 {
			return t
		}
	}
	return m.best[k-1]
}

// vocabulary turns text into a model's tokens and back.
type vocabulary struct {
	tokenizer *tokenizer.Tokenizer
	names     []string // of tokens that are characters; nil: tokens are bytes, or the tokenizer's
	held      []byte   // bytes that make no whole character yet

	byteLevel, wordPiece bool // which the tokenizer is
}

// vocabularyOf finds what the tokens of a project's model stand for.
func vocabularyOf(p *project.Project, size int) (*vocabulary, error) {
	file := filepath.Join(p.Dir, project.TokenizerFile)
	if b, err := os.ReadFile(file); err == nil {
		t, err := tokenizer.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		v := &vocabulary{tokenizer: t}
		for id := range int32(t.Size()) {
			v.byteLevel = v.byteLevel || strings.HasPrefix(t.Name(id), "\u0120")
			v.wordPiece = v.wordPiece || strings.HasPrefix(t.Name(id), "##")
		}
		return v, nil
	}
	names, err := p.Classes()
	if err != nil {
		return nil, err
	}
	switch {
	case names != nil && !slices.ContainsFunc(names, func(n string) bool { return utf8.RuneCountInString(n) != 1 }):
		return &vocabulary{names: names}, nil
	case p.Job.Data == "sums":
		return &vocabulary{names: strings.Split(data.SumsAlphabet, "")}, nil
	case size == 256:
		return &vocabulary{}, nil
	}
	return nil, fmt.Errorf("%w: nothing says what the model's %d tokens stand for: put the tokenizer.json that made them into %s", ErrGenerate, size, p.Dir)
}

func (v *vocabulary) encode(text string) ([]int32, error) {
	if v.tokenizer != nil {
		return v.tokenizer.Encode(nil, text, true)
	}
	var ids []int32
	if v.names == nil {
		for _, b := range []byte(text) {
			ids = append(ids, int32(b))
		}
		return ids, nil
	}
	for _, r := range text {
		i := slices.Index(v.names, string(r))
		if i < 0 {
			return nil, fmt.Errorf("the model was not trained on the character %q; it knows %q", r, strings.Join(v.names, ""))
		}
		ids = append(ids, int32(i))
	}
	return ids, nil
}

// text is what a token adds to the text.
func (v *vocabulary) text(id int32) string {
	switch {
	case v.tokenizer != nil:
		return v.piece(v.tokenizer.Name(id))
	case v.names != nil && int(id) < len(v.names):
		return v.names[id]
	case v.names != nil:
		return "\uFFFD"
	}
	return v.bytes(byte(id))
}

// bytes gives the characters that are whole.
func (v *vocabulary) bytes(bs ...byte) string {
	v.held = append(v.held, bs...)
	n := 0
	for n < len(v.held) && utf8.FullRune(v.held[n:]) {
		_, size := utf8.DecodeRune(v.held[n:])
		n += size
	}
	whole := strings.ToValidUTF8(string(v.held[:n]), "\uFFFD")
	v.held = append(v.held[:0], v.held[n:]...)
	return whole
}

// rest is what is left where a character was begun and not ended.
func (v *vocabulary) rest() string {
	if len(v.held) == 0 {
		return ""
	}
	return "\uFFFD"
}

// piece is the text of a token of a tokenizer: of byte-level BPE, whose characters stand for
// bytes; of SentencePiece, where a low line is a space; or of WordPiece, whose words begin
// without a mark.
func (v *vocabulary) piece(name string) string {
	if v.byteLevel {
		var bs []byte
		for _, r := range name {
			if b, ok := tokenizer.Byte(r); ok {
				bs = append(bs, b)
			} else {
				bs = append(bs, string(r)...)
			}
		}
		return v.bytes(bs...)
	}
	if rest, ok := strings.CutPrefix(name, "##"); ok {
		return rest
	}
	if v.wordPiece {
		return " " + name
	}
	return strings.ReplaceAll(name, "\u2581", " ")
}
