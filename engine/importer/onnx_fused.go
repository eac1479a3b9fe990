// Operators that onnxruntime's optimiser makes of several, and ONNX's attention.

package importer

import (
	"strings"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// onnxBias is x plus a bias that may be missing.
func (l *lowering) onnxBias(x, b *value) *value {
	if b == nil {
		return x
	}
	return l.binary("add", x, b)
}

// fusedONNX defines the operators of this file.
func fusedONNX() {
	microsoft := func(op string, f func(l *lowering, n *onnx.Node)) { onnxOperators["com.microsoft."+op] = f }
	gelu := func(tanh string) func(l *lowering, n *onnx.Node) {
		return func(l *lowering, n *onnx.Node) {
			x := l.value(l.onnxBias(l.need(n, 0), l.in(n, 1)))
			y, s := l.emit(&graph.GELU{Approximate: tanh}, nil, x.name)
			l.set(n, l.result(y, s, x.shape, x.batch, x.outer))
		}
	}
	microsoft("Gelu", gelu("none"))
	microsoft("BiasGelu", gelu("none"))
	microsoft("FastGelu", gelu("tanh"))
	microsoft("SkipLayerNormalization", func(l *lowering, n *onnx.Node) { onnxSkipNorm(l, n, l.in(n, 3), l.in(n, 4)) })
	microsoft("SkipSimplifiedLayerNormalization", func(l *lowering, n *onnx.Node) { onnxSkipNorm(l, n, nil, l.in(n, 3)) })
	onnxOperators["SimplifiedLayerNormalization"] = onnxRMSNorm
	microsoft("FusedMatMul", onnxFusedMatMul)
	microsoft("Attention", onnxPackedAttention)
	microsoft("MultiHeadAttention", onnxHeadedAttention)
	onnxOperators["Attention"] = onnxAttention
}

// onnxSkipNorm is the normalisation of a sum, which is the last output.
func onnxSkipNorm(l *lowering, n *onnx.Node, beta, bias *value) {
	x := l.value(l.onnxBias(l.binary("add", l.need(n, 0), l.need(n, 1)), bias))
	for _, k := range []int{1, 2} {
		if k < len(n.Outputs) && n.Outputs[k] != "" {
			fail("with the statistics as outputs")
		}
	}
	if len(n.Outputs) > 3 && n.Outputs[3] != "" {
		l.defineAs(n.Outputs[3], x)
	}
	eps := attrFloat(n, "epsilon", 1e-12)
	if strings.HasPrefix(n.Op, "SkipSimplified") {
		l.vals[n.Outputs[0]+" sum"] = x
		l.call("rms_norm", namedArg("input", n.Outputs[0]+" sum"), tensorArg("weight", n, 2), intsArg("normalized_shape", x.shape[len(x.shape)-1:]), floatArg("eps", eps))
		return
	}
	l.set(n, l.layerNorm(x, l.in(n, 2), beta, 1, eps))
}

// onnxFusedMatMul is a product of turned matrices with a factor.
func onnxFusedMatMul(l *lowering, n *onnx.Node) {
	a, b := l.need(n, 0), l.need(n, 1)
	if attrInt(n, "transBatchA", 0) != 0 || attrInt(n, "transBatchB", 0) != 0 {
		fail("with turned axes of the batch")
	}
	turn := func(v *value) *value {
		r := len(v.shape)
		axes := make([]int, r)
		for i := range axes {
			axes[i] = i
		}
		axes[r-1], axes[r-2] = r-2, r-1
		return l.permuted(v, axes)
	}
	if attrInt(n, "transA", 0) != 0 {
		a = turn(a)
	}
	if attrInt(n, "transB", 0) != 0 {
		b = turn(b)
	}
	l.vals[n.Outputs[0]+" a"], l.vals[n.Outputs[0]+" b"] = a, b
	l.call("matmul", namedArg("self", n.Outputs[0]+" a"), namedArg("other", n.Outputs[0]+" b"))
	if alpha := attrFloat(n, "alpha", 1); alpha != 1 {
		l.set(n, l.unary("affine", l.value(l.vals[n.Outputs[0]]), alpha, 0))
	}
}

// inHeads is [N, T, heads·d] as [N, heads, T, d].
func (l *lowering) inHeads(v *value, heads int) *value {
	if len(v.shape) != 3 || v.batch != 0 || !v.alone() || heads < 1 || v.shape[2]%heads != 0 {
		fail("%d heads of %v", heads, v.shape)
	}
	v = l.viewAs(v, []number{{n: 1, batched: true}, {n: v.shape[1]}, {n: heads}, {n: v.shape[2] / heads}})
	return l.permuted(v, []int{0, 2, 1, 3})
}

// attend is the node's attention of queries, keys and values [N, heads, T, d], as [N, T, heads·d]
// where join is set. scale is 1/sqrt(d) where it is 0. The keys may be of fewer heads.
func (l *lowering) attend(n *onnx.Node, q, k, v, mask *value, causal bool, scale float64, join bool) {
	name := func(what string) string { return n.Outputs[0] + " " + what }
	l.vals[name("q")], l.vals[name("k")], l.vals[name("v")] = q, k, v
	args := []pt2.Named{namedArg("query", name("q")), namedArg("key", name("k")), namedArg("value", name("v")), flagArg("is_causal", causal), flagArg("enable_gqa", true)}
	if mask != nil {
		l.vals[name("mask")] = mask
		args = append(args, namedArg("attn_mask", name("mask")))
	}
	if scale != 0 {
		args = append(args, floatArg("scale", scale))
	}
	l.call("scaled_dot_product_attention", args...)
	if !join {
		return
	}
	y := l.permuted(l.vals[n.Outputs[0]], []int{0, 2, 1, 3})
	l.set(n, l.viewAs(y, []number{{n: 1, batched: true}, {n: y.shape[1]}, {n: y.shape[2] * y.shape[3]}}))
}

func flagArg(name string, v bool) pt2.Named {
	a := intArg(name, 0)
	if a.Arg.Kind = pt2.Bool; v {
		a.Arg.Ints[0].N = 1
	}
	return a
}

// keyMask is [N, S], 1 where a key may be seen, as a mask that is added to scores.
func (l *lowering) keyMask(m *value) *value {
	if m == nil {
		return nil
	}
	if len(m.shape) != 2 || m.batch != 0 || !m.alone() {
		fail("with a mask of %v; one of the batch and the keys is supported", m.shape)
	}
	m = l.viewAs(m, []number{{n: 1, batched: true}, {n: 1}, {n: 1}, {n: m.shape[1]}})
	seen := *l.unary("gt", l.value(m), 0, 0)
	return l.additive(&seen)
}

// onlyFirst refuses outputs beside the first, and inputs from the given one on.
func (l *lowering) onlyFirst(n *onnx.Node, from int) {
	for i := 1; i < len(n.Outputs); i++ {
		if n.Outputs[i] != "" {
			fail("with keys and values as outputs; export without a cache")
		}
	}
	for i := from; i < len(n.Inputs); i++ {
		if n.Inputs[i] != "" {
			fail("with keys and values of the past; export without a cache")
		}
	}
}

// either is a sum where both are there, else the one that is.
func (l *lowering) either(a, b *value) *value {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return l.binary("add", a, b)
}

// onnxPackedAttention is com.microsoft.Attention: a layer makes queries, keys and values.
func onnxPackedAttention(l *lowering, n *onnx.Node) {
	heads := attrInt(n, "num_heads", 0)
	if l.in(n, 4) != nil {
		fail("with keys and values of the past; export without a cache")
	}
	if attrInt(n, "do_rotary", 0) != 0 || n.Attr("qkv_hidden_sizes") != nil {
		fail("with rotary positions or sizes of its own")
	}
	l.onlyFirst(n, 6)
	x := l.linear(l.need(n, 0), l.need(n, 1), l.in(n, 2), true)
	if len(x.shape) != 3 || x.shape[2]%3 != 0 {
		fail("of %v", x.shape)
	}
	c := x.shape[2] / 3
	var qkv [3]*value
	for i := range qkv {
		qkv[i] = l.inHeads(l.cut(x, 2, i*c, c, 1), heads)
	}
	mask := l.either(l.keyMask(l.in(n, 3)), l.in(n, 5))
	l.attend(n, qkv[0], qkv[1], qkv[2], mask, attrInt(n, "unidirectional", 0) != 0, attrFloat(n, "scale", 0), true)
}

// onnxHeadedAttention is com.microsoft.MultiHeadAttention.
func onnxHeadedAttention(l *lowering, n *onnx.Node) {
	l.onlyFirst(n, 6)
	heads := attrInt(n, "num_heads", 0)
	var qkv [3]*value
	b, from := l.in(n, 3), 0
	for i := range qkv {
		x := l.need(n, i)
		if b != nil {
			if c := x.shape[len(x.shape)-1]; len(b.shape) == 1 && from+c <= b.shape[0] {
				x = l.binary("add", x, l.cut(b, 0, from, c, 1))
				from += c
			} else {
				fail("its bias is %v", b.shape)
			}
		}
		qkv[i] = l.inHeads(x, heads)
	}
	mask := l.either(l.keyMask(l.in(n, 4)), l.in(n, 5))
	l.attend(n, qkv[0], qkv[1], qkv[2], mask, attrInt(n, "unidirectional", 0) != 0, attrFloat(n, "scale", 0), true)
}

// onnxAttention is ONNX's own, from version 23 of its operators on.
func onnxAttention(l *lowering, n *onnx.Node) {
	l.onlyFirst(n, 4)
	if attrFloat(n, "softcap", 0) != 0 || attrInt(n, "qk_matmul_output_mode", 0) != 0 {
		fail("with bounded scores")
	}
	q, k, v := l.need(n, 0), l.need(n, 1), l.need(n, 2)
	flat := len(q.shape) == 3
	if flat {
		h := attrInt(n, "kv_num_heads", 0)
		q, k, v = l.inHeads(q, attrInt(n, "q_num_heads", 0)), l.inHeads(k, h), l.inHeads(v, h)
	}
	l.attend(n, q, k, v, l.in(n, 3), attrInt(n, "is_causal", 0) != 0, attrFloat(n, "scale", 0), flat)
}
