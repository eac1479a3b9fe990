// Digests of what a stage exchanges with the others: who computes something else than the
// job says is found by them, because it got the right tensors and sent wrong ones.

package stage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/wire"
)

// Sum is the beginning of the SHA-256 of tensors, one after the other, as little-endian
// float32. What was sent counts as it was before the wire's code, what was received as it is
// behind it.
type Sum [8]byte

// Way is what a stage exchanges with the others, in the order in which it does for an update:
// what goes one way has nothing to do with what goes a later one.
type Way int

// The ways. Tied parameters and clipping are summed up from the last stage to the first, and
// the totals go back.
const (
	Activations Way = iota
	Gradients
	TiedSums
	TiedTotals
	NormSums
	NormTotals
	Ways
)

func (w Way) String() string {
	return [...]string{"activations", "gradients", "sums of tied gradients", "tied gradients", "sums of squared gradients", "norms"}[w]
}

// Later tells whether the way leads from later stages to earlier ones.
func (w Way) Later() bool { return w == Gradients || w == TiedSums || w == NormSums }

// Digest is what a stage commits to with an update: what it has exchanged in training since
// the update before.
type Digest struct {
	Step    uint64 // number of the update's last batch
	In, Out [Ways]Sum
}

// plainWays is how many ways there are without tied parameters and clipping.
const plainWays = Gradients + 1

// Text is the digests as hex: for each way of what was received and of what was sent. The
// ways that nothing went are left out.
func (d Digest) Text() string {
	n := Ways
	if empty := emptySum(); !slices.ContainsFunc(append(d.In[plainWays:], d.Out[plainWays:]...), func(s Sum) bool { return s != empty }) {
		n = plainWays
	}
	b := make([]byte, 0, 2*int(n)*len(Sum{}))
	for w := range n {
		b = append(append(b, d.In[w][:]...), d.Out[w][:]...)
	}
	return hex.EncodeToString(b)
}

// ParseDigest reads what Text has written.
func ParseDigest(step uint64, text string) (Digest, error) {
	const one = len(Sum{})
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 2*int(plainWays)*one && len(b) != 2*int(Ways)*one {
		return Digest{}, fmt.Errorf("a digest %.80q", text)
	}
	d := Digest{Step: step}
	for w := range Ways {
		d.In[w], d.Out[w] = emptySum(), emptySum()
		if k := 2 * int(w) * one; k < len(b) {
			copy(d.In[w][:], b[k:])
			copy(d.Out[w][:], b[k+one:])
		}
	}
	return d, nil
}

// emptySum is that of nothing.
func emptySum() (s Sum) {
	h := sha256.Sum256(nil)
	copy(s[:], h[:])
	return s
}

// Committer is an Observer that is told digests. The call is from Run's goroutine.
type Committer interface{ Commit(Digest) }

// tally sums up what is exchanged until the next update. A nil one does nothing.
type tally struct {
	in, out [Ways]hash.Hash
	block   [4096]byte
	sum     [sha256.Size]byte
}

func newTally() *tally {
	t := new(tally)
	for k := range Ways {
		t.in[k], t.out[k] = sha256.New(), sha256.New()
	}
	return t
}

// way is that of a message from one stage to another.
func way(k wire.Kind, from, to int) Way {
	w := Activations
	switch k {
	case wire.Gradient:
		return Gradients
	case wire.Tied:
		w = TiedSums
	case wire.Norm:
		w = NormSums
	default:
		return w
	}
	if from < to {
		w++ // the totals
	}
	return w
}

// exchanged counts a tensor that went from one stage to another, by what this stage is.
func (t *tally) exchanged(k wire.Kind, from, to int, sent bool, x []float32) {
	if t != nil {
		t.add(t.of(way(k, from, to), sent), x)
	}
}

// number counts what is no tensor.
func (t *tally) number(k wire.Kind, from, to int, sent bool, b []byte) {
	if t != nil {
		_, _ = t.of(way(k, from, to), sent).Write(b) // never fails
	}
}

func (t *tally) of(w Way, sent bool) hash.Hash {
	if sent {
		return t.out[w]
	}
	return t.in[w]
}

func (t *tally) add(h hash.Hash, x []float32) {
	for len(x) > 0 {
		n := min(len(x), len(t.block)/4)
		for i, v := range x[:n] {
			binary.LittleEndian.PutUint32(t.block[4*i:], math.Float32bits(v))
		}
		_, _ = h.Write(t.block[:4*n]) // never fails
		x = x[n:]
	}
}

// take returns the sum and begins the next one.
func (t *tally) take(h hash.Hash) (s Sum) {
	copy(s[:], h.Sum(t.sum[:0]))
	h.Reset()
	return s
}

// commit tells the digest of an update.
func (s *Stage) commit(it order.Item, obs Observer) {
	t := s.wires.tally
	if t == nil {
		return
	}
	d := Digest{Step: it.Step}
	for w := range Ways {
		d.In[w], d.Out[w] = t.take(t.in[w]), t.take(t.out[w])
	}
	if c, ok := obs.(Committer); ok {
		c.Commit(d)
	}
}
