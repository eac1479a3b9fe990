//go:build !js

// The native side: pion.

package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/webrtc/v4"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	socketBuffer = 4 << 20 // of the UDP socket: bursts of a whole tensor
	sctpBuffer   = 1 << 20 // SCTP receive window
	highWater    = 1 << 20 // bytes queued in SCTP at which Send waits
	lowWater     = 256 << 10
	label        = "ravnest"
)

// Endpoint holds what the connections of one process share: a UDP socket and the
// settings. Close it after its connections.
type Endpoint struct {
	api *webrtc.API
	ice []webrtc.ICEServer
	udp net.PacketConn
	mux ice.UDPMux
}

// NewEndpoint opens a UDP socket for all connections of this process.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Idle == 0 {
		cfg.Idle = 4 * time.Second
	}
	e := &Endpoint{}
	for _, s := range cfg.ICE {
		e.ice = append(e.ice, webrtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	var se webrtc.SettingEngine
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	se.LoggerFactory = quiet
	se.DetachDataChannels()
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	se.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	se.SetSCTPMaxReceiveBufferSize(sctpBuffer)
	se.EnableSCTPZeroChecksum(true)
	// A dead peer is noticed after Idle; a keepalive a second is all that idling costs.
	se.SetICETimeouts(cfg.Idle*3/4, cfg.Idle, time.Second)
	// The first pair that works is taken: there is nothing better to wait for.
	se.SetHostAcceptanceMinWait(0)
	se.SetSrflxAcceptanceMinWait(200 * time.Millisecond)
	addr := &net.UDPAddr{IP: net.IPv4zero}
	if cfg.Loopback {
		addr.IP = net.IPv4(127, 0, 0, 1)
		se.SetIncludeLoopbackCandidate(true)
	}
	udp, err := net.ListenUDP("udp4", addr)
	if err != nil {
		return nil, fmt.Errorf("opening a UDP socket: %w", err)
	}
	// The kernel may grant less; that only costs speed.
	_ = udp.SetReadBuffer(socketBuffer)
	_ = udp.SetWriteBuffer(socketBuffer)
	e.udp = udp
	if cfg.Loopback {
		e.mux = ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: udp, Logger: quiet.NewLogger("ice")})
		se.SetICEUDPMux(e.mux)
	} else {
		_ = udp.Close()
		e.udp = nil
		if e.mux, err = ice.NewMultiUDPMuxFromPort(0, ice.UDPMuxFromPortWithReadBufferSize(socketBuffer), ice.UDPMuxFromPortWithWriteBufferSize(socketBuffer), ice.UDPMuxFromPortWithNetworks(ice.NetworkTypeUDP4)); err != nil {
			return nil, fmt.Errorf("opening UDP sockets: %w", err)
		}
		se.SetICEUDPMux(e.mux)
	}
	e.api = webrtc.NewAPI(webrtc.WithSettingEngine(se), webrtc.WithMediaEngine(&webrtc.MediaEngine{}))
	return e, nil
}

// Close releases the sockets.
func (e *Endpoint) Close() error {
	err := e.mux.Close()
	if e.udp != nil {
		if cerr := e.udp.Close(); err == nil && !errors.Is(cerr, net.ErrClosed) {
			err = cerr
		}
	}
	return err
}

// Connect makes a pipe to a peer. One side offers, the other answers; send and recv
// carry their signals through the host until the channel is open.
func (e *Endpoint) Connect(ctx context.Context, offers bool, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	pc, err := e.api.NewPeerConnection(webrtc.Configuration{ICEServers: e.ice})
	if err != nil {
		return nil, fmt.Errorf("making a peer connection: %w", err)
	}
	c := &connecting{pc: pc, send: send, open: make(chan *pipe, 1), failed: make(chan error, 8)}
	p, err := c.run(ctx, offers, recv)
	if err != nil {
		_ = pc.Close()
		return nil, err
	}
	return p, nil
}

// connecting is a connection on its way.
type connecting struct {
	pc     *webrtc.PeerConnection
	send   func(json.RawMessage) error
	open   chan *pipe
	failed chan error

	mu      sync.Mutex
	told    bool     // our description is out: candidates may follow
	waiting []signal // candidates found before that
}

func (c *connecting) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

func (c *connecting) tell(s signal) {
	b, err := json.Marshal(s)
	if err == nil {
		err = c.send(b)
	}
	if err != nil {
		c.fail(fmt.Errorf("signaling: %w", err))
	}
}

