package rtc

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/ravnest/ravnest/engine/transport"
)

// Endpoint would hold a tab's peer connections, which live on the page's main thread.
type Endpoint struct{}

// NewEndpoint reports that tabs are not providers yet.
func NewEndpoint(Config) (*Endpoint, error) {
	return nil, errors.New("a browser tab cannot connect to other providers in this version")
}

// Connect is never reached: there is no Endpoint.
func (*Endpoint) Connect(context.Context, bool, func(json.RawMessage) error, <-chan json.RawMessage) (transport.Pipe, error) {
	return nil, errors.ErrUnsupported
}

// Close implements io.Closer.
func (*Endpoint) Close() error { return nil }
