//go:build unix

package rtc

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// processor returns the processor time of this process, which has both ends.
func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func benchLinks(b *testing.B) (x, y *transport.Link) {
	b.Helper()
	p, q := pair(b)
	x, y = transport.NewLink(p, transport.Options{}), transport.NewLink(q, transport.Options{})
	b.Cleanup(func() { _ = x.Close(); _ = y.Close() })
	return x, y
}

// take receives and releases n messages.
func take(b *testing.B, l *transport.Link, n int) {
	for range n {
		m, err := l.Recv(context.Background())
		if err != nil {
			b.Error(err)
			return
		}
		m.Release()
	}
}

var benchSizes = []int{8_000, 64_000}

// BenchmarkStream sends messages one after the other in one direction.
func BenchmarkStream(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x, y := benchLinks(b)
			payload := make([]byte, n)
			b.SetBytes(int64(n))
			done := make(chan struct{})
			b.ResetTimer()
			cpu := processor()
			go func() { take(b, y, b.N); close(done) }()
			for range b.N {
				if err := x.Send(context.Background(), wire.Header{Kind: wire.Activation}, payload); err != nil {
					b.Fatal(err)
				}
			}
			<-done
			b.ReportMetric(float64(processor()-cpu)/float64(b.N)/float64(n), "cpu-ns/B")
		})
	}
}

// BenchmarkRoundTrip sends a message and another of the same size back, as a pipeline of two
// stages does.
func BenchmarkRoundTrip(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x, y := benchLinks(b)
			payload := make([]byte, n)
			done := make(chan struct{})
			b.ResetTimer()
			cpu := processor()
			go func() {
				defer close(done)
				for range b.N {
					m, err := y.Recv(context.Background())
					if err == nil {
						err = y.Send(context.Background(), m.Header, m.Payload)
						m.Release()
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			}()
			for range b.N {
				if err := x.Send(context.Background(), wire.Header{Kind: wire.Activation}, payload); err != nil {
					b.Fatal(err)
				}
				take(b, x, 1)
			}
			<-done
			b.ReportMetric(float64(processor()-cpu)/1e3/float64(2*b.N), "cpu-us/message")
		})
	}
}

// BenchmarkConnect sets up a connection until the channel is open at both ends.
func BenchmarkConnect(b *testing.B) {
	for range b.N {
		p, q := pair(b)
		_ = p.Close()
		_ = q.Close()
	}
}
