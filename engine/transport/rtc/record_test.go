//go:build !js

package rtc

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/ciphersuite"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/dtls/v3/pkg/protocol"
	"github.com/pion/dtls/v3/pkg/protocol/recordlayer"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// TestSealer: what is sealed here is opened by pion, and the other way round.
func TestSealer(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	key, iv := bytesOf(16), bytesOf(4)
	pion, err := ciphersuite.NewGCM(key, iv, key, iv)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSealer(key, iv)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 16, 1191, loopbackMTU} {
		content, seq := bytesOf(n), uint64(1)<<47+uint64(n)
		sealed := s.seal([]byte("before"), applicationData, seq, content)[6:]
		record, rest := next(append(bytes.Clone(sealed), "behind"...))
		if !bytes.Equal(record, sealed) || string(rest) != "behind" || !protected(record) || number(record) != seq || len(record) != n+sealedBytes {
			t.Fatalf("%d bytes: a record of %d bytes, %d behind it, number %d", n, len(record), len(rest), number(record))
		}
		head := recordlayer.Header{ContentType: protocol.ContentTypeApplicationData, Version: protocol.Version1_2, Epoch: 1, SequenceNumber: seq}
		if n > 0 { // pion refuses what is empty
			got, err := pion.Decrypt(head, bytes.Clone(sealed))
			if err != nil || !bytes.Equal(got[recordHeader:], content) {
				t.Errorf("%d bytes: pion opens %d bytes, %v", n, len(got), err)
			}
		}
		l := &recordlayer.RecordLayer{Header: head, Content: &protocol.ApplicationData{Data: content}}
		raw, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := pion.Encrypt(l, raw)
		if err != nil || !bytes.Equal(theirs, sealed) {
			t.Errorf("%d bytes: pion seals otherwise (%v)", n, err)
		}
		if got, err := s.open(nil, theirs); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d bytes were opened, %v", n, len(got), err)
		}
		for _, at := range []int{0, 2, 5, 10, recordHeader, len(sealed) - 1} {
			sealed[at] ^= 1
			if _, err := s.open(nil, sealed); err == nil {
				t.Errorf("%d bytes: a record changed at %d was opened", n, at)
			}
			sealed[at] ^= 1
		}
	}
	buf := make([]byte, 0, maxPacket)
	content := bytesOf(1000)
	if n := testing.AllocsPerRun(100, func() {
		record := s.seal(buf, applicationData, 5, content)
		if _, err := s.open(content[:0], record); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}

// TestSeen: no number is taken twice, and none that is far behind; all others are.
func TestSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var s seen
		had, top, twice := map[uint64]bool{}, int64(-1), 0
		for range 3000 {
			n := max(top+int64(r.NormFloat64()*50), 0)
			if r.IntN(100) == 0 {
				n += 1 << r.IntN(40)
			}
			want := !had[uint64(n)] && n > top-behind
			if got := s.fresh(uint64(n)); got != want {
				t.Fatalf("%d, %d the highest: fresh %v, want %v", n, top, got, want)
			}
			if !want {
				twice++
				continue
			}
			had[uint64(n)], top = true, max(top, n)
			s.mark(uint64(n))
		}
		if twice < 100 || len(had) < 1000 {
			t.Errorf("%d taken, %d not: the test has not tested", len(had), twice)
		}
	}
}

// ether is one end of a path in memory on which every packet arrives twice.
type ether struct {
	net.Conn // nil
	in, out  chan []byte
	kick     chan struct{}
	once     sync.Once
	closed   chan struct{}
	lose     func(packet []byte) bool // called by one goroutine at a time

	mu      sync.Mutex
	numbers []uint64 // of records of the epoch 1, as they were sent
}

func ethers() (a, b *ether) {
	x, y := make(chan []byte, 64), make(chan []byte, 64)
	mk := func(in, out chan []byte) *ether {
		return &ether{in: in, out: out, kick: make(chan struct{}, 1), closed: make(chan struct{})}
	}
	return mk(x, y), mk(y, x)
}

