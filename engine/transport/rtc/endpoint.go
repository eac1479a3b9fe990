//go:build !js

// The native side on pion's ICE, DTLS and SCTP. They are put together here and not by
// a peer connection for one reason: that fixes SCTP packets at 1191 bytes, and where
// both ends sit on one machine packets of 8 KiB cost a third of the processor time per
// byte (measured by the benchmarks beside this file).

package rtc

import (
	"context"
	"crypto/sha256"
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

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/sctp"
	"github.com/pion/stun/v4"
	ptransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	// socketBuffer of each UDP socket takes the burst of a whole tensor. The kernel may
	// grant less; that costs speed, not data.
	socketBuffer = 4 << 20
	// window is SCTP's receive window: what a peer may have under way. It bounds memory
	// too, and stays below the socket's buffer, so that a busy machine loses nothing.
	window = 1 << 20
	// narrow is the window where the kernel grants small socket buffers (Linux: 208 KiB
	// by default, which counts overhead too).
	narrow = 96 << 10

	// pathPacket is the SCTP packet that every path carries: a datagram of 1200 bytes
	// with DTLS (RFC 8831, section 5, by the least IPv6 allows).
	pathPacket = 1191
	// localPacket fits the 8192-byte buffers of pion's ICE, DTLS and SCTP with 37 bytes
	// of DTLS around it.
	localPacket = 8128

	keepalive = time.Second
	// Between two checks of a pair, and how many of them: five seconds for the peer to
	// learn of us through the host, ten on a network.
	localCheck, localChecks     = 25 * time.Millisecond, 200
	networkCheck, networkChecks = 100 * time.Millisecond, 100
)

// Endpoint holds what the connections of one process share: a certificate and the
// settings.
type Endpoint struct {
	cfg         Config
	cert        tls.Certificate
	fingerprint [32]byte
	urls        []*stun.URI
	net         *sockets
	log         logging.LoggerFactory

	mu     sync.Mutex
	pipes  map[*pipe]struct{}
	closed bool
}

// NewEndpoint checks the configuration and makes a certificate for this process.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	e := &Endpoint{cfg: cfg, pipes: map[*pipe]struct{}{}}
	for _, s := range cfg.ICE {
		for _, u := range s.URLs {
			uri, err := stun.ParseURI(u)
			if err != nil {
				return nil, fmt.Errorf("ICE server %q: %w", u, err)
			}
			uri.Username, uri.Password = s.Username, s.Credential
			e.urls = append(e.urls, uri)
		}
	}
	var err error
	if e.cert, err = selfsign.GenerateSelfSigned(); err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	e.fingerprint = sha256.Sum256(e.cert.Certificate[0])
	n, err := stdnet.NewNet()
	if err != nil {
		return nil, fmt.Errorf("looking for network interfaces: %w", err)
	}
	e.net = &sockets{Net: n}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	quiet.ScopeLevels = nil
	e.log = quiet
	return e, nil
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
	small atomic.Bool // the kernel grants less than asked
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

// localhost is the only address of a Loopback endpoint.
var localhost = net.IPv4(127, 0, 0, 1)

func (e *Endpoint) agent() (*ice.Agent, error) {
	opts := []ice.AgentOption{
		ice.WithNet(e.net), ice.WithLoggerFactory(e.log), ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithKeepaliveInterval(keepalive),
		// Disconnected is the end for us; failed, which comes later, counts only while
		// connecting, where the caller's context is the limit.
		ice.WithDisconnectedTimeout(e.cfg.Idle), ice.WithFailedTimeout(5 * time.Minute),
		// What works first is taken soon: a better path than a direct one does not come.
		ice.WithHostAcceptanceMinWait(0), ice.WithPrflxAcceptanceMinWait(200 * time.Millisecond),
		ice.WithSrflxAcceptanceMinWait(200 * time.Millisecond), ice.WithRelayAcceptanceMinWait(time.Second),
	}
	if e.cfg.Loopback {
		only := func(ip net.IP) bool { return ip.Equal(localhost) }
		opts = append(opts, ice.WithCheckInterval(localCheck), ice.WithMaxBindingRequests(localChecks), ice.WithIncludeLoopback(), ice.WithIPFilter(only), ice.WithRemoteIPFilter(only),
			ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4}), ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}))
	} else {
		opts = append(opts, ice.WithCheckInterval(networkCheck), ice.WithMaxBindingRequests(networkChecks),
			ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}), ice.WithUrls(e.urls),
			// A stranger does not get to choose what is talked to on this machine.
			ice.WithRemoteIPFilter(func(ip net.IP) bool { return !ip.IsLoopback() }))
	}
	a, err := ice.NewAgentWithOptions(opts...)
	if err != nil {
		return nil, fmt.Errorf("starting ICE: %w", err)
	}
	return a, nil
}

