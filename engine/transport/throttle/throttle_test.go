package throttle_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ravnest/ravnest/engine/transport/throttle"
)

// endless is a pipe that takes and gives frames of a size at once.
type endless struct{ frame []byte }

func (endless) Send(context.Context, []byte) error         { return nil }
func (p endless) Recv(ctx context.Context) ([]byte, error) { return p.frame, ctx.Err() }
func (endless) Close() error                               { return nil }
func within(t *testing.T, what string, got, least, most int64) { // bytes
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s: %d bytes, want %d to %d", what, got, least, most)
	}
}

// TestRates: over ten seconds, pipes and bodies together keep to the rate in each direction,
// and use it.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := throttle.New(2e6, 8e6)
		if err != nil {
			t.Fatal(err)
		}
		if l.Up() != 2e6 || l.Down() != 8e6 {
			t.Errorf("the limit says %g and %g", l.Up(), l.Down())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		frame := make([]byte, 64<<10)
		sums := make(chan [2]int64)
		for range 2 {
			p := l.Pipe(endless{frame})
			go func() {
				var n int64
				for p.Send(ctx, frame) == nil {
					n += int64(len(frame))
				}
				sums <- [2]int64{n, 0}
			}()
			go func() {
				var n int64
				for {
					b, err := p.Recv(ctx)
					if err != nil {
						break
					}
					n += int64(len(b))
				}
				sums <- [2]int64{0, n}
			}()
		}
		go func() {
			n, _ := io.Copy(io.Discard, l.Sent(ctx, zeros{}))
			sums <- [2]int64{n, 0}
		}()
		go func() {
			n, _ := io.Copy(io.Discard, l.Received(ctx, io.NopCloser(zeros{})))
			sums <- [2]int64{0, n}
		}()
		var up, down int64
		for range 6 {
			s := <-sums
			up, down = up+s[0], down+s[1]
		}
		// A bucket and a frame of each pipe above; headers below.
		within(t, "sent", up, 2_100_000, 2_500_000+71_000+2*65536)
		within(t, "received", down, 8_500_000, 10_000_000+250_000+2*65536)
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestNoted: what could not wait is paid for by what follows.
func TestNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := throttle.New(1e6, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			l.Note(true, 100_000)
		}
		begin := time.Now()
		if _, err := io.Copy(io.Discard, l.Sent(t.Context(), bytes.NewReader(make([]byte, 1000)))); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 7*time.Second || d > 9*time.Second {
			t.Errorf("after a megabyte, the next byte at 1 Mbit/s waits %v, want about 8 s", d)
		}
		l.Note(false, 1<<30) // no limit there
	})
}

// TestEnds: a wait ends with its context, and a frame that was taken is not lost with it.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := throttle.New(1e6, 1e6)
		if err != nil {
			t.Fatal(err)
		}
		p := l.Pipe(&counting{})
		why := errors.New("enough")
		var last byte
		for got := byte(0); got < 40; {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
			for {
				b, err := p.Recv(ctx)
				if err != nil {
					if !errors.Is(err, why) {
						t.Fatal(err)
					}
					break
				}
				if b[0] != last+1 {
					t.Fatalf("frame %d came after %d", b[0], last)
				}
				last, got = b[0], got+1
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_ = p.Send(ctx, make([]byte, 64<<10))
		if err := p.Send(ctx, make([]byte, 64<<10)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("sending beyond a deadline: %v", err)
		}
	})
}

type counting struct{ n byte }

func (*counting) Send(context.Context, []byte) error { return nil }
func (*counting) Close() error                       { return nil }
func (p *counting) Recv(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.n++
	b := make([]byte, 32<<10)
	b[0] = p.n
	return b, nil
}

func TestNew(t *testing.T) {
	for _, bad := range []float64{-1, 1, 0.4e6, 1e13, math.NaN(), math.Inf(1)} {
		if _, err := throttle.New(bad, 0); err == nil {
			t.Errorf("%g bit/s was taken", bad)
		}
		if _, err := throttle.New(0, bad); err == nil {
			t.Errorf("%g bit/s was taken", bad)
		}
	}
	l, err := throttle.New(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := endless{}
	if _, same := l.Pipe(p).(endless); !same {
		t.Error("no limit, and the pipe is another one")
	}
	var none *throttle.Limit
	if none.Up() != 0 || none.Sent(t.Context(), zeros{}) != io.Reader(zeros{}) {
		t.Error("a nil limit limits")
	}
}
