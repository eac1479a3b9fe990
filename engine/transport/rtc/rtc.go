// Package rtc makes pipes of WebRTC data channels: how two providers that know each
// other only through the signaling host come to a direct connection.
//
// A connection is ICE (RFC 8445), DTLS 1.2 (RFC 6347) with self-signed certificates
// whose fingerprints travel in the descriptions, SCTP over it (RFC 8261) and one
// ordered, reliable data channel with the agreed number 0 (RFC 8832, section 4), so
// that a browser is a peer like any other. The descriptions are SDP (RFC 8841).
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

// Limits on what a peer signals.
const (
	MaxSDP        = 16 << 10
	MaxCandidate  = 512
	MaxCandidates = 64 // of one connection
)

// ErrSignal is wrapped by errors about a malformed or unexpected signal.
var ErrSignal = errors.New("invalid signal")

// Config of an Endpoint.
type Config struct {
	// ICE are STUN and TURN servers; none by default.
	ICE []ICEServer
	// Loopback connects over 127.0.0.1 only: all providers are on this machine.
	Loopback bool
	// Idle is the silence after which a peer counts as gone; 0: 3.5 s. It is looked at
	// once a second, so a killed peer is noticed within Idle and a second.
	Idle time.Duration
}

// defaultIdle leaves room for three lost keepalives and stays under five seconds.
const defaultIdle = 3500 * time.Millisecond

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	URLs                 []string
	Username, Credential string
}

// Kind of a signal.
type Kind string

// The kinds of signals.
const (
	Offer     Kind = "offer"
	Answer    Kind = "answer"
	Candidate Kind = "candidate"
)

// Signal is what the two sides tell each other through the host, as JSON. Its fields
// are those of a browser's RTCSessionDescription and RTCIceCandidate.
type Signal struct {
	Kind      Kind    `json:"kind"`
	SDP       string  `json:"sdp,omitempty"`
	Candidate string  `json:"candidate,omitempty"` // empty: there are no more
	Mid       *string `json:"mid,omitempty"`
	Line      *uint16 `json:"line,omitempty"`
}

// ParseSignal decodes and checks a signal of a peer. Errors wrap ErrSignal.
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
