// Multi-head self-attention (Vaswani et al., arXiv 1706.03762) that holds the scores of one
// block of queries at a time. The backward pass recomputes the probabilities instead of
// keeping them, as FlashAttention does (Dao et al., arXiv 2205.14135); but the softmax of a
// row is computed at once, so that it has one order of operations.
//
// The specification, per sample and head, with queries in blocks of attnBlock and K the
// keys that a block sees (all, or those up to the block's last query):
//
//	s   = q·k * scale            dot products over the head's channels, then one product
//	s   = -MaxFloat32            where a mask forbids the key
//	p   = softmax(s)             over the row's keys; 0 for keys of K after the query
//	p'  = dropout(p)
//	y   = sum over K of p' v
//	dv += p'ᵀ dy, dk += dsᵀ q    over queries ascending, blocks continuing each other
//	ds  = p (dp - dp·p) * scale with dp = dropout(dy·v)
//	dq  = sum over K of ds k

package kernel

import "math"

// attnBlock is the queries of a block; it is part of the specification.
const attnBlock = 64

// Attention is the geometry: qkv [N,T,3C] holds query, key and value one after another, each
// with its Heads heads of C/Heads channels one after another; y [N,T,C].
type Attention struct {
	N, T, C, Heads int
	Causal         bool    // a query sees the keys up to itself
	P              float64 // dropout of the probabilities; 0 in evaluation
	// BF16 rounds the probabilities and the gradients of the scores where they are operands
	// of products. The caller rounds qkv and dy (RoundBF16).
	BF16 bool
	// Drop and Row0 address the masks of dropout: sample n is row Row0+n of its batch.
	Drop Stream
	Row0 int

	task attentionTask
}

// AttentionScratch is the floats of scratch that both directions need.
func AttentionScratch(a *Attention) int {
	d, b := a.C/a.Heads, min(attnBlock, a.T)
	return 3*b*a.T + max(GemmScratch(b, a.T, d), GemmScratch(b, d, a.T), GemmScratch(a.T, d, b))
}

// AttentionForward computes y. mask [N,T] is 0 where a key may not be seen; nil: all may.
func AttentionForward(t *Team, a *Attention, y, qkv, mask, scratch []float32) {
	a.start(t, attentionTask{y: y[:a.N*a.T*a.C], qkv: qkv, mask: mask, scratch: scratch})
}

// AttentionBackward computes dqkv, the gradient of qkv, from dy [N,T,C].
func AttentionBackward(t *Team, a *Attention, dqkv, dy, qkv, mask, scratch []float32) {
	a.start(t, attentionTask{y: dy[:a.N*a.T*a.C], qkv: qkv, dqkv: dqkv[:3*a.N*a.T*a.C], mask: mask, scratch: scratch})
}

// attentionTask is one direction; a tile is a head of a sample.
type attentionTask struct {
	a                  *Attention
	team               *Team
	y, qkv, dqkv, mask []float32 // y is dy where there is dqkv
	scratch            []float32
}

func (a *Attention) start(t *Team, k attentionTask) {
	k.a, k.team, k.qkv = a, t, k.qkv[:3*a.N*a.T*a.C]
	if k.mask != nil {
		k.mask = k.mask[:a.N*a.T]
	}
	k.scratch = k.scratch[:AttentionScratch(a)]
	a.task = k
	if a.N*a.T*a.T*a.C < smallWork {
		t = nil
	}
	t.Run(a.N*a.Heads, &a.task)
	a.task = attentionTask{} // nothing of the caller's is kept
}

// Tile implements [Task].
func (k *attentionTask) Tile(worker, i int) {
	a := k.a
	h := attentionHead{Attention: a, n: i / a.Heads, head: i % a.Heads, d: a.C / a.Heads, ld: 3 * a.C}
	h.scale = 1 / Sqrt(float32(h.d))
	base := h.n*a.T*3*a.C + h.head*h.d
	h.q, h.k, h.v = k.qkv[base:], k.qkv[base+a.C:], k.qkv[base+2*a.C:]
	h.y = k.y[h.n*a.T*a.C+h.head*h.d:]
	if k.mask != nil {
		h.mask = k.mask[h.n*a.T:][:a.T]
	}
	s := k.team.scratch(worker, len(k.scratch), k.scratch)
	size := min(attnBlock, a.T) * a.T
	h.p, h.dropped, h.dp, h.gemm = s[:size], s[size:2*size], s[2*size:3*size], s[3*size:]
	if k.dqkv == nil {
		h.forward()
		return
	}
	h.dq, h.dk, h.dv = k.dqkv[base:], k.dqkv[base+a.C:], k.dqkv[base+2*a.C:]
	h.backward()
}

