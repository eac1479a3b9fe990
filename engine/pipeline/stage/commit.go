// Digests of what a stage exchanges with the others: who computes something else than the
// job says is found by them, because it got the right tensors and sent wrong ones.
//
// Every stage has a key of its own for them, which the host alone knows besides. What a stage says
// of itself it could say of anything: what it did is told by those who got it. A wrong tensor must
// therefore not have the right one's digest under the receiver's key, which its sender does not know.

package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/ravnest/ravnest/engine/wire"
)

// Sum is the beginning of the SHA-256 of tensors, one after the other, each compressed under the
// stage's key as little-endian float32. What was sent counts as it was before the wire's code, what
// was received as it is behind it.
type Sum [8]byte

// Way is what a stage exchanges with the others, in the order in which it does for an update:
// what goes one way has nothing to do with what goes a later one.
type Way int

// The ways. Tied parameters and clipping are summed up from the last stage to the first, and
// the totals go back. Means are those of tied parameters over all clusters, which their first
// holder passes on.
const (
	Activations Way = iota
	Gradients
	TiedSums
	TiedTotals
	NormSums
	NormTotals
	TiedMeans
	Ways
)

func (w Way) String() string {
	return [...]string{"activations", "gradients", "sums of tied gradients", "tied gradients", "sums of squared gradients", "norms", "means of tied parameters"}[w]
}

// Later tells whether the way leads from later stages to earlier ones.
func (w Way) Later() bool { return w == Gradients || w == TiedSums || w == NormSums }

// Digest is what a stage commits to with an update, and with an average over several clusters:
// what it has exchanged in training since the one before.
type Digest struct {
	Step    uint64 // number of the last batch, of the update or of the round
	Round   bool   // of the average that ends a round
	In, Out [Ways]Sum
	Rings   []Sum // what an average exchanged with other clusters, as Compiled.Exchanges lists it
	// Open, unless nil, says that the stage has failed, or was stopped, before it came to the next
	// digest: Step is then the number of batches before what it was at, Round tells whether the digest
	// before was of an average, and In and Out are of the first Open tensors of each of OpenWays.
	Open *Open
}

// Open counts tensors that were received and sent.
type Open struct{ In, Out [OpenWays]int }

// OpenWays are the first ways, of which an open digest tells.
const OpenWays = Gradients + 1

// Exchange is what a stage sends to a stage of another cluster in one step of their rings, or
// receives from it: scales or sums of all segments for which the two are neighbours. Marks,
// which travel with the scales, do not count: they are the host's wish.
type Exchange struct {
	With Peer
	Kind wire.Kind // Scale or Sum
	Step int       // of the ring
	Sent bool
}

// MaxExchanges bounds what a stage exchanges in an average of a job that asks for digests.
const MaxExchanges = 4096

// Exchanges lists what an average exchanges with other clusters, in an order in which nothing
// depends on what comes later.
func (c *Compiled) Exchanges() (xs []Exchange) {
	var next, before []Peer
	steps := 0
	for _, r := range c.ringShares() {
		next, before, steps = append(next, r.next), append(before, r.before), len(r.steps)
	}
	next, before = sorted(next), sorted(before)
	for _, kind := range []wire.Kind{wire.Scale, wire.Sum} {
		for t := range steps {
			for _, p := range next {
				xs = append(xs, Exchange{p, kind, t, true})
			}
			for _, p := range before {
				xs = append(xs, Exchange{p, kind, t, false})
			}
		}
	}
	return xs
}

// plainWays is how many ways there are without tied parameters and clipping.
const plainWays = Gradients + 1

// Text is the digests as hex: for each way of what was received and of what was sent. The last
// ways that nothing went are left out. rings are those of Rings.
func (d Digest) Text() (ways, rings string) {
	n, empty := Ways, emptySum()
	for n > plainWays && d.In[n-1] == empty && d.Out[n-1] == empty {
		n--
	}
	b := make([]byte, 0, 2*int(n)*len(Sum{}))
	for w := range n {
		b = append(append(b, d.In[w][:]...), d.Out[w][:]...)
	}
	var r []byte
	for _, s := range d.Rings {
		r = append(r, s[:]...)
	}
	return hex.EncodeToString(b), hex.EncodeToString(r)
}

