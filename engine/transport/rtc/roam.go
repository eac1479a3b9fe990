//go:build !js

// Moving an open connection to other addresses: an ICE restart (RFC 8445, section 9). What is
// above ICE notices a pause at most.

package rtc

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/pion/ice/v4"
	"github.com/ravnest/ravnest/engine/transport"
)

const (
	// lookout is how often a connection looks whether its own address is still there.
	lookout = 500 * time.Millisecond
	// moving is how long finding a new path may take.
	moving = 10 * time.Second
)

// roamer moves a connection. Either side may begin, with an offer: it says that its addresses
// are new. The other side answers, and both look for a path as at the beginning.
type roamer struct {
	p      *pipe
	offers bool // this side made the first offer: it wins if both move at once
	ours   description
	send   func(json.RawMessage) error
	recv   <-chan json.RawMessage

	moved bool        // at least once
	heard int         // the peer's candidates since then
	asked bool        // we have offered, and no answer has come
	late  *time.Timer // ends the connection if no path is found
	home  []net.IP    // this machine's addresses when the path was found
}

// roam watches over an open connection until it ends.
func (r *roamer) roam() {
	defer r.late.Stop()
	tick := time.NewTicker(lookout)
	defer tick.Stop()
	r.home = addresses()
	for {
		select {
		case <-r.p.gone:
			return
		case <-r.late.C:
			r.p.end(fmt.Errorf("%w: no path to it was found within %v after an address had changed", transport.ErrPeerGone, moving))
			return
		case <-r.p.connected:
			r.late.Stop()
			r.home = addresses()
			if r.moved {
				r.p.mended.moved()
			}
		case s := <-r.p.found:
			if r.moved { // others are of no use any more
				r.tell(s)
			}
		case <-r.p.uproot:
			r.asked = true
			r.move(Offer)
		case <-tick.C:
			if !r.asked && r.homeless() {
				r.asked = true
				r.move(Offer)
			}
		case b, ok := <-r.recv:
			if !ok {
				r.recv = nil
				continue
			}
			r.hear(b)
		}
	}
}

// addresses returns this machine's addresses, without those that never leave the machine or
// the cable.
func addresses() (ips []net.IP) {
	as, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range as {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	return ips
}

// homeless reports whether this machine has lost the address that the connection uses, or, if
// that is not known, any. While it has none at all there is nowhere to move to.
func (r *roamer) homeless() bool {
	pair, err := r.p.agent.GetSelectedCandidatePair()
	now := addresses()
	if err != nil || pair == nil || len(now) == 0 {
		return false
	}
	used := r.home
	if at := net.ParseIP(pair.Local.Address()); pair.Local.Type() == ice.CandidateTypeHost && !at.IsUnspecified() {
		if at.IsLoopback() {
			return false
		}
		used = []net.IP{at}
	}
	return slices.ContainsFunc(used, func(ip net.IP) bool { return !slices.ContainsFunc(now, ip.Equal) })
}

// move gives up the path, looks for addresses, and tells the peer.
func (r *roamer) move(k Kind) {
	agent := r.p.agent
	r.late.Reset(moving)
	r.moved, r.heard = true, 0
	err := agent.Restart("", "")
	if err == nil {
		r.ours.ufrag, r.ours.pwd, err = agent.GetLocalUserCredentials()
	}
	if err == nil {
		d := r.ours
		if k == Offer {
			d.setup = "actpass" // as every offer (RFC 8842, section 5.2); who began stays
		}
		r.tell(Signal{Kind: k, SDP: d.String()})
		err = agent.GatherCandidates()
	}
	if err != nil {
		r.p.end(fmt.Errorf("%w: looking for another path to it: %w", transport.ErrPeerGone, err))
	}
}

// tell sends a signal, if that is possible: the limit of moving is what counts.
func (r *roamer) tell(s Signal) {
	if b, err := json.Marshal(s); err == nil {
		_ = r.send(b)
	}
}

// hear handles a signal. Those that are malformed or come at the wrong time are left from
// before, or a stranger's: they change nothing.
func (r *roamer) hear(b json.RawMessage) {
	s, err := ParseSignal(b)
	if err != nil {
		return
	}
	if s.Kind == Candidate {
		if r.heard++; r.heard > MaxCandidates {
			return // as while connecting
		}
		if k, err := ice.UnmarshalCandidate(s.Candidate); err == nil && net.ParseIP(k.Address()) != nil && !k.NetworkType().IsTCP() {
			_ = r.p.agent.AddRemoteCandidate(k)
		}
		return
	}
	d, err := parseDescription(s.SDP)
	switch {
	case err != nil, d.hash != r.p.theirs.hash || d.print != r.p.theirs.print: // the same peer
		return
	case s.Kind == Answer && r.asked:
		r.asked = false
		_ = r.p.agent.SetRemoteCredentials(d.ufrag, d.pwd)
	case s.Kind == Offer && (!r.asked || !r.offers):
		r.asked = false
		r.move(Answer)
		_ = r.p.agent.SetRemoteCredentials(d.ufrag, d.pwd)
	}
}
