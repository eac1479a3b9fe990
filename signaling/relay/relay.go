// Package relay carries packets between providers that have no direct path to each other. It
// is a TURN server (RFC 8656) inside the host, which also answers STUN, over UDP and, for
// networks that block UDP, over TCP.
//
// It relays between its own allocations only. That is enough, since every provider of a run
// has an allocation here; and a relay that reaches no other address cannot be abused against
// the host's own network or anybody else's. The relayed addresses are therefore not sockets
// but mere names, from the block reserved for documentation (RFC 5737), and packets pass
// from one allocation to another in memory. One public port is enough.
//
// Each member has its own credentials, which are valid as long as its session.
package relay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

// Config configures a relay. Zero fields take the defaults given here.
type Config struct {
	Allocations int   // of one member, 128
	Total       int   // allocations of all members, 4096
	Rate        int64 // bytes per second that one member may send, 64 MB
	RateTotal   int64 // bytes per second that all members together may send, 256 MB
	Queued      int64 // bytes waiting to be read from all allocations, 64 MB
}

func (c *Config) fill() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Allocations == 0 {
		c.Allocations = 128
	}
	if c.Total == 0 {
		c.Total = 4096
	}
	def(&c.Rate, 64e6)
	def(&c.RateTotal, 256e6)
	def(&c.Queued, 64e6)
}

const (
	realm = "ravnest"
	// maxPacket is the size of pion's buffers.
	maxPacket = 1600
	// maxWaiting bounds the packets waiting at one allocation; more are dropped, as on any path.
	maxWaiting = 512
)

// block is the block of relayed addresses.
var block = [4]byte{198, 51, 100, 0}

// Stats counts what the relay does.
type Stats struct {
	Members     int   `json:"members"`     // with valid credentials
	Allocations int   `json:"allocations"` // at present
	Packets     int64 `json:"packets"`     // relayed since the start
	Bytes       int64 `json:"bytes"`       // relayed since the start
	Dropped     int64 `json:"dropped"`     // packets over a quota, or to nobody
	Refused     int64 `json:"refused"`     // requests with invalid credentials, or over a quota
}

// Relay is a TURN server. It is safe for concurrent use.
type Relay struct {
	cfg    Config
	secret []byte
	server *turn.Server
	tcp    *queue

	mu      sync.Mutex
	members map[string]*member
	conns   map[netip.AddrPort]*conn
	tcps    map[string]*tcpConn // by remote address
	all     bucket
	closed  bool

	queued                           atomic.Int64
	packets, bytes, dropped, refused atomic.Int64
}

type member struct {
	id    string
	conns map[*conn]struct{}
	rate  bucket
}

// bucket is a token bucket, which bounds a rate and a burst.
type bucket struct {
	rate, most, have float64
	last             time.Time
}

// bytesPer returns a bucket for bytes per second, with a burst of a quarter of a second.
func bytesPer(rate int64) bucket {
	return bucket{rate: float64(rate), most: max(float64(rate)/4, maxPacket)}
}

func (b *bucket) take(now time.Time, n int) bool {
	if d := now.Sub(b.last); d > 0 {
		b.have = min(b.most, b.have+d.Seconds()*b.rate)
		b.last = now
	}
	if b.have < float64(n) {
		return false
	}
	b.have -= float64(n)
	return true
}

// New starts a relay on the UDP sockets, which Close closes. TCP connections are passed to
// [Relay.Take].
func New(cfg Config, udp ...net.PacketConn) (*Relay, error) {
	cfg.fill()
	r := &Relay{
		cfg: cfg, secret: make([]byte, 32), tcp: newQueue(),
		members: map[string]*member{}, conns: map[netip.AddrPort]*conn{}, tcps: map[string]*tcpConn{},
		all: bytesPer(cfg.RateTotal),
	}
	_, _ = rand.Read(r.secret)
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel, quiet.ScopeLevels = logging.LogLevelDisabled, nil
	conf := turn.ServerConfig{
		Realm: realm, LoggerFactory: quiet, InboundMTU: maxPacket,
		AuthHandler: r.auth, QuotaHandler: r.quota, EventHandler: turn.EventHandler{OnAuth: r.verdict},
		// Both ends of a pair must have addresses of one family, however they connected.
		StrictAddressFamily: true,
		ListenerConfigs:     []turn.ListenerConfig{{Listener: r.tcp, RelayAddressGenerator: r, PermissionHandler: permit}},
	}
	for _, pc := range udp {
		conf.PacketConnConfigs = append(conf.PacketConnConfigs, turn.PacketConnConfig{PacketConn: &screened{PacketConn: pc, r: r}, RelayAddressGenerator: r, PermissionHandler: permit})
	}
	var err error
	if r.server, err = turn.NewServer(conf); err != nil {
		return nil, fmt.Errorf("starting the relay: %w", err)
	}
	return r, nil
}