// ParseDigest reads what Text has written.
func ParseDigest(step uint64, round bool, ways, rings string) (Digest, error) {
	const one = len(Sum{})
	b, err := hex.DecodeString(ways)
	if n := len(b) / (2 * one); err != nil || len(b)%(2*one) != 0 || n < int(plainWays) || n > int(Ways) {
		return Digest{}, fmt.Errorf("a digest %.80q", ways)
	}
	r, err := hex.DecodeString(rings)
	if err != nil || len(r)%one != 0 || len(r) > MaxExchanges*one {
		return Digest{}, fmt.Errorf("a digest of rings %.80q", rings)
	}
	d := Digest{Step: step, Round: round}
	for ; len(r) > 0; r = r[one:] {
		d.Rings = append(d.Rings, Sum(r))
	}
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
	in, out   [Ways]hash.Hash
	rings     map[ringPart]hash.Hash
	means     map[meanPart]hash.Hash
	late      map[latePart]hash.Hash
	shares    []ringShare
	exchanges []Exchange
	comp      *compressor
	sum       [sha256.Size]byte

	n      Open   // of the next digest so far
	before Digest // its Step and Round would be those of an open digest
	probe  *Digest
	probed func(Digest)
}

// ringPart is what one ring sends or receives in a step; means of one vector of a tied parameter
// are a meanPart. Within each the messages have an order.
type ringPart struct {
	segment int
	kind    wire.Kind
	step    int
	sent    bool
}

type meanPart struct {
	tie, vector int
	sent        bool
}

// latePart is sums or totals of tied parameters of an update that is put off.
type latePart struct {
	seq  uint64
	way  Way
	sent bool
}

func newTally(c *Compiled, key []byte) *tally {
	t := &tally{comp: newCompressor(key), rings: map[ringPart]hash.Hash{}, means: map[meanPart]hash.Hash{}, late: map[latePart]hash.Hash{}, shares: c.ringShares(), exchanges: c.Exchanges()}
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
	if t == nil {
		return
	}
	w := way(k, from, to)
	t.comp.tensor(t.of(w, sent), x)
	switch {
	case w >= OpenWays:
		return
	case sent:
		t.n.Out[w]++
	default:
		t.n.In[w]++
	}
	if !t.asked() {
		return
	}
	p := t.probe
	for w := range OpenWays {
		if t.n.In[w] == p.Open.In[w] {
			copy(p.In[w][:], t.in[w].Sum(t.sum[:0]))
		}
		if t.n.Out[w] == p.Open.Out[w] {
			copy(p.Out[w][:], t.out[w].Sum(t.sum[:0]))
		}
	}
}

// asked tells whether a probe is about the next digest.
func (t *tally) asked() bool {
	p, at := t.probe, t.before
	return p != nil && (at.Step > p.Step || at.Step == p.Step && (at.Round || !p.Round))
}

// answer answers the probe, if it is about the digest that comes now. Of tensors that there are not, the
// sums are of none.
func (t *tally) answer() {
	if !t.asked() {
		return
	}
	p := *t.probe
	for w := range OpenWays {
		if p.Open.In[w] > t.n.In[w] {
			p.In[w] = Sum{}
		}
		if p.Open.Out[w] > t.n.Out[w] {
			p.Out[w] = Sum{}
		}
	}
	t.probe = nil
	t.probed(p)
}

// left is the open digest of what was exchanged since the last one.
func (t *tally) left() Digest {
	n := t.n
	d := Digest{Step: t.before.Step, Round: t.before.Round, Open: &n}
	for w := range Ways {
		d.In[w], d.Out[w] = emptySum(), emptySum()
	}
	for w := range OpenWays {
		d.In[w], d.Out[w] = t.take(t.in[w]), t.take(t.out[w])
	}
	return d
}

