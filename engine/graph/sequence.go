// The operations of transformers, over rows of [T,C]: T tokens of C channels. Tokens
// travel as float32, which is exact below 2^24.

package graph

import (
	"errors"
	"fmt"
	"slices"
)

// Embedding is torch.nn.Embedding: tokens [..] become rows of its table, [.., Dim].
type Embedding struct {
	Num int     `json:"num_embeddings"`
	Dim int     `json:"embedding_dim"`
	Std float64 `json:"init_std,omitempty"` // 0: 1
	// Padding, where it is not 0, is 1 more than the token whose row gets no gradient.
	Padding int `json:"padding,omitempty"`
}

// Kind implements Op.
func (*Embedding) Kind() string { return "embedding" }

func (e *Embedding) check() error {
	if e.Padding < 0 || e.Padding > e.Num {
		return fmt.Errorf("padding %d is outside 0..%d", e.Padding, e.Num)
	}
	return errors.Join((Pair{e.Num, e.Dim}).within("num_embeddings, embedding_dim", 1, MaxDim), checkStd(e.Std))
}

// Infer implements Op.
func (e *Embedding) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(x), e.Dim), e.check()
}

// Params implements Op.
func (e *Embedding) Params() []Spec { return table(e.Num, e.Dim, e.Std) }

func table(num, dim int, std float64) []Spec {
	if std == 0 {
		std = 1
	}
	return []Spec{{Name: "weight", Shape: []int{num, dim}, Init: Init{Std: float32(std)}}}
}

// Cost implements Op.
func (*Embedding) Cost(_ []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackWeight: float64(out.Elems())}
}

// Discrete implements Op: a token has no gradient.
func (*Embedding) Discrete(int) bool { return true }

// Position is torch.nn.Embedding of the position, added: y[t] = x[t] + weight[t] over
// [T,Dim]. With Fixed it is weight[0] that is added everywhere: the segment of a model
// that is given one.
type Position struct {
	Num   int     `json:"num_embeddings"` // the longest T
	Dim   int     `json:"embedding_dim"`
	Fixed bool    `json:"fixed,omitempty"`
	Std   float64 `json:"init_std,omitempty"` // 0: 1
}

// Kind implements Op.
func (*Position) Kind() string { return "position" }

// Infer implements Op.
func (p *Position) Infer(in []Shape) (Shape, error) {
	x, err := one(in, 2)
	if err != nil {
		return nil, err
	}
	if err := (&Embedding{Num: p.Num, Dim: p.Dim, Std: p.Std}).check(); err != nil {
		return nil, err
	}
	if x[1] != p.Dim || (!p.Fixed && x[0] > p.Num) {
		return nil, fmt.Errorf("has %d rows of %d, but the input is %s", p.Num, p.Dim, x)
	}
	return x, nil
}

// Params implements Op.
func (p *Position) Params() []Spec { return table(p.Num, p.Dim, p.Std) }

// Cost implements Op.
func (*Position) Cost(_ []Shape, out Shape) Cost {
	return Cost{Forward: float64(out.Elems()), BackWeight: float64(out.Elems())}
}

// LayerNorm is torch.nn.LayerNorm over the last axis.
type LayerNorm struct {
	Shape  []int   `json:"normalized_shape"` // one axis
	Eps    float64 `json:"eps"`
	Affine bool    `json:"elementwise_affine"`
}

// Kind implements Op.
func (*LayerNorm) Kind() string { return "layernorm" }

// Infer implements Op.
func (l *LayerNorm) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if len(l.Shape) != 1 || len(x) == 0 || x[len(x)-1] != l.Shape[0] {
		return nil, fmt.Errorf("normalized_shape is %v, but the input is %s", l.Shape, x)
	}
	if !(l.Eps > 0 && l.Eps < 1) {
		return nil, fmt.Errorf("eps %v is outside 0..1", l.Eps)
	}
	return x, nil
}

// Params implements Op.
func (l *LayerNorm) Params() []Spec {
	if !l.Affine {
		return nil
	}
	return []Spec{{Name: "weight", Shape: l.Shape, Init: Init{Value: 1}}, {Name: "bias", Shape: l.Shape}}
}

// Cost implements Op.
func (*LayerNorm) Cost(_ []Shape, out Shape) Cost {
	n := float64(out.Elems())
	return Cost{Forward: 8 * n, BackInput: 12 * n, BackWeight: 5 * n}
}

// Linears is several torch.nn.Linear of one input, their outputs side by side:
// [.., In] becomes [.., len(Names)*Out]. The name of each stands between the node's
// and "weight": a query, key and value for attention.
type Linears struct {
	In    int      `json:"in_features"`
	Out   int      `json:"out_features"` // of each
	Names []string `json:"names"`
	Bias  bool     `json:"bias"`
	Std   float64  `json:"init_std,omitempty"` // as of Linear
}

// Kind implements Op.
func (*Linears) Kind() string { return "linears" }

func (l *Linears) each() *Linear { return &Linear{In: l.In, Out: l.Out, Bias: l.Bias, Std: l.Std} }

