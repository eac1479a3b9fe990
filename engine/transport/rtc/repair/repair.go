// Package repair makes a path that loses packets look to SCTP like one that does not. It stands
// between SCTP and the layer below, sends lost packets again, and sets the window of what is in
// flight.
//
// SCTP as pion has it halves its window at every loss, whatever its cause, and waits a second
// or more for a packet whose repetition is lost too: at 2 % of losses it takes ten times as
// long as TCP. Here losses are found by RACK (RFC 8985), repetitions included, and the window
// follows from the rate at which packets arrive and the path's round trip, as in BBR
// (draft-ietf-ccwg-bbr), so that random losses do not shrink it, and queues on thin uplinks stay
// short. To that end SACK chunks (RFC 9260, section 3.3.4) are changed on their way up: gaps
// are hidden, and the receiver's window is the smaller of its own and ours. The peer needs to
// know nothing of this.
//
// A Path is pure: it sees no clock and no socket.
package repair

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"time"
)

// SCTP's chunk types and sizes (RFC 9260, RFC 8260).
const (
	typeData    = 0
	typeInit    = 1
	typeInitAck = 2
	typeSack    = 3
	typeIData   = 64

	commonHeader = 12
	chunkHeader  = 4
	dataHeader   = 16
	iDataHeader  = 20
	sackHeader   = 16
)

const (
	// probeDelay is added to two round trips before a probe, and ackDelay where the receiver may
	// be waiting for a second packet before it acknowledges.
	probeDelay = 10 * time.Millisecond
	ackDelay   = 200 * time.Millisecond
	// firstProbe is the time to a probe before a round trip was measured, and lastProbe the
	// longest between two of them.
	firstProbe = 500 * time.Millisecond
	lastProbe  = 2 * time.Second
	// threshold is how many later packets must arrive before one counts as lost, where packets
	// were never seen to overtake each other.
	threshold = 3
)

// packet is a packet with data that is in flight.
type packet struct {
	raw  []byte
	size int // bytes of data
	left int // chunks that have not arrived

	sent  time.Duration
	seq   uint64 // position among all transmissions
	sends int
	lost  bool // and not yet sent again

	// The state of the path when it was sent, for a sample of the rate.
	delivered           int64
	deliveredAt, oldest time.Duration

	prev, next *packet // in the order of transmission
}

// Stats count packets since the path was made.
type Stats struct {
	Sent     int // packets with data, repetitions excluded
	Repeated int // because they were lost
	Probes   int // repeated because nothing was heard
	Useless  int // repetitions of chunks that had arrived, as the peer reports
}

// Path is the sender's view of a path. Times are since any fixed moment.
type Path struct {
	stats Stats

	// What is in flight, by chunk number from base on, nil where it has arrived; and in the
	// order of transmission.
	base       uint32
	started    bool
	chunks     []*packet
	sizes      []int // of the chunks' data
	head, tail *packet
	waiting    []*packet // to be sent again
	inflight   int       // bytes in packets that have not arrived
	unacked    int       // bytes that SCTP takes to be in flight: all chunks
	seq        uint64
	blind      bool // something unexpected was seen: everything passes unchanged

	// RACK.
	newest    uint64 // the last transmission of which is known that it arrived
	newestRTT time.Duration
	highest   uint64 // the same, of first transmissions
	overtaken bool
	patience  int // for packets that were overtaken, in quarters of a round trip
	srtt      time.Duration
	heard     time.Duration // when something was last sent or acknowledged
	probes    uint          // without an answer
	lossAt    time.Duration // when the next packet counts as lost; 0: none

	control
}

// New returns the sender's view of a new path whose packets have at most mtu bytes.
func New(mtu int) *Path {
	return &Path{patience: 1, control: newControl(mtu)}
}

// Stats returns the counts so far.
func (p *Path) Stats() Stats { return p.stats }

// Window returns how many bytes may be in flight.
func (p *Path) Window() int { return p.control.window() }

