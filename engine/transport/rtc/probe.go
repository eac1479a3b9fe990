//go:build !js

package rtc

// Testing whether a network lets packets through to a STUN or TURN server.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pion/ice/v4"
)

// Probe asks a server for an address by one of its URLs, and returns that: the address at which
// a STUN server sees this machine, or one that a TURN server relays for it.
func Probe(ctx context.Context, s ICEServer, url string) (string, error) {
	e, err := NewEndpoint(Config{ICE: []ICEServer{{URLs: []string{url}, Username: s.Username, Credential: s.Credential}}})
	if err != nil {
		return "", err
	}
	agent, err := e.agent(network)
	if err != nil {
		return "", fmt.Errorf("making an ICE agent: %w", err)
	}
	defer func() { _ = agent.GracefulClose() }()
	want := ice.CandidateTypeServerReflexive
	if strings.HasPrefix(url, "turn") {
		want = ice.CandidateTypeRelay
	}
	found := make(chan string, 1)
	over := make(chan struct{})
	err = agent.OnCandidate(func(c ice.Candidate) {
		switch {
		case c == nil:
			close(over)
		case c.Type() == want:
			select {
			case found <- c.Address():
			default:
			}
		}
	})
	if err == nil {
		err = agent.GatherCandidates()
	}
	if err != nil {
		return "", fmt.Errorf("looking for addresses: %w", err)
	}
	select {
	case a := <-found:
		return a, nil
	case <-over:
	case <-ctx.Done():
		return "", errors.New("no answer")
	}
	select {
	case a := <-found:
		return a, nil
	default:
		return "", errors.New("no answer")
	}
}
