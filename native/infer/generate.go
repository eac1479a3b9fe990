// Text from a trained decoder.

package infer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
)

// ErrGenerate is wrapped by errors about models and prompts that give no text.
var ErrGenerate = errors.New("no text can be generated")

// Options say how the tokens of a text are chosen.
type Options struct {
	Prompt      string
	Tokens      int     // that are generated
	Temperature float64 // that logits are divided by; 0: always the likeliest token
	TopK        int     // choose among so many of the likeliest; 0: among all
	TopP        float64 // choose among the likeliest that together have this probability; 0, 1: among all
	Seed        uint64
	Threads     int
}

// Prompt is a prompt as the texts were written that the decoder learned to answer, if it did.
func Prompt(p *project.Project, prompt string) (string, error) {
	columns, err := p.Columns()
	if len(columns) == 2 && columns[0].Text {
		prompt = dataset.Asked(prompt, "")
	}
	return prompt, err
}

// Generate continues a prompt and gives the text piece by piece. The same weights, prompt and
// options have the same text, on every machine.
func Generate(ctx context.Context, p *project.Project, d state.Dict, o Options, give func(piece string) error) error {
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
		if next == v.end {
			break
		}
		tokens = append(tokens, next)
		if err := give(v.text(next)); err != nil {
			return err
		}
	}
	return give(v.rest())
}

// decoder runs a decoder on rows of one length, or on the newest token alone where keys and
// values of those before it are known.
type decoder struct {
	e    *exec.Exec
	s    exec.State
	team *kernel.Team
	g    *graph.Graph
	out  graph.Shape
	best []int32 // room for the tokens in an order

	steps *graph.Steps // nil: every token takes the whole row
	step  *exec.Exec
	param map[string][]float32 // of the tables of steps
	seen  []int32              // tokens whose keys and values are known
}

func newDecoder(p *project.Project, d state.Dict, o Options) (*decoder, error) {
	precision, err := exec.ParsePrecision(p.Job.Precision)
	if err != nil {
		return nil, err
	}
	out := p.Graph.OutputValue()
	whole := exec.Config{Rows: 1, Outputs: []int{out}, Precision: precision}
	steps, step, err := planSteps(p.Graph, precision)
	if err != nil {
		steps = nil // every token takes the whole row then
	} else {
		for _, c := range steps.Caches {
			whole.Outputs = append(whole.Outputs, c.Whole)
		}
	}
	plan, err := exec.Compile(p.Graph, 0, whole)
	if err != nil {
		return nil, err
	}
	mem := plan.Memory()
	need := int64(mem.Total() + mem.Params)
	if steps != nil {
		m := step.Memory()
		need += int64(m.Total() - m.Params)
	}
	if err := native.Room(need, "this model"); err != nil {
		return nil, err
	}
	m := &decoder{s: plan.Layout.NewState(), g: p.Graph, out: p.Graph.Shape(out), steps: steps}
	if err := plan.Layout.Import(m.s, d); err != nil {
		return nil, err
	}
	m.team = kernel.NewTeam(o.Threads)
	m.e = plan.New(m.team)
	m.best = make([]int32, m.out[1])
	if steps != nil {
		m.step, m.param = step.New(m.team), map[string][]float32{}
		for _, e := range step.Layout.Entries {
			if e.Role == graph.Trainable || e.Role == graph.Frozen {
				m.param[e.Full] = m.s.Params[e.Off:][:e.Elems()]
			}
		}
	}
	return m, nil
}

