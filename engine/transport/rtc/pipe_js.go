package rtc

// A browser's data channel as a pipe of frames.

import (
	"context"
	"fmt"
	"sync"
	"syscall/js"
	"time"

	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const (
	highWater = 1 << 20 // bytes in the browser's queue at which Send waits
	lowWater  = 512 << 10
	// linger is how long Close waits for the peer to receive everything.
	linger = time.Second
	// maxWaiting bounds the bytes that have arrived but were not received. A peer that
	// respects its credit never comes near it.
	maxWaiting = 64 << 20
	// frameCost is what a frame takes besides its bytes.
	frameCost = 256
)

// pipe implements transport.Pipe.
type pipe struct {
	drop func() // drops the connection
	low  chan struct{}
	came chan struct{} // holds a token while frames may be waiting
	gone chan struct{}
	shut chan struct{} // closed when the channel is closed on both sides
	buf  []byte        // the frame that Recv returned
	out  js.Value      // Uint8Array from which frames are sent

	mu      sync.Mutex
	ch      js.Value
	on      map[string]js.Func
	waiting []js.Value // Uint8Arrays
	bytes   int
	reason  error
	closing sync.Once
	wg      sync.WaitGroup // roam
}

var uint8Array = js.Global().Get("Uint8Array")

func newPipe(drop func()) *pipe {
	return &pipe{
		drop: drop, low: make(chan struct{}, 1), came: make(chan struct{}, 1), gone: make(chan struct{}), shut: make(chan struct{}),
		buf: make([]byte, wire.MaxFrame), out: uint8Array.New(wire.MaxFrame), on: map[string]js.Func{},
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// open takes over the channel and calls ready once it is open. Its event handlers run in the
// browser's event loop and must not block.
func (p *pipe) open(ch js.Value, ready func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason != nil || !p.ch.IsUndefined() {
		ch.Call("close")
		return
	}
	p.ch = ch
	ch.Set("binaryType", "arraybuffer")
	ch.Set("bufferedAmountLowThreshold", lowWater)
	var once sync.Once
	isOpen := func() { once.Do(ready) }
	p.hook("onopen", func(js.Value) { isOpen() })
	p.hook("onbufferedamountlow", func(js.Value) { poke(p.low) })
	p.hook("onmessage", func(ev js.Value) { p.take(ev.Get("data")) })
	var shut sync.Once
	p.hook("onclose", func(js.Value) {
		p.end(fmt.Errorf("%w: the channel has ended", transport.ErrPeerGone))
		shut.Do(func() { close(p.shut) })
	})
	if ch.Get("readyState").String() == "open" {
		isOpen()
	}
}

func (p *pipe) hook(event string, f func(ev js.Value)) {
	fn := js.FuncOf(func(_ js.Value, args []js.Value) any {
		f(args[0])
		return nil
	})
	p.on[event] = fn
	p.ch.Set(event, fn)
}

// take queues data that has arrived.
func (p *pipe) take(data js.Value) {
	if data.Type() != js.TypeObject || data.Get("byteLength").Type() != js.TypeNumber {
		p.end(fmt.Errorf("%w: the peer sent a message that is not a frame (text)", wire.ErrProtocol))
		return
	}
	n := data.Get("byteLength").Int()
	p.mu.Lock()
	ok := n <= wire.MaxFrame && p.bytes+n+frameCost <= maxWaiting
	if ok {
		p.waiting = append(p.waiting, uint8Array.New(data))
		p.bytes += n + frameCost
	}
	p.mu.Unlock()
	if !ok {
		p.end(fmt.Errorf("%w: the peer sent a message that is not a frame (%d bytes), or too many", wire.ErrProtocol, n))
	}
	poke(p.came)
}

// end ends the pipe. The first reason counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == nil {
		p.reason = err
		close(p.gone)
	}
}

// over returns why the pipe has ended, or nil before that.
func (p *pipe) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// Queued implements transport.Queued.
func (p *pipe) Queued() int { return p.ch.Get("bufferedAmount").Int() }

// Send implements transport.Pipe. It waits while more than a mebibyte is in flight.
func (p *pipe) Send(ctx context.Context, frame []byte) (err error) {
	if len(frame) == 0 || len(frame) > wire.MaxFrame {
		return fmt.Errorf("a frame has %d bytes, want 1..%d", len(frame), wire.MaxFrame)
	}
	for {
		if err := p.over(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.Queued() <= highWater {
			break
		}
		select {
		case <-p.low:
		case <-ctx.Done():
		case <-p.gone:
		}
	}
	defer func() {
		// The browser throws if the channel was closed just now.
		if r := recover(); r != nil {
			p.end(fmt.Errorf("%w: %v", transport.ErrPeerGone, r))
			err = p.over()
		}
	}()
	js.CopyBytesToJS(p.out, frame)
	p.ch.Call("send", p.out.Call("subarray", 0, len(frame)))
	return nil
}

// Recv implements transport.Pipe. The frame is valid until the next call.
func (p *pipe) Recv(ctx context.Context) ([]byte, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if v, ok := p.next(); ok {
			return p.buf[:js.CopyBytesToGo(p.buf, v)], nil
		}
		if err := p.over(); err != nil {
			return nil, err
		}
		select {
		case <-p.came:
		case <-p.gone:
		case <-ctx.Done():
		}
	}
}

func (p *pipe) next() (js.Value, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.waiting = nil
		return js.Value{}, false
	}
	v := p.waiting[0]
	p.waiting = p.waiting[1:]
	p.bytes -= v.Get("byteLength").Int() + frameCost
	return v, true
}

// Close implements transport.Pipe. Frames already sent have a second to arrive.
func (p *pipe) Close() error {
	p.closing.Do(p.tearDown)
	return nil
}

func (p *pipe) tearDown() {
	if p.ch.Truthy() {
		late, cancel := context.WithTimeout(context.Background(), linger)
		defer cancel()
		p.ch.Set("bufferedAmountLowThreshold", 0)
		for late.Err() == nil && p.over() == nil && p.Queued() > 0 {
			select {
			case <-p.low:
			case <-p.gone:
			case <-late.Done():
			}
		}
		p.end(transport.ErrClosed)
		// The channel closes once the peer has received everything; keep the connection until
		// then.
		p.ch.Call("close")
		select {
		case <-p.shut:
		case <-late.Done():
		}
		for event, f := range p.on {
			p.ch.Set(event, js.Null())
			f.Release()
		}
	}
	p.end(transport.ErrClosed)
	p.wg.Wait()
	p.drop()
}
