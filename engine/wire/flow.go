// Who may send how much: the accounts of a sender and of a receiver, and the receiver's
// assembly of messages from frames. All three are pure: frames in, decisions out.
//
// A receiver has a window. A message takes its bytes (and a constant) from the window
// when its first frame is sent and gives them back when the consumer releases it. The
// receiver gathers what was released and grants it in one frame once it makes a quarter
// of the window, so short messages cost no frame of their own. A message may begin when
// it fits, or when at most a quarter is in use: a message larger than the window passes
// alone, and what has been released but not yet granted never stands in the way.

package wire

import (
	"fmt"
	"hash/crc32"
	"slices"
)

// Window is the sender's account of a receiver's window. The zero value is a receiver
// that has not said hello.
type Window struct {
	size int // of the receiver; 0: not said yet
	max  int // largest message
	used int
}

// cost of a message of total bytes.
func cost(total int) int { return total + MessageCost }

func fits(used, n, size int) bool { return used+n <= size || used <= size/4 }

// Hello takes the receiver's first frame.
func (w *Window) Hello(f Frame) error {
	if w.size > 0 {
		return fmt.Errorf("%w: a second hello", ErrProtocol)
	}
	w.size, w.max = int(f.Total), int(f.Index)
	return nil
}

// Max is the largest message that the receiver takes, header included.
func (w *Window) Max() int {
	if w.size == 0 {
		return MaxTransfer
	}
	return w.max
}

// Take begins a message of total bytes, if it may.
func (w *Window) Take(total int) bool {
	size := w.size
	if size == 0 {
		size = FirstWindow
	}
	if !fits(w.used, cost(total), size) {
		return false
	}
	w.used += cost(total)
	return true
}

// Return undoes Take for a message that was not sent, or was cancelled.
func (w *Window) Return(total int) { w.used -= cost(total) }

// Credit takes a grant of the receiver.
func (w *Window) Credit(f Frame) error {
	if int64(f.Total) > int64(w.used) {
		return fmt.Errorf("%w: a credit of %d bytes where %d are in use", ErrProtocol, f.Total, w.used)
	}
	w.used -= int(f.Total)
	return nil
}

// Message is a whole message.
type Message struct {
	Header  Header
	Payload []byte
	size    int    // with its header
	buf     []byte // what Payload lies in
}

// grow makes room for n more bytes: twice as much as before, and never more than the message
// has.
func (m *Message) grow(n int) {
	if len(m.buf)+n <= cap(m.buf) {
		return
	}
	b := make([]byte, len(m.buf), min(m.size, max(2*cap(m.buf), len(m.buf)+n)))
	copy(b, m.buf)
	m.buf = b
}

// Assembler puts the chunks of one direction back together and keeps the receiver's
// account. The chunks of a message arrive in order and messages do not interleave;
// whatever else comes is an error. At most one message is unfinished, and its buffer
// grows with what has really arrived.
type Assembler struct {
	max, window int
	held, owed  int // taken from the window: by messages not yet released; by released ones not yet granted

	cur   *Message // unfinished, nil: none
	id    uint32
	next  uint32
	count uint32

	free  []*Message // with buffers to use again
	spare int        // their bytes
}

// MaxWindow is the largest window.
const MaxWindow = 1 << 30

// NewAssembler makes the receiving side of a window (FirstWindow..MaxWindow) for messages
// of at most most bytes (at most MaxTransfer), header included.
func NewAssembler(window, most int) *Assembler {
	return &Assembler{window: min(max(window, FirstWindow), MaxWindow), max: min(max(most, MessageHeader), MaxTransfer)}
}

// Bytes is the most memory that messages take in an Assembler of this window and largest
// message: what the window lets in and a message that begins when a quarter is in use, in
// buffers that may be a quarter too large, and buffers that are kept to be used again.
func Bytes(window, most int) int {
	a := NewAssembler(window, most)
	return (9*a.window + 5*a.max) / 4
}

// Hello is the frame that tells the sender.
func (a *Assembler) Hello() Frame {
	return Frame{Type: Hello, Total: uint32(a.window), Index: uint32(a.max)}
}