// Close ends all allocations.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	var open []io.Closer
	for _, c := range r.conns {
		open = append(open, c)
	}
	for _, t := range r.tcps {
		open = append(open, t)
	}
	r.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	return r.server.Close()
}

// Rate and burst of requests over UDP that are answered, for all addresses that share a
// bucket. The answer to a request without credentials is a few times its size, and the
// source address may be forged: this bounds what the relay can be made to send to a victim.
const (
	requestRate  = 100
	requestBurst = 400
	buckets      = 4096
)

// screened is a socket that drops requests above their rate.
type screened struct {
	net.PacketConn
	r    *Relay
	seed maphash.Seed
	rate []bucket // used by the reading goroutine only
}

func (s *screened) ReadFrom(b []byte) (int, net.Addr, error) {
	if s.rate == nil {
		s.seed, s.rate = maphash.MakeSeed(), make([]bucket, buckets)
	}
	for {
		n, from, err := s.PacketConn.ReadFrom(b)
		if err != nil || s.pass(b[:n], from, time.Now()) {
			return n, from, err
		}
		s.r.dropped.Add(1)
	}
}

// pass reports whether to handle a packet: all but requests (RFC 8489, section 5) above their
// rate.
func (s *screened) pass(b []byte, from net.Addr, now time.Time) bool {
	ua, ok := from.(*net.UDPAddr)
	if !ok || len(b) < 2 || b[0] > 1 || b[0]&0x01 != 0 || b[1]&0x10 != 0 {
		return true
	}
	ip, _ := netip.AddrFromSlice(ua.IP)
	if ip = ip.Unmap(); ip.Is6() {
		p, _ := ip.Prefix(64)
		ip = p.Addr()
	}
	k := &s.rate[maphash.Comparable(s.seed, ip)%buckets]
	k.rate, k.most = requestRate, requestBurst
	return k.take(now, 1)
}

// Admit creates a member's credentials.
func (r *Relay) Admit(id string, now time.Time) (username, credential string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[id] = &member{id: id, conns: map[*conn]struct{}{}, rate: bytesPer(r.cfg.Rate)}
	username = strconv.FormatInt(now.Unix(), 10) + ":" + id
	return username, r.password(username)
}

// Drop ends a member's credentials and allocations.
func (r *Relay) Drop(id string) {
	r.mu.Lock()
	m := r.members[id]
	delete(r.members, id)
	var open []io.Closer
	if m != nil {
		for c := range m.conns {
			open = append(open, c)
		}
		for _, t := range r.tcps {
			if t.m == m {
				open = append(open, t)
			}
		}
	}
	r.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// password returns the password of a username.
func (r *Relay) password(username string) string {
	h := hmac.New(sha1.New, r.secret)
	h.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// auth returns the member that a request claims to come from, and the key to verify it with.
func (r *Relay) auth(ra *turn.RequestAttributes) (string, []byte, bool) {
	_, id, _ := strings.Cut(ra.Username, ":")
	r.mu.Lock()
	_, ok := r.members[id]
	r.mu.Unlock()
	if !ok {
		return "", nil, false
	}
	return id, turn.GenerateAuthKey(ra.Username, ra.Realm, r.password(ra.Username)), true
}

// verdict is told whether a request was authentic.
func (r *Relay) verdict(from, _ net.Addr, _, username, _, _ string, ok bool) {
	if !ok {
		r.refused.Add(1)
		return
	}
	if _, id, found := strings.Cut(username, ":"); found {
		username = id
	}
	r.mu.Lock()
	t, m := r.tcps[from.String()], r.members[username]
	first := t != nil && t.m == nil && m != nil
	if first {
		t.m = m
	}
	r.mu.Unlock()
	if first {
		_ = t.SetReadDeadline(time.Time{})
		t.known()
	}
}

func (r *Relay) quota(id, _ string, _ net.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[id]
	if m == nil || len(m.conns) >= r.cfg.Allocations || len(r.conns) >= r.cfg.Total {
		r.refused.Add(1)
		return false
	}
	return true
}

// permit allows relayed addresses only as destinations.
func permit(_ net.Addr, peer net.IP) bool {
	ip := peer.To4()
	return ip != nil && [3]byte(ip) == [3]byte(block[:3])
}

// Stats returns the current statistics.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Members: len(r.members), Allocations: len(r.conns),
		Packets: r.packets.Load(), Bytes: r.bytes.Load(), Dropped: r.dropped.Load(), Refused: r.refused.Load(),
	}
}

