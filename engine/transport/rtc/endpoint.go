//go:build !js

// The native side: pion's ICE, DTLS and SCTP, one above the other. Its peer connections would do
// the same, but choose the size of packets and what is below SCTP themselves.

package rtc

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/fingerprint"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/sctp"
	"github.com/pion/stun/v4"
	ptransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/rtc/repair"
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

	// mtu is the size of SCTP's packets. With the headers of DTLS, UDP and IP they fit into
	// 1280 bytes, which every path of IPv6 carries.
	mtu = 1191
	// loopbackMTU is their size between two processes of one machine: nine fill a frame, and
	// pion's buffers hold them. Each packet costs far more than its bytes.
	loopbackMTU = 7320
	// resend is how long SCTP waits at most before it repeats what has got no answer, as in
	// Chromium. By default the wait doubles up to a minute, so that a connection whose address has
	// changed could stand still for longer than it took to find the new path.
	resend = 3 * time.Second
	// flight is after how long DTLS repeats a message of its handshake at first.
	flight = 300 * time.Millisecond

	keepalive = time.Second
	// checks is how often ICE checks a pair before giving up. The caller's context is the
	// real limit.
	checks = 200

	// later is how much later than other candidates the relay's are told at first. A browser checks one
	// pair every 50 ms, those from which it has heard first, which are the relay's: a direct path
	// would not be found before the relay is taken. A page waits as long (wasm/peers.js).
	later = 500 * time.Millisecond
	// patient is how long a relayed path has to wait for a direct one.
	patient = 2 * time.Second
)

// Endpoint holds the settings shared by the connections of one process.
type Endpoint struct {
	cfg  Config
	uris []*stun.URI
	net  *sockets
	win  uint32 // SCTP's receive window

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
	e := &Endpoint{cfg: cfg, pipes: map[*pipe]struct{}{}, win: window}
	for _, s := range cfg.ICE {
		for _, u := range s.URLs {
			uri, err := stun.ParseURI(u)
			if err != nil {
				return nil, fmt.Errorf("ICE server %q: %w", u, err)
			}
			uri.Username, uri.Password = s.Username, s.Credential
			e.uris = append(e.uris, uri)
		}
	}
	n, err := stdnet.NewNet()
	if err != nil {
		return nil, fmt.Errorf("looking for network interfaces: %w", err)
	}
	e.net = &sockets{Net: n}
	if probe, err := e.net.ListenUDP("udp4", &net.UDPAddr{IP: localhost}); err == nil {
		_ = probe.Close()
	}
	if e.net.small.Load() {
		e.win = narrow
	}
	if w := max(cfg.Window, narrow); cfg.Window > 0 && uint32(w) < e.win {
		e.win = uint32(w)
	}
	return e, nil
}

// quiet makes pion's layers log nothing.
func quiet() logging.LoggerFactory {
	f := logging.NewDefaultLoggerFactory()
	f.DefaultLogLevel = logging.LogLevelDisabled
	f.ScopeLevels = nil
	return f
}

// agent returns an ICE agent for a way to a peer.
func (e *Endpoint) agent(w way) (*ice.Agent, error) {
	opts := []ice.AgentOption{
		ice.WithUrls(e.uris),
		ice.WithNet(e.net),
		ice.WithLoggerFactory(quiet()),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithMaxBindingRequests(checks),
		// A disconnected peer counts as gone. The later state failed matters only while
		// connecting, where the caller's context is the limit.
		ice.WithDisconnectedTimeout(e.cfg.Idle),
		ice.WithFailedTimeout(5 * time.Minute),
		ice.WithKeepaliveInterval(keepalive),
		// Use the first direct path that works: no better one will be found.
		ice.WithHostAcceptanceMinWait(0),
		ice.WithPrflxAcceptanceMinWait(200 * time.Millisecond),
		ice.WithSrflxAcceptanceMinWait(200 * time.Millisecond),
		ice.WithRelayAcceptanceMinWait(patient),
	}
	types := []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}
	switch w {
	case loopback:
		only := func(ip net.IP) bool { return ip.Equal(localhost) }
		opts = append(opts, ice.WithIncludeLoopback(), ice.WithIPFilter(only), ice.WithRemoteIPFilter(only))
		types = types[:1]
	case both:
		opts = append(opts, ice.WithIncludeLoopback())
	default:
		// A stranger must not make this process talk to others on this machine.
		opts = append(opts, ice.WithRemoteIPFilter(func(ip net.IP) bool { return !ip.IsLoopback() }))
	}
	return ice.NewAgentWithOptions(append(opts, ice.WithNetworkTypes(types))...)
}