// Add takes a Data or Cancel frame and returns a message when it is whole. After an
// error the link cannot go on.
func (a *Assembler) Add(f Frame) (*Message, error) {
	if f.Type == Cancel {
		if a.cur == nil || f.ID != a.id {
			return nil, fmt.Errorf("%w: cancel of transfer %d, which is not under way", ErrProtocol, f.ID)
		}
		a.keep(a.cur)
		a.cur = nil
		return nil, nil
	}
	if f.Type != Data {
		return nil, fmt.Errorf("%w: a %s frame is no part of a message", ErrProtocol, f.Type)
	}
	if a.cur == nil {
		if f.Index != 0 {
			return nil, fmt.Errorf("%w: transfer %d begins with chunk %d", ErrProtocol, f.ID, f.Index)
		}
		if int64(f.Total) > int64(a.max) || f.Total < MessageHeader {
			return nil, fmt.Errorf("%w: a message of %d bytes, the limit is %d", ErrProtocol, f.Total, a.max)
		}
		total := int(f.Total)
		if int64(f.Count) != int64(Chunks(total)) {
			return nil, fmt.Errorf("%w: %d chunks for %d bytes", ErrProtocol, f.Count, total)
		}
		if !fits(a.held+a.owed, cost(total), a.window) {
			return nil, fmt.Errorf("%w: a message of %d bytes while %d of a window of %d are in use", ErrProtocol, total, a.held+a.owed, a.window)
		}
		a.cur, a.id, a.next, a.count = a.take(total), f.ID, 0, f.Count
		a.cur.size = total
	}
	m := a.cur
	if f.ID != a.id || f.Index != a.next || f.Count != a.count || int64(f.Total) != int64(m.size) {
		return nil, fmt.Errorf("%w: chunk %d of transfer %d instead of chunk %d of transfer %d", ErrProtocol, f.Index, f.ID, a.next, a.id)
	}
	if want := min(chunk, m.size-len(m.buf)); len(f.Body) != want {
		return nil, fmt.Errorf("%w: chunk %d of transfer %d has %d bytes, want %d", ErrProtocol, f.Index, f.ID, len(f.Body), want)
	}
	if f.Index == 0 {
		// The header is looked at before more is taken in. (It fits the first chunk.)
		h, err := parseHeader(f.Body, m.size)
		if err != nil {
			return nil, err
		}
		m.Header = h
	}
	m.grow(len(f.Body))
	m.buf = append(m.buf, f.Body...)
	if a.next++; a.next < a.count {
		return nil, nil
	}
	a.cur = nil
	m.Payload = m.buf[MessageHeader:]
	if crc32.Checksum(m.Payload, castagnoli) != m.Header.Sum {
		return nil, fmt.Errorf("%w: the payload of item %d does not match its checksum", ErrProtocol, m.Header.Seq)
	}
	a.held += cost(m.size)
	return m, nil
}

// Release takes back a message that is done with, once. If it is time to grant, ok is
// true and f is the frame to send.
func (a *Assembler) Release(m *Message) (f Frame, ok bool) {
	c := cost(m.size)
	a.held -= c
	a.owed += c
	a.keep(m)
	if a.owed < a.window/4 {
		return f, false
	}
	f = Frame{Type: Credit, Total: uint32(a.owed)}
	a.owed = 0
	return f, true
}

// keep puts a buffer aside, as long as a window's worth of them is not exceeded.
func (a *Assembler) keep(m *Message) {
	*m = Message{buf: m.buf[:0]}
	if a.spare+cap(m.buf) <= a.window && len(a.free) < 64 {
		a.free = append(a.free, m)
		a.spare += cap(m.buf)
	}
}

// take finds a message with a buffer for total bytes, which is not much larger than that; the
// buffer of a large message grows as it arrives.
func (a *Assembler) take(total int) *Message {
	least := min(total, 2*chunk)
	for i, m := range a.free {
		if c := cap(m.buf); c >= least && c <= total+total/4+MessageCost/2 {
			a.drop(i)
			return m
		}
	}
	if len(a.free) > 0 {
		a.drop(0) // makes way for sizes that come now
	}
	return &Message{buf: make([]byte, 0, least)}
}

// drop takes a buffer out of those that are kept.
func (a *Assembler) drop(i int) {
	a.spare -= cap(a.free[i].buf)
	a.free = slices.Delete(a.free, i, i+1)
}
