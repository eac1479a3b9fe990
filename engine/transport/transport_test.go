package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
)

const patience = time.Minute // limit for what takes milliseconds on an idle machine

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// links returns two connected links, with faults from a to b.
func links(t testing.TB, f mem.Faults, oa, ob Options) (a, b *Link) {
	t.Helper()
	pa, pb := mem.Pair(f, mem.Faults{})
	a, b = NewLink(pa, oa), NewLink(pb, ob)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// text returns n bytes that depend on seed.
func text(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(seed*31 + i*7 + i>>8)
	}
	return b
}

// TestBothWays sends messages of all sizes in both directions at once, some larger than the
// window, with different windows.
func TestBothWays(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := links(t, mem.Faults{}, Options{Credit: wire.FirstWindow}, Options{Credit: 2 << 20})
	ctx := soon(t)
	sizes := []int{0, 1, 100, 65_000, 65_508, 65_509, 300_000, 3 << 20, 8_000}
	const rounds = 6
	var wg sync.WaitGroup
	one := func(from, to *Link, seed int) {
		wg.Go(func() {
			for r := range rounds {
				for i, n := range sizes {
					h := wire.Header{Kind: wire.Gradient, Edge: uint16(i), Seq: uint64(r), Rows: 3, Elems: uint32(n)}
					p := text(seed+r, n)
					if err := from.Send(ctx, h, p); err != nil {
						t.Errorf("sending: %v", err)
						return
					}
					clear(p) // it is ours again
				}
			}
		})
		wg.Go(func() {
			for r := range rounds {
				for i, n := range sizes {
					m, err := to.Recv(ctx)
					if err != nil {
						t.Errorf("receiving: %v", err)
						return
					}
					h := m.Header
					if h.Edge != uint16(i) || h.Seq != uint64(r) || h.Kind != wire.Gradient || h.Rows != 3 || int(h.Elems) != n || !bytes.Equal(m.Payload, text(seed+r, n)) {
						t.Errorf("round %d, message %d of %d bytes arrived as %+v", r, i, n, h)
						return
					}
					m.Release()
				}
			}
		})
	}
	one(a, b, 1)
	one(b, a, 1000)
	wg.Wait()
	var payload int64
	for _, n := range sizes {
		payload += rounds * int64(n)
	}
	sa, sb := a.Stats(), b.Stats()
	if sa.Sent != rounds*int64(len(sizes)) || sa.SentPayload != payload || sb.ReceivedPayload != payload || sb.Received != sa.Sent {
		t.Errorf("stats %+v and %+v, want %d messages of %d bytes", sa, sb, rounds*len(sizes), payload)
	}
	if over := sa.SentBytes - sa.SentPayload; over <= 0 || over > payload/100+rounds*int64(len(sizes))*52+10_000 {
		t.Errorf("%d bytes of overhead on %d", over, payload)
	}
	_ = a.Close()
	_ = b.Close()
	settles(t, before)
}

