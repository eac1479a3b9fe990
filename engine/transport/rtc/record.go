//go:build !js

// Application data as DTLS records (RFC 6347, section 4; RFC 5288), once pion's DTLS has agreed on
// keys. pion copies a packet several times and starts goroutines for it; here it is sealed and opened
// once, without allocating.

package rtc

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
	"github.com/pion/ice/v4"
)

// A record is a header (its kind, the version, the epoch and the number in it, the length) and
// the protected rest: an explicit nonce, the content, a tag.
const (
	recordHeader = 13
	nonceBytes   = 8
	tagBytes     = 16
	sealedBytes  = recordHeader + nonceBytes + tagBytes // what a record has besides its content

	applicationData = 23
	maxPacket       = 16 << 10 // those of pion's path are smaller

	// skip is how far our numbers begin above those that pion has used. None of its records of
	// this epoch is sent as it is once ours are, but one may just be on its way.
	skip = 1 << 16
	// behind is how old the number of a packet may be, as in pion.
	behind = 64
)

// session is what is read of an established session, as pion stores it.
type session struct {
	HandshakeComplete         bool
	LocalEpoch, RemoteEpoch   uint16
	LocalRandom, RemoteRandom [32]byte
	CipherSuiteID             uint16
	MasterSecret              []byte
	SequenceNumber            uint64 // the next of ours
	RemoteSequenceNumber      uint64 // one above the highest of the peer's
	IsClient                  bool
	LocalConnectionID         []byte
	RemoteConnectionID        []byte
}

// errSession says that records of a session cannot be taken over.
var errSession = errors.New("a session of another kind")

// sessionOf reads the state of an established connection.
func sessionOf(c *dtls.Conn) (session, error) {
	var s session
	state, ok := c.ConnectionState()
	if !ok {
		return s, errSession
	}
	b, err := state.MarshalBinary()
	if err != nil {
		return s, err
	}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&s); err != nil {
		return s, err
	}
	if !s.HandshakeComplete || s.LocalEpoch != 1 || s.RemoteEpoch != 1 || s.CipherSuiteID != uint16(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) ||
		len(s.MasterSecret) != 48 || len(s.LocalConnectionID)+len(s.RemoteConnectionID) > 0 {
		return s, errSession
	}
	return s, nil
}

// sealer protects or opens the records of one direction.
type sealer struct {
	aead  cipher.AEAD
	nonce [12]byte // its first four bytes are the direction's
	about [13]byte // what is authenticated with a record's content
}

func newSealer(key, iv []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &sealer{}
	copy(s.nonce[:4], iv)
	s.aead, err = cipher.NewGCM(block)
	return s, err
}

// seal appends a record.
func (s *sealer) seal(dst []byte, kind byte, seq uint64, content []byte) []byte {
	head := len(dst)
	dst = append(dst, kind, 0xfe, 0xfd)
	dst = binary.BigEndian.AppendUint64(dst, 1<<48|seq) // the epoch and the number
	dst = binary.BigEndian.AppendUint16(dst, uint16(nonceBytes+len(content)+tagBytes))
	dst = append(dst, dst[head+3:head+11]...)
	copy(s.nonce[4:], dst[head+3:])
	s.tell(dst[head:], len(content))
	return s.aead.Seal(dst, s.nonce[:], content, s.about[:])
}

// open appends the content of a record, which whole says to be one of the epoch 1.
func (s *sealer) open(dst, record []byte) ([]byte, error) {
	copy(s.nonce[4:], record[recordHeader:])
	s.tell(record, len(record)-sealedBytes)
	return s.aead.Open(dst, s.nonce[:], record[recordHeader+nonceBytes:], s.about[:])
}

// tell sets what is authenticated with n bytes of content.
func (s *sealer) tell(record []byte, n int) {
	copy(s.about[:], record[3:11])
	copy(s.about[8:], record[:3])
	binary.BigEndian.PutUint16(s.about[11:], uint16(n))
}

// next splits the first record off a packet. rest is nil if the packet is malformed.
func next(packet []byte) (record, rest []byte) {
	if len(packet) < recordHeader {
		return nil, nil
	}
	n := recordHeader + int(binary.BigEndian.Uint16(packet[11:]))
	if n > len(packet) {
		return nil, nil
	}
	return packet[:n], packet[n:]
}

