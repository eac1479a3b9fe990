// Package wire is the frames that tensor messages travel in between two stages: their
// layout, their limits, and the machines that put messages back together and keep
// account of what may be under way. It never allocates what a peer merely announces,
// and it knows no clock and no connection.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version of the frame format. History: 1, first form; 2, generations.
const Version = 2

// Sizes in bytes.
const (
	FrameHeader   = 28
	MessageHeader = 28
	MaxFrame      = 64 << 10 // header included: what every peer must take (RFC 8841, section 6.1)
	MaxTransfer   = 256 << 20
	MaxReason     = 256

	// FirstWindow may be under way before the receiver's Hello has arrived; no
	// receiver has a smaller window.
	FirstWindow = 256 << 10

	// chunk is the body size of all Data frames of a message but the last.
	chunk = MaxFrame - FrameHeader
	// MessageCost is what a message costs a receiver besides its bytes: without it, a
	// window would not bound the memory of empty messages.
	MessageCost = 256
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
	Hello  Type = 5 // first frame of each side. Total: its window; Index: its largest message
)

func (t Type) String() string {
	if t >= Data && t <= Hello {
		return [...]string{"data", "credit", "cancel", "bye", "hello"}[t-1]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Frame is one frame:
//
//	byte  0     version
//	byte  1     type
//	bytes 2-3   number of the frame in its direction, modulo 65536: nothing gets lost,
//	            doubled or overtaken unnoticed. Little-endian, as everything
//	bytes 4-7   generation: what an earlier link over the same pipe has left behind has an
//	            older one
//	bytes 8-11  transfer id (Data, Cancel), 0 otherwise
//	bytes 12-15 chunk index (Data), largest message (Hello), 0 otherwise
//	bytes 16-19 chunk count (Data), 0 otherwise
//	bytes 20-23 total: bytes of the whole message with its header (Data), of credit
//	            (Credit), of the window (Hello), 0 otherwise
//	bytes 24-27 length of the body that follows (Data, Bye), 0 otherwise
type Frame struct {
	Type         Type
	Number       uint16
	Generation   uint32
	ID           uint32
	Index, Count uint32
	Total        uint32
	Body         []byte
}

// Append encodes the frame.
func (f *Frame) Append(dst []byte) []byte {
	return append(f.AppendHeader(dst, len(f.Body)), f.Body...)
}

// AppendHeader encodes the frame without its body, for which the caller appends n
// bytes: so a body need not be gathered first.
func (f *Frame) AppendHeader(dst []byte, n int) []byte {
	dst = append(dst, Version, byte(f.Type))
	dst = binary.LittleEndian.AppendUint16(dst, f.Number)
	for _, v := range [...]uint32{f.Generation, f.ID, f.Index, f.Count, f.Total, uint32(n)} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	return dst
}

// ParseFrame decodes a frame; Body points into b. Errors wrap ErrProtocol.
func ParseFrame(b []byte) (Frame, error) {
	var f Frame
	if len(b) < FrameHeader || len(b) > MaxFrame {
		return f, fmt.Errorf("%w: a frame of %d bytes, want %d..%d", ErrProtocol, len(b), FrameHeader, MaxFrame)
	}
	if b[0] != Version {
		return f, fmt.Errorf("%w: the peer speaks frame version %d, this program version %d: run the same release on both sides", ErrProtocol, b[0], Version)
	}
	f.Type, f.Number = Type(b[1]), binary.LittleEndian.Uint16(b[2:])
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
	f.Generation, f.ID, f.Index, f.Count, f.Total = u(4), u(8), u(12), u(16), u(20)
	if n := u(24); int64(n) != int64(len(b)-FrameHeader) {
		return f, fmt.Errorf("%w: a frame announces a body of %d bytes and carries %d", ErrProtocol, n, len(b)-FrameHeader)
	}
	f.Body = b[FrameHeader:]
	ok := false
	switch f.Type {
	case Data:
		ok = len(f.Body) > 0
	case Credit:
		ok = f.ID == 0 && f.Index == 0 && f.Count == 0 && len(f.Body) == 0
	case Cancel:
		ok = f.Index == 0 && f.Count == 0 && f.Total == 0 && len(f.Body) == 0
	case Bye:
		ok = f.ID == 0 && f.Index == 0 && f.Count == 0 && f.Total == 0 && len(f.Body) <= MaxReason
	case Hello:
		ok = f.ID == 0 && f.Count == 0 && len(f.Body) == 0 && f.Total >= FirstWindow && f.Index >= MessageHeader
	}
	if !ok {
		return f, fmt.Errorf("%w: a frame of %s with fields that it cannot have (%d, %d, %d, %d, body of %d bytes)", ErrProtocol, f.Type, f.ID, f.Index, f.Count, f.Total, len(f.Body))
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
	Tied       Kind = 4 // a piece of the gradient of a parameter that several stages hold
	Scale      Kind = 5 // of blocks that clusters average
	Sum        Kind = 6 // of their elements
	Norm       Kind = 7 // squares of gradients, added up; the payload is a float64
	Copy       Kind = 8 // a piece of a stage's state; without a payload, that one has arrived
)

func (k Kind) String() string {
	if k >= Activation && k <= Copy {
		return [...]string{"activation", "gradient", "control", "tied gradient", "scale", "sum", "norm", "copy"}[k-1]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Header says what a message is. It stands before the payload. How the payload is
// encoded stands in the payload itself.
//
//	byte  0     kind
//	byte  1     zero
//	bytes 2-3   edge: number of the value in the model; of the tie (Tied); of the segment
//	            (Scale, Sum)
//	bytes 4-7   rows; number of the piece (Tied, Copy); 256 times the group plus the step of the ring
//	            (Scale, Sum)
//	bytes 8-15  seq: position of the item in the run; the round (Scale, Sum); the step (Copy)
//	bytes 16-19 elems: elements after decoding; bytes of the whole state (Copy)
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

// parseHeader decodes and checks the header of a message of total bytes that b begins.
func parseHeader(b []byte, total int) (Header, error) {
	if len(b) < MessageHeader {
		return Header{}, fmt.Errorf("%w: a message of %d bytes has no header", ErrProtocol, len(b))
	}
	h := Header{
		Kind: Kind(b[0]), Edge: binary.LittleEndian.Uint16(b[2:]), Rows: binary.LittleEndian.Uint32(b[4:]), Seq: binary.LittleEndian.Uint64(b[8:]),
		Elems: binary.LittleEndian.Uint32(b[16:]), Bytes: binary.LittleEndian.Uint32(b[20:]), Sum: binary.LittleEndian.Uint32(b[24:]),
	}
	if h.Kind < Activation || h.Kind > Copy || b[1] != 0 {
		return h, fmt.Errorf("%w: unknown message kind %d", ErrProtocol, b[0])
	}
	if int64(h.Bytes) != int64(total-MessageHeader) {
		return h, fmt.Errorf("%w: a message announces %d bytes and brings %d", ErrProtocol, h.Bytes, total-MessageHeader)
	}
	return h, nil
}

// Chunks is the number of Data frames of a message of total bytes, header included.
func Chunks(total int) int { return (total + chunk - 1) / chunk }

// AppendChunk encodes Data frame i of the message that head (an encoded Header) and
// payload make. Of f it takes the number, the generation and the id.
func (f Frame) AppendChunk(dst []byte, i int, head, payload []byte) []byte {
	total := len(head) + len(payload)
	from := i * chunk
	f.Type, f.Index, f.Count, f.Total = Data, uint32(i), uint32(Chunks(total)), uint32(total)
	n := min(chunk, total-from)
	dst = f.AppendHeader(dst, n)
	if i == 0 {
		dst = append(dst, head...)
		return append(dst, payload[:n-len(head)]...)
	}
	from -= len(head)
	return append(dst, payload[from:from+n]...)
}