func (e *ether) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for rest := b; len(rest) > 0; {
		var record []byte
		if record, rest = next(rest); protected(record) {
			e.numbers = append(e.numbers, number(record))
		}
	}
	if e.lose != nil && e.lose(b) {
		return len(b), nil
	}
	for range 2 {
		select {
		case e.out <- bytes.Clone(b):
		case <-e.closed:
			return 0, net.ErrClosed
		}
	}
	return len(b), nil
}

func (e *ether) Read(b []byte) (int, error) {
	select { // what has come, before any end
	case p := <-e.in:
		return copy(b, p), nil
	default:
	}
	select {
	case p := <-e.in:
		return copy(b, p), nil
	case <-e.kick:
		return 0, os.ErrDeadlineExceeded
	case <-e.closed:
		return 0, io.EOF
	}
}

func (e *ether) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
	return nil
}
func (*ether) SetWriteDeadline(time.Time) error { return nil }
func (*ether) LocalAddr() net.Addr              { return &net.UDPAddr{IP: localhost} }
func (*ether) RemoteAddr() net.Addr             { return &net.UDPAddr{IP: localhost} }
func (e *ether) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// TestTakeOver: records are exchanged with pion and among themselves, both ways, before and after a
// side has stopped reading by pion; also if the last message of the handshake is lost, and has to be
// sent again by a side whose records are taken over. Numbers ascend, the alert at the end among them,
// nothing is taken twice, and the end of one side ends the other.
func TestTakeOver(t *testing.T) {
	cert, err := selfsign.GenerateSelfSigned()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ client, server, lossy, serverEnds bool }{
		"both":              {true, true, false, false},
		"the client":        {true, false, false, true},
		"the server":        {false, true, false, false},
		"a message is lost": {true, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := ethers()
			finished := 0
			b.lose = func(p []byte) bool { // the server's ChangeCipherSpec, with its Finished behind it
				if p[0] == 20 {
					finished++
				}
				return tc.lossy && p[0] == 20 && finished == 1
			}
			opts := []dtls.ServerOption{
				dtls.WithCertificates(cert), dtls.WithInsecureSkipVerify(true), dtls.WithFlightInterval(100 * time.Millisecond),
				dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), dtls.WithLoggerFactory(quiet()),
			}
			var clientOpts []dtls.ClientOption
			for _, o := range opts {
				clientOpts = append(clientOpts, o.(dtls.ClientOption))
			}
			da, db := newDatagrams(a), newDatagrams(b)
			x, err := dtls.ClientWithOptions(da, da.RemoteAddr(), clientOpts...)
			if err != nil {
				t.Fatal(err)
			}
			y, err := dtls.ServerWithOptions(db, db.RemoteAddr(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer func() { _, _ = x.Close(), y.Close() }()
			arrived, over := make(chan arrival, 1), make(chan int, 2)
			var ready [2]chan net.Conn
			for i, c := range []*dtls.Conn{x, y} {
				ready[i] = make(chan net.Conn, 1)
				wg.Go(func() {
					if err := c.HandshakeContext(soon(t)); err != nil {
						t.Errorf("side %d: %v", i, err)
						close(ready[i])
						return
					}
					var conn net.Conn = c
					if i == 0 && tc.client || i == 1 && tc.server {
						r, err := takeOver(c, []*datagrams{da, db}[i])
						if err != nil {
							t.Errorf("side %d: %v", i, err)
							close(ready[i])
							return
						}
						conn = r
					}
					ready[i] <- conn
					buf := make([]byte, 8192)
					for {
						n, err := conn.Read(buf)
						if err != nil {
							over <- i
							return
						}
						arrived <- arrival{i, bytes.Clone(buf[:n])}
					}
				})
			}
			ends := [2]net.Conn{<-ready[0], <-ready[1]}
			if t.Failed() {
				return
			}
			chat(t, ends, arrived)
			first := 0
			if tc.serverEnds {
				first = 1
			}
			_ = ends[first].Close()
			for range 2 {
				select {
				case <-over:
				case <-time.After(patience):
					t.Fatal("the end of one side does not end the other")
				}
			}
			b.mu.Lock()
			if tc.lossy && finished < 2 {
				t.Error("the handshake's last message was not sent again: the test has not tested")
			}
			b.mu.Unlock()
			ascend(t, a, b)
		})
	}
}