// eachChunk calls f for the chunks of a packet. It returns false if the packet is malformed.
func eachChunk(raw []byte, f func(kind byte, chunk []byte)) bool {
	if len(raw) < commonHeader+chunkHeader {
		return false
	}
	for b := raw[commonHeader:]; len(b) > 0; {
		if len(b) < chunkHeader {
			return false
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < chunkHeader || n > len(b) {
			return false
		}
		f(b[0], b[:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return true
}

// data returns a chunk's number and its bytes of data, if it has some.
func data(kind byte, chunk []byte) (tsn uint32, size int, ok bool) {
	switch {
	case kind == typeData && len(chunk) >= dataHeader:
		size = len(chunk) - dataHeader
	case kind == typeIData && len(chunk) >= iDataHeader:
		size = len(chunk) - iDataHeader
	default:
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(chunk[4:]), size, true
}

// Out is told of a packet that SCTP sends, and returns whether it is to be sent. It keeps raw.
func (p *Path) Out(now time.Duration, raw []byte) bool {
	if p.blind {
		return true
	}
	k := &packet{raw: raw}
	send, first := false, true
	ok := eachChunk(raw, func(kind byte, chunk []byte) {
		tsn, size, ok := data(kind, chunk)
		if !ok {
			send = true
			return
		}
		if !p.started {
			p.base, p.started = tsn, true
		}
		at := tsn - p.base
		switch {
		case at == uint32(len(p.chunks)):
			p.chunks, p.sizes = append(p.chunks, k), append(p.sizes, size)
			p.unacked += size
			k.left++
			k.size += size
			send = true
		case at < uint32(len(p.chunks)):
			// SCTP has lost patience. That is our decision, unless we wait for nothing.
			if old := p.chunks[at]; old != nil && first && now-old.sent > p.wait() {
				p.transmit(now, old)
				send = true
			}
		case int32(at) > 0:
			p.blind = true // a number was left out
		}
		first = false
	})
	if !ok || p.blind {
		p.blind = true
		return true
	}
	if k.left > 0 {
		p.stats.Sent++
		p.inflight += k.size
		p.transmit(now, k)
	}
	return send
}

// transmit notes that a packet is sent, or sent again.
func (p *Path) transmit(now time.Duration, k *packet) {
	if k.sends > 0 {
		p.unlink(k)
	}
	if p.head == nil {
		p.idle(now)
	}
	p.seq++
	k.seq, k.sent, k.lost = p.seq, now, false
	k.sends++
	p.sending(now, k, p.inflight)
	k.prev, k.next = p.tail, nil
	if p.tail != nil {
		p.tail.next = k
	} else {
		p.head = k
	}
	p.tail = k
	p.heard = now
}

func (p *Path) unlink(k *packet) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		p.head = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		p.tail = k.prev
	}
	k.prev, k.next = nil, nil
}

// Next returns a packet that is to be sent again now, nil if there is none. It is to be called
// until then after In and Tick. Packets must reach the path in the order in which Out and Next
// were called, or they seem to be lost.
func (p *Path) Next(now time.Duration) []byte {
	for len(p.waiting) > 0 {
		k := p.waiting[0]
		if p.waiting = p.waiting[1:]; k.lost && k.left > 0 {
			p.transmit(now, k)
			return k.raw
		}
	}
	return nil
}

// Waiting reports whether Next may return a packet.
func (p *Path) Waiting() bool { return len(p.waiting) > 0 }

// again notes that a packet is to be sent again.
func (p *Path) again(k *packet) {
	k.lost = true
	p.waiting = append(p.waiting, k)
}

// In is told of a packet from the peer, and returns it as SCTP is to see it: raw itself, perhaps
// changed.
func (p *Path) In(now time.Duration, raw []byte) []byte {
	if p.blind {
		return raw
	}
	changed := false
	var rest []byte // the packet without the gaps
	ok := eachChunk(raw, func(kind byte, chunk []byte) {
		switch {
		case (kind == typeInit || kind == typeInitAck) && len(chunk) >= 20:
			binary.BigEndian.PutUint32(chunk[8:], min(binary.BigEndian.Uint32(chunk[8:]), uint32(p.window())))
			changed = true
		case kind == typeSack && len(chunk) >= sackHeader && p.started && rest == nil:
			if p.sack(now, chunk); !p.blind {
				rest = append(make([]byte, 0, len(raw)), raw[:commonHeader]...)
				changed = true
			}
		}
	})
	if !ok || p.blind || !changed {
		return raw
	}
	if rest != nil {
		eachChunk(raw, func(kind byte, chunk []byte) {
			if kind == typeSack && len(chunk) >= sackHeader {
				binary.BigEndian.PutUint16(chunk[2:], sackHeader)
				binary.BigEndian.PutUint32(chunk[8:], p.credit(binary.BigEndian.Uint32(chunk[8:])))
				binary.BigEndian.PutUint32(chunk[12:], 0) // no gaps, no duplicates
				chunk = chunk[:sackHeader]
			}
			rest = append(rest, chunk...)
			for len(rest)%4 != 0 {
				rest = append(rest, 0)
			}
		})
		raw = rest
	}
	binary.LittleEndian.PutUint32(raw[8:], 0)
	binary.LittleEndian.PutUint32(raw[8:], crc32.Checksum(raw, castagnoli))
	return raw
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// credit returns the window that SCTP is told. SCTP counts what has arrived beyond a gap as in
// flight, since it is not told of it.
func (p *Path) credit(theirs uint32) uint32 {
	return uint32(min(int64(theirs), int64(p.window())) + int64(max(p.unacked-p.inflight, 0)))
}

// sack takes an acknowledgement.
func (p *Path) sack(now time.Duration, chunk []byte) {
	sum := binary.BigEndian.Uint32(chunk[4:])
	gaps, twice := int(binary.BigEndian.Uint16(chunk[12:])), int(binary.BigEndian.Uint16(chunk[14:]))
	if len(chunk) < sackHeader+4*(gaps+twice) {
		p.blind = true
		return
	}
	if int32(sum-(p.base-1)) < 0 {
		return // overtaken by a newer one
	}
	n := sum - (p.base - 1)
	if n > uint32(len(p.chunks)) {
		p.blind = true // it acknowledges what was never sent
		return
	}
	if twice > 0 {
		p.stats.Useless += twice
		p.patience = min(p.patience+1, 16)
	}
	var last *packet // the last transmission that has arrived now
	arrive := func(at uint32) {
		if k := p.chunks[at]; k != nil {
			p.chunks[at] = nil
			if k.left--; k.left == 0 {
				p.deliver(now, k)
				early := k.sends > 1 && now-k.sent < p.minRTT // it was the first one that arrived
				if !early && (last == nil || k.seq > last.seq) {
					last = k
				}
			}
		}
	}
	for at := range n {
		arrive(at)
		p.unacked -= p.sizes[at]
	}
	p.chunks = p.chunks[:copy(p.chunks, p.chunks[n:])]
	p.sizes = p.sizes[:copy(p.sizes, p.sizes[n:])]
	p.base += n
	for g := chunk[sackHeader:][:4*gaps]; len(g) > 0; g = g[4:] {
		from, to := uint32(binary.BigEndian.Uint16(g)), uint32(binary.BigEndian.Uint16(g[2:]))
		if from < 1 || from > to || to > uint32(len(p.chunks)) {
			p.blind = true
			return
		}
		for at := from - 1; at < to; at++ {
			arrive(at)
		}
	}
	if last != nil {
		p.heard, p.probes = now, 0
		p.sample(now, last)
		if last.seq > p.newest {
			p.newest, p.newestRTT = last.seq, now-last.sent
		}
	}
	p.findLost(now)
}

// deliver notes that all of a packet has arrived.
func (p *Path) deliver(now time.Duration, k *packet) {
	p.unlink(k)
	p.inflight -= k.size
	p.delivered += int64(k.size)
	if k.sends > 1 {
		return // a round trip from the first or from the last transmission: nobody knows
	}
	rtt := now - k.sent
	if p.srtt == 0 {
		p.srtt = rtt
	}
	p.srtt += (rtt - p.srtt) / 8
	p.measure(now, rtt)
	if k.seq < p.highest {
		p.overtaken = true
	}
	p.highest = max(p.highest, k.seq)
}

// findLost finds what counts as lost.
func (p *Path) findLost(now time.Duration) {
	p.lossAt = 0
	slack := min(time.Duration(p.patience)*p.minRTT/4, p.srtt)
	for k := p.head; k != nil && k.seq < p.newest; k = k.next {
		late := k.sent + p.newestRTT + slack
		if now < late && (p.overtaken || p.newest-k.seq < threshold) {
			p.lossAt = late
			break // those behind were sent later
		}
		if !k.lost {
			p.losing(now, k)
			p.stats.Repeated++
			p.again(k)
		}
	}
}

// wait returns for how long to wait for a sign of what is in flight.
func (p *Path) wait() time.Duration {
	d := firstProbe
	if p.srtt > 0 {
		d = 2*p.srtt + probeDelay
		if p.head == p.tail {
			d += ackDelay
		}
	}
	return min(d<<min(p.probes, 8), max(lastProbe, d))
}

// Due returns when Tick is to be called, unless something is sent or arrives before; 0: never.
func (p *Path) Due() time.Duration {
	if p.blind || p.head == nil {
		return 0
	}
	due := p.heard + p.wait()
	if p.lossAt > 0 {
		due = min(due, p.lossAt)
	}
	return max(due, 1)
}

// Tick is to be called when it is due.
func (p *Path) Tick(now time.Duration) {
	if p.blind || p.head == nil {
		return
	}
	if p.lossAt > 0 && now >= p.lossAt {
		p.findLost(now)
	}
	if now >= p.heard+p.wait() {
		// Nothing was heard: the first packet says most if it arrives, and the last one shows
		// what is missing before it.
		p.probes++
		p.probe(now)
	}
}

// probe sends the first and the last packet in flight again.
func (p *Path) probe(now time.Duration) {
	first := p.head
	for _, k := range p.chunks {
		if k != nil {
			first = k
			break
		}
	}
	for _, k := range slices.Compact([]*packet{first, p.tail}) {
		p.stats.Probes++
		p.again(k)
	}
	p.heard = now
}

// Moved is to be called when the path leads elsewhere from now on: what is in flight is probed at
// once, however long nothing was heard, and round trips are measured anew, by what is sent from now
// on.
func (p *Path) Moved(now time.Duration) {
	p.srtt, p.minRTT, p.probing, p.probes = 0, 0, 0, 0
	if p.blind || p.head == nil {
		return
	}
	for k := p.head; k != nil; k = k.next {
		k.sends = max(k.sends, 2)
	}
	p.probe(now)
}