// protected reports whether a record is one of DTLS 1.2 in the epoch 1 with room for a nonce and a
// tag.
func protected(record []byte) bool {
	return len(record) >= sealedBytes && record[1] == 0xfe && record[2] == 0xfd && record[3] == 0 && record[4] == 1
}

// number is a record's, in its epoch.
func number(record []byte) uint64 {
	return binary.BigEndian.Uint64(record[3:]) & (1<<48 - 1)
}

// seen knows which of the latest numbers have been received.
type seen struct {
	next uint64 // the highest is one below
	bits uint64 // bit i: next-1-i
}

// fresh reports whether a record of that number may be opened.
func (s *seen) fresh(n uint64) bool {
	return n >= s.next || s.next-1-n < behind && s.bits>>(s.next-1-n)&1 == 0
}

// mark notes a number that is fresh.
func (s *seen) mark(n uint64) {
	if n >= s.next {
		s.bits, s.next = s.bits<<(n+1-s.next)|1, n+1 // a shift by 64 or more leaves nothing
		return
	}
	s.bits |= 1 << (s.next - 1 - n)
}

// records is a DTLS connection whose application data are protected here. Reads are for one
// goroutine at a time.
type records struct {
	*dtls.Conn
	d  *datagrams
	in *sealer

	direct bool // whether packets are read from the path here
	raw    []byte
	rest   []byte // of the packet in raw
	seen   seen

	until atomic.Int64 // the deadline of writes, in nanoseconds since 1970; 0: none
}

// takeOver makes application data go past pion's records, whose handshake is complete.
func takeOver(c *dtls.Conn, d *datagrams) (*records, error) {
	s, err := sessionOf(c)
	if err != nil {
		return nil, err
	}
	client, server := s.LocalRandom, s.RemoteRandom
	if !s.IsClient {
		client, server = server, client
	}
	k, err := prf.GenerateEncryptionKeys(s.MasterSecret, client[:], server[:], 0, 16, 4, sha256.New)
	if err != nil {
		return nil, err
	}
	key, iv, theirKey, theirIV := k.ClientWriteKey, k.ClientWriteIV, k.ServerWriteKey, k.ServerWriteIV
	if !s.IsClient {
		key, iv, theirKey, theirIV = theirKey, theirIV, key, iv
	}
	out, err := newSealer(key, iv)
	if err != nil {
		return nil, err
	}
	in, err := newSealer(theirKey, theirIV)
	if err != nil {
		return nil, err
	}
	d.writing.Lock()
	d.out, d.seq = out, s.SequenceNumber+skip
	d.writing.Unlock()
	d.split.Store(true)
	return &records{Conn: c, d: d, in: in, raw: make([]byte, maxPacket)}, nil
}

// Read implements net.Conn. What pion has read is read from pion: at last, errSplit.
func (r *records) Read(b []byte) (int, error) {
	if !r.direct {
		n, err := r.Conn.Read(b)
		if !errors.Is(err, errSplit) {
			return n, err
		}
		s, err := sessionOf(r.Conn)
		if err != nil {
			return 0, err
		}
		r.direct, r.seen = true, seen{s.RemoteSequenceNumber, ^uint64(0)}
	}
	for {
		for len(r.rest) > 0 {
			var record []byte
			if record, r.rest = next(r.rest); record == nil {
				break // it is malformed
			}
			if record[0] != applicationData {
				r.d.pass(record)
			} else if n := r.take(b, record); n > 0 {
				return n, nil
			}
		}
		n, err := r.d.Conn.Read(r.raw)
		if err != nil {
			r.d.end()
			return 0, err
		}
		r.rest = r.raw[:n]
	}
}

// take opens a record with application data. 0: there are none, since it is a forgery, a repetition,
// or too large for SCTP.
func (r *records) take(b, record []byte) int {
	if !protected(record) || len(record)-sealedBytes > len(b) {
		return 0
	}
	n := number(record)
	if !r.seen.fresh(n) {
		return 0
	}
	content, err := r.in.open(b[:0], record)
	if err != nil {
		return 0
	}
	r.seen.mark(n)
	return len(content)
}