// tied counts a piece of a tied parameter's gradient in the update of item seq. Of one that is put off,
// it counts with its digest, whatever else is told meanwhile.
func (t *tally) tied(seq uint64, from, to int, sent bool, x []float32, late bool) {
	if t != nil {
		w := way(wire.Tied, from, to)
		h := t.of(w, sent)
		if late {
			h = part(t.late, latePart{seq, w, sent})
		}
		t.comp.tensor(h, x)
	}
}

// settle puts what tied counted of an update that was put off into its digest.
func (t *tally) settle(seq uint64) {
	if t == nil {
		return
	}
	for _, w := range []Way{TiedSums, TiedTotals} {
		for _, sent := range []bool{false, true} {
			joined(t, t.of(w, sent), t.late, latePart{seq, w, sent})
		}
	}
}

// number counts what is no tensor.
func (t *tally) number(k wire.Kind, from, to int, sent bool, b []byte) {
	if t != nil {
		t.comp.write(t.of(way(k, from, to), sent), b)
	}
}

// ring counts a message of a ring, without the bytes [skip, skip+4) of it.
func (t *tally) ring(k ringPart, skip int, b []byte) {
	if t == nil {
		return
	}
	h := part(t.rings, k)
	if skip >= 0 && skip < len(b) {
		t.comp.write(h, b[:skip])
		b = b[skip+4:]
	}
	t.comp.write(h, b)
}

// mean counts means of a tied parameter.
func (t *tally) mean(k meanPart, b []byte) {
	if t != nil {
		t.comp.write(part(t.means, k), b)
	}
}

// part is the hash of a part.
func part[K comparable](m map[K]hash.Hash, k K) hash.Hash {
	h := m[k]
	if h == nil {
		h = sha256.New()
		m[k] = h
	}
	return h
}

func (t *tally) of(w Way, sent bool) hash.Hash {
	if sent {
		return t.out[w]
	}
	return t.in[w]
}

// take returns the sum and begins the next one.
func (t *tally) take(h hash.Hash) (s Sum) {
	copy(s[:], h.Sum(t.sum[:0]))
	h.Reset()
	return s
}

// joined moves the sum of a part, if there is one, into another hash.
func joined[K comparable](t *tally, h hash.Hash, m map[K]hash.Hash, k K) {
	if p := m[k]; p != nil {
		_, _ = h.Write(p.Sum(t.sum[:0])) // never fails
		delete(m, k)
	}
}

// average closes the sums of what only averages exchange.
func (t *tally) average(c *Compiled) (rings []Sum) {
	for _, sent := range []bool{false, true} {
		for _, tie := range c.ties {
			for v := range vectorsOf(c.Job) {
				joined(t, t.of(TiedMeans, sent), t.means, meanPart{tie.Number, v, sent})
			}
		}
	}
	h := sha256.New()
	for _, x := range t.exchanges {
		for _, r := range t.shares {
			if x.Sent && r.next == x.With || !x.Sent && r.before == x.With {
				joined(t, h, t.rings, ringPart{r.number, x.Kind, x.Step, x.Sent})
			}
		}
		rings = append(rings, t.take(h))
	}
	return rings
}

// commit tells the digest of an update, or of the average at a round's end.
func (s *Stage) commit(step uint64, round bool, obs Observer) {
	t := s.wires.tally
	if t == nil {
		return
	}
	t.answer()
	t.n, t.before = Open{}, Digest{Step: step + 1, Round: round}
	d := Digest{Step: step, Round: round}
	if round {
		d.Rings = t.average(s.c)
	}
	for w := range Ways {
		d.In[w], d.Out[w] = t.take(t.in[w]), t.take(t.out[w])
	}
	s.say(d, obs)
}

func (s *Stage) say(d Digest, obs Observer) {
	if s.cfg.Hooks.Said != nil {
		s.cfg.Hooks.Said(&d)
	}
	if c, ok := obs.(Committer); ok {
		c.Commit(d)
	}
}