// settles waits until there are no more goroutines than before.
func settles(t testing.TB, before int) {
	t.Helper()
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i == 1000 {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestCredit checks that a sender stops at the window and continues when the consumer
// releases messages.
func TestCredit(t *testing.T) {
	a, b := links(t, mem.Faults{Queue: 64 << 20}, Options{}, Options{Credit: 1 << 20})
	ctx := soon(t)
	const messages = 30
	p := make([]byte, 100_000)
	done := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := a.Send(ctx, wire.Header{Kind: wire.Activation, Seq: uint64(i)}, p); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for a.Stats().Sent < 8 {
		if ctx.Err() != nil {
			t.Fatalf("only %d messages of 100 kB fit a window of 1 MiB", a.Stats().Sent)
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for what should not be sent
	if n := a.Stats().Sent; n > 11 {
		t.Errorf("%d messages of 100 kB fit a window of 1 MiB", n)
	}
	for i := range messages {
		m, err := b.Recv(ctx)
		if err != nil || m.Header.Seq != uint64(i) {
			t.Fatalf("message %d: %v", i, err)
		}
		m.Release()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// halting is a pipe that takes some frames, and then waits with the next for its context's end.
type halting struct {
	Pipe
	frames atomic.Int64  // that it still takes
	halted chan struct{} // told when it waits
}

func (h *halting) goOn() { h.frames.Store(math.MaxInt64) }

func (h *halting) Send(ctx context.Context, frame []byte) error {
	if h.frames.Add(-1) < 0 {
		h.halted <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return h.Pipe.Send(ctx, frame)
}

// TestCancel checks that a message cancelled in the middle leaves the link usable and the
// window unchanged, any number of times.
func TestCancel(t *testing.T) {
	pa, pb := mem.Pair(mem.Faults{}, mem.Faults{})
	pipe := &halting{Pipe: pa, halted: make(chan struct{}, 1)}
	pipe.goOn()
	a, b := NewLink(pipe, Options{}), NewLink(pb, Options{Credit: 1 << 20})
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	why := errors.New("changed my mind")
	big := make([]byte, 900_000)
	const rounds = 3
	for i := range rounds {
		ctx, cancel := context.WithCancelCause(context.Background())
		pipe.frames.Store(7) // of 14
		go func() {
			<-pipe.halted
			pipe.goOn()
			cancel(why)
		}()
		if err := a.Send(ctx, wire.Header{Kind: wire.Activation}, big); !errors.Is(err, why) {
			t.Fatalf("a cancelled Send: %v", err)
		}
		// This one needs the window that the cancelled one had.
		if err := a.Send(soon(t), wire.Header{Kind: wire.Control, Seq: uint64(i)}, text(i, 300_000)); err != nil {
			t.Fatal(err)
		}
		m, err := b.Recv(soon(t))
		if err != nil || m.Header.Seq != uint64(i) || !bytes.Equal(m.Payload, text(i, 300_000)) {
			t.Fatalf("after a cancelled message: %v", err)
		}
		m.Release()
	}
	if s := a.Stats(); s.Sent != rounds {
		t.Errorf("%d messages count as sent, want %d", s.Sent, rounds)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if err := a.Send(ctx, wire.Header{Kind: wire.Control}, nil); !errors.Is(err, why) {
		t.Errorf("Send with a context that is over: %v", err)
	}
	if _, err := b.Recv(ctx); !errors.Is(err, why) {
		t.Errorf("Recv with a context that is over: %v", err)
	}
}

// TestFaults checks that with any faults of the pipe no wrong message is ever returned, and
// that both sides learn that the link has ended.
func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    mem.Faults
		ends error // of the receiver; nil: the link lives
	}{
		{"none", mem.Faults{}, nil},
		{"delay", mem.Faults{Delay: 3 * time.Millisecond}, nil},
		{"narrow", mem.Faults{Rate: 20 << 20}, nil},
		{"cut at the hello", mem.Faults{CutAt: 1}, ErrPeerGone},
		{"cut", mem.Faults{CutAt: 37}, ErrPeerGone},
		{"hello lost", mem.Faults{DropAt: 1}, wire.ErrProtocol},
		{"frame lost", mem.Faults{DropAt: 20}, wire.ErrProtocol},
		{"loss", mem.Faults{Loss: 0.05, Rand: rand.New(rand.NewPCG(1, 1))}, wire.ErrProtocol},
		{"reorder", mem.Faults{Reorder: 0.2, Rand: rand.New(rand.NewPCG(2, 2)), Rate: 20 << 20}, wire.ErrProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a, b := links(t, tc.f, Options{}, Options{})
			ctx := soon(t)
			const messages = 60
			var wg sync.WaitGroup
			var se, re error
			got := 0
			wg.Go(func() {
				for i := range messages {
					if se = a.Send(ctx, wire.Header{Kind: wire.Activation, Seq: uint64(i)}, text(i, 1000+i*3000)); se != nil {
						return
					}
				}
			})
			wg.Go(func() {
				for ; got < messages; got++ {
					var m Message
					if m, re = b.Recv(ctx); re != nil {
						return
					}
					if m.Header.Seq != uint64(got) || !bytes.Equal(m.Payload, text(got, 1000+got*3000)) {
						t.Errorf("message %d arrived wrong", got)
					}
					m.Release()
				}
			})
			wg.Wait()
			if tc.ends == nil {
				if se != nil || re != nil {
					t.Errorf("sender %v, receiver %v", se, re)
				}
				return
			}
			if !errors.Is(re, tc.ends) {
				t.Errorf("after %d messages the receiver got %v, want %v", got, re, tc.ends)
			}
			select {
			case <-a.Done():
			case <-ctx.Done():
				t.Fatal("the sender never learned")
			}
			if !errors.Is(a.Err(), ErrPeerGone) {
				t.Errorf("the sender's link ended with %v", a.Err())
			}
			if err := a.Send(ctx, wire.Header{Kind: wire.Control}, nil); !errors.Is(err, ErrPeerGone) {
				t.Errorf("Send on a dead link: %v", err)
			}
		})
	}
}

// TestClose checks that the peer receives everything sent and then the reason, and that local
// calls get ErrClosed.
func TestClose(t *testing.T) {
	a, b := links(t, mem.Faults{}, Options{}, Options{})
	ctx := soon(t)
	for i := range 3 {
		if err := a.Send(ctx, wire.Header{Kind: wire.Control, Seq: uint64(i)}, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := a.Recv(ctx)
		waiting <- err
	}()
	reason := fmt.Errorf("stage 2 has run out of %s", strings.Repeat("memory ", 100))
	if err := a.CloseFor(reason); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, reason) {
		t.Errorf("a waiting Recv got %v", err)
	}
	if err := a.Send(ctx, wire.Header{Kind: wire.Control}, nil); !errors.Is(err, reason) {
		t.Errorf("Send after the end got %v", err)
	}
	for i := range 3 {
		m, err := b.Recv(ctx)
		if err != nil || m.Header.Seq != uint64(i) {
			t.Fatalf("message %d: %v", i, err)
		}
		m.Release()
	}
	if _, err := b.Recv(ctx); !errors.Is(err, ErrPeerGone) || !strings.Contains(err.Error(), "stage 2 has run out of memory") {
		t.Errorf("the peer got %v", err)
	}
	c, d := links(t, mem.Faults{}, Options{}, Options{})
	var wg sync.WaitGroup
	for range 4 { // from all sides at once
		wg.Go(func() { _ = c.Close() })
		wg.Go(func() { _ = d.Close() })
	}
	wg.Wait()
	if _, err := c.Recv(ctx); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrPeerGone) {
		t.Errorf("Recv after Close: %v", err)
	}
}

// TestCloseStuck checks that Close does not wait for a peer that reads nothing.
func TestCloseStuck(t *testing.T) {
	pa, _ := mem.Pair(mem.Faults{Queue: 100_000}, mem.Faults{}) // nobody reads
	a := NewLink(pa, Options{})
	done := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			err = a.Send(context.Background(), wire.Header{Kind: wire.Activation}, make([]byte, 50_000))
		}
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	closed := make(chan struct{})
	go func() {
		_ = a.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-soon(t).Done():
		t.Fatal("Close waits")
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("the sender got %v", err)
	}
}

// TestTooLarge checks that a message that the peer would refuse is refused by Send, and that
// the link stays usable.
func TestTooLarge(t *testing.T) {
	a, b := links(t, mem.Faults{}, Options{}, Options{MaxTransfer: 100_000})
	ctx := soon(t)
	if err := a.Send(ctx, wire.Header{Kind: wire.Control}, nil); err != nil { // after this the hello has arrived
		t.Fatal(err)
	}
	if err := b.Send(ctx, wire.Header{Kind: wire.Control}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Recv(ctx); err != nil {
		t.Fatal(err)
	}
	err := a.Send(ctx, wire.Header{Kind: wire.Activation}, make([]byte, 100_001))
	if err == nil || !strings.Contains(err.Error(), "100000") {
		t.Errorf("too large: %v", err)
	}
	if err := a.Send(ctx, wire.Header{Kind: wire.Activation}, make([]byte, 100_000-wire.MessageHeader)); err != nil {
		t.Error(err)
	}
	if a.Err() != nil || b.Err() != nil {
		t.Errorf("the link ended: %v, %v", a.Err(), b.Err())
	}
}

// TestStranger checks that invalid frames end the link with an error that says so, and that
// the peer is told.
func TestStranger(t *testing.T) {
	hello := wire.NewAssembler(0, 1000).Hello()
	after := func(fs ...wire.Frame) (out [][]byte) {
		for i, f := range append([]wire.Frame{hello}, fs...) {
			f.Number = uint16(i)
			out = append(out, f.Append(nil))
		}
		return out
	}
	message := func(n int) wire.Frame {
		h := wire.Header{Kind: wire.Control}
		h.Seal(make([]byte, n))
		return wire.Frame{Type: wire.Data, ID: 1, Count: 1, Total: uint32(wire.MessageHeader + n), Body: append(h.Append(nil), make([]byte, n)...)}
	}
	other := after()[0]
	other[0] = 9
	for name, frames := range map[string][][]byte{
		"another version": {other},
		"no hello":        {(&wire.Frame{Type: wire.Credit}).Append(nil)},
		"two hellos":      after(hello),
		"short":           {{1, 2, 3}},
		"long":            {make([]byte, wire.MaxFrame+1)},
		"credit unused":   after(wire.Frame{Type: wire.Credit, Total: 1}),
		"cancel nothing":  after(wire.Frame{Type: wire.Cancel, ID: 1}),
		"over the limit":  after(message(2000)),
		"number":          append(after(message(5)), after(message(5))[1]),
		"to come":         {(&wire.Frame{Type: wire.Hello, Generation: 1, Total: hello.Total, Index: hello.Index}).Append(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pa, pb := mem.Pair(mem.Faults{}, mem.Faults{})
			l := NewLink(pb, Options{MaxTransfer: 1000})
			defer func() { _ = l.Close() }()
			ctx := soon(t)
			for _, f := range frames {
				_ = pa.Send(ctx, f)
			}
			select {
			case <-l.Done():
			case <-ctx.Done():
				t.Fatal("the link goes on")
			}
			if !errors.Is(l.Err(), wire.ErrProtocol) {
				t.Errorf("got %v, want a protocol error", l.Err())
			}
			for {
				b, err := pa.Recv(ctx)
				if err != nil {
					t.Fatalf("the stranger was not told: %v", err)
				}
				f, err := wire.ParseFrame(b)
				if err != nil {
					t.Fatal(err)
				}
				if f.Type == wire.Bye {
					if !strings.Contains(string(f.Body), "protocol error") {
						t.Errorf("the stranger was told %q", f.Body)
					}
					return
				}
			}
		})
	}
}

// TestFree: a pipe that a link has let go of carries another, of a later generation, which sees
// nothing of what the first had under way: not its messages, its halves of messages or its credits.
func TestFree(t *testing.T) {
	before := runtime.NumGoroutine()
	pa, pb := mem.Pair(mem.Faults{Queue: 64 << 10}, mem.Faults{})
	a, b := NewLink(pa, Options{Generation: 1}), NewLink(pb, Options{Generation: 1, Credit: wire.FirstWindow})
	var wg sync.WaitGroup
	for gen := uint32(2); gen < 6; gen++ {
		// The first message is never taken, so the second fills the window. It and the third
		// stand in the pipe and before it.
		ctx, cancel := context.WithCancel(soon(t))
		for range 3 {
			wg.Go(func() {
				if err := a.Send(ctx, wire.Header{Kind: wire.Activation, Seq: 7}, make([]byte, 200_000)); err == nil && gen%2 == 0 {
					_ = b.Send(ctx, wire.Header{Kind: wire.Gradient, Seq: 7}, make([]byte, 20_000))
				}
			})
		}
		m, err := b.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if gen%2 == 0 {
			cancel() // as a stage does that is stopped: it sends that it gives up the message
			wg.Wait()
		}
		free := []Pipe{a.Free(), b.Free()}
		if free[0] != pa || free[1] != pb || a.Free() != nil || !errors.Is(a.Err(), ErrClosed) {
			t.Fatalf("free: %v, and again %v; the link has ended with %v", free, a.Free(), a.Err())
		}
		cancel()
		wg.Wait()
		m.Release()
		_, _ = a.Close(), b.Close() // no longer concerns the pipe

		a, b = NewLink(pa, Options{Generation: gen}), NewLink(pb, Options{Generation: gen, Credit: wire.FirstWindow})
		for k := range uint64(20) { // more than a window
			if err := a.Send(soon(t), wire.Header{Kind: wire.Activation, Seq: k}, text(int(k), 60_000)); err != nil {
				t.Fatalf("generation %d: %v", gen, err)
			}
			m, err := b.Recv(soon(t))
			if err != nil || m.Header.Seq != k || !bytes.Equal(m.Payload, text(int(k), 60_000)) {
				t.Fatalf("generation %d: message %d: got %+v, %v", gen, k, m.Header, err)
			}
			m.Release()
		}
	}
	_, _ = a.Close(), b.Close()
	if err := pa.Send(t.Context(), make([]byte, 1)); err == nil {
		t.Error("the last link's end did not end the pipe")
	}
	settles(t, before)
}

// TestLate: once the peer's hello has come, what is of an older generation is no remnant but a lie.
func TestLate(t *testing.T) {
	pa, pb := mem.Pair(mem.Faults{}, mem.Faults{})
	l := NewLink(pb, Options{Generation: 3})
	defer func() { _ = l.Close() }()
	for k, gen := range []uint32{1, 2, 3, 2} {
		f := wire.NewAssembler(0, 1000).Hello()
		f.Generation = gen
		if k == 3 {
			f = wire.Frame{Type: wire.Credit, Number: 1, Generation: gen}
		}
		if err := pa.Send(soon(t), f.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	<-l.Done()
	if !errors.Is(l.Err(), wire.ErrProtocol) || !strings.Contains(l.Err().Error(), "generation 2 in generation 3") {
		t.Errorf("the link ended with %v", l.Err())
	}
}

// TestAllocations checks that sending, receiving and releasing a message allocates nothing.
func TestAllocations(t *testing.T) {
	a, b := links(t, mem.Faults{}, Options{}, Options{})
	ctx := context.Background()
	p := make([]byte, 60_000)
	one := func() {
		if err := a.Send(ctx, wire.Header{Kind: wire.Activation}, p); err != nil {
			t.Fatal(err)
		}
		m, err := b.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m.Release()
	}
	for range 200 {
		one()
	}
	// Not exactly zero, because of occasional credit frames and the runtime's bookkeeping.
	if n := testing.AllocsPerRun(500, one); n > 1 {
		t.Errorf("%v allocations per message", n)
	}
}

func BenchmarkMem(b *testing.B) {
	for _, n := range []int{8_000, 64_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x, y := links(b, mem.Faults{}, Options{}, Options{})
			ctx := context.Background()
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			done := make(chan error, 1)
			go func() {
				for range b.N {
					m, err := y.Recv(ctx)
					if err != nil {
						done <- err
						return
					}
					m.Release()
				}
				done <- nil
			}()
			for range b.N {
				if err := x.Send(ctx, wire.Header{Kind: wire.Activation}, p); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
