// Package rtc makes pipes of WebRTC data channels: how two providers that know each
// other only through the signaling host come to a direct connection.
package rtc

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Limits on what a peer signals.
const (
	maxSDP       = 48 << 10
	maxCandidate = 4 << 10
)

// ErrSignal is wrapped by errors about a malformed signal.
var ErrSignal = errors.New("invalid signal")

// Config of an Endpoint.
type Config struct {
	// ICE are STUN and TURN servers; none by default.
	ICE []ICEServer
	// Loopback connects over 127.0.0.1 only: all providers are on this machine.
	Loopback bool
	// Idle is the silence after which a peer counts as gone; 0: 4 s.
	Idle time.Duration
}

// ICEServer is a STUN or TURN server.
type ICEServer struct {
	URLs                 []string
	Username, Credential string
}

// kind of a signal.
type kind string

const (
	offer     kind = "offer"
	answer    kind = "answer"
	candidate kind = "candidate"
)

// signal is what the two sides tell each other through the host.
type signal struct {
	Kind      kind    `json:"kind"`
	SDP       string  `json:"sdp,omitempty"`
	Candidate string  `json:"candidate,omitempty"`
	Mid       *string `json:"mid,omitempty"`
	Line      *uint16 `json:"line,omitempty"`
}

func parseSignal(b json.RawMessage) (signal, error) {
	var s signal
	if len(b) > maxSDP+maxCandidate {
		return s, fmt.Errorf("%w: %d bytes", ErrSignal, len(b))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%w: %w", ErrSignal, err)
	}
	switch {
	case s.Kind != offer && s.Kind != answer && s.Kind != candidate:
		return s, fmt.Errorf("%w: unknown kind %.32q", ErrSignal, s.Kind)
	case s.Kind != candidate && (s.SDP == "" || len(s.SDP) > maxSDP):
		return s, fmt.Errorf("%w: a description of %d bytes", ErrSignal, len(s.SDP))
	case s.Kind == candidate && (s.Candidate == "" || len(s.Candidate) > maxCandidate):
		return s, fmt.Errorf("%w: a candidate of %d bytes", ErrSignal, len(s.Candidate))
	}
	return s, nil
}