// planSteps plans a decoder by positions, with the parameters where the whole model has them.
func planSteps(g *graph.Graph, p exec.Precision) (*graph.Steps, *exec.Plan, error) {
	steps, err := g.Steps()
	if err != nil {
		return nil, nil, err
	}
	c := exec.Config{Rows: 1, Outputs: []int{steps.Graph.OutputValue()}, Precision: p}
	for _, k := range steps.Caches {
		c.Outputs = append(c.Outputs, k.Input, k.New) // an input that is read afterwards stays
	}
	plan, err := exec.Compile(steps.Graph, 0, c)
	if err != nil {
		return nil, nil, err
	}
	whole := exec.NewLayout(g, 0)
	if !slices.EqualFunc(whole.Entries, plan.Layout.Entries, func(a, b exec.Entry) bool {
		return a.Full == b.Full && a.Role == b.Role && a.Off == b.Off
	}) {
		return nil, nil, fmt.Errorf("%w: the parameters lie elsewhere", graph.ErrStep)
	}
	return steps, plan, nil
}

// logits are those of the token that follows.
func (m *decoder) logits(tokens []int32) []float32 {
	n := m.g.Inputs[0].Shape.Elems()
	if len(tokens) > n {
		tokens = tokens[len(tokens)-n:] // every token has another place than before
	}
	at := len(tokens) - 1
	if m.steps != nil && at > 0 && slices.Equal(m.seen, tokens[:at]) {
		m.seen = append(m.seen, tokens[at])
		return m.newest(at)
	}
	x := m.e.Value(0, 0, 1)
	clear(x) // what comes after the newest token is not looked at
	for i, t := range tokens {
		x[i] = float32(t)
	}
	m.e.Forward(0, exec.Batch{Rows: 1}, m.s.Params, &m.s)
	if m.steps != nil {
		m.seen = append(m.seen[:0], tokens...)
		for _, c := range m.steps.Caches {
			from, to := m.e.Value(0, c.Whole, 1), m.step.Value(0, c.Input, 1)
			clear(to)
			for t := range tokens {
				c.Rows(m.g.Shape(c.Whole), t, func(at, _, n int) { copy(to[at:][:n], from[at:]) })
			}
		}
	}
	return m.e.Value(0, m.g.OutputValue(), 1)[at*m.out[1]:][:m.out[1]]
}

// newest computes the last of the tokens that were seen, which is at the given position.
func (m *decoder) newest(at int) []float32 {
	m.step.Value(0, 0, 1)[0] = float32(m.seen[at])
	here := m.step.Value(0, 1, 1)
	clear(here)
	here[at] = 1
	for i := range m.steps.Tables {
		t := &m.steps.Tables[i]
		t.Row(m.step.Value(0, t.Input, 1), at, m.param[t.Param])
	}
	m.step.Forward(0, exec.Batch{Rows: 1}, m.s.Params, &m.s)
	for _, c := range m.steps.Caches {
		all, own := m.step.Value(0, c.Input, 1), m.step.Value(0, c.New, 1)
		c.Rows(m.g.Shape(c.Whole), at, func(at, from, n int) { copy(all[at:][:n], own[from:]) })
	}
	return m.step.Value(0, m.steps.Graph.OutputValue(), 1)
}

// next chooses the token that follows the newest of tokens; step names the draw.
func (m *decoder) next(tokens []int32, o Options, step uint64) int32 {
	logits := m.logits(tokens)
	if o.Temperature == 0 {
		return int32(kernel.Argmax(logits))
	}
	for i := range m.best {
		m.best[i] = int32(i)
	}
	k := len(m.best)
	if o.TopK > 0 {
		k = min(k, o.TopK)
	}
	likeliest := ranking{m.best, logits}
	likeliest.begin()
	top := logits[m.best[0]]
	weigh := func(t int32) float64 { return float64(kernel.Exp((logits[t] - top) / float32(o.Temperature))) }
	draws := kernel.NewStream(o.Seed, kernel.DomainGenerate, step, 0)
	draw := float64(draws.Uint32(0)) / (1 << 32)
	if k == len(m.best) && (o.TopP == 0 || o.TopP == 1) {
		// Among all, only as many are put in order as the draw passes by.
		sum := 0.0
		for t := range logits {
			sum += weigh(int32(t))
		}
		at, last := float64(draw*sum), m.best[0]
		for range k {
			last = likeliest.next()
			if at -= weigh(last); at < 0 {
				break
			}
		}
		return last
	}
	// The chosen ones, and how likely they and those before them are.
	chosen, upTo, sum := make([]int32, 0, k), make([]float64, 0, k), 0.0
	for range k {
		t := likeliest.next()
		sum += weigh(t)
		chosen, upTo = append(chosen, t), append(upTo, sum)
	}
	if o.TopP > 0 && o.TopP < 1 {
		n := sort.SearchFloat64s(upTo, float64(o.TopP*sum)) // the first that reaches it is in
		chosen, upTo = chosen[:min(n+1, k)], upTo[:min(n+1, k)]
	}
	at := float64(draw * upTo[len(upTo)-1])
	n := sort.Search(len(upTo), func(i int) bool { return upTo[i] > at })
	return chosen[min(n, len(chosen)-1)]
}

