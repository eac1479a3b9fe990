// Averages with other clusters. Every segment has a ring of one stage from each cluster, in
// the clusters' order, and a stage takes part in the rings of all its segments at once: those
// are the parallel rings. Each ring first agrees on scales by a maximum and then adds up
// integers, group by group, several of them under way at once.
//
// There is no deadlock: a member handles whatever it receives at once, whichever ring and group
// it belongs to, and its queues hold everything that can be due. So every member answers every
// message, in whatever order they arrive.

package stage

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// Averages is what averaging with other clusters has come to so far.
type Averages struct {
	Rounds         int           // averaged
	Waited         time.Duration // for other clusters, by Config.Now
	Sent, Received int64         // bytes of messages over rings
}

// rings is a stage's end of its rings.
type rings struct {
	c      *Compiled
	n      int // clusters
	links  map[Peer]Link
	shares []*ring
	busy   *meter
	now    func() time.Duration
	wires  *wiring // to stages of the own cluster
	hooks  Hooks

	mark   order.Mark   // on a root: what it asks for, and then what is agreed
	losses []float32    // on a leaf: those of the own replicas, and then of all; -Inf: none
	fill   int          // on a root: units that fill the pipeline
	took   int64        // and what the last round took; 0: not known
	pulls  []order.Pull // what all roots have told
	sets   []order.Set  // the clusters' replicas

	mu   sync.Mutex
	done Averages
	free [][]byte // buffers of messages
}

// ring is what one ring is about to do.
type ring struct {
	ringShare
	agreed   []float32 // scales and what is told with them
	step     int       // of the agreement; all: it is over
	started  int       // groups
	finished int
	under    []underway // groups, by number modulo their count
}

type underway struct {
	sum  []int64
	step int
}

func newRings(c *Compiled, wires *wiring, busy *meter, now func() time.Duration, hooks Hooks) *rings {
	if !c.Placement.several() {
		return nil
	}
	x := &rings{c: c, n: len(c.Placement.Clusters), sets: c.Placement.sets(), busy: busy, now: now, wires: wires, hooks: hooks}
	for _, s := range c.ringShares() {
		r := &ring{ringShare: s, agreed: make([]float32, s.elems)}
		for range buffers(s.share, true) {
			r.under = append(r.under, underway{sum: make([]int64, s.largest)})
		}
		x.shares = append(x.shares, r)
		if s.last {
			x.losses = make([]float32, c.perLoss())
		}
	}
	return x
}

