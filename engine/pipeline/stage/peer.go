package stage

// Who has sent what cannot be.

import (
	"errors"
	"fmt"
)

// ErrRound is wrapped by errors about what clusters have agreed on at a round's end and what one of
// them cannot have said. Whose doing that is cannot be told: it has come through several hands.
var ErrRound = fmt.Errorf("%w: the clusters do not agree about a round", ErrProtocol)

// PeerError says that what came from another stage cannot be. Either that stage has sent it, or this
// one says so and has got something else: nobody else can tell.
type PeerError struct {
	From Peer
	Err  error
}

func (e *PeerError) Error() string { return e.Err.Error() }
func (e *PeerError) Unwrap() error { return e.Err }

// gotFrom notes who has sent a number that is not finite.
func (w *wiring) gotFrom(stage int, err error) error {
	return &PeerError{Peer{w.cluster, stage}, err}
}

// sentBy notes who has sent what an error is about, if that is not a stage that is named already.
func sentBy(p Peer, err error) error {
	var e *PeerError
	if !errors.Is(err, ErrProtocol) || errors.Is(err, ErrRound) || errors.As(err, &e) {
		return err
	}
	return &PeerError{p, err}
}

// sentBy is sentBy for a stage of this one's cluster.
func (w *wiring) sentBy(stage int, err error) error { return sentBy(Peer{w.cluster, stage}, err) }
