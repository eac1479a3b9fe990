// Package wire is the frames that tensor messages travel in between two stages: their
// layout, their limits, and the machine that puts frames back together. It never
// allocates what a peer merely announces.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version of the frame format. History: 1, first form.
const Version = 1

// Sizes in bytes.
const (
	FrameHeader   = 24
	MessageHeader = 28
	MaxFrame      = 64 << 10 // header included: fits every browser's data channel
	MaxTransfer   = 256 << 20
	maxReason     = 256
)

// ErrProtocol is wrapped by every error about what a peer sent. A link that meets it
// is closed.
var ErrProtocol = errors.New("wire protocol error")

// Type of a frame.
type Type uint8

// The types of frames.
const (
	Data   Type = 1 // a chunk of a message
	Credit Type = 2 // Total: bytes that the receiver has taken and grants again
	Cancel Type = 3 // the sender gives up transfer ID
	Bye    Type = 4 // the sender will close; the body is the reason
)

// Frame is one frame:
//
//	byte  0     version
//	byte  1     type
//	bytes 2-3   zero
//	bytes 4-7   transfer id, little-endian as everything
//	bytes 8-11  chunk index
//	bytes 12-15 chunk count (Data), 0 otherwise
//	bytes 16-19 total: bytes of the whole message with its header (Data), bytes granted (Credit)
//	bytes 20-23 length of the body that follows
type Frame struct {
	Type         Type
	ID           uint32
	Index, Count uint32
	Total        uint32
	Body         []byte
}

// Append encodes the frame.
func (f *Frame) Append(dst []byte) []byte {
	dst = append(dst, Version, byte(f.Type), 0, 0)
	for _, v := range [...]uint32{f.ID, f.Index, f.Count, f.Total, uint32(len(f.Body))} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	return append(dst, f.Body...)
}

// ParseFrame decodes a frame; Body points into b.
func ParseFrame(b []byte) (Frame, error) {
	var f Frame
	if len(b) < FrameHeader || len(b) > MaxFrame {
		return f, fmt.Errorf("%w: a frame of %d bytes, want %d..%d", ErrProtocol, len(b), FrameHeader, MaxFrame)
	}
	if b[0] != Version {
		return f, fmt.Errorf("%w: the peer speaks frame version %d, this program version %d", ErrProtocol, b[0], Version)
	}
	if b[2] != 0 || b[3] != 0 {
		return f, fmt.Errorf("%w: reserved bytes are set", ErrProtocol)
	}
	f.Type = Type(b[1])
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
	f.ID, f.Index, f.Count, f.Total = u(4), u(8), u(12), u(16)
	if n := u(20); int64(n) != int64(len(b)-FrameHeader) {
		return f, fmt.Errorf("%w: a frame announces a body of %d bytes and carries %d", ErrProtocol, n, len(b)-FrameHeader)
	}
	f.Body = b[FrameHeader:]
	switch f.Type {
	case Data:
		if len(f.Body) == 0 {
			return f, fmt.Errorf("%w: an empty chunk", ErrProtocol)
		}
	case Credit, Cancel:
		if len(f.Body) != 0 {
			return f, fmt.Errorf("%w: a frame of type %d with a body", ErrProtocol, f.Type)
		}
	case Bye:
		if len(f.Body) > maxReason {
			return f, fmt.Errorf("%w: a reason of %d bytes", ErrProtocol, len(f.Body))
		}
	default:
		return f, fmt.Errorf("%w: unknown frame type %d", ErrProtocol, f.Type)
	}
	return f, nil
}

// Kind is what a message carries.
type Kind uint8

// The kinds of messages.
const (
	Activation Kind = 1
	Gradient   Kind = 2
	Control    Kind = 3
)

