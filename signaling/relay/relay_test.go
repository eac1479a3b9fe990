package relay

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

// start starts a relay on UDP and TCP ports of 127.0.0.1.
func start(t testing.TB, cfg Config) (r *Relay, udp, tcp string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if r, err = New(cfg, pc); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.Take(c, func() {})
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, pc.LocalAddr().String(), ln.Addr().String()
}

// dial returns a client that uses UDP or TCP.
func dial(t testing.TB, network, addr, username, credential string) *turn.Client {
	t.Helper()
	var pc net.PacketConn
	if network == "tcp" {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		pc = turn.NewSTUNConn(c)
	} else {
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	c, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: addr, TURNServerAddr: addr, Conn: pc, Username: username, Password: credential, LoggerFactory: quiet, RTO: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); _ = pc.Close() })
	return c
}

// exchange sends from a to b and back.
func exchange(t testing.TB, a, b net.PacketConn) error {
	t.Helper()
	for i, p := range []struct{ from, to net.PacketConn }{{b, a}, {a, b}, {b, a}} {
		text := bytes.Repeat(fmt.Appendf(nil, "packet %d ", i), 100)
		if _, err := p.from.WriteTo(text, p.to.LocalAddr()); err != nil {
			return err
		}
		if i == 0 {
			continue // this creates the sender's permission; the peer has none yet
		}
		buf := make([]byte, 2000)
		_ = p.to.SetReadDeadline(time.Now().Add(time.Minute))
		for { // the first packet may have arrived after all
			n, from, err := p.to.ReadFrom(buf)
			if err != nil {
				return err
			}
			if from.String() != p.from.LocalAddr().String() {
				return fmt.Errorf("%d bytes of %v came, want %d of %v", n, from, len(text), p.from.LocalAddr())
			}
			if bytes.Equal(buf[:n], text) {
				break
			}
		}
	}
	return nil
}

func TestRelay(t *testing.T) {
	r, udp, tcp := start(t, Config{})
	for _, by := range [][2]string{{"udp", "udp"}, {"udp", "tcp"}, {"tcp", "tcp"}} {
		var ends [2]net.PacketConn
		for i, network := range by {
			u, c := r.Admit(fmt.Sprint("p", i), time.Now())
			end, err := dial(t, network, map[string]string{"udp": udp, "tcp": tcp}[network], u, c).Allocate()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = end
		}
		if err := exchange(t, ends[0], ends[1]); err != nil {
			t.Errorf("%v: %v", by, err)
		}
		for _, e := range ends {
			_ = e.Close()
		}
		r.Drop("p0")
		r.Drop("p1")
	}
	s := r.Stats()
	if s.Packets < 6 || s.Bytes < 6*900 || s.Members != 0 || s.Allocations != 0 {
		t.Errorf("%+v", s)
	}
}

// A stranger can relay nothing, neither without credentials nor with expired ones or those
// of a member that has left; and a member reaches no address but the relay's own.
func TestStranger(t *testing.T) {
	r, udp, tcp := start(t, Config{})
	u, c := r.Admit("member", time.Now())
	for _, cred := range [][2]string{{"1:member", c}, {u, "guess"}, {"1:nobody", c}, {"", ""}, {"member", c}} {
		for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
			if end, err := dial(t, network, addr, cred[0], cred[1]).Allocate(); err == nil {
				t.Errorf("%v allocated %v", cred, end.LocalAddr())
			}
		}
	}
	end, err := dial(t, "udp", udp, u, c).Allocate()
	if err != nil {
		t.Fatal(err)
	}
	target, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := end.WriteTo([]byte("x"), target.LocalAddr()); err == nil {
		t.Error("a permission for the host's loopback was given")
	}
	for _, ip := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "198.51.101.1", "::1", "::ffff:127.0.0.1"} {
		if permit(nil, net.ParseIP(ip)) {
			t.Errorf("packets may go to %s", ip)
		}
	}
	if !strings.HasPrefix(end.LocalAddr().String(), "198.51.100.") {
		t.Errorf("a relayed address of %v", end.LocalAddr())
	}
	// STUN needs no credentials.
	if _, err := dial(t, "udp", udp, "", "").SendBindingRequest(); err != nil {
		t.Error(err)
	}
	r.Drop("member")
	if n := r.Stats().Allocations; n != 0 {
		t.Errorf("%d allocations of a member that has left", n)
	}
	if _, err := dial(t, "udp", udp, u, c).Allocate(); err == nil {
		t.Error("credentials outlived the session")
	}
	if r.Stats().Refused == 0 {
		t.Error("nobody was counted as refused")
	}
}

func TestQuotas(t *testing.T) {
	r, udp, _ := start(t, Config{Allocations: 3, Total: 5, Rate: 100_000})
	count := func(id string) (n int, ends []net.PacketConn) {
		u, c := r.Admit(id, time.Now())
		for range 5 {
			end, err := dial(t, "udp", udp, u, c).Allocate()
			if err == nil {
				ends = append(ends, end)
			}
		}
		return len(ends), ends
	}
	n, a := count("a")
	if n != 3 {
		t.Errorf("%d allocations of one member, want 3", n)
	}
	n, b := count("b")
	if n != 2 {
		t.Errorf("%d allocations of the second member, want 2 of 5 in all", n)
	}
	if err := exchange(t, a[0], b[0]); err != nil {
		t.Fatal(err)
	}
	before := r.Stats()
	begin := time.Now()
	for range 300 {
		if _, err := a[0].WriteTo(make([]byte, 1000), b[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	after := r.Stats()
	if got, most := after.Bytes-before.Bytes, int64(25_000+100_000*time.Since(begin).Seconds()); got > most {
		t.Errorf("%d bytes in %v, want at most %d", got, time.Since(begin), most)
	}
	if after.Dropped == before.Dropped {
		t.Error("nothing was dropped")
	}
}

// 200 allocations whose owners read nothing hold a bounded amount of memory.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("200 clients")
	}
	r, udp, _ := start(t, Config{Queued: 8e6})
	var ends []net.PacketConn
	for i := range 200 {
		u, c := r.Admit(fmt.Sprint("p", i), time.Now())
		end, err := dial(t, "udp", udp, u, c).Allocate()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for k := range 5000 {
		if _, err := ends[k%100].WriteTo(make([]byte, 1200), ends[199-k%100].LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 40e6 {
		t.Errorf("it holds %.1f MB more", float64(grown)/1e6)
	}
	t.Logf("%+v", r.Stats())
}

// Answers that could go to a forged address are bounded; packets of members are not.
func TestRequestRate(t *testing.T) {
	r, udp, _ := start(t, Config{})
	c, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	binding := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, "transaction!"...)
	begin, answers := time.Now(), 0
	for range 3000 {
		if _, err := c.Write(binding); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 200)); err == nil {
			answers++
		}
	}
	for {
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 200)); err != nil {
			break
		}
		answers++
	}
	if most := requestBurst + int(requestRate*time.Since(begin).Seconds()) + 1; answers == 0 || answers > most {
		t.Errorf("%d answers in %v, want at most %d", answers, time.Since(begin), most)
	}
	if r.Stats().Dropped == 0 {
		t.Error("nothing was left out")
	}
	s := &screened{seed: maphash.MakeSeed(), rate: make([]bucket, buckets)}
	from := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
	for range 2 * requestBurst {
		for _, b := range [][]byte{{0x40, 0, 0, 0}, {0, 0x16}, {1, 1}, {}} { // channel data, indications, answers, nothing
			if !s.pass(b, from, begin) {
				t.Fatalf("% x was left out", b)
			}
		}
	}
}
