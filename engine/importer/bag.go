// Tables of vectors that are looked up other than by a plain embedding: bags of words, and tables
// that are computed.

package importer

import (
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

var tableOperators = map[string]operator{"embedding_bag": embeddingBag, "sym_numel": symNumel}

// maxTable is the most elements of a row of zeros and ones by which a computed table is looked up.
const maxTable = 1 << 22

// symNumel is the number of elements of a tensor.
func symNumel(l *lowering, n *pt2.Node) {
	v := l.tensor(n, "self")
	m := number{n: elems(v.shape), batched: v.batch >= 0 && l.symbol != ""}
	if v.batch >= 0 && l.symbol == "" {
		m.n *= l.batch
	}
	if o := n.Outputs[0]; len(o.Ints) > 0 {
		l.ints[o.Ints[0].Expr] = m
	}
}

// embeddingBag is a sum, mean or maximum of the vectors of each sample's words. PyTorch puts the
// words of all samples in a row, and says where each begins.
func embeddingBag(l *lowering, n *pt2.Node) {
	w, x, begins := l.tensor(n, "weight"), l.tensor(n, "indices"), l.tensor(n, "offsets")
	if len(x.shape) != 1 || x.batch != 0 || x.outer != 1 || !l.begins(begins, x.shape[0]) {
		fail("of bags whose lengths depend on the data; use rows [N, words] of equal length with a padding_idx")
	}
	if l.flag(n, "scale_grad_by_freq", false) || l.flag(n, "include_last_offset", false) {
		fail("with scale_grad_by_freq or include_last_offset")
	}
	words := x.shape[0]
	byBag := func(v *value) *value { // [N·words] as [N, words]
		r := &value{shape: []int{1, words}, batch: 0, outer: 1, whole: v.whole}
		r.name, _ = l.reshape(v.name, r.row())
		return r
	}
	x = byBag(x)
	y := l.lookedUp(w, x, -1)
	padding, mode := l.integer(n, "padding_idx", -1), l.integer(n, "mode", 0)
	if s := l.optional(n, "per_sample_weights"); s != nil {
		y = l.binary("mul", y, l.with(byBag(s), 2))
	}
	var count *value
	if padding >= 0 {
		some := l.with(l.unary("ne", x, float64(padding), 0), 2)
		if y = l.binary("mask", y, some); mode == 2 {
			fail("with mode=\"max\" and a padding_idx")
		}
		count = l.unary("clamp", l.reduce("sum", some, []int{1}, false), 1, float64(words))
	}
	switch {
	case mode == 2:
		l.defineFirst(l.reduce("amax", y, []int{1}, false))
	case mode == 1 && count != nil:
		l.defineFirst(l.binary("div", l.reduce("sum", y, []int{1}, false), count))
	case mode == 1:
		l.defineFirst(l.reduce("mean", y, []int{1}, false))
	default:
		l.defineFirst(l.reduce("sum", y, []int{1}, false))
	}
}

// defineFirst sets the first of the node's outputs; whoever takes another will say so.
func (l *lowering) defineFirst(v *value) {
	names := outputs(l.node)
	l.defineAs(names[0], v)
	for _, name := range names[1:] {
		if l.read(name) {
			fail("with more than its first output")
		}
	}
}

// begins tells whether v says that every sample has so many words.
func (l *lowering) begins(v *value, words int) bool {
	if v.sample {
		return v.step == words
	}
	if !v.isConst() || l.symbol != "" || v.shape[0] != l.batch {
		return false
	}
	d := l.data(v)
	return !slices.ContainsFunc(d, func(f float64) bool { return f != float64(words*slices.Index(d, f)) })
}
