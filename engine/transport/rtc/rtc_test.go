//go:build !js

package rtc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

const patience = time.Minute // limit for what takes milliseconds on an idle machine

func endpoint(t testing.TB) *Endpoint {
	t.Helper()
	e, err := NewEndpoint(Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair connects two endpoints as the signaling host would.
func pair(t testing.TB) (a, b transport.Pipe) {
	t.Helper()
	x, y := endpoint(t), endpoint(t)
	ctx := soon(t)
	xy, yx := make(chan json.RawMessage, 64), make(chan json.RawMessage, 64)
	into := func(c chan json.RawMessage) func(json.RawMessage) error {
		return func(m json.RawMessage) error { c <- m; return nil }
	}
	var wg sync.WaitGroup
	var ea, eb error
	wg.Go(func() { a, ea = x.Connect(ctx, true, y.Here(), into(xy), yx) })
	wg.Go(func() { b, eb = y.Connect(ctx, false, x.Here(), into(yx), xy) })
	wg.Wait()
	if err := errors.Join(ea, eb); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// TestBothWays sends twenty megabytes (three under the race detector) in both directions at
// once. They must arrive unchanged, and nothing of the connection may be left behind.
func TestBothWays(t *testing.T) {
	before := runtime.NumGoroutine()
	began := time.Now()
	a, b := pair(t)
	t.Logf("connected in %v", time.Since(began))
	total := 20 << 20
	if raceDetector {
		total = 3 << 20
	}
	ctx := soon(t)
	send := func(p transport.Pipe, seed uint64, sum *[32]byte) error {
		r, h := rand.NewChaCha8([32]byte{byte(seed)}), sha256.New()
		g := rand.New(rand.NewPCG(seed, 1))
		for left := total; left > 0; {
			f := make([]byte, min(left, 1+g.IntN(wire.MaxFrame)))
			_, _ = r.Read(f)
			h.Write(f)
			if err := p.Send(ctx, f); err != nil {
				return err
			}
			left -= len(f)
		}
		h.Sum(sum[:0])
		return nil
	}
	take := func(p transport.Pipe, sum *[32]byte) error {
		h := sha256.New()
		for left := total; left > 0; {
			f, err := p.Recv(ctx)
			if err != nil {
				return err
			}
			h.Write(f)
			left -= len(f)
		}
		h.Sum(sum[:0])
		return nil
	}
	var wg sync.WaitGroup
	var errs [4]error
	var sums [4][32]byte
	wg.Go(func() { errs[0] = send(a, 1, &sums[0]) })
	wg.Go(func() { errs[1] = take(b, &sums[1]) })
	wg.Go(func() { errs[2] = send(b, 2, &sums[2]) })
	wg.Go(func() { errs[3] = take(a, &sums[3]) })
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if sums[0] != sums[1] || sums[2] != sums[3] {
		t.Error("what arrived is not what was sent")
	}
	_ = a.Close()
	_ = b.Close()
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

// TestLinkAfterLink: links follow each other over one connection, each let go of in the middle of
// messages.
func TestLinkAfterLink(t *testing.T) {
	pa, pb := pair(t)
	for gen := uint32(1); gen < 6; gen++ {
		a, b := transport.NewLink(pa, transport.Options{Generation: gen}), transport.NewLink(pb, transport.Options{Generation: gen})
		ctx, cancel := context.WithCancel(soon(t))
		var sending, receiving sync.WaitGroup
		for _, l := range []*transport.Link{a, b} {
			sending.Go(func() {
				for k := uint64(0); l.Send(ctx, wire.Header{Kind: wire.Gradient, Seq: k}, make([]byte, 100_000)) == nil; k++ {
				}
			})
			receiving.Go(func() {
				for k := range uint64(20) {
					m, err := l.Recv(ctx)
					if err != nil || m.Header.Seq != k || m.Header.Bytes != 100_000 {
						t.Errorf("generation %d: message %d: %+v, %v", gen, k, m.Message, err)
						return
					}
					m.Release()
				}
			})
		}
		receiving.Wait()
		cancel()
		sending.Wait()
		if a.Free() == nil || b.Free() == nil {
			t.Fatalf("generation %d: the links ended with %v, %v", gen, a.Err(), b.Err())
		}
	}
}

// TestRoundTrip: both ends know the round trip of their path as soon as it is open.
func TestRoundTrip(t *testing.T) {
	a, b := pair(t)
	for _, p := range []transport.Pipe{a, b} {
		if d := p.(transport.Timed).RTT(); d <= 0 || d > 10*time.Second {
			t.Errorf("a round trip of %v on loopback", d)
		}
	}
}

// TestClose checks that frames sent before Close arrive, and that the peer is then told of it.
func TestClose(t *testing.T) {
	a, b := pair(t)
	ctx := soon(t)
	frame := make([]byte, wire.MaxFrame)
	for i := range 8 {
		frame[0] = byte(i)
		if err := a.Send(ctx, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		f, err := b.Recv(ctx)
		if err != nil || f[0] != byte(i) || len(f) != len(frame) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	// It is told: silence would be another reason.
	if _, err := b.Recv(ctx); !errors.Is(err, transport.ErrPeerGone) || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Recv after the peer's Close: %v", err)
	}
	if err := b.Send(ctx, frame); !errors.Is(err, transport.ErrPeerGone) {
		t.Errorf("Send after the peer's Close: %v", err)
	}
	if err := a.Send(ctx, frame); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	if _, err := a.Recv(ctx); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Recv after Close: %v", err)
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

// TestContexts checks that a cancelled Recv or Send returns and the pipe stays usable.
func TestContexts(t *testing.T) {
	a, b := pair(t)
	for range 3 {
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("enough")
		time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
		if _, err := b.Recv(ctx); !errors.Is(err, why) {
			t.Fatalf("cancelled Recv: %v", err)
		}
		if err := a.Send(ctx, []byte("x")); !errors.Is(err, why) {
			t.Fatalf("cancelled Send: %v", err)
		}
		if err := a.Send(soon(t), []byte("ok")); err != nil {
			t.Fatal(err)
		}
		if f, err := b.Recv(soon(t)); err != nil || string(f) != "ok" {
			t.Fatalf("after a cancelled Recv: %q, %v", f, err)
		}
	}
	// Nobody reads: Send must wait, and end with its context.
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	frame, sent := make([]byte, wire.MaxFrame), 0
	var err error
	for err == nil {
		if err = a.Send(ctx, frame); err == nil {
			sent += len(frame)
		}
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Send against a peer that does not read: %v", err)
	}
	if most := highWater + window + 4*wire.MaxFrame; sent > most {
		t.Errorf("%d bytes are under way, want at most %d", sent, most)
	}
	for got := 0; got < sent; {
		f, err := b.Recv(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		got += len(f)
	}
	for _, n := range []int{0, wire.MaxFrame + 1} {
		if err := a.Send(soon(t), make([]byte, n)); err == nil {
			t.Errorf("a frame of %d bytes was sent", n)
		}
	}
}

// negotiate handles a browser's signaling until done is closed: it sends its signals to in and
// receives the peer's from out.
func negotiate(t *testing.T, pc *webrtc.PeerConnection, offers bool, in chan<- json.RawMessage, out <-chan json.RawMessage, done <-chan struct{}, wg *sync.WaitGroup) {
	tell := func(s Signal) {
		b, err := json.Marshal(s)
		if err != nil {
			t.Error(err)
		}
		in <- b
	}
	pc.OnICECandidate(func(c *webrtc.ICECandidate) {
		if c == nil {
			tell(Signal{Kind: Candidate})
			return
		}
		j := c.ToJSON()
		tell(Signal{Kind: Candidate, Candidate: j.Candidate, Mid: j.SDPMid, Line: j.SDPMLineIndex})
	})
	describe := func(k Kind, d webrtc.SessionDescription, err error) {
		if err == nil {
			err = pc.SetLocalDescription(d)
		}
		if err != nil {
			t.Error(err)
			return
		}
		tell(Signal{Kind: k, SDP: d.SDP})
	}
	wg.Go(func() {
		if offers {
			o, err := pc.CreateOffer(nil)
			describe(Offer, o, err)
		}
		for {
			select {
			case <-done:
				return
			case b := <-out:
				s, err := ParseSignal(b)
				if err == nil && s.Kind == Candidate {
					err = pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: s.Candidate, SDPMid: s.Mid, SDPMLineIndex: s.Line})
				} else if err == nil {
					typ := map[Kind]webrtc.SDPType{Offer: webrtc.SDPTypeOffer, Answer: webrtc.SDPTypeAnswer}[s.Kind]
					err = pc.SetRemoteDescription(webrtc.SessionDescription{Type: typ, SDP: s.SDP})
					if err == nil && s.Kind == Offer {
						a, err := pc.CreateAnswer(nil)
						describe(Answer, a, err)
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestBrowser connects to a peer connection like a browser's, in both roles.
func TestBrowser(t *testing.T) {
	for _, offers := range []bool{true, false} {
		t.Run(fmt.Sprintf("offers=%v", offers), func(t *testing.T) {
			var se webrtc.SettingEngine
			se.SetIncludeLoopbackCandidate(true)
			se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
			pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(se)).NewPeerConnection(webrtc.Configuration{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = pc.Close() }()
			negotiated, id := true, uint16(Channel)
			dc, err := pc.CreateDataChannel(Label, &webrtc.DataChannelInit{Negotiated: &negotiated, ID: &id})
			if err != nil {
				t.Fatal(err)
			}
			dc.OnMessage(func(m webrtc.DataChannelMessage) { // echo, reversed
				b := bytes.Clone(m.Data)
				for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
					b[i], b[j] = b[j], b[i]
				}
				_ = dc.Send(b)
			})

			in, out := make(chan json.RawMessage, 64), make(chan json.RawMessage, 64)
			ctx := soon(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			done := make(chan struct{})
			defer close(done)
			negotiate(t, pc, offers, in, out, done, &wg)
			p, err := endpoint(t).Connect(ctx, !offers, nearby, func(b json.RawMessage) error { out <- b; return nil }, in)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close() }()
			for _, n := range []int{1, 1200, 65536} {
				want := make([]byte, n)
				for i := range want {
					want[i] = byte(i * 7)
				}
				if err := p.Send(ctx, want); err != nil {
					t.Fatal(err)
				}
				got, err := p.Recv(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
					want[i], want[j] = want[j], want[i]
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back changed", n)
				}
			}
		})
	}
}

// TestStrangers checks that invalid signals soon end in an error that says so.
func TestStrangers(t *testing.T) {
	// A real offer, to be modified.
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	if _, err := pc.CreateDataChannel(Label, nil); err != nil {
		t.Fatal(err)
	}
	o, err := pc.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	signal := func(k Kind, sdp string) string {
		b, _ := json.Marshal(Signal{Kind: k, SDP: sdp})
		return string(b)
	}
	without := func(line string) string {
		var keep []string
		for _, l := range strings.SplitAfter(o.SDP, "\r\n") {
			if !strings.HasPrefix(l, line) {
				keep = append(keep, l)
			}
		}
		return strings.Join(keep, "")
	}
	for name, tc := range map[string]struct {
		offers bool
		in     []string
	}{
		"no JSON":          {false, []string{"{"}},
		"unknown kind":     {false, []string{`{"kind":"renegotiate"}`}},
		"empty offer":      {false, []string{`{"kind":"offer"}`}},
		"huge offer":       {false, []string{`{"kind":"offer","sdp":"` + strings.Repeat("x", MaxSDP+1) + `"}`}},
		"huge signal":      {false, []string{`{"kind":"offer","sdp":"` + strings.Repeat("x", 4*MaxSDP) + `"}`}},
		"offer to offerer": {true, []string{signal(Offer, o.SDP)}},
		"answer twice":     {false, []string{signal(Offer, o.SDP), signal(Offer, o.SDP)}},
		"video":            {false, []string{`{"kind":"offer","sdp":"v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"}`}},
		"no credentials":   {false, []string{signal(Offer, without("a=ice-pwd"))}},
		"no fingerprint":   {false, []string{signal(Offer, without("a=fingerprint"))}},
		"no channel":       {false, []string{signal(Offer, o.SDP[:strings.Index(o.SDP, "m=application")])}},
		"bad candidate":    {false, []string{`{"kind":"candidate","candidate":"candidate:nonsense"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := make(chan json.RawMessage, len(tc.in))
			for _, s := range tc.in {
				in <- json.RawMessage(s)
			}
			_, err := endpoint(t).Connect(soon(t), tc.offers, nearby, func(json.RawMessage) error { return nil }, in)
			if !errors.Is(err, ErrSignal) {
				t.Errorf("got %v, want an invalid signal", err)
			}
		})
	}
}

// TestWrongCertificate checks that a host cannot get in between by swapping fingerprints.
func TestWrongCertificate(t *testing.T) {
	x, y := endpoint(t), endpoint(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	xy, yx := make(chan json.RawMessage, 64), make(chan json.RawMessage, 64)
	var wg sync.WaitGroup
	var ea, eb error
	wg.Go(func() {
		_, ea = x.Connect(ctx, true, nearby, func(m json.RawMessage) error {
			s, err := ParseSignal(m)
			if err == nil && s.Kind == Offer {
				at := strings.Index(s.SDP, "sha-256 ") + len("sha-256 ")
				old, other := s.SDP[at:at+2], "00"
				if old == other {
					other = "01"
				}
				s.SDP = strings.ReplaceAll(s.SDP, "sha-256 "+old, "sha-256 "+other)
				m, err = json.Marshal(s)
			}
			xy <- m
			return err
		}, yx)
		cancel()
	})
	wg.Go(func() {
		_, eb = y.Connect(ctx, false, nearby, func(m json.RawMessage) error { yx <- m; return nil }, xy)
		cancel()
	})
	wg.Wait()
	if ea == nil || eb == nil {
		t.Errorf("connected in spite of a wrong certificate: %v, %v", ea, eb)
	}
}

// TestNobody checks that connecting to a peer that never answers ends with the caller's context.
func TestNobody(t *testing.T) {
	why := errors.New("no peer in time")
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, why)
	defer cancel()
	_, err := endpoint(t).Connect(ctx, true, nearby, func(json.RawMessage) error { return nil }, make(chan json.RawMessage))
	if !errors.Is(err, why) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if _, err := NewEndpoint(Config{ICE: []ICEServer{{URLs: []string{"http://example"}}}}); err == nil {
		t.Error("an invalid ICE server was accepted")
	}
}

// child is the environment variable that turns this test binary into the other process.
const child = "RAVNEST_RTC_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		echo()
		return
	}
	os.Exit(m.Run())
}

// echo is a peer in its own process, with signals over stdin and stdout.
func echo() {
	e, err := NewEndpoint(Config{Loopback: true})
	if err != nil {
		panic(err)
	}
	in := make(chan json.RawMessage, 64)
	go func() {
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			in <- json.RawMessage(bytes.Clone(s.Bytes()))
		}
		os.Exit(0) // our parent is gone
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	p, err := e.Connect(ctx, false, nearby, func(b json.RawMessage) error {
		_, err := fmt.Printf("%s\n", b)
		return err
	}, in)
	if err != nil {
		panic(err)
	}
	for {
		f, err := p.Recv(ctx)
		if err == nil {
			err = p.Send(ctx, f)
		}
		if err != nil {
			panic(err)
		}
	}
}

// TestKilled checks that a peer process that is killed is noticed, both by an idle link and by one
// that sends. The log has the time: on an idle machine, less than five seconds.
func TestKilled(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			t.Parallel()
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), child+"=1")
			cmd.Stderr = io.Discard
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			in := make(chan json.RawMessage, 64)
			wg.Go(func() {
				for s := bufio.NewScanner(stdout); s.Scan(); {
					in <- json.RawMessage(bytes.Clone(s.Bytes()))
				}
			})
			defer func() {
				_ = cmd.Process.Kill()
				wg.Wait()
				_ = cmd.Wait()
			}()
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			began := time.Now()
			p, err := endpoint(t).Connect(ctx, true, nearby, func(b json.RawMessage) error {
				_, err := fmt.Fprintf(stdin, "%s\n", b)
				return err
			}, in)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("connected in %v, with the start of the process", time.Since(began))
			defer func() { _ = p.Close() }()
			frame := make([]byte, wire.MaxFrame)
			for i := range uint64(20) {
				binary.LittleEndian.PutUint64(frame, i)
				if err := p.Send(ctx, frame); err != nil {
					t.Fatal(err)
				}
				f, err := p.Recv(ctx)
				if err != nil || len(f) != len(frame) || binary.LittleEndian.Uint64(f) != i {
					t.Fatalf("echo %d: %v", i, err)
				}
			}
			// A silent peer is not a dead one.
			quiet, stop := context.WithTimeout(ctx, 2*time.Second)
			defer stop()
			if _, err := p.Recv(quiet); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("an idle link: %v", err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			if busy {
				for err == nil {
					err = p.Send(ctx, frame)
				}
			} else {
				_, err = p.Recv(ctx)
			}
			t.Logf("noticed after %v: %v", time.Since(killed), err)
			if !errors.Is(err, transport.ErrPeerGone) {
				t.Errorf("got %v, want that the peer is gone", err)
			}
		})
	}
}

func FuzzParseSignal(f *testing.F) {
	f.Add([]byte(`{"kind":"offer","sdp":"v=0"}`))
	f.Add([]byte(`{"kind":"candidate","candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","mid":"0","line":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSignal(b)
		if err != nil {
			if !errors.Is(err, ErrSignal) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseSignal(again); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
