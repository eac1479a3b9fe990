// The part of each ring that a stage has: what is agreed on in it, and how large its messages are.

package stage

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// maxRingGroups and maxSegments are what a header has room for.
const (
	maxRingGroups = 1 << 24
	maxSegments   = 1 << 16
)

// ringShare is a share with what its ring needs to know.
type ringShare struct {
	share
	next, before Peer
	steps        []average.Step
	// Elements of the vector whose maximum is agreed on: scales, then what clusters tell each
	// other in the same breath.
	counters, mark, pulls, losses, elems int
	first, last                          bool // of the model
}

// perLoss is the losses that clusters tell each other at a round's end: those of split batches,
// by batch of the round and by replica.
func (c *Compiled) perLoss() int {
	if !c.Job.Gradients() {
		return 0
	}
	return c.Job.UpdateFrequency * c.Job.Replica()
}

// ringShares are those of a stage.
func (c *Compiled) ringShares() []ringShare {
	p := c.Placement
	if !p.several() {
		return nil
	}
	n := len(p.Clusters)
	var rs []ringShare
	for i, s := range c.shares {
		r := ringShare{share: s, next: p.next(s.segment), before: p.before(s.segment), steps: average.Ring(n, p.Cluster)}
		r.first = s.number == 0
		r.last = c.Stage.Last && i == len(c.shares)-1
		r.elems = s.scales
		r.counters = r.elems
		r.elems += 2 * n * len(s.counters)
		if r.mark = r.elems; r.first {
			r.elems++
		}
		if r.pulls = r.elems; r.first && p.moves() {
			r.elems += perPull * n
		}
		if r.losses = r.elems; r.last {
			r.elems += c.perLoss()
		}
		if r.elems > 0 { // else nothing of the segment is averaged
			rs = append(rs, r)
		}
	}
	return rs
}

// sumBytes is the most that a sum takes in a message.
const sumBytes = 8

// message is the size of the largest message of the share's ring of n clusters.
func (r *ringShare) message(n int) int {
	return wire.MessageHeader + max(4*((r.elems+n-1)/n), sumBytes*((r.largest+n-1)/n))
}

// ringBytes is what the rings keep beside the arithmetic: what is told with the scales, and
// messages that wait to be sent.
func (c *Compiled) ringBytes() int {
	if !c.Placement.several() {
		return 0
	}
	largest := 0
	for _, t := range c.ties {
		if t.after >= 0 {
			largest = max(largest, 4*min(t.Elems, groupMost(len(c.Placement.Clusters))))
		}
	}
	n := (maxRelayed + window) * largest
	for _, r := range c.ringShares() {
		n += 4*(r.elems-r.scales) + 4*r.elems + buffers(r.share, true)*sumBytes*r.largest
	}
	return n
}

// checkRings fails if the headers of messages have no room for what the rings do.
func (c *Compiled) checkRings() error {
	for _, r := range c.ringShares() {
		if r.number >= maxSegments || len(r.groups) > maxRingGroups || r.message(len(c.Placement.Clusters)) > wire.MaxTransfer {
			return fmt.Errorf("%w: segment %d of %d groups is too much for one ring: cut the model into more stages", ErrPlacement, r.number, len(r.groups))
		}
	}
	if !c.Job.Audit {
		return nil
	}
	if n := len(c.Exchanges()); n > MaxExchanges {
		return fmt.Errorf("%w: an average of %d clusters takes %d digests of a stage, at most %d are possible: take fewer clusters or stages, or no audit", ErrPlacement, len(c.Placement.Clusters), n, MaxExchanges)
	}
	return nil
}

// ringLink is what this side of the link to a neighbour in rings takes.
func (c *Compiled) ringLink(p Peer) transport.Options {
	o := transport.Options{MaxTransfer: wire.MessageHeader}
	n := len(c.Placement.Clusters)
	for _, r := range c.ringShares() {
		if r.before == p {
			m := r.message(n)
			o.MaxTransfer = max(o.MaxTransfer, m)
			o.Credit += (window + 1) * (m + wire.MessageCost)
		}
	}
	o.Credit = min(max(o.Credit, wire.FirstWindow), transport.DefaultCredit)
	return o
}