// ranking is tokens as a heap: the likeliest first, of equal ones that of the smaller number.
type ranking struct {
	tokens []int32
	logits []float32
}

func (r *ranking) before(a, b int32) bool {
	x, y := r.logits[a], r.logits[b]
	return x > y || x == y && a < b
}

func (r *ranking) begin() {
	for i := len(r.tokens)/2 - 1; i >= 0; i-- {
		r.down(i)
	}
}

// next takes the likeliest of the rest.
func (r *ranking) next() int32 {
	best, last := r.tokens[0], len(r.tokens)-1
	r.tokens[0], r.tokens = r.tokens[last], r.tokens[:last]
	r.down(0)
	return best
}

func (r *ranking) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(r.tokens) {
			return
		}
		if c+1 < len(r.tokens) && r.before(r.tokens[c+1], r.tokens[c]) {
			c++
		}
		if !r.before(r.tokens[c], r.tokens[i]) {
			return
		}
		r.tokens[i], r.tokens[c] = r.tokens[c], r.tokens[i]
		i = c
	}
}

// vocabulary turns text into a model's tokens and back.
type vocabulary struct {
	tokenizer *tokenizer.Tokenizer
	names     []string // of tokens that are characters; nil: tokens are bytes, or the tokenizer's
	held      []byte   // bytes that make no whole character yet
	before    []int32  // tokens that every text began with that the model learned from
	end       int32    // the token that ends a text; -1: none does

	byteLevel, wordPiece bool // which the tokenizer is
}

// vocabularyOf finds what the tokens of a project's model stand for.
func vocabularyOf(p *project.Project, size int) (*vocabulary, error) {
	t, _, err := dataset.ReadTokenizer(filepath.Join(p.Dir, project.TokenizerFile))
	if err != nil && !errors.Is(err, project.ErrMissing) {
		return nil, err
	}
	if t != nil {
		columns, err := p.Columns()
		if err != nil {
			return nil, err
		}
		v := &vocabulary{tokenizer: t, end: t.End()}
		if len(columns) > 0 && columns[0].Text { // a text of its own in each row, not a piece of one
			v.before = t.Before()
		}
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
		return &vocabulary{names: names, end: -1}, nil
	case p.Job.Data == "sums":
		return &vocabulary{names: strings.Split(data.SumsAlphabet, ""), end: -1}, nil
	case size == 256:
		return &vocabulary{end: -1}, nil
	}
	return nil, fmt.Errorf("%w: nothing says what the model's %d tokens stand for: put the tokenizer.json that made them into %s", ErrGenerate, size, p.Dir)
}

func (v *vocabulary) encode(text string) ([]int32, error) {
	if v.tokenizer != nil {
		return v.tokenizer.Encode(slices.Clone(v.before), text, true)
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
// bytes; of SentencePiece, where a low line is a space and a byte may be a token; or of WordPiece,
// whose words begin without a mark.
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
	if b, ok := tokenizer.ByteOf(name); ok {
		return v.bytes(b)
	}
	if rest, ok := strings.CutPrefix(name, "##"); ok {
		return rest
	}
	if v.wordPiece {
		return " " + name
	}
	return strings.ReplaceAll(name, "\u2581", " ")
}