// attentionHead is one head of one sample. Rows of q, k, v and their gradients are ld
// floats apart, those of y C, those of the blocks of scores T.
type attentionHead struct {
	*Attention
	n, head, d, ld int
	scale          float32
	q, k, v, y     []float32
	dq, dk, dv     []float32
	mask           []float32 // [T]
	p, dropped, dp []float32 // [attnBlock,T]
	gemm           []float32
}

// block returns how many queries the block at i0 has and how many keys it sees.
func (h *attentionHead) block(i0 int) (queries, keys int) {
	queries = min(attnBlock, h.T-i0)
	if h.Causal {
		return queries, i0 + queries
	}
	return queries, h.T
}

// seen is the number of keys that query i sees.
func (h *attentionHead) seen(i int) int {
	if h.Causal {
		return i + 1
	}
	return h.T
}

func (h *attentionHead) forward() {
	for i0 := 0; i0 < h.T; i0 += attnBlock {
		m, keys := h.block(i0)
		h.probabilities(i0, m, keys)
		p := h.p
		if h.P > 0 {
			p = h.dropped
			h.dropout(p, h.p, i0, m, keys)
		}
		if h.BF16 {
			h.round(p, p, m, keys)
		}
		(&GemmArgs{M: m, N: h.d, K: keys, A: p, RS: h.T, KS: 1, B: h.v, BK: h.ld, BJ: 1, C: h.y[i0*h.C:], LDC: h.C, BF16: h.BF16}).block(tile, h.gemm)
	}
}

// probabilities fills p with the softmax of the block at i0.
func (h *attentionHead) probabilities(i0, m, keys int) {
	(&GemmArgs{M: m, N: keys, K: h.d, A: h.q[i0*h.ld:], RS: h.ld, KS: 1, B: h.k, BK: 1, BJ: h.ld, C: h.p, LDC: h.T, BF16: h.BF16}).block(tile, h.gemm)
	scale := h.scale
	if h.mask != nil {
		for i := range m {
			n := h.seen(i0 + i)
			s := h.p[i*h.T:][:n]
			maskScale(s, s, h.mask[:n], scale)
		}
		scale = 1
	}
	if h.short(i0, m, keys, scale) {
		return
	}
	for i := range m {
		n := h.seen(i0 + i)
		s := h.p[i*h.T:][:keys]
		softmaxScaled(s[:n], s[:n], scale)
		clear(s[n:])
	}
}

// short takes the softmax of all rows of p at once if there is a loop for rows as short: it then does
// not wait for one row's maximum and sum before it begins the next.
func (h *attentionHead) short(i0, m, keys int, scale float32) bool {
	if keys > 16 {
		return false
	}
	if negInf := float32(math.Inf(-1)); h.Causal {
		// What is not seen has no part in maximum and sum, and becomes zero.
		for i := range m {
			for j, s := h.seen(i0+i), h.p[i*h.T:][:keys]; j < len(s); j++ {
				s[j] = negInf
			}
		}
	}
	if !vec(vecSoftmaxRow, &vecArgs{rows: m, stride: h.T, n: keys, p: ptrs(h.p, h.p, nil, nil), k: [10]float32{scale}}) {
		return false
	}
	for i := range m {
		if s := h.p[i*h.T:][:keys]; s[0] != s[0] { // the whole row is NaN
			clear(s[h.seen(i0+i):])
		}
	}
	return true
}

// shortGrad is short of the gradient of the scores.
func (h *attentionHead) shortGrad(i0, m, keys int) bool {
	if keys > 16 {
		return false
	}
	h.clearUnseen(h.dp, i0, m, keys) // which may be no numbers
	if !vec(vecSoftmaxGradRow, &vecArgs{rows: m, stride: h.T, n: keys, p: ptrs(h.dp, h.dp, h.p, nil), k: [10]float32{h.scale}}) {
		return false
	}
	h.clearUnseen(h.dp, i0, m, keys) // -0, or NaN where the sum is no number
	return true
}

