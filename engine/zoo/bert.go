// BERT with the parameter names of Hugging Face's BertForSequenceClassification: Devlin
// et al., arXiv 1810.04805. Every token is of segment 0.

package zoo

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/graph"
)

// BERTConfig is the size of a BERT.
type BERTConfig struct {
	Name                 string
	Layers, Heads, Width int
	Inner                int // width of the feed-forward layers
	Tokens, Positions    int // the length of a row, and of the longest one
	Vocab, Classes       int
	Dropout              float64
}

// BERTBase is bert-base-uncased with two classes over rows of 128 tokens.
var BERTBase = BERTConfig{
	Name: "bert", Layers: 12, Heads: 12, Width: 768, Inner: 3072, Tokens: 128, Positions: 512, Vocab: 30522, Classes: 2, Dropout: 0.1,
}

// BERT is over tokens [N,Tokens], 0 where a row is filled up; its answer are logits
// [N,Classes].
func BERT(c BERTConfig) *graph.Graph {
	b := tokens(c.Name, c.Tokens)
	const std = 0.02
	linear := func(in, out int) *graph.Linear { return &graph.Linear{In: in, Out: out, Bias: true, Std: std} }
	norm := func() *graph.LayerNorm { return &graph.LayerNorm{Shape: []int{c.Width}, Eps: 1e-12, Affine: true} }
	drop := func() *graph.Dropout { return &graph.Dropout{P: c.Dropout} }
	const emb = "bert.embeddings."
	b.node(emb+"word_embeddings", &graph.Embedding{Num: c.Vocab, Dim: c.Width, Std: std})
	words, mask := b.last, emb+"mask"
	b.last = "x"
	b.node(mask, &graph.TokenMask{Token: 0})
	b.last = words
	b.node(emb+"position_embeddings", &graph.Position{Num: c.Positions, Dim: c.Width, Std: std})
	b.node(emb+"token_type_embeddings", &graph.Position{Num: 2, Dim: c.Width, Std: std, Fixed: true})
	b.node(emb+"LayerNorm", norm())
	b.node(emb+"dropout", drop())
	for i := range c.Layers {
		l := fmt.Sprintf("bert.encoder.layer.%d.", i)
		skip := b.last
		b.node(l+"attention.self", &graph.Linears{In: c.Width, Out: c.Width, Names: []string{"query", "key", "value"}, Bias: true, Std: std})
		b.node(l+"attention.self.heads", &graph.Attention{Heads: c.Heads, P: c.Dropout}, mask)
		b.node(l+"attention.output.dense", linear(c.Width, c.Width))
		b.node(l+"attention.output.dropout", drop())
		b.add(l+"attention.output.add", skip)
		b.node(l+"attention.output.LayerNorm", norm())
		skip = b.last
		b.node(l+"intermediate.dense", linear(c.Width, c.Inner))
		b.node(l+"intermediate.act", &graph.GELU{Approximate: "none"})
		b.node(l+"output.dense", linear(c.Inner, c.Width))
		b.node(l+"output.dropout", drop())
		b.add(l+"output.add", skip)
		b.node(l+"output.LayerNorm", norm())
	}
	b.node("bert.pooler.first", &graph.Select{Index: 0})
	b.node("bert.pooler.dense", linear(c.Width, c.Width))
	b.node("bert.pooler.activation", &graph.Tanh{})
	b.node("dropout", drop())
	b.node("classifier", linear(c.Width, c.Classes))
	return b.done()
}
