// Averages of parameters that several stages of a cluster hold. Such a parameter is averaged in
// the ring of its first holder's segment, since other clusters may have all holders in one stage.
// Each holder passes the mean on to the next, and all copies are updated alike. A holder that
// means means on may run ahead by a few messages; later holders wait for earlier ones, never the
// other way round.

package stage

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// maxRelayed is the number of messages that may wait for a stage before nothing new is begun for
// it.
const maxRelayed = 8

// blockBits is the number of bits in a header that number a block; those above number the vector.
const blockBits = 28

// relay handles the tied parameters of one average: it passes means on to later stages and takes
// those of earlier ones.
type relay struct {
	out  map[int]chan outgoing // by stage
	in   chan incomingMean
	wake chan struct{} // signals that a message was sent
	left map[int]int   // elements still to come, by stage
	at   map[[2]int]int
}

// incomingMean is a message from an earlier stage.
type incomingMean struct {
	from int
	transport.Message
}

// later returns the tied parameters that are averaged elsewhere, by name.
func later(ts []tie) map[string]bool {
	names := map[string]bool{}
	for _, t := range ts {
		if t.before >= 0 {
			names[t.Name] = true
		}
	}
	return names
}

// startRelay starts passing means on and taking those of earlier holders.
func (m *exchange) startRelay(wg *sync.WaitGroup) {
	m.relay = relay{
		out: map[int]chan outgoing{}, in: make(chan incomingMean), wake: make(chan struct{}, 1), left: map[int]int{}, at: map[[2]int]int{},
	}
	vectors, pieces := 0, 0
	for _, v := range m.r.vectors {
		if v.role() == graph.Trainable {
			vectors++
		}
	}
	for _, r := range m.shares {
		for _, g := range r.groups {
			pieces += len(g.pieces)
		}
	}
	for _, t := range m.c.ties {
		if t.after >= 0 && m.relay.out[t.after] == nil {
			// Room for all pieces of this stage, and for those that it only passes on.
			out := make(chan outgoing, pieces+2*maxRelayed)
			m.relay.out[t.after] = out
			wg.Go(func() { m.sendMeans(t.after, out) })
		}
		if t.before >= 0 {
			m.relay.left[t.before] += vectors * t.Elems
		}
	}
	for from, n := range m.relay.left {
		m.left++
		early := m.wires.early[from]
		delete(m.wires.early, from)
		wg.Go(func() { m.receiveMeans(from, n, early) })
	}
}

// receiveMeans takes messages from an earlier stage until n elements have come.
func (m *exchange) receiveMeans(from, n int, early []transport.Message) {
	next := func() (msg transport.Message, err error) {
		if len(early) > 0 {
			msg, early = early[0], early[1:]
			return msg, nil
		}
		return m.wires.links[from].Recv(m.ctx)
	}
	for n > 0 {
		msg, err := next()
		if err != nil {
			m.cancel(fmt.Errorf("waiting for stage %d: %w", from, err))
			return
		}
		n -= max(int(msg.Header.Elems), 1)
		select {
		case m.relay.in <- incomingMean{from, msg}:
		case <-m.ctx.Done():
			msg.Release()
			return
		}
	}
}

// sendMeans sends the messages of a channel until it is closed.
func (m *exchange) sendMeans(to int, out chan outgoing) {
	for o := range out {
		err := m.wires.links[to].Send(m.ctx, o.h, o.b)
		m.mu.Lock()
		m.free = append(m.free, o.b)
		m.mu.Unlock()
		if err != nil {
			m.cancel(fmt.Errorf("sending to stage %d: %w", to, err))
			return
		}
		select {
		case m.relay.wake <- struct{}{}:
		default:
		}
	}
}

// means returns the channel of messages from earlier holders, nil while too many wait to be passed
// on.
func (m *exchange) means() chan incomingMean {
	if m.congested() {
		return nil
	}
	return m.relay.in
}

// congested reports whether too many messages wait for a later stage.
func (m *exchange) congested() bool {
	for _, out := range m.relay.out {
		if len(out) >= maxRelayed {
			return true
		}
	}
	return false
}

// pass sends the mean of a piece to the next holder of its parameter, if there is one.
func (m *exchange) pass(vector int, p piece, y []float32) {
	name := m.r.layout.Entries[p.entry].Full
	i := slices.IndexFunc(m.c.ties, func(t tie) bool { return t.Name == name && t.after >= 0 })
	if i >= 0 {
		m.sendMean(&m.c.ties[i], vector, p.first, y)
	}
}

func (m *exchange) sendMean(t *tie, vector, first int, y []float32) {
	b := m.buffer(4 * len(y))
	for _, v := range y {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	m.wires.tally.mean(meanPart{t.Number, vector, true}, b)
	m.relay.out[t.after] <- outgoing{wire.Header{
		Kind: wire.Tied, Edge: uint16(t.Number), Rows: uint32(vector<<blockBits | first/average.BlockSize), Seq: m.w.number, Elems: uint32(len(y)),
	}, b}
}

// takeMean takes the mean of a piece from an earlier holder.
func (m *exchange) takeMean(in incomingMean) error {
	defer in.Release()
	h := in.Header
	err := m.handleMean(in.from, h, in.Payload)
	if err != nil {
		return m.wires.sentBy(in.from, fmt.Errorf("from stage %d: the average of tied parameter %d: %w", in.from, h.Edge, err))
	}
	return nil
}

func (m *exchange) handleMean(from int, h wire.Header, payload []byte) error {
	i := slices.IndexFunc(m.c.ties, func(t tie) bool { return t.Number == int(h.Edge) && t.before == from })
	if i < 0 || h.Kind != wire.Tied || h.Seq != m.w.number {
		return fmt.Errorf("%w: a %s of round %d, this is round %d", ErrProtocol, h.Kind, h.Seq, m.w.number)
	}
	t, v, first, n := &m.c.ties[i], int(h.Rows>>blockBits), int(h.Rows&(1<<blockBits-1))*average.BlockSize, int(h.Elems)
	if v >= len(m.r.vectors) || m.r.vectors[v].role() != graph.Trainable {
		return fmt.Errorf("%w: vector %d", ErrProtocol, v)
	}
	// Pieces of one vector come in order.
	key := [2]int{i, v}
	if first != m.relay.at[key] || n < 1 || n > t.Elems-first || n%average.BlockSize != 0 && first+n != t.Elems || len(payload) != 4*n {
		return fmt.Errorf("%w: elements from %d on, %d of them in %d bytes, of %d; those from %d on are due", ErrProtocol, first, n, len(payload), t.Elems, m.relay.at[key])
	}
	defer m.busy.working()()
	p := piece{off: t.Off + first, first: first, n: n}
	y := m.r.values(m.r.vectors[v], m.r.own[0])[p.off:][:n]
	for k := range y {
		y[k] = math.Float32frombits(binary.LittleEndian.Uint32(payload[4*k:]))
	}
	if err := finite(y); err != nil {
		return err
	}
	m.wires.tally.mean(meanPart{t.Number, v, false}, payload)
	if t.after >= 0 {
		m.sendMean(t, v, first, y)
	}
	m.r.settle(m.r.vectors[v], p, y)
	m.relay.at[key] += n
	if m.relay.left[from] -= n; m.relay.left[from] == 0 {
		m.left--
	}
	return nil
}

// closeRelay ends the passing on of means.
func (m *exchange) closeRelay() {
	for _, out := range m.relay.out {
		close(out)
	}
}
