//go:build !js

// The native side: pion's peer connections.

package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	ptransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/pion/webrtc/v4"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	// socketBuffer is the size requested for each UDP socket's buffer, enough for a burst of a
	// whole tensor. The kernel may grant less; that costs speed, not data.
	socketBuffer = 4 << 20
	// window is SCTP's receive window: the bytes that a peer may have in flight. It also bounds
	// memory, and is smaller than the socket's buffer, so that a busy machine loses nothing.
	window = 1 << 20
	// narrow is the window if the kernel grants small socket buffers only (Linux: 208 KiB by
	// default, including overhead).
	narrow = 96 << 10

	keepalive = time.Second
	// checks is how often ICE checks a pair before giving up. The caller's context is the
	// real limit.
	checks = 200
)

// Endpoint holds the settings shared by the connections of one process.
type Endpoint struct {
	cfg Config
	ice []webrtc.ICEServer
	api [3]*webrtc.API // by way

	mu     sync.Mutex
	pipes  map[*pipe]struct{}
	closed bool
}

// localhost is the only address of a Loopback endpoint.
var localhost = net.IPv4(127, 0, 0, 1)

// NewEndpoint returns an endpoint, or an error if the configuration is invalid.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	e := &Endpoint{cfg: cfg, pipes: map[*pipe]struct{}{}}
	for _, s := range cfg.ICE {
		for _, u := range s.URLs {
			if _, err := stun.ParseURI(u); err != nil {
				return nil, fmt.Errorf("ICE server %q: %w", u, err)
			}
		}
		e.ice = append(e.ice, webrtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	n, err := stdnet.NewNet()
	if err != nil {
		return nil, fmt.Errorf("looking for network interfaces: %w", err)
	}
	socks := &sockets{Net: n}
	var se webrtc.SettingEngine
	se.SetNet(socks)
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	quiet.ScopeLevels = nil
	se.LoggerFactory = quiet
	se.DetachDataChannels()
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetICEMaxBindingRequests(checks)
	// A disconnected peer counts as gone. The later state failed matters only while
	// connecting, where the caller's context is the limit.
	se.SetICETimeouts(cfg.Idle, 5*time.Minute, keepalive)
	// Use the first direct path that works: no better one will be found.
	se.SetHostAcceptanceMinWait(0)
	se.SetPrflxAcceptanceMinWait(200 * time.Millisecond)
	se.SetSrflxAcceptanceMinWait(200 * time.Millisecond)
	se.SetRelayAcceptanceMinWait(time.Second)
	// RFC 8827 makes this suite mandatory, and processors have instructions for it.
	se.SetDTLSCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	se.EnableSCTPZeroChecksum(true) // DTLS already protects every byte (RFC 9653)
	win := uint32(window)
	if probe, err := socks.ListenUDP("udp4", &net.UDPAddr{IP: localhost}); err == nil {
		_ = probe.Close()
	}
	if socks.small.Load() {
		win = narrow
	}
	if w := max(cfg.Window, narrow); cfg.Window > 0 && uint32(w) < win {
		win = uint32(w)
	}
	se.SetSCTPMaxReceiveBufferSize(win)
	for w := range e.api {
		se := se // each way has its own settings
		switch way(w) {
		case loopback:
			only := func(ip net.IP) bool { return ip.Equal(localhost) }
			se.SetIncludeLoopbackCandidate(true)
			se.SetIPFilter(only)
			se.SetRemoteIPFilter(only)
			se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
		case both:
			se.SetIncludeLoopbackCandidate(true)
			se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
		default:
			se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
			// A stranger must not make this process talk to others on this machine.
			se.SetRemoteIPFilter(func(ip net.IP) bool { return !ip.IsLoopback() })
		}
		e.api[w] = webrtc.NewAPI(webrtc.WithSettingEngine(se), webrtc.WithMediaEngine(&webrtc.MediaEngine{}))
	}
	return e, nil
}

// Here returns the first signal that this side sends to a peer.
func (e *Endpoint) Here() json.RawMessage {
	b, err := json.Marshal(Here{Kind: Hello, Loopback: e.cfg.Loopback, Machine: e.cfg.Machine})
	if err != nil {
		panic(err) // strings
	}
	return b
}

// Close closes the connections that are still open.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	var open []*pipe
	for p := range e.pipes {
		open = append(open, p)
	}
	e.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range open {
		wg.Go(func() { _ = p.Close() })
	}
	wg.Wait()
	return nil
}

// sockets makes ICE's sockets large.
type sockets struct {
	*stdnet.Net
	small atomic.Bool // the kernel granted less than requested
}

func (s *sockets) ListenUDP(network string, addr *net.UDPAddr) (ptransport.UDPConn, error) {
	c, err := net.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetReadBuffer(socketBuffer)
	_ = c.SetWriteBuffer(socketBuffer)
	if granted(c) < window {
		s.small.Store(true)
	}
	return c, nil
}

func (e *Endpoint) register(p *pipe) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.pipes[p] = struct{}{}
	}
	return !e.closed
}

func (e *Endpoint) forget(p *pipe) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pipes, p)
}