// Header says what a message is. It stands before the payload:
//
//	byte  0     kind
//	byte  1     zero
//	bytes 2-3   edge: number of the value in the model
//	bytes 4-7   rows
//	bytes 8-15  seq: position of the item in the run
//	bytes 16-19 elems: float32 elements after decoding
//	bytes 20-23 bytes of the payload
//	bytes 24-27 CRC-32C of the payload
type Header struct {
	Kind  Kind
	Edge  uint16
	Rows  uint32
	Seq   uint64
	Elems uint32
	Bytes uint32
	Sum   uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal sets Bytes and Sum for a payload.
func (h *Header) Seal(payload []byte) {
	h.Bytes, h.Sum = uint32(len(payload)), crc32.Checksum(payload, castagnoli)
}

// Append encodes the header.
func (h *Header) Append(dst []byte) []byte {
	dst = append(dst, byte(h.Kind), 0)
	dst = binary.LittleEndian.AppendUint16(dst, h.Edge)
	dst = binary.LittleEndian.AppendUint32(dst, h.Rows)
	dst = binary.LittleEndian.AppendUint64(dst, h.Seq)
	for _, v := range [...]uint32{h.Elems, h.Bytes, h.Sum} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	return dst
}

// parseHeader decodes and checks a header against the message's total length.
func parseHeader(b []byte, total int) (Header, error) {
	if len(b) < MessageHeader {
		return Header{}, fmt.Errorf("%w: a message of %d bytes has no header", ErrProtocol, len(b))
	}
	h := Header{
		Kind: Kind(b[0]), Edge: binary.LittleEndian.Uint16(b[2:]), Rows: binary.LittleEndian.Uint32(b[4:]), Seq: binary.LittleEndian.Uint64(b[8:]),
		Elems: binary.LittleEndian.Uint32(b[16:]), Bytes: binary.LittleEndian.Uint32(b[20:]), Sum: binary.LittleEndian.Uint32(b[24:]),
	}
	if h.Kind < Activation || h.Kind > Control || b[1] != 0 {
		return h, fmt.Errorf("%w: unknown message kind %d", ErrProtocol, b[0])
	}
	if int64(h.Bytes) != int64(total-MessageHeader) {
		return h, fmt.Errorf("%w: a message announces %d bytes and brings %d", ErrProtocol, h.Bytes, total-MessageHeader)
	}
	return h, nil
}

// Message is a whole message.
type Message struct {
	Header  Header
	Payload []byte
	Size    int    // bytes of credit it takes: payload and header
	buf     []byte // what Payload lies in
}

// Assembler puts the chunks of one direction back together. The chunks of a message
// arrive in order and messages do not interleave; whatever else comes is an error.
// It holds at most one unfinished message and grows its buffer with what has really
// arrived.
type Assembler struct {
	Max  int // bytes of a message, header included
	open bool
	id   uint32
	next uint32
	cnt  uint32
	tot  int
	buf  []byte
	free [][]byte
}

// chunk is the body size of all chunks but the last.
const chunk = MaxFrame - FrameHeader

// Chunks is the number of frames for a message of total bytes.
func Chunks(total int) int { return (total + chunk - 1) / chunk }

// Add takes a Data or Cancel frame and returns a message when it is whole.
func (a *Assembler) Add(f Frame) (*Message, error) {
	if f.Type == Cancel {
		if !a.open || f.ID != a.id {
			return nil, fmt.Errorf("%w: cancel of transfer %d, which is not under way", ErrProtocol, f.ID)
		}
		a.open = false
		return nil, nil
	}
	if !a.open {
		if f.Index != 0 {
			return nil, fmt.Errorf("%w: transfer %d begins with chunk %d", ErrProtocol, f.ID, f.Index)
		}
		if int64(f.Total) > int64(a.Max) || f.Total < MessageHeader {
			return nil, fmt.Errorf("%w: a message of %d bytes, the limit is %d", ErrProtocol, f.Total, a.Max)
		}
		if int(f.Count) != Chunks(int(f.Total)) {
			return nil, fmt.Errorf("%w: %d chunks for %d bytes", ErrProtocol, f.Count, f.Total)
		}
		a.open, a.id, a.next, a.cnt, a.tot = true, f.ID, 0, f.Count, int(f.Total)
		a.buf = a.take(min(a.tot, 2*chunk))
	}
	if f.ID != a.id || f.Index != a.next || f.Count != a.cnt || int(f.Total) != a.tot {
		return nil, fmt.Errorf("%w: chunk %d of transfer %d instead of chunk %d of transfer %d", ErrProtocol, f.Index, f.ID, a.next, a.id)
	}
	want := min(chunk, a.tot-len(a.buf))
	if len(f.Body) != want {
		return nil, fmt.Errorf("%w: chunk %d of transfer %d has %d bytes, want %d", ErrProtocol, f.Index, f.ID, len(f.Body), want)
	}
	a.buf = append(a.buf, f.Body...)
	if a.next++; a.next < a.cnt {
		return nil, nil
	}
	a.open = false
	h, err := parseHeader(a.buf, a.tot)
	if err != nil {
		return nil, err
	}
	m := &Message{Header: h, Payload: a.buf[MessageHeader:], Size: a.tot, buf: a.buf}
	a.buf = nil
	if crc32.Checksum(m.Payload, castagnoli) != h.Sum {
		return nil, fmt.Errorf("%w: the payload of item %d does not match its checksum", ErrProtocol, h.Seq)
	}
	return m, nil
}

// take finds a free buffer of some capacity.
func (a *Assembler) take(n int) []byte {
	for i, b := range a.free {
		if cap(b) >= n {
			a.free = append(a.free[:i], a.free[i+1:]...)
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

// Recycle takes back the buffer of a message that is done with.
func (a *Assembler) Recycle(m *Message) {
	if m.buf != nil && len(a.free) < 8 {
		a.free = append(a.free, m.buf)
	}
	m.buf, m.Payload = nil, nil
}
