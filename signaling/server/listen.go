package server

// Listening: reachable from other machines only if a token guards the host.

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// ErrOpen is returned if the host would be reachable from other machines without a token.
var ErrOpen = errors.New("refusing to be reachable from other machines without a join token")

// Listen opens addr ("host:port"; ":0" picks a port). Without a token it
// refuses every address but loopback ones.
func Listen(addr, token string) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w: give it as host:port, for example 127.0.0.1:8080", addr, err)
	}
	if token == "" && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%w: %s: set a token, or listen on 127.0.0.1:%d", ErrOpen, addr, tcp.Port)
	}
	ln, err := net.Listen("tcp", tcp.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("the address %s is in use by another program: stop that, or choose another port (port 0 picks a free one): %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("not allowed to listen on %s: choose a port above 1023: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

// loopback reports whether a "host:port", or a host alone, is a loopback address.
func loopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ownHost reports whether a request was addressed to a loopback name. It guards a host
// without a token against pages of other sites that point their own name at this machine
// (DNS rebinding): to the browser they are of the same origin, but the Host header that it
// sends is not a loopback name.
func ownHost(r *http.Request) bool { return loopback(r.Host) }
