// GPT with minGPT's parameter names: https://github.com/karpathy/minGPT. The buffer
// attn.bias that minGPT registers beside them is no weight, it is the causal mask: load
// with strict=False. As there, lm_head is a weight of its own, not wte again: the two lie
// in different stages.

package zoo

import (
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/graph"
)

// GPTConfig is the size of a GPT.
type GPTConfig struct {
	Name                 string
	Layers, Heads, Width int
	Tokens, Vocab        int     // the length of a row, the number of different tokens
	Dropout              float64 // of embeddings, attention and residuals
}

// GPTSorter is minGPT's gpt-nano for its sorting task: six digits of three kinds, then the
// same in order.
var GPTSorter = GPTConfig{Name: "gpt-sorter", Layers: 3, Heads: 3, Width: 48, Tokens: 11, Vocab: 3, Dropout: 0.1}

// CharGPT is a GPT over 256 characters.
var CharGPT = GPTConfig{Name: "char-gpt", Layers: 6, Heads: 6, Width: 384, Tokens: 256, Vocab: 29, Dropout: 0.1}

// GPT is minGPT's model over tokens [N,Tokens]; its answer are logits [N,Tokens,Vocab].
func GPT(c GPTConfig) *graph.Graph {
	b := tokens(c.Name, c.Tokens)
	const std = 0.02
	// The projections that end in a residual are initialised by their number.
	deep := std / math.Sqrt(float64(2*c.Layers))
	linear := func(in, out int, std float64) *graph.Linear {
		return &graph.Linear{In: in, Out: out, Bias: true, Std: std}
	}
	norm := func() *graph.LayerNorm { return &graph.LayerNorm{Shape: []int{c.Width}, Eps: 1e-5, Affine: true} }
	b.node("transformer.wte", &graph.Embedding{Num: c.Vocab, Dim: c.Width, Std: std})
	b.node("transformer.wpe", &graph.Position{Num: c.Tokens, Dim: c.Width, Std: std})
	b.node("transformer.drop", &graph.Dropout{P: c.Dropout})
	for i := range c.Layers {
		h := fmt.Sprintf("transformer.h.%d.", i)
		skip := b.last
		b.node(h+"ln_1", norm())
		b.node(h+"attn.c_attn", linear(c.Width, 3*c.Width, std))
		b.node(h+"attn", &graph.Attention{Heads: c.Heads, Causal: true, P: c.Dropout})
		b.node(h+"attn.c_proj", linear(c.Width, c.Width, deep))
		b.node(h+"attn.resid_dropout", &graph.Dropout{P: c.Dropout})
		skip = b.add(h+"attn.add", skip)
		b.node(h+"ln_2", norm())
		b.node(h+"mlp.c_fc", linear(c.Width, 4*c.Width, std))
		b.node(h+"mlp.act", &graph.GELU{Approximate: "tanh"})
		b.node(h+"mlp.c_proj", linear(4*c.Width, c.Width, deep))
		b.node(h+"mlp.dropout", &graph.Dropout{P: c.Dropout})
		b.add(h+"mlp.add", skip)
	}
	b.node("transformer.ln_f", norm())
	b.node("lm_head", &graph.Linear{In: c.Width, Out: c.Vocab, Std: std})
	return b.done()
}
