package provider

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestWhoSentIt: a provider that gets what cannot be says from whom, as of a link that broke, and
// accuses nobody where that cannot be told.
func TestWhoSentIt(t *testing.T) {
	r := &attempt{
		a: &proto.Assign{Peers: []proto.Peer{
			{Cluster: 0, Stage: 0, ID: "p0", Name: "ada"},
			{Cluster: 1, Stage: 0, ID: "p1", Name: "eve"},
		}},
		links: map[stage.Peer]*transport.Link{},
	}
	err := fmt.Errorf("average of step 11: %w", &stage.PeerError{From: stage.Peer{Cluster: 1}, Err: fmt.Errorf("%w: a scale of -1", stage.ErrProtocol)})
	var pe *peerError
	if got := r.blame(err); !errors.As(got, &pe) || pe.id != "p1" || pe.name != "eve" || !errors.Is(got, stage.ErrProtocol) {
		t.Errorf("%v: accused is %+v", got, pe)
	}
	pe = nil
	if got := r.blame(fmt.Errorf("average: %w: a count of 0.5", stage.ErrRound)); errors.As(got, &pe) {
		t.Errorf("%v: accused is %+v", got, pe)
	}
}