// Connect makes a pipe to a peer. One side offers, the other answers; send and recv
// carry their signals (JSON of a Signal) through the host until the channel is open.
// send is called by one goroutine at a time and never after Connect has returned.
// The pipe's Send is for one goroutine at a time, and so is Recv.
func (e *Endpoint) Connect(ctx context.Context, offers bool, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("connecting: %w", transport.ErrClosed)
	}
	a, err := e.agent()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &connecting{e: e, agent: a, offers: offers, ctx: ctx, cancel: cancel, send: send, described: make(chan description, 1)}
	p := &pipe{e: e, agent: a, low: make(chan struct{}, 1), gone: make(chan struct{}), buf: make([]byte, wire.MaxFrame+1)}
	var signals sync.WaitGroup
	signals.Go(func() { c.listen(recv) })
	err = c.run(p)
	cause := context.Cause(ctx)
	c.quiet()
	cancel(nil)
	signals.Wait()
	if err == nil && !e.register(p) {
		err = transport.ErrClosed
	}
	if err != nil {
		if cause != nil {
			err = cause // says more than "cancelled"
		}
		p.tearDown()
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return p, nil
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

// connecting is a connection on its way.
type connecting struct {
	e         *Endpoint
	agent     *ice.Agent
	offers    bool
	ctx       context.Context
	cancel    context.CancelCauseFunc
	described chan description

	mu   sync.Mutex
	send func(json.RawMessage) error // nil: over
}

func (c *connecting) tell(s Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.send == nil {
		return
	}
	b, err := json.Marshal(s)
	if err == nil {
		err = c.send(b)
	}
	if err != nil {
		c.cancel(fmt.Errorf("signaling: %w", err))
	}
}

// quiet ends tell.
func (c *connecting) quiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send = nil
}

// listen takes the peer's signals until the connection is made or has failed.
func (c *connecting) listen(recv <-chan json.RawMessage) {
	described, n := false, 0
	for {
		var b json.RawMessage
		select {
		case b = <-recv:
		case <-c.ctx.Done():
			return
		}
		if b == nil {
			// The caller's queue has ended; what was sent may still suffice.
			return
		}
		s, err := ParseSignal(b)
		if err == nil {
			switch {
			case s.Kind == Candidate:
				if n++; n > MaxCandidates {
					err = fmt.Errorf("%w: more than %d candidates", ErrSignal, MaxCandidates)
				} else {
					err = c.candidate(s.Candidate)
				}
			case described || (s.Kind == Answer) != c.offers:
				err = fmt.Errorf("%w: an %s out of turn", ErrSignal, s.Kind)
			default:
				var d description
				if d, err = parseDescription(s.SDP); err == nil {
					for _, k := range d.candidates {
						if err == nil {
							err = c.candidate(k)
						}
					}
					described = true
					c.described <- d
				}
			}
		}
		if err != nil {
			c.cancel(err)
			return
		}
	}
}

