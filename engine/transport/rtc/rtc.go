// Package rtc makes pipes from WebRTC data channels. With it, two providers that know each
// other only through the signaling host connect directly.
//
// A connection uses ICE (RFC 8445), DTLS 1.2 (RFC 6347) with self-signed certificates whose
// fingerprints are in the descriptions, SCTP over it (RFC 8261) and one ordered, reliable data
// channel with the agreed number 0 (RFC 8832, section 4), so that a browser is a peer like any
// other. The descriptions are SDP (RFC 8841).
package rtc

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Label and Channel are the data channel's name and number. A browser opens it with
// createDataChannel(Label, {negotiated: true, id: Channel}).
const (
	Label   = "ravnest"
	Channel = 0
)

// Limits on a peer's signals.
const (
	MaxSDP        = 16 << 10
	MaxCandidate  = 512
	MaxCandidates = 64 // per connection
)

// ErrSignal is wrapped by errors about a malformed or unexpected signal.
var ErrSignal = errors.New("invalid signal")

// Config of an Endpoint.
type Config struct {
	// ICE are STUN and TURN servers; none by default.
	ICE []ICEServer
	// Loopback says that this provider reaches its host over the loopback interface. Two such
	// providers connect over loopback only; with a browser on this machine loopback is used
	// too; with all others only the network is.
	Loopback bool
	// Machine identifies this machine's network, if known. It is needed because a host behind
	// a tunnel appears to be on loopback from several machines.
	Machine string
	// Idle is the silence after which a peer counts as gone; 0: 3.5 s. It is checked once a
	// second, so a killed peer is noticed within Idle plus one second.
	Idle time.Duration
	// Window bounds the bytes that a peer may have under way, where it is above 0 and below
	// what the system allows. A browser chooses its own.
	Window int
}

// defaultIdle allows for three lost keepalives and is less than five seconds.
const defaultIdle = 3500 * time.Millisecond

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	URLs                 []string
	Username, Credential string
}

// Here is the first signal of both sides: it says that the sender is ready to connect, and
// where it is.
type Here struct {
	Kind     Kind   `json:"kind"` // Hello
	Loopback bool   `json:"loopback,omitempty"`
	Machine  string `json:"machine,omitempty"`
	Packet   int    `json:"packet,omitempty"` // the largest SCTP packet that the sender takes; 0: unknown
}

// parseHere decodes a peer's first signal. An invalid one says nothing about where the peer is.
func parseHere(b json.RawMessage) Here {
	var h Here
	if len(b) > MaxCandidate || json.Unmarshal(b, &h) != nil {
		return Here{}
	}
	return h
}

// way is the kind of addresses over which two providers connect.
type way int

const (
	network  way = iota // all except loopback
	loopback            // only 127.0.0.1
	both
)

// choose returns the way to a peer.
func choose(cfg Config, peer Here) way {
	switch {
	case !cfg.Loopback || !peer.Loopback:
		return network // a peer must not choose what this process talks to on its own machine
	case cfg.Machine == peer.Machine:
		return loopback
	case cfg.Machine == "" || peer.Machine == "":
		return both // a browser does not know its machine
	}
	return network
}

// hint is added to the error if both sides have exchanged descriptions but could not connect.
const hint = "the two found each other through the host, but no UDP packet got through between them: a firewall or a NAT may be in the way on either side"

// Kind of a signal.
type Kind string

// The kinds of signals.
const (
	Hello     Kind = "here"
	Offer     Kind = "offer"
	Answer    Kind = "answer"
	Candidate Kind = "candidate"
)

// Signal is a message between the two sides through the host, as JSON. Its fields are those of
// a browser's RTCSessionDescription and RTCIceCandidate.
type Signal struct {
	Kind      Kind    `json:"kind"`
	SDP       string  `json:"sdp,omitempty"`
	Candidate string  `json:"candidate,omitempty"` // empty: no more will follow
	Mid       *string `json:"mid,omitempty"`
	Line      *uint16 `json:"line,omitempty"`
}

// ParseSignal decodes and checks a peer's signal. Errors wrap ErrSignal.
func ParseSignal(b []byte) (Signal, error) {
	var s Signal
	if len(b) > 2*(MaxSDP+MaxCandidate) {
		return s, fmt.Errorf("%w: %d bytes, the limit is %d", ErrSignal, len(b), 2*(MaxSDP+MaxCandidate))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%w: %w", ErrSignal, err)
	}
	return s, s.check()
}

func (s *Signal) check() error {
	switch {
	case s.Kind != Offer && s.Kind != Answer && s.Kind != Candidate:
		return fmt.Errorf("%w: unknown kind %.32q", ErrSignal, s.Kind)
	case s.Kind != Candidate && (s.SDP == "" || len(s.SDP) > MaxSDP):
		return fmt.Errorf("%w: an %s of %d bytes, the limit is %d", ErrSignal, s.Kind, len(s.SDP), MaxSDP)
	case s.Kind != Candidate && s.Candidate != "", s.Kind == Candidate && s.SDP != "":
		return fmt.Errorf("%w: both a description and a candidate", ErrSignal)
	case len(s.Candidate) > MaxCandidate:
		return fmt.Errorf("%w: a candidate of %d bytes, the limit is %d", ErrSignal, len(s.Candidate), MaxCandidate)
	}
	return nil
}