// Take serves a client that connected over TCP. known is called once the client has shown
// valid credentials.
func (r *Relay) Take(c net.Conn, known func()) {
	t := &tcpConn{Conn: c, r: r, known: known}
	// A stranger must send a request soon.
	_ = c.SetReadDeadline(time.Now().Add(strange))
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.tcps[c.RemoteAddr().String()] = t
	}
	r.mu.Unlock()
	if closed || !r.tcp.put(t) {
		_ = t.Close()
	}
}

// strange is how long a TCP connection may stay without credentials.
const strange = 10 * time.Second

// tcpConn is a TCP connection, which belongs to a member once it has shown credentials.
type tcpConn struct {
	net.Conn
	r     *Relay
	m     *member // under r.mu
	known func()
}

func (t *tcpConn) Close() error {
	addr := t.RemoteAddr().String()
	t.r.mu.Lock()
	if t.r.tcps[addr] == t {
		delete(t.r.tcps, addr)
	}
	t.r.mu.Unlock()
	return t.Conn.Close()
}

// Validate implements turn.RelayAddressGenerator.
func (r *Relay) Validate() error { return nil }

var errNoTCP = errors.New("this relay carries datagrams only")

// AllocateListener implements turn.RelayAddressGenerator.
func (r *Relay) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errNoTCP
}

// AllocateConn implements turn.RelayAddressGenerator.
func (r *Relay) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errNoTCP }

// AllocatePacketConn implements turn.RelayAddressGenerator. It gives a member a relayed
// address.
func (r *Relay) AllocatePacketConn(conf turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	if conf.Network != "udp4" {
		return nil, nil, errors.New("this relay has IPv4 addresses only")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[conf.UserID]
	if m == nil || r.closed {
		return nil, nil, errors.New("no such member")
	}
	var addr netip.AddrPort
	for range 64 {
		var b [3]byte
		_, _ = rand.Read(b[:])
		ip := block
		ip[3] = 1 + b[0]%254
		addr = netip.AddrPortFrom(netip.AddrFrom4(ip), 1024|uint16(b[1])<<8|uint16(b[2]))
		if r.conns[addr] == nil {
			break
		}
	}
	if r.conns[addr] != nil {
		return nil, nil, errors.New("no relayed address is free")
	}
	c := &conn{r: r, m: m, addr: addr, in: make(chan packet, maxWaiting), gone: make(chan struct{})}
	r.conns[addr] = c
	m.conns[c] = struct{}{}
	return c, net.UDPAddrFromAddrPort(addr), nil
}

// packet is a packet on its way to an allocation.
type packet struct {
	from netip.AddrPort
	b    []byte
}

// conn is an allocation's relayed address.
type conn struct {
	r    *Relay
	m    *member
	addr netip.AddrPort
	in   chan packet
	gone chan struct{}
	once sync.Once
}

// WriteTo passes a packet from the member to another allocation, or drops it.
func (c *conn) WriteTo(b []byte, to net.Addr) (int, error) {
	r := c.r
	ua, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("cannot relay to a %T", to)
	}
	ap := ua.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	now, n := time.Now(), int64(len(b))
	r.mu.Lock()
	defer r.mu.Unlock()
	peer := r.conns[ap]
	if peer == nil || r.queued.Load()+n > r.cfg.Queued || !c.m.rate.take(now, len(b)) || !r.all.take(now, len(b)) {
		r.dropped.Add(1)
		return len(b), nil
	}
	select {
	case peer.in <- packet{c.addr, append([]byte(nil), b...)}:
		r.queued.Add(n)
		r.packets.Add(1)
		r.bytes.Add(n)
	default:
		r.dropped.Add(1)
	}
	return len(b), nil
}

// ReadFrom waits for a packet from another allocation.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.in:
		c.r.queued.Add(-int64(len(p.b)))
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.gone:
		return 0, nil, net.ErrClosed
	}
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.gone)
		r := c.r
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, c.addr)
		delete(c.m.conns, c)
		for {
			select {
			case p := <-c.in:
				r.queued.Add(-int64(len(p.b)))
			default:
				return // removed already
			}
		}
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.addr) }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// queue is a listener of connections that were accepted elsewhere.
type queue struct {
	in   chan net.Conn
	gone chan struct{}
	once sync.Once
}

func newQueue() *queue { return &queue{in: make(chan net.Conn), gone: make(chan struct{})} }

func (q *queue) put(c net.Conn) bool {
	select {
	case q.in <- c:
		return true
	case <-q.gone:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.in:
		return c, nil
	case <-q.gone:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.gone) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }
