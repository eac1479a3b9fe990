// The signaling of two sides through the host until their channel is open, the same for pion
// and for browsers.

package rtc

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// peer is a peer connection being set up.
type peer interface {
	remote(Signal) error    // sets the other side's description and answers an offer
	candidate(Signal) error // adds one of the other side's candidates
	check(candidate string) error
}

// talk is the exchange of descriptions and candidates.
type talk struct {
	offers bool
	opened chan struct{} // closed when the channel is open
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	send    func(json.RawMessage) error // nil: the exchange is over
	told    bool                        // our description was sent, so candidates may follow
	heard   bool                        // theirs was received
	waiting []Signal                    // candidates found before our description was sent
}

func newTalk(offers bool, send func(json.RawMessage) error, cancel context.CancelCauseFunc) *talk {
	return &talk{offers: offers, opened: make(chan struct{}), cancel: cancel, send: send}
}

// tell sends a signal. Candidates wait until the description was sent.
func (t *talk) tell(s Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.Kind == Candidate && !t.told {
		t.waiting = append(t.waiting, s)
		return
	}
	t.told = true
	for _, s := range append([]Signal{s}, t.waiting...) {
		if t.send == nil {
			return
		}
		b, err := json.Marshal(s)
		if err == nil {
			err = t.send(b)
		}
		if err != nil {
			t.cancel(fmt.Errorf("signaling: %w", err))
			return
		}
	}
	t.waiting = nil
}

// both reports whether both descriptions were exchanged.
func (t *talk) both() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told && t.heard
}

// quiet makes tell do nothing from now on.
func (t *talk) quiet() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.send = nil
}

// listen handles the other side's signals until the channel is open.
func (t *talk) listen(ctx context.Context, recv <-chan json.RawMessage, p peer) error {
	described, n := false, 0
	var early []Signal // candidates that overtook the description
	for {
		var b json.RawMessage
		select {
		case <-t.opened:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case b = <-recv:
		}
		if b == nil {
			recv = nil // the caller's queue has ended; the signals so far may suffice
			continue
		}
		s, err := ParseSignal(b)
		if err != nil {
			return err
		}
		switch {
		case s.Kind == Candidate:
			if n++; n > MaxCandidates {
				continue // harmless: a machine may have many addresses, and the first ones suffice
			}
			if err = p.check(s.Candidate); err == nil && described {
				err = p.candidate(s)
			} else {
				early = append(early, s)
			}
		case described || (s.Kind == Answer) != t.offers:
			err = fmt.Errorf("%w: unexpected %s", ErrSignal, s.Kind)
		default:
			described = true
			t.mu.Lock()
			t.heard = true
			t.mu.Unlock()
			if err = p.remote(s); err == nil {
				for _, k := range early {
					if err = p.candidate(k); err != nil {
						break
					}
				}
			}
		}
		if err != nil {
			return err
		}
	}
}