// Write implements net.Conn.
func (r *records) Write(b []byte) (int, error) {
	if t := r.until.Load(); t != 0 && time.Now().UnixNano() >= t {
		return 0, os.ErrDeadlineExceeded
	}
	if err := r.d.send(applicationData, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadDeadline implements net.Conn. SCTP sets it to make its last Read return.
func (r *records) SetReadDeadline(t time.Time) error {
	return errors.Join(r.Conn.SetReadDeadline(t), r.d.Conn.SetReadDeadline(t))
}

// SetWriteDeadline implements net.Conn. A write that is under way ends with Close only.
func (r *records) SetWriteDeadline(t time.Time) error {
	n := int64(0)
	if !t.IsZero() {
		n = t.UnixNano()
	}
	r.until.Store(n)
	return nil
}

// errSplit is what pion reads when application data no longer come to it.
var errSplit = errors.New("application data are read elsewhere")

// datagrams are ICE's path as DTLS wants it. Like every network it may lose a packet: one that
// cannot be sent just now, because an address has gone, does not end the connection. Once it is
// split, application data go another way, and pion gets what else comes.
type datagrams struct {
	net.Conn
	split  atomic.Bool
	told   bool        // pion has read errSplit
	others chan []byte // records for pion
	kick   chan struct{}
	over   chan struct{}
	once   sync.Once

	writing sync.Mutex // guards the rest
	out     *sealer    // nil: not split
	seq     uint64     // of the next record
	buf     []byte
}

func newDatagrams(c net.Conn) *datagrams {
	return &datagrams{Conn: c, others: make(chan []byte, 16), kick: make(chan struct{}, 1), over: make(chan struct{})}
}

// end is called when nothing more is read.
func (d *datagrams) end() { d.once.Do(func() { close(d.over) }) }

// pass gives pion a record, unless it has too many.
func (d *datagrams) pass(record []byte) {
	select {
	case d.others <- bytes.Clone(record):
	default:
	}
}

// ReadFrom implements net.PacketConn for pion.
func (d *datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	if !d.split.Load() {
		n, err := d.Read(b)
		return n, d.RemoteAddr(), err
	}
	if !d.told {
		d.told = true
		return 0, d.RemoteAddr(), errSplit
	}
	select {
	case record := <-d.others:
		return copy(b, record), d.RemoteAddr(), nil
	case <-d.kick:
		return 0, d.RemoteAddr(), os.ErrDeadlineExceeded
	case <-d.over:
		return 0, d.RemoteAddr(), io.EOF
	}
}

// SetReadDeadline implements net.PacketConn for pion, which sets it to make its last ReadFrom return.
func (d *datagrams) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
	return d.Conn.SetReadDeadline(t)
}

// WriteTo implements net.PacketConn for pion: records of its handshake, and alerts.
func (d *datagrams) WriteTo(b []byte, _ net.Addr) (int, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	packet := b
	if d.out != nil {
		packet = d.again(b)
	}
	if err := d.write(packet); err != nil {
		return 0, err
	}
	return len(b), nil
}

// again seals pion's records of the epoch 1 with numbers that follow on ours: no number may be
// used twice. The caller holds writing.
func (d *datagrams) again(packet []byte) (p []byte) {
	for len(packet) > 0 {
		var record []byte
		if record, packet = next(packet); record == nil {
			break
		}
		if !protected(record) {
			p = append(p, record...)
			continue
		}
		if content, err := d.out.open(nil, record); err == nil {
			p = d.out.seal(p, record[0], d.seq, content)
			d.seq++
		}
	}
	return p
}

// send sends a record.
func (d *datagrams) send(kind byte, content []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.seq >= 1<<48 {
		return fmt.Errorf("%w: all numbers of its records are used", net.ErrClosed)
	}
	d.buf = d.out.seal(d.buf[:0], kind, d.seq, content)
	d.seq++
	return d.write(d.buf)
}

// write sends a packet. The caller holds writing.
func (d *datagrams) write(packet []byte) error {
	_, err := d.Conn.Write(packet)
	if err != nil && (errors.Is(err, ice.ErrClosed) || errors.Is(err, net.ErrClosed)) {
		return err
	}
	return nil
}
