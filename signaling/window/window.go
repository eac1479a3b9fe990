// Package window lets a session outlive its connections. Each side counts the messages that
// it has sent and keeps them until the other has acknowledged them; on a new connection both
// say how many have come, and what is missing is sent again. A connection keeps the order of
// what it carries, so the numbers, from 1 on, need not travel with the messages.
//
// What is of one connection only, such as a heartbeat, is [Item.Plain]: it has no number, goes
// out in its turn, and is dropped with its connection.
//
// Both types are values without clock and socket. They are not safe for concurrent use.
package window

import "fmt"

// Item is a message on its way.
type Item struct {
	Bytes []byte
	Plain bool
	Sent  bool // it was written to a connection, or has come, at least once
}

// Out is what one side sends. The zero Out has sent nothing.
type Out struct {
	items []*Item // plain ones that are sent have no bytes any more
	next  int     // the first that the connection has not been given
	had   uint64  // numbered messages that the other side has
	sent  uint64  // numbered messages in all
	count int     // that are waiting or kept
	bytes int
}

// Held is how many messages are waiting or kept, and their bytes.
func (o *Out) Held() (count, bytes int) { return o.count, o.bytes }

// Add takes a message in.
func (o *Out) Add(b []byte, plain bool) *Item {
	it := &Item{Bytes: b, Plain: plain}
	if !plain {
		o.sent++
	}
	o.items = append(o.items, it)
	o.count++
	o.bytes += len(b)
	return it
}

// Next is the next message for the connection, and its bytes; nil: there is none. The item may
// lose its bytes while they are being written, since the other side may acknowledge what it has
// not had, or have it before the write returns.
func (o *Out) Next() (*Item, []byte) {
	o.skip()
	if o.next == len(o.items) {
		return nil, nil
	}
	it := o.items[o.next]
	o.next++
	return it, it.Bytes
}

// skip passes over what was acknowledged without having been given to this connection: it has come
// by an earlier one, or the other side lies.
func (o *Out) skip() {
	for o.next < len(o.items) && o.items[o.next].Bytes == nil {
		o.next++
	}
}

// Written notes that a message of Next was written.
func (o *Out) Written(it *Item) {
	it.Sent = true
	if it.Plain {
		o.release(it)
		o.trim()
	}
}

func (o *Out) release(it *Item) {
	if it.Bytes != nil {
		o.count--
		o.bytes -= len(it.Bytes)
		it.Bytes = nil
	}
}

// trim drops what is at the front and of no use any more.
func (o *Out) trim() {
	for o.next > 0 && o.items[0].Bytes == nil {
		o.items[0] = nil
		o.items = o.items[1:]
		o.next--
	}
}

// Ack says that the other side has the first n messages. An error means that it has not
// spoken the truth: they are fewer than it has said before, or more than were sent.
func (o *Out) Ack(n uint64) error {
	if n < o.had || n > o.sent {
		return fmt.Errorf("it acknowledges %d messages, of %d that were sent and %d that it had", n, o.sent, o.had)
	}
	for _, it := range o.items {
		if o.had == n {
			break
		}
		if !it.Plain && it.Bytes != nil {
			o.had++
			it.Sent = true // even if the write has failed, or not returned yet
			o.release(it)
		}
	}
	o.skip()
	o.trim()
	return nil
}

// Resume begins a new connection, whose other side has the first n messages: those after
// them are given out by Next again.
func (o *Out) Resume(n uint64) error {
	if err := o.Ack(n); err != nil {
		return err
	}
	kept := o.items[:0]
	for _, it := range o.items {
		if it.Plain {
			o.release(it)
		} else if it.Bytes != nil {
			kept = append(kept, it)
		}
	}
	clear(o.items[len(kept):])
	o.items, o.next = kept, 0
	return nil
}

// In is what one side receives. The zero In has received nothing.
type In struct {
	had   uint64
	told  uint64 // how many the other side knows of
	bytes int    // since then
}

// An acknowledgement is due after so many messages or bytes; heartbeats bring it earlier.
const (
	dueCount = 32
	dueBytes = 64 << 10
)

// Take counts a numbered message that has come, and tells whether it is time to acknowledge.
func (i *In) Take(bytes int) (due bool) {
	i.had++
	i.bytes += bytes
	return i.had-i.told >= dueCount || i.bytes >= dueBytes
}

// Ack is how many have come. The other side is about to be told.
func (i *In) Ack() uint64 {
	i.told, i.bytes = i.had, 0
	return i.had
}