// Infer implements Op.
func (l *Linears) Infer(in []Shape) (Shape, error) {
	if len(l.Names) < 1 || len(l.Names) > maxNodeArg {
		return nil, fmt.Errorf("%d names, 1..%d are supported", len(l.Names), maxNodeArg)
	}
	known := make(map[string]bool, len(l.Names))
	for _, n := range l.Names {
		if err := checkName(n); err != nil {
			return nil, err
		}
		if known[n] {
			return nil, fmt.Errorf("the name %q appears twice", n)
		}
		known[n] = true
	}
	y, err := l.each().Infer(in)
	if err != nil {
		return nil, err
	}
	y[len(y)-1] *= len(l.Names)
	return y, nil
}

// Params implements Op.
func (l *Linears) Params() []Spec {
	var ps []Spec
	for _, n := range l.Names {
		for _, p := range l.each().Params() {
			p.Name = n + "." + p.Name
			ps = append(ps, p)
		}
	}
	return ps
}

// Cost implements Op.
func (l *Linears) Cost(in []Shape, out Shape) Cost { return l.each().Cost(in, out) }

// Attention is multi-head scaled dot-product self-attention of query, key and value side
// by side, [T,3C], to [T,C]. A second input [T], if there is one, is 0 at the keys that
// may not be seen; it gets no gradient.
type Attention struct {
	Heads  int     `json:"heads"`
	Causal bool    `json:"causal,omitempty"`
	P      float64 `json:"p,omitempty"` // dropout of the probabilities
}

// Kind implements Op.
func (*Attention) Kind() string { return "attention" }

// Infer implements Op.
func (a *Attention) Infer(in []Shape) (Shape, error) {
	if len(in) != 1 && len(in) != 2 {
		return nil, fmt.Errorf("takes 1 or 2 inputs, has %d", len(in))
	}
	x, err := one(in[:1], 2)
	if err != nil {
		return nil, err
	}
	if a.Heads < 1 || a.Heads > x[1] || x[1]%(3*a.Heads) != 0 {
		return nil, fmt.Errorf("%d heads do not divide query, key and value of %s", a.Heads, x)
	}
	if len(in) == 2 && !slices.Equal(in[1], x[:1]) {
		return nil, fmt.Errorf("takes a mask of [N,%d], got %s", x[0], in[1])
	}
	if err := (&Dropout{P: a.P}).check(); err != nil {
		return nil, err
	}
	return Shape{x[0], x[1] / 3}, nil
}

// Params implements Op.
func (*Attention) Params() []Spec { return nil }

// Cost implements Op: two products forward, and five and the softmax again backward.
func (a *Attention) Cost(in []Shape, out Shape) Cost {
	t := float64(in[0][0])
	pairs := t * t
	if a.Causal {
		pairs = t * (t + 1) / 2
	}
	f := pairs * (4*float64(out[1]) + 24*float64(a.Heads))
	return Cost{Forward: f, BackInput: 2.5 * f}
}

// Discrete implements Op.
func (*Attention) Discrete(arg int) bool { return arg == 1 }

// TokenMask is 1 where a token is not Token, else 0: the mask of padding.
type TokenMask struct {
	stateless
	Token int `json:"token"`
}

// Kind implements Op.
func (*TokenMask) Kind() string { return "tokenmask" }

// Infer implements Op.
func (m *TokenMask) Infer(in []Shape) (Shape, error) {
	if m.Token < 0 || m.Token > MaxDim {
		return nil, fmt.Errorf("token %d is outside 0..%d", m.Token, MaxDim)
	}
	return one(in, -1)
}

// Cost implements Op.
func (*TokenMask) Cost(_ []Shape, out Shape) Cost { return perElement(out, 1, 0) }

// Discrete implements Op.
func (*TokenMask) Discrete(int) bool { return true }

// GELU is torch.nn.GELU: Approximate is "none" or "tanh".
type GELU struct {
	stateless
	Approximate string `json:"approximate"`
}

// Kind implements Op.
func (*GELU) Kind() string { return "gelu" }

// Infer implements Op.
func (g *GELU) Infer(in []Shape) (Shape, error) {
	if g.Approximate != "none" && g.Approximate != "tanh" {
		return nil, fmt.Errorf("approximate %q is neither none nor tanh", g.Approximate)
	}
	return one(in, -1)
}

// Cost implements Op.
func (*GELU) Cost(_ []Shape, out Shape) Cost { return perElement(out, 30, 40) }

// Tanh is torch.nn.Tanh.
type Tanh struct{ stateless }

// Kind implements Op.
func (*Tanh) Kind() string { return "tanh" }

// Infer implements Op.
func (*Tanh) Infer(in []Shape) (Shape, error) { return one(in, -1) }

// Cost implements Op.
func (*Tanh) Cost(_ []Shape, out Shape) Cost { return perElement(out, 20, 3) }

// Select is x[:, Index]: one element of the first axis of a row, as a model's pooler
// takes the first token.
type Select struct {
	stateless
	Index int `json:"index"`
}

// Kind implements Op.
func (*Select) Kind() string { return "select" }

// Infer implements Op.
func (s *Select) Infer(in []Shape) (Shape, error) {
	x, err := one(in, -1)
	if err != nil {
		return nil, err
	}
	if len(x) == 0 || s.Index < 0 || s.Index >= x[0] {
		return nil, fmt.Errorf("there is no index %d in %s", s.Index, x)
	}
	return slices.Clone(x[1:]), nil
}

// Cost implements Op.
func (*Select) Cost(in []Shape, _ Shape) Cost {
	return Cost{BackInput: float64(in[0].Elems())}
}