// Here returns the first signal that this side sends to a peer.
func (e *Endpoint) Here() json.RawMessage {
	b, err := json.Marshal(Here{Kind: Hello, Loopback: e.cfg.Loopback, Machine: e.cfg.Machine, Packet: loopbackMTU})
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

// Moved is told that this machine may have another address. Here every connection looks for
// itself (see roam.go); a tab cannot.
func (*Endpoint) Moved() {}

// sockets makes ICE's sockets large, and knows addresses that came later.
type sockets struct {
	*stdnet.Net
	mu    sync.Mutex
	small atomic.Bool // the kernel granted less than requested
}

// Interfaces returns what the system has now.
func (s *sockets) Interfaces() ([]*ptransport.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.UpdateInterfaces(); err != nil {
		return nil, err
	}
	return s.Net.Interfaces()
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

// The relay's addresses are names of IPv4 only, so that any two providers have a kind in common,
// however they reach it. pion's client asks for the kind that its own end has: it is shown one of
// IPv4. (It does so for what it reaches by ListenPacket and DialTCP, and for nothing else.)
type (
	relayUDP struct{ ptransport.UDPConn }
	relayTCP struct{ ptransport.TCPConn }
)

func (c relayUDP) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4zero, Port: c.UDPConn.LocalAddr().(*net.UDPAddr).Port}
}

func (c relayTCP) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4zero, Port: c.TCPConn.LocalAddr().(*net.TCPAddr).Port}
}

func (s *sockets) ListenPacket(network, address string) (net.PacketConn, error) {
	addr, err := net.ResolveUDPAddr(network, address)
	if err != nil {
		return nil, err
	}
	c, err := s.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	return relayUDP{c}, nil
}

