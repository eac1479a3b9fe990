package mem

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/transport"
)

var _ transport.Pipe = (*Pipe)(nil)

// arrivals sends n numbered frames through a pipe with faults and returns which arrive.
func arrivals(t *testing.T, f Faults, n int) (got []byte, last error) {
	t.Helper()
	a, b := Pair(f, Faults{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range n {
		if err := a.Send(ctx, []byte{byte(i)}); err != nil {
			break
		}
	}
	_ = a.Close()
	for {
		x, err := b.Recv(ctx)
		if err != nil {
			return got, err
		}
		got = append(got, x[0])
	}
}

func TestFaults(t *testing.T) {
	if got, err := arrivals(t, Faults{}, 5); string(got) != "\x00\x01\x02\x03\x04" || !errors.Is(err, errClosed) {
		t.Errorf("perfect: %v, %v", got, err)
	}
	if got, _ := arrivals(t, Faults{DropAt: 2}, 4); string(got) != "\x00\x02\x03" {
		t.Errorf("second dropped: %v", got)
	}
	if got, err := arrivals(t, Faults{CutAt: 3}, 5); string(got) != "\x00\x01" || !errors.Is(err, ErrCut) {
		t.Errorf("cut at the third: %v, %v", got, err)
	}
	seeded := func() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
	lost, _ := arrivals(t, Faults{Loss: 0.5, Rand: seeded()}, 100)
	again, _ := arrivals(t, Faults{Loss: 0.5, Rand: seeded()}, 100)
	if len(lost) < 30 || len(lost) > 70 || string(lost) != string(again) {
		t.Errorf("half lost: %d, then %d arrived", len(lost), len(again))
	}
	mixed, _ := arrivals(t, Faults{Reorder: 0.5, Rand: seeded()}, 100)
	turned := 0
	for i := 1; i < len(mixed); i++ {
		if mixed[i] < mixed[i-1] {
			turned++
		}
	}
	if len(mixed) != 100 || turned == 0 {
		t.Errorf("reorder: %d arrived, %d out of order", len(mixed), turned)
	}
	began := time.Now()
	if got, _ := arrivals(t, Faults{Delay: 30 * time.Millisecond}, 5); len(got) != 5 || time.Since(began) < 30*time.Millisecond {
		t.Errorf("delay: %v after %v", got, time.Since(began))
	}
	began = time.Now()
	if got, _ := arrivals(t, Faults{Rate: 1000}, 50); len(got) != 50 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("rate: 50 bytes at 1000 B/s took %v", time.Since(began))
	}
}

// TestQueue checks that Send waits at the high-water mark, and returns when its context or the
// pipe ends.
func TestQueue(t *testing.T) {
	a, b := Pair(Faults{Queue: 10}, Faults{})
	ctx := context.Background()
	frame := make([]byte, 6)
	if err := a.Send(ctx, frame); err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	short, cancel := context.WithTimeoutCause(ctx, 20*time.Millisecond, why)
	defer cancel()
	if err := a.Send(short, frame); !errors.Is(err, why) {
		t.Fatalf("Send over the mark: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Send(ctx, frame) }()
	if _, err := b.Recv(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Send once there is room: %v", err)
	}
	go func() { done <- a.Send(ctx, frame) }()
	_ = b.Close()
	if err := <-done; !errors.Is(err, errClosed) {
		t.Errorf("Send on a closed pipe: %v", err)
	}
	if err := a.Send(ctx, make([]byte, 100)); !errors.Is(err, errClosed) {
		t.Errorf("Send on a closed pipe: %v", err)
	}
}