// arrival is what a side has read.
type arrival struct {
	to int
	b  []byte
}

// chat sends messages both ways, each of which arrives once.
func chat(t *testing.T, ends [2]net.Conn, arrived <-chan arrival) {
	t.Helper()
	for k := range 100 {
		for i, c := range ends {
			m := binary.BigEndian.AppendUint32(bytes.Repeat([]byte{byte(i)}, 1+k*k%1000), uint32(k))
			if _, err := c.Write(m); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-arrived:
				if got.to != 1-i || !bytes.Equal(got.b, m) {
					t.Fatalf("message %d of side %d came to side %d, with %d bytes", k, i, got.to, len(got.b))
				}
			case <-time.After(patience):
				t.Fatalf("message %d of side %d did not come", k, i)
			}
		}
	}
}

// ascend checks the numbers of the records that both sides have sent.
func ascend(t *testing.T, sides ...*ether) {
	t.Helper()
	for i, e := range sides {
		e.mu.Lock()
		for k := range e.numbers[1:] {
			if e.numbers[k] >= e.numbers[k+1] {
				t.Errorf("side %d has sent the number %d after %d", i, e.numbers[k+1], e.numbers[k])
			}
		}
		if len(e.numbers) < 100 {
			t.Errorf("side %d has sent %d records", i, len(e.numbers))
		}
		e.mu.Unlock()
	}
}

// TestDirect: the records of a connection are its own on both sides, which are near each other.
func TestDirect(t *testing.T) {
	a, b := pair(t)
	x, y := transport.NewLink(a, transport.Options{}), transport.NewLink(b, transport.Options{})
	for range 3 {
		for _, l := range [][2]*transport.Link{{x, y}, {y, x}} {
			if err := l[0].Send(soon(t), wire.Header{Kind: wire.Control}, []byte("x")); err != nil {
				t.Fatal(err)
			}
			m, err := l[1].Recv(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			m.Release()
		}
	}
	_, _ = x.Close(), y.Close()
	if !x.Near() || !y.Near() {
		t.Error("two processes of one machine are not near")
	}
	for _, p := range []transport.Pipe{a, b} {
		if r, ok := p.(*pipe).mended.Conn.(*records); !ok || !r.direct {
			t.Errorf("%T, direct: %v", p.(*pipe).mended.Conn, ok)
		}
	}
}

// FuzzRecords: nothing but what was sealed is taken out of a packet.
func FuzzRecords(f *testing.F) {
	key, iv := make([]byte, 16), make([]byte, 4)
	s, err := newSealer(key, iv)
	if err != nil {
		f.Fatal(err)
	}
	good := s.seal(nil, applicationData, 7, []byte("good"))
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add(append(s.seal(nil, 21, 8, []byte{1, 0}), good...))
	f.Add(append(bytes.Clone(good[:20]), good...))
	f.Fuzz(func(t *testing.T, packet []byte) {
		in, err := newSealer(key, iv)
		if err != nil {
			t.Fatal(err)
		}
		a, b := ethers()
		r := &records{d: newDatagrams(a), in: in, raw: make([]byte, maxPacket), direct: true}
		b.out <- packet[:min(len(packet), maxPacket)]
		_ = a.SetReadDeadline(time.Now())
		for buf := make([]byte, 100); ; {
			n, err := r.Read(buf)
			if err != nil {
				break
			}
			if !bytes.Contains(packet, good) || string(buf[:n]) != "good" {
				t.Fatalf("%x became %x", packet, buf[:n])
			}
		}
	})
}