func (s *sockets) DialTCP(network string, local, remote *net.TCPAddr) (ptransport.TCPConn, error) {
	c, err := s.Net.DialTCP(network, local, remote)
	if err != nil {
		return nil, err
	}
	return relayTCP{c}, nil
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
// send and recv carry their signals (each a Signal as JSON) through the host, until the channel is
// open, and after that if an address changes. send is called by one goroutine at a time, and
// never after an error or after the pipe is closed. The pipe's Send is for one goroutine at a
// time, and so is Recv.
func (e *Endpoint) Connect(ctx context.Context, offers bool, here json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("connecting: %w", transport.ErrClosed)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	peer := parseHere(here)
	w := choose(e.cfg, peer)
	agent, err := e.agent(w)
	if err != nil {
		return nil, fmt.Errorf("connecting: making an ICE agent: %w", err)
	}
	p := &pipe{e: e, agent: agent, low: make(chan struct{}, 1), gone: make(chan struct{}), connected: make(chan struct{}, 1), uproot: make(chan struct{}), found: make(chan Signal, MaxCandidates), ended: make(chan struct{}), buf: make([]byte, wire.MaxFrame+1)}
	c := &connecting{talk: newTalk(offers, send, cancel), ctx: ctx, p: p, mtu: mtu}
	if w == loopback && peer.Packet >= loopbackMTU {
		c.mtu, p.near = loopbackMTU, true
	}
	err = c.run(ctx, recv)
	cause := context.Cause(ctx)
	c.quiet()
	if err == nil && !e.register(p) {
		err = transport.ErrClosed
	}
	if err != nil {
		cancel(err)
		if cause != nil {
			err = cause // more specific than "cancelled"
		}
		if c.both() {
			err = fmt.Errorf("%w: %s", err, hint)
		}
		c.wg.Wait() // its layers end with ctx
		p.tearDown()
		return nil, fmt.Errorf("connecting: %w", err)
	}
	c.wg.Wait()
	r := &roamer{p: p, offers: offers, ours: c.ours, send: send, recv: recv, late: time.NewTimer(time.Hour)}
	r.late.Stop()
	p.wg.Go(r.roam)
	return p, nil
}

// connecting is a connection being set up.
type connecting struct {
	*talk
	ctx context.Context
	p   *pipe
	mtu uint32
	wg  sync.WaitGroup // establishes the layers above ICE

	cert tls.Certificate
	ours description
}

// run goes through signaling until the channel is open.
func (c *connecting) run(ctx context.Context, recv <-chan json.RawMessage) error {
	var err error
	if c.cert, err = selfsign.GenerateSelfSigned(); err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(c.cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	c.ours = description{hash: crypto.SHA256, setup: "actpass", message: wire.MaxFrame}
	if c.ours.print, err = fingerprint.Fingerprint(leaf, c.ours.hash); err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	agent := c.p.agent
	if c.ours.ufrag, c.ours.pwd, err = agent.GetLocalUserCredentials(); err != nil {
		return fmt.Errorf("credentials for ICE: %w", err)
	}
	mid, line := "0", uint16(0)
	if err := agent.OnCandidate(func(k ice.Candidate) {
		if k == nil {
			return
		}
		found := Signal{Kind: Candidate, Candidate: "candidate:" + k.Marshal(), Mid: &mid, Line: &line}
		select {
		case <-c.opened: // a link that moves waits for nothing
		default:
			if k.Type() == ice.CandidateTypeRelay {
				time.AfterFunc(later, func() { c.found(found) })
				return
			}
		}
		c.found(found)
	}); err != nil {
		return fmt.Errorf("looking for addresses: %w", err)
	}
	if err := agent.OnConnectionStateChange(func(s ice.ConnectionState) {
		switch s {
		case ice.ConnectionStateConnected:
			select {
			case c.p.connected <- struct{}{}:
			default:
			}
		case ice.ConnectionStateClosed: // by DTLS, which the peer has told
			c.cancel(errClosing)
			c.p.end(errClosing)
		case ice.ConnectionStateFailed, ice.ConnectionStateDisconnected:
			err := fmt.Errorf("%w: nothing was heard from it for %v", transport.ErrPeerGone, c.p.e.cfg.Idle)
			c.cancel(err)
			c.p.end(err)
		}
	}); err != nil {
		return fmt.Errorf("watching the connection: %w", err)
	}
	if err := agent.GatherCandidates(); err != nil {
		return fmt.Errorf("looking for addresses: %w", err)
	}
	if c.offers {
		c.tell(Signal{Kind: Offer, SDP: c.ours.String()})
	}
	return c.listen(ctx, recv, c)
}

// found tells the peer one of our candidates, as long as that is of use.
func (c *connecting) found(s Signal) {
	select {
	case <-c.opened:
		select {
		case c.p.found <- s:
		default:
		}
	default:
		c.tell(s)
	}
}

// remote takes the peer's description, answers an offer, and begins to connect.
func (c *connecting) remote(s Signal) error {
	theirs, err := parseDescription(s.SDP)
	if err != nil {
		return fmt.Errorf("%w: the %s: %w", ErrSignal, s.Kind, err)
	}
	begins := theirs.setup == "passive" // whether this side sends DTLS's first message
	if s.Kind == Offer {
		begins = theirs.setup != "active"
	}
	c.ours.setup = map[bool]string{true: "active", false: "passive"}[begins]
	if s.Kind == Offer {
		c.tell(Signal{Kind: Answer, SDP: c.ours.String()})
	}
	c.wg.Go(func() {
		if err := c.establish(theirs, begins); err != nil {
			c.cancel(err)
			return
		}
		close(c.opened)
	})
	return nil
}

// establish connects ICE, DTLS, SCTP and the data channel, from the bottom up.
func (c *connecting) establish(theirs description, begins bool) error {
	p, dial := c.p, c.p.agent.Accept
	if c.offers {
		dial = p.agent.Dial
	}
	path, err := dial(c.ctx, theirs.ufrag, theirs.pwd)
	if err != nil {
		return fmt.Errorf("no path to the peer: %w", err)
	}
	opts := []dtls.Option{
		dtls.WithCertificates(c.cert),
		// RFC 8827 makes this suite mandatory, and processors have instructions for it.
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
		dtls.WithInsecureSkipVerify(true), // the fingerprint is what counts
		dtls.WithVerifyPeerCertificate(func(chain [][]byte, _ [][]*x509.Certificate) error { return theirs.certifies(chain) }),
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80), // browsers insist, though no media follow
		dtls.WithFlightInterval(flight),
		dtls.WithLoggerFactory(quiet()),
	}
	d := newDatagrams(path)
	var secure *dtls.Conn
	if begins {
		var o []dtls.ClientOption
		for _, v := range opts {
			o = append(o, v)
		}
		secure, err = dtls.ClientWithOptions(d, path.RemoteAddr(), o...)
	} else {
		o := []dtls.ServerOption{dtls.WithClientAuth(dtls.RequireAnyClientCert)}
		for _, v := range opts {
			o = append(o, v)
		}
		secure, err = dtls.ServerWithOptions(d, path.RemoteAddr(), o...)
	}
	if err == nil {
		p.secure = secure
		err = secure.HandshakeContext(c.ctx)
	}
	if err != nil {
		return fmt.Errorf("encrypting the connection: %w", err)
	}
	var records net.Conn = secure // where the session is of another kind, pion's records do as well
	if r, err := takeOver(secure, d); err == nil {
		records = r
	}
	p.mended = mend(records, int(c.mtu))
	assoc, err := sctp.ClientContext(c.ctx,
		sctp.WithNetConn(p.mended),
		sctp.WithMinCwnd(repair.Ceiling), // the window is mended's
		sctp.WithLoggerFactory(quiet()),
		sctp.WithMTU(c.mtu),
		sctp.WithRTOMax(float64(resend.Milliseconds())),
		sctp.WithMaxMessageSize(wire.MaxFrame),
		sctp.WithMaxReceiveBufferSize(p.e.win),
		sctp.WithEnableZeroChecksum(true), // DTLS already protects every byte (RFC 9653)
	)
	if err != nil {
		return fmt.Errorf("associating: %w", err)
	}
	p.assoc = assoc
	channel, err := datachannel.Dial(assoc, Channel, &datachannel.Config{ChannelType: datachannel.ChannelTypeReliable, Negotiated: true, Label: Label, LoggerFactory: quiet()})
	if err != nil {
		return fmt.Errorf("opening the data channel: %w", err)
	}
	p.theirs = theirs
	p.open(channel)
	return nil
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
	if err := c.p.agent.AddRemoteCandidate(k); err != nil && !errors.Is(err, ice.ErrClosed) {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	return nil
}