// candidate hands one of the peer's to ICE, which keeps it if it is early. One of a
// kind that this side does not use (TCP, a hidden name) is left out.
func (c *connecting) candidate(s string) error {
	if s == "" {
		return nil
	}
	k, err := ice.UnmarshalCandidate(s)
	if err != nil {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	if _, err := netip.ParseAddr(k.Address()); err != nil || k.NetworkType().IsTCP() {
		return nil
	}
	return c.agent.AddRemoteCandidate(k)
}

// run goes through signaling, ICE, DTLS and SCTP.
func (c *connecting) run(p *pipe) error {
	ufrag, pwd, err := c.agent.GetLocalUserCredentials()
	if err != nil {
		return fmt.Errorf("ICE credentials: %w", err)
	}
	ours := description{ufrag: ufrag, pwd: pwd, fingerprint: c.e.fingerprint, setup: actpass, mid: "0", maxMessage: wire.MaxFrame, packet: localPacket}
	if c.offers {
		c.tell(Signal{Kind: Offer, SDP: ours.String()})
	}
	var theirs description
	mid, line := "0", uint16(0)
	gather := func() error {
		err := c.agent.OnCandidate(func(k ice.Candidate) {
			if k != nil {
				c.tell(Signal{Kind: Candidate, Candidate: "candidate:" + k.Marshal(), Mid: &mid, Line: &line})
			}
		})
		if err == nil {
			err = c.agent.GatherCandidates()
		}
		return err
	}
	if c.offers {
		if err := gather(); err != nil {
			return fmt.Errorf("gathering candidates: %w", err)
		}
	}
	select {
	case theirs = <-c.described:
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	client := false // who begins DTLS; the answer decides
	if c.offers {
		switch theirs.setup {
		case active:
		case passive:
			client = true
		default:
			return fmt.Errorf("%w: an answer with DTLS setup %s", ErrSignal, theirs.setup)
		}
	} else {
		ours.setup, client, ours.mid = active, true, theirs.mid
		if theirs.setup == active {
			ours.setup, client = passive, false
		}
		mid = theirs.mid
		c.tell(Signal{Kind: Answer, SDP: ours.String()})
		if err := gather(); err != nil {
			return fmt.Errorf("gathering candidates: %w", err)
		}
	}

	if err := c.agent.OnConnectionStateChange(func(s ice.ConnectionState) {
		switch s {
		case ice.ConnectionStateFailed, ice.ConnectionStateClosed, ice.ConnectionStateDisconnected:
			err := fmt.Errorf("%w: nothing was heard of it for %v", transport.ErrPeerGone, c.e.cfg.Idle)
			c.cancel(err)
			p.end(err)
		}
	}); err != nil {
		return err
	}
	var conn *ice.Conn
	if c.offers {
		conn, err = c.agent.Dial(c.ctx, theirs.ufrag, theirs.pwd)
	} else {
		conn, err = c.agent.Accept(c.ctx, theirs.ufrag, theirs.pwd)
	}
	if err != nil {
		return fmt.Errorf("no path to the peer: %w", err)
	}
	sec, err := c.secure(conn, client, theirs.fingerprint)
	if err != nil {
		return fmt.Errorf("DTLS with the peer: %w", err)
	}
	p.dtls = sec

	packet, win := pathPacket, window
	if theirs.packet > 0 && loops(conn.LocalAddr()) && loops(conn.RemoteAddr()) {
		packet = max(pathPacket, min(localPacket, theirs.packet))
	}
	if c.e.net.small.Load() {
		win = narrow
	}
	message := theirs.maxMessage
	if message == 0 || message > wire.MaxFrame {
		message = wire.MaxFrame
	}
	assoc, err := sctp.ClientContext(c.ctx, sctp.WithNetConn(sec), sctp.WithLoggerFactory(c.e.log), sctp.WithMTU(uint32(packet)),
		sctp.WithMaxReceiveBufferSize(uint32(win)), sctp.WithMaxMessageSize(uint32(message)),
		sctp.WithEnableZeroChecksum(true)) // DTLS checks every byte (RFC 9653)
	if err != nil {
		return fmt.Errorf("SCTP with the peer: %w", err)
	}
	p.assoc = assoc
	stream, err := assoc.OpenStream(Channel, sctp.PayloadTypeWebRTCBinary)
	if err != nil {
		return fmt.Errorf("opening the data channel: %w", err)
	}
	p.open(stream)
	return nil
}

func loops(a net.Addr) bool {
	u, ok := a.(*net.UDPAddr)
	return ok && u.IP.IsLoopback()
}

// packetConn gives DTLS the path that ICE has chosen.
type packetConn struct{ *ice.Conn }

func (c packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, nil, err
}

func (c packetConn) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

// secure makes the DTLS connection and holds the peer to its fingerprint.
func (c *connecting) secure(conn *ice.Conn, client bool, fingerprint [32]byte) (*dtls.Conn, error) {
	opts := []dtls.Option{
		dtls.WithCertificates(c.e.cert),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), // RFC 8827 makes it mandatory, processors make it cheap
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithInsecureSkipVerify(true), // there is no authority: the fingerprint is what counts
		dtls.WithVerifyPeerCertificate(func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || sha256.Sum256(raw[0]) != fingerprint {
				return errors.New("the certificate is not the one of the description")
			}
			return nil
		}),
		// No media is ever sent, but RFC 8827 lets a peer insist on keys for it.
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80),
		dtls.WithFlightInterval(300 * time.Millisecond),
		dtls.WithLoggerFactory(c.e.log),
	}
	var d *dtls.Conn
	var err error
	if client {
		var co []dtls.ClientOption
		for _, o := range opts {
			co = append(co, o)
		}
		d, err = dtls.ClientWithOptions(packetConn{conn}, conn.RemoteAddr(), co...)
	} else {
		so := []dtls.ServerOption{dtls.WithClientAuth(dtls.RequireAnyClientCert)}
		for _, o := range opts {
			so = append(so, o)
		}
		d, err = dtls.ServerWithOptions(packetConn{conn}, conn.RemoteAddr(), so...)
	}
	if err != nil {
		return nil, err
	}
	if err := d.HandshakeContext(c.ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}
