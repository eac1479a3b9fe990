// BERT with the parameter names of Hugging Face's BertForSequenceClassification, where every
// token is of segment 0, and BertForPreTraining: Devlin et al., arXiv 1810.04805.

package zoo

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
)

// BERTConfig is the size of a BERT.
type BERTConfig struct {
	Name                 string
	Layers, Heads, Width int
	Inner                int // width of the feed-forward layers
	Tokens, Positions    int // the length of a row, and of the longest one
	Vocab, Classes       int
	Pad                  int // the token that a row is filled up with
	Dropout              float64
}

// BERTBase is bert-base-uncased with two classes over rows of 128 tokens.
var BERTBase = BERTConfig{
	Name: "bert", Layers: 12, Heads: 12, Width: 768, Inner: 3072, Tokens: 128, Positions: 512, Vocab: 30522, Classes: 2, Dropout: 0.1,
}

// BERT is over tokens [N,Tokens], Pad where a row is filled up; its answer are logits
// [N,Classes].
func BERT(c BERTConfig) *graph.Graph {
	b := tokens(c.Name, c.Tokens)
	const std = bertStd
	const emb = "bert.embeddings."
	b.node(emb+"word_embeddings", &graph.Embedding{Num: c.Vocab, Dim: c.Width, Std: std})
	words, mask := b.last, emb+"mask"
	b.last = "x"
	b.node(mask, &graph.TokenMask{Token: c.Pad})
	b.last = words
	b.node(emb+"position_embeddings", &graph.Position{Num: c.Positions, Dim: c.Width, Std: std})
	b.node(emb+"token_type_embeddings", &graph.Position{Num: 2, Dim: c.Width, Std: std, Fixed: true})
	b.node(emb+"LayerNorm", bertNorm(c.Width))
	b.node(emb+"dropout", &graph.Dropout{P: c.Dropout})
	b.encoder(c, mask)
	b.pooler(c)
	b.node("dropout", &graph.Dropout{P: c.Dropout})
	b.node("classifier", bertLinear(c.Width, c.Classes))
	return b.done()
}

// bertStd is the deviation of BERT's initial weights.
const bertStd = 0.02

func bertLinear(in, out int) *graph.Linear {
	return &graph.Linear{In: in, Out: out, Bias: true, Std: bertStd}
}

func bertNorm(width int) *graph.LayerNorm {
	return &graph.LayerNorm{Shape: []int{width}, Eps: 1e-12, Affine: true}
}

// encoder appends the layers; mask is the node that tells which tokens count.
func (b *builder) encoder(c BERTConfig, mask string) {
	drop := func() *graph.Dropout { return &graph.Dropout{P: c.Dropout} }
	for i := range c.Layers {
		l := fmt.Sprintf("bert.encoder.layer.%d.", i)
		skip := b.last
		b.node(l+"attention.self", &graph.Linears{In: c.Width, Out: c.Width, Names: []string{"query", "key", "value"}, Bias: true, Std: bertStd})
		b.node(l+"attention.self.heads", &graph.Attention{Heads: c.Heads, P: c.Dropout}, mask)
		b.node(l+"attention.output.dense", bertLinear(c.Width, c.Width))
		b.node(l+"attention.output.dropout", drop())
		b.add(l+"attention.output.add", skip)
		b.node(l+"attention.output.LayerNorm", bertNorm(c.Width))
		skip = b.last
		b.node(l+"intermediate.dense", bertLinear(c.Width, c.Inner))
		b.node(l+"intermediate.act", &graph.GELU{Approximate: "none"})
		b.node(l+"output.dense", bertLinear(c.Inner, c.Width))
		b.node(l+"output.dropout", drop())
		b.add(l+"output.add", skip)
		b.node(l+"output.LayerNorm", bertNorm(c.Width))
	}
}

// pooler appends what makes a vector of the first token.
func (b *builder) pooler(c BERTConfig) {
	b.node("bert.pooler.first", &graph.Select{Index: 0})
	b.node("bert.pooler.dense", bertLinear(c.Width, c.Width))
	b.node("bert.pooler.activation", &graph.Tanh{})
}

// BERTSmall is a small BERT for the sentences of data.Days.
var BERTSmall = BERTConfig{
	Name: "bert-pretrain", Layers: 2, Heads: 4, Width: 64, Inner: 256, Tokens: data.DaysLength, Positions: data.DaysLength, Vocab: data.DaysTokens, Classes: 2, Dropout: 0.1,
}

// The outputs of PretrainingBERT.
const (
	BERTWords = "cls.predictions.decoder"
	BERTOrder = "cls.seq_relationship"
)

// PretrainingBERT is over tokens and their segments, both [N,Tokens], 0 where a row is filled up.
// It answers the logits of the words at all positions, BERTWords [N,Tokens,Vocab] by the weights of
// the embedding, and of the order of the two segments, BERTOrder [N,Classes].
func PretrainingBERT(c BERTConfig) *graph.Graph {
	b := tokens(c.Name, c.Tokens)
	b.g.Inputs = []graph.Input{
		{Name: "input_ids", Shape: graph.Shape{c.Tokens}, Constant: true}, {Name: "token_type_ids", Shape: graph.Shape{c.Tokens}, Constant: true},
	}
	const emb = "bert.embeddings."
	b.last = "input_ids"
	b.node(emb+"mask", &graph.TokenMask{Token: 0})
	b.last = "input_ids"
	b.node(emb+"word_embeddings", &graph.Embedding{Num: c.Vocab, Dim: c.Width, Std: bertStd})
	b.node(emb+"position_embeddings", &graph.Position{Num: c.Positions, Dim: c.Width, Std: bertStd})
	words := b.last
	b.last = "token_type_ids"
	b.node(emb+"token_type_embeddings", &graph.Embedding{Num: 2, Dim: c.Width, Std: bertStd})
	b.add(emb+"add", words)
	b.node(emb+"LayerNorm", bertNorm(c.Width))
	b.node(emb+"dropout", &graph.Dropout{P: c.Dropout})
	b.encoder(c, emb+"mask")
	top := b.last
	b.pooler(c)
	b.node(BERTOrder, bertLinear(c.Width, c.Classes))
	b.last = top
	const head = "cls.predictions."
	b.node(head+"transform.dense", bertLinear(c.Width, c.Width))
	b.node(head+"transform.act", &graph.GELU{Approximate: "none"})
	b.node(head+"transform.LayerNorm", bertNorm(c.Width))
	b.node(BERTWords, bertLinear(c.Width, c.Vocab))
	b.g.Nodes[len(b.g.Nodes)-1].Names = map[string]string{"weight": emb + "word_embeddings.weight", "bias": head + "bias"}
	return b.done()
}
