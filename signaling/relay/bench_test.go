package relay

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// BenchmarkRelay sends packets of 1200 bytes through the relay, with both clients in the same
// process.
func BenchmarkRelay(b *testing.B) {
	for _, network := range []string{"udp", "tcp"} {
		b.Run(network, func(b *testing.B) {
			r, udp, tcp := start(b, Config{Rate: 1e12, RateTotal: 1e12})
			var ends [2]net.PacketConn
			for i := range ends {
				u, c := r.Admit(fmt.Sprint("p", i), time.Now())
				end, err := dial(b, network, map[string]string{"udp": udp, "tcp": tcp}[network], u, c).Allocate()
				if err != nil {
					b.Fatal(err)
				}
				ends[i] = end
			}
			if err := exchange(b, ends[0], ends[1]); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(1200)
			packet, buf := make([]byte, 1200), make([]byte, 2000)
			for b.Loop() {
				if _, err := ends[0].WriteTo(packet, ends[1].LocalAddr()); err != nil {
					b.Fatal(err)
				}
				_ = ends[1].SetReadDeadline(time.Now().Add(time.Second))
				if _, _, err := ends[1].ReadFrom(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