// clearUnseen clears what the rows of a block do not see.
func (h *attentionHead) clearUnseen(x []float32, i0, m, keys int) {
	if !h.Causal {
		return
	}
	for i := range m {
		for j, s := h.seen(i0+i), x[i*h.T:][:keys]; j < len(s); j++ {
			s[j] = 0
		}
	}
}

// dropout applies the mask of the block at i0 to x: an element's number is that of its
// place in [rows of the batch, Heads, T, T].
func (h *attentionHead) dropout(y, x []float32, i0, m, keys int) {
	row := (uint64(h.Row0+h.n)*uint64(h.Heads)+uint64(h.head))*uint64(h.T) + uint64(i0)
	if keys == h.T {
		// Rows are contiguous. Keys that a query does not see are zero, or will be cleared.
		h.drop(y, x[:m*h.T], row*uint64(h.T))
		return
	}
	for i := range m {
		seen := h.seen(i0 + i)
		clear(y[i*h.T+seen : i*h.T+keys])
		h.drop(y[i*h.T:], x[i*h.T:][:seen], (row+uint64(i))*uint64(h.T))
	}
}

// drop applies the mask of elements from `first` on.
func (h *attentionHead) drop(y, x []float32, first uint64) {
	var bits [32]uint32
	scale := float32(1 / (1 - h.P))
	for len(x) > 0 {
		n := min(32*len(bits), len(x))
		DropoutMask(bits[:], h.Drop, first, n, h.P)
		Dropout(y[:n], x[:n], bits[:], scale)
		x, y, first = x[n:], y[n:], first+uint64(n)
	}
}

// round makes operands of m rows of keys.
func (h *attentionHead) round(y, x []float32, m, keys int) {
	if keys == h.T {
		roundBF16(y[:m*keys], x[:m*keys])
		return
	}
	for i := range m {
		roundBF16(y[i*h.T:][:keys], x[i*h.T:][:keys])
	}
}

func (h *attentionHead) backward() {
	for j := range h.T {
		clear(h.dk[j*h.ld:][:h.d])
		clear(h.dv[j*h.ld:][:h.d])
	}
	for i0 := 0; i0 < h.T; i0 += attnBlock {
		m, keys := h.block(i0)
		q, dy := h.q[i0*h.ld:], h.y[i0*h.C:]
		h.probabilities(i0, m, keys)
		dropped := h.p
		if h.P > 0 {
			dropped = h.dropped
			h.dropout(dropped, h.p, i0, m, keys)
		}
		if h.BF16 {
			h.round(h.dropped, dropped, m, keys)
			dropped = h.dropped
		}
		(&GemmArgs{M: keys, N: h.d, K: m, A: dropped, RS: 1, KS: h.T, B: dy, BK: h.C, BJ: 1, C: h.dv, LDC: h.ld, Acc: true, BF16: h.BF16}).block(tile, h.gemm)
		(&GemmArgs{M: m, N: keys, K: h.d, A: dy, RS: h.C, KS: 1, B: h.v, BK: 1, BJ: h.ld, C: h.dp, LDC: h.T, BF16: h.BF16}).block(tile, h.gemm)
		if h.P > 0 {
			h.dropout(h.dp, h.dp, i0, m, keys)
		}
		if !h.shortGrad(i0, m, keys) {
			for i := range m {
				n := h.seen(i0 + i)
				ds := h.dp[i*h.T:][:keys]
				softmaxGradScaled(ds[:n], ds[:n], h.p[i*h.T:][:n], h.scale)
				clear(ds[n:])
			}
		}
		if h.BF16 {
			h.round(h.dp, h.dp, m, keys)
		}
		(&GemmArgs{M: m, N: h.d, K: keys, A: h.dp, RS: h.T, KS: 1, B: h.k, BK: h.ld, BJ: 1, C: h.dq[i0*h.ld:], LDC: h.ld, BF16: h.BF16}).block(tile, h.gemm)
		(&GemmArgs{M: keys, N: h.d, K: m, A: h.dp, RS: 1, KS: h.T, B: q, BK: h.ld, BJ: 1, C: h.dk, LDC: h.ld, Acc: true, BF16: h.BF16}).block(tile, h.gemm)
	}
}