// stats are the totals so far; any goroutine may ask.
func (x *rings) stats() Averages {
	if x == nil {
		return Averages{}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.done
}

// outgoing is a message that waits to be sent.
type outgoing struct {
	h wire.Header
	b []byte
}

// incoming is a message that has come.
type incoming struct {
	from Peer
	transport.Message
}

// exchange is one average.
type exchange struct {
	*rings
	r      *Replicas
	w      *round
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    map[Peer]chan outgoing
	in     chan incoming
	left   int // rings that are not through, and stages that have more to pass on

	relay relay
}

// average makes the replicas of all clusters one.
func (x *rings) average(ctx context.Context, r *Replicas, w *round) error {
	m := &exchange{rings: x, r: r, w: w, out: map[Peer]chan outgoing{}, in: make(chan incoming), left: len(x.shares)}
	m.ctx, m.cancel = context.WithCancelCause(ctx)
	defer m.cancel(nil)
	var wg sync.WaitGroup
	m.start(&wg)
	m.startRelay(&wg)
	err := m.run()
	if err != nil {
		m.cancel(err)
	}
	for _, out := range m.out {
		close(out)
	}
	m.closeRelay()
	wg.Wait() // what is queued goes out
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	x.mu.Lock()
	x.done.Rounds++
	x.mu.Unlock()
	return nil
}

// start begins to take and to send messages: as many as this average has.
func (m *exchange) start(wg *sync.WaitGroup) {
	due, room := map[Peer]int{}, map[Peer]int{}
	for _, r := range m.shares {
		r.step, r.started, r.finished = 0, 0, 0
		n := len(r.steps) * (1 + len(r.groups))
		due[r.before] += n
		room[r.next] += n
	}
	for p, n := range due {
		wg.Go(func() { m.receive(p, n) })
	}
	for p, n := range room {
		out := make(chan outgoing, n)
		m.out[p] = out
		wg.Go(func() { m.send(p, out) })
	}
}

// receive hands on the next n messages of a neighbour.
func (m *exchange) receive(p Peer, n int) {
	for range n {
		msg, err := m.links[p].Recv(m.ctx)
		if err != nil {
			m.cancel(fmt.Errorf("waiting for %s: %w", p, err))
			return
		}
		select {
		case m.in <- incoming{p, msg}:
		case <-m.ctx.Done():
			msg.Release()
			return
		}
	}
}

// send sends what is put into out, until it is closed.
func (m *exchange) send(p Peer, out chan outgoing) {
	for o := range out {
		err := m.links[p].Send(m.ctx, o.h, o.b)
		m.mu.Lock()
		m.free = append(m.free, o.b)
		m.done.Sent += int64(wire.MessageHeader + len(o.b))
		m.mu.Unlock()
		if err != nil {
			m.cancel(fmt.Errorf("sending to %s: %w", p, err))
			return
		}
	}
}

// buffer is an empty one for n bytes.
func (m *exchange) buffer(n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := len(m.free) - 1; k >= 0 {
		b := m.free[k]
		if m.free = m.free[:k]; cap(b) >= n {
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

// run does the work of all rings. It never waits for a message of its choice: it takes what
// comes, and begins groups while nothing does.
func (m *exchange) run() error {
	for _, r := range m.shares {
		if err := m.begin(r); err != nil {
			return err
		}
	}
	for m.left > 0 {
		select {
		case in := <-m.in:
			if err := m.take(in); err != nil {
				return err
			}
			continue
		case in := <-m.means():
			if err := m.takeMean(in); err != nil {
				return err
			}
			continue
		case <-m.ctx.Done():
			return context.Cause(m.ctx)
		default:
		}
		if i := slices.IndexFunc(m.shares, (*ring).may); i >= 0 && !m.congested() {
			if err := m.group(m.shares[i]); err != nil {
				return err
			}
			continue
		}
		if err := m.wait(); err != nil {
			return err
		}
	}
	return nil
}

// wait takes the next message.
func (m *exchange) wait() error {
	if m.now != nil {
		began := m.now()
		defer func() {
			m.mu.Lock()
			m.done.Waited += m.now() - began
			m.mu.Unlock()
		}()
	}
	select {
	case in := <-m.in:
		return m.take(in)
	case in := <-m.means():
		return m.takeMean(in)
	case <-m.relay.wake: // a later stage may have caught up
		return nil
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// begin computes the scales of a ring's segment and sends the first of them.
func (m *exchange) begin(r *ring) error {
	done := m.busy.working()
	clear(r.agreed[:r.scales])
	for i := range r.groups {
		if err := m.r.scale(&r.groups[i], m.w, r.agreed[:r.scales]); err != nil {
			done()
			return err
		}
	}
	m.announce(r)
	done()
	m.sendScales(r)
	return nil
}

// may tells whether a group can begin.
func (r *ring) may() bool {
	return r.step == len(r.steps) && r.started < len(r.groups) && r.started < r.finished+len(r.under)
}

// group begins the next group.
func (m *exchange) group(r *ring) error {
	done := m.busy.working()
	g := &r.groups[r.started]
	u := &r.under[r.started%len(r.under)]
	u.step = 0
	err := m.r.sum(g, m.w, r.agreed[:r.scales], u.sum[:g.n])
	done()
	if err != nil {
		return err
	}
	r.started++
	m.sendSums(r, r.started-1)
	return nil
}

// queue puts a message into the queue of a neighbour, which has room for it.
func (m *exchange) queue(r *ring, kind wire.Kind, group, step, elems int, b []byte) {
	m.out[r.next] <- outgoing{wire.Header{
		Kind: kind, Edge: uint16(r.number), Rows: uint32(group<<8 | step), Seq: m.w.number, Elems: uint32(elems),
	}, b}
}

// sendScales sends what is due in a ring's agreement.
func (m *exchange) sendScales(r *ring) {
	from, to := average.Chunk(r.elems, m.n, r.steps[r.step].Send)
	b := m.buffer(4 * (to - from))
	for _, v := range r.agreed[from:to] {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	m.wires.tally.ring(ringPart{r.number, wire.Scale, r.step, true}, r.markAt(from), b)
	m.queue(r, wire.Scale, 0, r.step, to-from, b)
}

// markAt is where the mark stands among the scales from an element on, in bytes; -1: nowhere.
func (r *ringShare) markAt(from int) int {
	if !r.first || r.mark < from {
		return -1
	}
	return 4 * (r.mark - from)
}

// sendSums sends what is due of a group.
func (m *exchange) sendSums(r *ring, g int) {
	defer m.busy.working()()
	u, n := &r.under[g%len(r.under)], r.groups[g].n
	from, to := average.Chunk(n, m.n, r.steps[u.step].Send)
	rule, total := m.weight(r, g, m.c.Placement.Cluster, u.step)
	if m.hooks.Summed != nil {
		m.hooks.Summed(m.w.number, u.step, u.sum[from:to])
	}
	b := rule.Pack(m.buffer(rule.PackedLen(to-from, total)), u.sum[from:to], total)
	m.wires.tally.ring(ringPart{r.number, wire.Sum, u.step, true}, -1, b)
	m.queue(r, wire.Sum, g, u.step, to-from, b)
}

// weight is the rule of a group, and the weights that the sum of a chunk has that a cluster
// sends in a step.
func (m *exchange) weight(r *ring, g, cluster, step int) (average.Rule, int64) {
	rule, weights, _ := m.r.arithmetic(m.r.vectors[r.groups[g].vector], m.w)
	var total int64
	for _, c := range average.Terms(m.n, cluster, step) {
		for k, w := range weights {
			if m.sets[c].Has(k) {
				total += w
			}
		}
	}
	return rule, total
}

// take takes in a message.
func (m *exchange) take(in incoming) error {
	defer in.Release()
	m.mu.Lock()
	m.done.Received += int64(wire.MessageHeader + len(in.Payload))
	m.mu.Unlock()
	return m.handle(in.from, in.Header, in.Payload)
}

// handle does what a message from a neighbour asks for. Whatever it holds, a ring takes it as
// its next step or refuses it.
func (m *exchange) handle(from Peer, h wire.Header, payload []byte) error {
	i := slices.IndexFunc(m.shares, func(r *ring) bool { return r.number == int(h.Edge) && r.before == from })
	if i < 0 || h.Seq != m.w.number {
		return sentBy(from, fmt.Errorf("%w: %s sent a %s of segment %d in round %d, this is round %d", ErrProtocol, from, h.Kind, h.Edge, h.Seq, m.w.number))
	}
	r, g, step := m.shares[i], int(h.Rows>>8), int(h.Rows&0xff)
	var err error
	switch {
	case h.Kind == wire.Scale && g == 0:
		err = m.takeScales(r, h, payload, step)
	case h.Kind == wire.Sum:
		if g == r.started && r.may() {
			if err := m.group(r); err != nil {
				return err
			}
		}
		err = m.takeSums(r, h, payload, g, step)
	default:
		err = fmt.Errorf("%w: a %s of group %d", ErrProtocol, h.Kind, g)
	}
	if err != nil {
		return sentBy(from, fmt.Errorf("from %s: segment %d, step %d: %w", from, r.number, step, err))
	}
	return nil
}

// takeScales takes a step of a ring's agreement.
func (m *exchange) takeScales(r *ring, h wire.Header, payload []byte, step int) error {
	if step != r.step || step >= len(r.steps) {
		return fmt.Errorf("%w: scales of step %d in step %d of %d", ErrProtocol, step, r.step, len(r.steps))
	}
	st := r.steps[step]
	from, to := average.Chunk(r.elems, m.n, st.Recv)
	if int(h.Elems) != to-from || len(payload) != 4*(to-from) {
		return fmt.Errorf("%w: %d scales in %d bytes, want %d", ErrProtocol, h.Elems, len(payload), to-from)
	}
	for i := range to - from {
		v := math.Float32frombits(binary.LittleEndian.Uint32(payload[4*i:]))
		own := &r.agreed[from+i]
		// A scale is not negative. What is told besides may be left out. A maximum over all
		// members is at least this one's own value, whoever made it smaller.
		if !(v <= math.MaxFloat32) || from+i < r.scales && !(v >= 0) {
			return fmt.Errorf("%w: element %d of the scales is %v", ErrProtocol, from+i, v)
		}
		if !st.Reduce && v < *own {
			why := ErrRound
			if m.n == 2 {
				why = ErrProtocol // there is nobody else
			}
			return fmt.Errorf("%w: element %d of the scales is %v, here %v", why, from+i, v, *own)
		}
		*own = max(*own, v)
	}
	m.wires.tally.ring(ringPart{r.number, wire.Scale, step, false}, r.markAt(from), payload)
	if r.step++; r.step < len(r.steps) {
		m.sendScales(r)
		return nil
	}
	if len(r.groups) == 0 {
		m.left--
	}
	return m.collect(r)
}

// takeSums takes a step of a group.
func (m *exchange) takeSums(r *ring, h wire.Header, payload []byte, g, step int) error {
	if g < r.finished || g >= r.started {
		return fmt.Errorf("%w: sums of group %d, groups %d to %d are under way", ErrProtocol, g, r.finished, r.started)
	}
	u := &r.under[g%len(r.under)]
	if step != u.step || step >= len(r.steps) {
		return fmt.Errorf("%w: sums of step %d in step %d", ErrProtocol, step, u.step)
	}
	done := m.busy.working()
	st := r.steps[step]
	from, to := average.Chunk(r.groups[g].n, m.n, st.Recv)
	rule, total := m.weight(r, g, r.before.Cluster, step)
	err := rule.Unpack(u.sum[from:to], payload, total, st.Reduce)
	done()
	switch {
	case int(h.Elems) != to-from:
		return fmt.Errorf("%w: %d sums, want %d", ErrProtocol, h.Elems, to-from)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	m.wires.tally.ring(ringPart{r.number, wire.Sum, step, false}, -1, payload)
	if u.step++; u.step < len(r.steps) {
		m.sendSums(r, g)
		return nil
	}
	if g != r.finished {
		return fmt.Errorf("%w: group %d is over before group %d", ErrProtocol, g, r.finished)
	}
	done = m.busy.working()
	m.r.apply(&r.groups[g], m.w, r.agreed[:r.scales], u.sum[:r.groups[g].n], m.pass)
	done()
	if r.finished++; r.finished == len(r.groups) {
		m.left--
	}
	return nil
}