// Connect makes a pipe to a peer, whose Here is given. One side offers, the other answers.
// send and recv carry their signals (each a Signal as JSON) through the host until the channel
// is open. send is called by one goroutine at a time and never after Connect has returned. The
// pipe's Send is for one goroutine at a time, and so is Recv.
func (e *Endpoint) Connect(ctx context.Context, offers bool, here json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("connecting: %w", transport.ErrClosed)
	}
	pc, err := e.api[choose(e.cfg, parseHere(here))].NewPeerConnection(webrtc.Configuration{ICEServers: e.ice})
	if err != nil {
		return nil, fmt.Errorf("making a peer connection: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &connecting{newTalk(offers, send, cancel), pc}
	p := &pipe{e: e, pc: pc, low: make(chan struct{}, 1), gone: make(chan struct{}), buf: make([]byte, wire.MaxFrame+1)}
	err = c.run(ctx, p, recv)
	cause := context.Cause(ctx)
	c.quiet()
	cancel(nil)
	if err == nil && !e.register(p) {
		err = transport.ErrClosed
	}
	if err != nil {
		if cause != nil {
			err = cause // more specific than "cancelled"
		}
		if c.both() {
			err = fmt.Errorf("%w: %s", err, hint)
		}
		p.tearDown()
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return p, nil
}

// connecting is a connection being set up.
type connecting struct {
	*talk
	pc *webrtc.PeerConnection
}

// run goes through signaling until the channel is open.
func (c *connecting) run(ctx context.Context, p *pipe, recv <-chan json.RawMessage) error {
	negotiated, id := true, uint16(Channel)
	d, err := c.pc.CreateDataChannel(Label, &webrtc.DataChannelInit{Negotiated: &negotiated, ID: &id})
	if err != nil {
		return fmt.Errorf("making the data channel: %w", err)
	}
	d.OnOpen(func() {
		raw, err := d.DetachWithDeadline()
		if err != nil {
			c.cancel(fmt.Errorf("opening the data channel: %w", err))
			return
		}
		p.open(d, raw)
		close(c.opened)
	})
	c.pc.OnICECandidate(func(k *webrtc.ICECandidate) {
		if k != nil {
			j := k.ToJSON()
			c.tell(Signal{Kind: Candidate, Candidate: j.Candidate, Mid: j.SDPMid, Line: j.SDPMLineIndex})
		}
	})
	c.pc.OnICEConnectionStateChange(func(s webrtc.ICEConnectionState) {
		switch s {
		case webrtc.ICEConnectionStateFailed, webrtc.ICEConnectionStateClosed, webrtc.ICEConnectionStateDisconnected:
			err := fmt.Errorf("%w: nothing was heard from it for %v", transport.ErrPeerGone, p.e.cfg.Idle)
			c.cancel(err)
			p.end(err)
		}
	})
	c.pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateFailed || s == webrtc.PeerConnectionStateClosed {
			err := fmt.Errorf("%w: the connection %s", transport.ErrPeerGone, s)
			c.cancel(err)
			p.end(err)
		}
	})
	if c.offers {
		o, err := c.pc.CreateOffer(nil)
		if err != nil {
			return fmt.Errorf("making an offer: %w", err)
		}
		if err := c.describe(Offer, o); err != nil {
			return err
		}
	}
	return c.listen(ctx, recv, c)
}

// describe sets and sends our description.
func (c *connecting) describe(k Kind, d webrtc.SessionDescription) error {
	if err := c.pc.SetLocalDescription(d); err != nil {
		return fmt.Errorf("our %s: %w", k, err)
	}
	c.tell(Signal{Kind: k, SDP: d.SDP})
	return nil
}

// remote sets the peer's description and answers an offer.
func (c *connecting) remote(s Signal) error {
	t := webrtc.SDPTypeOffer
	if s.Kind == Answer {
		t = webrtc.SDPTypeAnswer
	}
	if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: t, SDP: s.SDP}); err != nil {
		return fmt.Errorf("%w: the %s: %w", ErrSignal, s.Kind, err)
	}
	if c.pc.SCTP() == nil || len(c.pc.GetTransceivers()) > 0 {
		return fmt.Errorf("%w: the %s must describe a data channel and nothing else", ErrSignal, s.Kind)
	}
	if s.Kind == Answer {
		return nil
	}
	a, err := c.pc.CreateAnswer(nil)
	if err != nil {
		return fmt.Errorf("%w: no answer to the offer: %w", ErrSignal, err)
	}
	return c.describe(Answer, a)
}

// check refuses a candidate that ICE could not read.
func (*connecting) check(s string) error {
	if s == "" {
		return nil
	}
	if _, err := ice.UnmarshalCandidate(s); err != nil {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	return nil
}

// candidate passes one of the peer's candidates to ICE. Kinds that this side does not use (TCP,
// hidden names) are ignored.
func (c *connecting) candidate(s Signal) error {
	if s.Candidate == "" {
		return nil
	}
	k, err := ice.UnmarshalCandidate(s.Candidate)
	if err != nil {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	if _, err := netip.ParseAddr(k.Address()); err != nil || k.NetworkType().IsTCP() {
		return nil
	}
	if err := c.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: s.Candidate, SDPMid: s.Mid, SDPMLineIndex: s.Line}); err != nil && !errors.Is(err, webrtc.ErrConnectionClosed) {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	return nil
}
