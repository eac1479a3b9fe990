//go:build !js

package rtc

// Testing whether a network lets packets through to a STUN or TURN server.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pion/webrtc/v4"
)

// Probe asks a server for an address by one of its URLs, and returns that: the address at which
// a STUN server sees this machine, or one that a TURN server relays for it.
func Probe(ctx context.Context, s ICEServer, url string) (string, error) {
	e, err := NewEndpoint(Config{ICE: []ICEServer{{URLs: []string{url}, Username: s.Username, Credential: s.Credential}}})
	if err != nil {
		return "", err
	}
	defer e.Close()
	pc, err := e.api[network].NewPeerConnection(webrtc.Configuration{ICEServers: e.ice})
	if err != nil {
		return "", fmt.Errorf("making a peer connection: %w", err)
	}
	defer func() { _ = pc.GracefulClose() }()
	want := webrtc.ICECandidateTypeSrflx
	if strings.HasPrefix(url, "turn") {
		want = webrtc.ICECandidateTypeRelay
	}
	found := make(chan string, 1)
	over := make(chan struct{})
	pc.OnICECandidate(func(c *webrtc.ICECandidate) {
		switch {
		case c == nil:
			close(over)
		case c.Typ == want:
			select {
			case found <- c.Address:
			default:
			}
		}
	})
	if _, err := pc.CreateDataChannel(Label, nil); err != nil {
		return "", fmt.Errorf("making the data channel: %w", err)
	}
	o, err := pc.CreateOffer(nil)
	if err == nil {
		err = pc.SetLocalDescription(o)
	}
	if err != nil {
		return "", fmt.Errorf("making an offer: %w", err)
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