func (c *connecting) run(ctx context.Context, offers bool, recv <-chan json.RawMessage) (*pipe, error) {
	p := &pipe{pc: c.pc, gone: make(chan struct{}), low: make(chan struct{}, 1), buf: make([]byte, wire.MaxFrame+1)}
	c.pc.OnICECandidate(func(ic *webrtc.ICECandidate) {
		if ic == nil {
			return
		}
		j := ic.ToJSON()
		s := signal{Kind: candidate, Candidate: j.Candidate, Mid: j.SDPMid, Line: j.SDPMLineIndex}
		c.mu.Lock()
		if !c.told {
			c.waiting = append(c.waiting, s)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.tell(s)
	})
	c.pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateFailed || s == webrtc.PeerConnectionStateClosed {
			c.fail(fmt.Errorf("%w: the connection %s", transport.ErrPeerGone, s))
			p.end(fmt.Errorf("%w: the connection %s", transport.ErrPeerGone, s))
		}
	})
	attach := func(d *webrtc.DataChannel) {
		d.OnOpen(func() {
			raw, err := d.Detach()
			if err != nil {
				c.fail(fmt.Errorf("opening the data channel: %w", err))
				return
			}
			p.attach(d, raw)
			c.open <- p
		})
	}
	if offers {
		d, err := c.pc.CreateDataChannel(label, nil)
		if err != nil {
			return nil, fmt.Errorf("making a data channel: %w", err)
		}
		attach(d)
		o, err := c.pc.CreateOffer(nil)
		if err != nil {
			return nil, fmt.Errorf("making an offer: %w", err)
		}
		if err := c.describe(o, offer); err != nil {
			return nil, err
		}
	} else {
		c.pc.OnDataChannel(func(d *webrtc.DataChannel) {
			if d.Label() == label {
				attach(d)
			}
		})
	}
	var early []signal // candidates that overtook the description
	described := false
	for {
		select {
		case p := <-c.open:
			return p, nil
		case err := <-c.failed:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case b := <-recv:
			s, err := parseSignal(b)
			if err != nil {
				return nil, err
			}
			switch {
			case s.Kind == candidate && !described:
				if len(early) > 64 {
					return nil, fmt.Errorf("%w: too many candidates", ErrSignal)
				}
				early = append(early, s)
			case s.Kind == candidate:
				err = c.add(s)
			case described || (s.Kind == answer) != offers:
				err = fmt.Errorf("%w: an %s out of turn", ErrSignal, s.Kind)
			default:
				described = true
				err = c.remote(s, early)
			}
			if err != nil {
				return nil, err
			}
		}
	}
}

// describe sets and sends our description, then the candidates found meanwhile.
func (c *connecting) describe(d webrtc.SessionDescription, k kind) error {
	if err := c.pc.SetLocalDescription(d); err != nil {
		return fmt.Errorf("our %s: %w", k, err)
	}
	c.tell(signal{Kind: k, SDP: d.SDP})
	c.mu.Lock()
	c.told = true
	w := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, s := range w {
		c.tell(s)
	}
	return nil
}

func (c *connecting) remote(s signal, early []signal) error {
	t := webrtc.SDPTypeOffer
	if s.Kind == answer {
		t = webrtc.SDPTypeAnswer
	}
	if err := c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: t, SDP: s.SDP}); err != nil {
		return fmt.Errorf("%w: the peer's %s: %w", ErrSignal, s.Kind, err)
	}
	for _, s := range early {
		if err := c.add(s); err != nil {
			return err
		}
	}
	if s.Kind == answer {
		return nil
	}
	a, err := c.pc.CreateAnswer(nil)
	if err != nil {
		return fmt.Errorf("making an answer: %w", err)
	}
	return c.describe(a, answer)
}

func (c *connecting) add(s signal) error {
	if err := c.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: s.Candidate, SDPMid: s.Mid, SDPMLineIndex: s.Line}); err != nil {
		return fmt.Errorf("%w: a candidate: %w", ErrSignal, err)
	}
	return nil
}

// pipe is an open data channel.
type pipe struct {
	pc  *webrtc.PeerConnection
	d   *webrtc.DataChannel
	raw io.ReadWriteCloser
	low chan struct{}
	buf []byte

	once   sync.Once
	gone   chan struct{}
	reason error
	closer sync.Once
}

func (p *pipe) attach(d *webrtc.DataChannel, raw io.ReadWriteCloser) {
	p.d, p.raw = d, raw
	d.SetBufferedAmountLowThreshold(lowWater)
	d.OnBufferedAmountLow(func() {
		select {
		case p.low <- struct{}{}:
		default:
		}
	})
}

func (p *pipe) end(err error) {
	p.once.Do(func() {
		p.reason = err
		close(p.gone)
		if p.raw != nil {
			// A reader in Recv is woken by the channel's end.
			go p.shut()
		}
	})
}

func (p *pipe) shut() {
	p.closer.Do(func() {
		_ = p.raw.Close()
		_ = p.pc.Close()
	})
}

// Send implements transport.Pipe.
func (p *pipe) Send(ctx context.Context, frame []byte) error {
	for p.d.BufferedAmount() > highWater {
		select {
		case <-p.low:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.gone:
			return p.reason
		}
	}
	select {
	case <-p.gone:
		return p.reason
	default:
	}
	if _, err := p.raw.Write(frame); err != nil {
		p.end(fmt.Errorf("%w: %w", transport.ErrPeerGone, err))
		return p.reason
	}
	return nil
}

// Recv implements transport.Pipe.
func (p *pipe) Recv(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	n, err := p.raw.Read(p.buf)
	if err == nil {
		return p.buf[:n], nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.end(fmt.Errorf("%w: the channel ended: %w", transport.ErrPeerGone, err))
	return nil, p.reason
}

// Close implements transport.Pipe: what was sent is given a moment to arrive.
func (p *pipe) Close() error {
	deadline := time.Now().Add(2 * time.Second)
	for p.d.BufferedAmount() > 0 && time.Now().Before(deadline) {
		select {
		case <-p.gone:
			deadline = time.Time{}
		case <-time.After(2 * time.Millisecond):
		}
	}
	p.once.Do(func() {
		p.reason = transport.ErrClosed
		close(p.gone)
	})
	p.shut()
	return nil
}
