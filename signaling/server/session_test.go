package server_test

// Sessions of providers: who is let in, who is hung up on, and how they end.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/proxytest"
	"github.com/ravnest/ravnest/signaling/server"
)

func TestKilledProvider(t *testing.T) {
	s, addr := start(t, server.Config{})
	var ev events
	done := run(t, s, testJob(blobs{}, 2), &ev)
	// The first one's connection can be cut for good, as by a kill.
	proxy := proxytest.New(t, addr)
	victim := dial(t, proxy.Addr(), client.Options{Hello: hello("victim")})
	other := dial(t, addr, client.Options{Hello: hello("witness")})
	var wg sync.WaitGroup
	wg.Go(func() { _ = provider(t.Context(), victim, 1<<10) })
	var told error
	wg.Go(func() { told = provider(t.Context(), other, 1<<10) })
	await[server.Started](t, &ev)
	proxy.Close()
	rec := await[server.Recovering](t, &ev)
	if !strings.Contains(rec.Reason, "victim") {
		t.Errorf("got %+v", rec)
	}
	victim.Close("it was killed") // and does not look for the host for a minute
	wg.Wait()
	if told == nil || !strings.Contains(told.Error(), "victim") {
		t.Errorf("the other was told %v", told)
	}
	// Another provider joins, and the run ends as if nothing had happened.
	third := dial(t, addr, client.Options{Hello: hello("third")})
	for _, c := range []*client.Conn{other, third} {
		wg.Go(func() {
			if err := provider(t.Context(), c, 5); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r := <-done; r.err != nil || r.Run != "digits-2" || r.Checkpoint == nil || r.Checkpoint.Generation != 2 {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
}

func TestSilentProvider(t *testing.T) {
	// It joins, and then its machine freezes: the connection stays.
	s, addr := start(t, server.Config{Heartbeat: 40 * time.Millisecond, Timeout: 2 * time.Second})
	var ev events
	_ = run(t, s, testJob(blobs{}, 2), &ev)
	h := hello("frozen")
	ws := raw(t, addr)
	say(t, ws, &h)
	alive := dial(t, addr, client.Options{Hello: hello("")})
	l := await[server.Left](t, &ev)
	if l.Name != "frozen" || !strings.Contains(l.Reason, "no heartbeat") {
		t.Errorf("got %+v", l)
	}
	select {
	case <-alive.Done():
		t.Error("the live provider is gone too")
	default:
	}
	if alive.RTT() <= 0 {
		t.Error("the live provider has no RTT")
	}
	c := dial(t, addr, client.Options{Hello: hello("frozen")})
	if c.Name() != "frozen" {
		t.Error("the dead provider's name is not free")
	}
}

func TestSilentHost(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		_, _, _ = ws.Read(r.Context())
		b, _ := proto.Encode(&proto.Welcome{ID: "p", Name: "n", Session: "s", Heartbeat: 20, Timeout: 100})
		_ = ws.Write(r.Context(), websocket.MessageText, b)
		<-release
	})}
	go srv.Serve(ln)
	defer srv.Close()
	defer close(release)
	c := dial(t, ln.Addr().String(), client.Options{Hello: hello("")})
	_, err = c.Recv(t.Context())
	if !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "nothing heard for 100ms") {
		t.Errorf("got %v", err)
	}
	if err := c.Send(t.Context(), &proto.Pong{}); !errors.Is(err, client.ErrLost) {
		t.Errorf("send: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	s, addr := start(t, server.Config{Token: "right", MaxSessions: 2})
	job := testJob(blobs{}, 2)
	job.Names = []string{"node_0", "node_1"}
	var ev events
	_ = run(t, s, job, &ev)
	ok := func(name string) client.Options { return client.Options{Token: "right", Hello: hello(name)} }
	dial(t, addr, ok("node_0"))
	tests := []struct {
		name, addr string
		opt        client.Options
		want       error
		text       string
	}{
		{"wrong token", addr, client.Options{Token: "wrong", Hello: hello("")}, proto.ErrBadToken, "--token"},
		{"no token", addr, client.Options{Hello: hello("")}, proto.ErrBadToken, "--token"},
		{"name taken", addr, ok("node_0"), proto.ErrNameTaken, "node_0"},
		{"name unknown", addr, ok("node_7"), proto.ErrNameUnknown, "node_0, node_1"},
		{"bad hello", addr, client.Options{Token: "right", Hello: proto.Hello{Class: "mmx"}}, proto.ErrMalformed, "class"},
		{"scheme", "ftp://" + addr, ok(""), client.ErrAddress, "http"},
		{"query", addr + "/?x=1", ok(""), client.ErrAddress, "host, port and path"},
		{"no host", "http://:80", ok(""), client.ErrAddress, "host name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.Dial(t.Context(), tt.addr, tt.opt)
			if err == nil {
				c.Close("")
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v naming %q", err, tt.want, tt.text)
			}
		})
	}
	if e, n := has[server.Refused](&ev); n == 0 || e.Err == nil {
		t.Error("the requester was told of no refusal")
	}
	dial(t, addr, ok(""))
	if _, err := client.Dial(t.Context(), addr, ok("")); !errors.Is(err, proto.ErrFull) {
		t.Errorf("a third one: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	_, err = client.Dial(t.Context(), nobody, client.Options{Hello: hello("")})
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), "ravnest serve") {
		t.Errorf("got %v", err)
	}
	if _, _, err := client.MeasureBandwidth(t.Context(), nobody, client.Options{}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("bandwidth: %v", err)
	}
	// Something else answers.
	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(ln)
	defer srv.Close()
	_, err = client.Dial(t.Context(), ln.Addr().String(), client.Options{Hello: hello("")})
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	// Something accepts and says nothing.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	_, err = client.Dial(t.Context(), mute.Addr().String(), client.Options{Hello: hello(""), Timeout: 50 * time.Millisecond})
	if !errors.Is(err, client.ErrUnreachable) {
		t.Error(err)
	}
}

func TestVersionMismatch(t *testing.T) {
	_, addr := start(t, server.Config{Agent: "ravnest/v0.9.1"})
	ws := raw(t, addr)
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"v":1,"type":"hello","body":{}}`)); err != nil {
		t.Fatal(err)
	}
	m, err := hear(t, ws)
	e, ok := m.(*proto.Error)
	if !ok || e.Code != proto.BadVersion || !strings.Contains(e.Message, fmt.Sprint("version ", proto.Version)) || !strings.Contains(e.Message, "version 1") || !strings.Contains(e.Message, "v0.9.1") || !strings.Contains(e.Hint, "the provider is older") {
		t.Errorf("the host said %#v, %v", m, err)
	}
	// The other way round: a newer host.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := websocket.Accept(w, r, nil); err == nil {
			_ = ws.Write(r.Context(), websocket.MessageText, []byte(`{"v":9,"type":"error","body":{"code":"version","message":"this host (ravnest/v9.0.0) is newer","later":[1]}}`))
			_ = ws.CloseNow()
		}
	})}
	go srv.Serve(ln)
	defer srv.Close()
	_, err = client.Dial(t.Context(), ln.Addr().String(), client.Options{Hello: hello("")})
	var v *proto.VersionError
	if !errors.As(err, &v) || v.Got != 9 || v.Want != proto.Version || !strings.Contains(err.Error(), "v9.0.0") {
		t.Errorf("got %v", err)
	}
}

func TestRudeSessions(t *testing.T) {
	tests := []struct {
		name   string
		hello  bool
		behave func(ctx context.Context, ws *websocket.Conn) error
		reason string // in the Left event, or "" where there is none
	}{
		{"no hello", false, func(ctx context.Context, ws *websocket.Conn) error { return nil }, ""},
		{"garbage for a hello", false, func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageBinary, []byte{0, 1, 2})
		}, ""},
		{"pong for a hello", false, func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"v":%d,"type":"pong","body":{"seq":1}}`, proto.Version))
		}, ""},
		{"garbage", true, func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"v":%d,"type":"nonsense","body":{}}`, proto.Version))
		}, "unknown message type"},
		{"oversize", true, func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageText, make([]byte, proto.MaxMessage+10))
		}, "larger than 1048576 bytes"},
		{"too frequent", true, func(ctx context.Context, ws *websocket.Conn) error {
			for range 20_000 {
				if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"v":%d,"type":"pong","body":{"seq":99}}`, proto.Version)); err != nil {
					return nil // hung up on
				}
			}
			return nil
		}, "more than 300 messages a second"},
		{"bye", true, func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"v":%d,"type":"bye","body":{"reason":"tired"}}`, proto.Version))
		}, "tired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := server.Config{}
			if tt.name == "no hello" {
				cfg.HelloTimeout = 2 * time.Second
			}
			s, addr := start(t, cfg)
			var ev events
			_ = run(t, s, testJob(blobs{}, 9), &ev)
			ws := raw(t, addr)
			if tt.hello {
				h := hello("rude")
				say(t, ws, &h)
				await[server.Joined](t, &ev)
			}
			if err := tt.behave(t.Context(), ws); err != nil {
				t.Fatal(err)
			}
			for { // until hung up on
				if _, err := hear(t, ws); err != nil {
					if t.Context().Err() != nil || errors.Is(err, context.DeadlineExceeded) {
						t.Fatal("it was not hung up on")
					}
					break
				}
			}
			if tt.reason != "" {
				if l := await[server.Left](t, &ev); !strings.Contains(l.Reason, tt.reason) {
					t.Errorf("left because %q, want %q", l.Reason, tt.reason)
				}
			}
			// The host still works.
			dial(t, addr, client.Options{Hello: hello("polite")})
		})
	}
}

func TestSlowConsumer(t *testing.T) {
	cfg := server.Config{Rate: 1e6, Burst: 1e6, WriteTimeout: 30 * time.Second, Heartbeat: time.Minute}
	s, addr := startOn(t, cfg, func(ln net.Listener) net.Listener { return thin{ln} })
	var ev events
	done := run(t, s, testJob(blobs{}, 2), &ev)
	// One answers the first ping without reading it, and never reads anything. (Its socket
	// buffers are small, so that the host's own bound is reached.)
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return c, err
	}}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	h := hello("a_slow")
	say(t, ws, &h)
	fast := dial(t, addr, client.Options{Hello: hello("b_fast")})
	say(t, ws, &proto.Pong{Seq: 1})
	var a *proto.Assign
	for a == nil {
		m, err := fast.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, _ = m.(*proto.Assign)
	}
	body := json.RawMessage(`"` + strings.Repeat("x", 60<<10) + `"`)
	for i := range 2000 {
		if err := fast.Send(t.Context(), &proto.Signal{Run: a.Run, To: a.Peers[0].ID, Body: body}); err != nil {
			t.Fatal(err)
		}
		if _, n := has[server.Left](&ev); n > 0 {
			t.Logf("dropped after %d signals of 60 KiB", i)
			break
		}
	}
	l := await[server.Left](t, &ev)
	if l.Name != "a_slow" || !strings.Contains(l.Reason, "does not read") {
		t.Errorf("got %+v", l)
	}
	if st := s.Status(); len(st.Members) != 1 || st.Phase != "gathering" {
		t.Errorf("the host: %+v", st)
	}
	select {
	case r := <-done:
		t.Errorf("the run ended: %v", r.err)
	default:
	}
}

func TestClosedClient(t *testing.T) {
	s, addr := start(t, server.Config{})
	var ev events
	_ = run(t, s, testJob(blobs{}, 2), &ev)
	c := dial(t, addr, client.Options{Hello: hello("")})
	got := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Recv(context.Background()); err != nil {
				got <- err
				return
			}
		}
	}()
	c.Close("lunch")
	if err := <-got; !errors.Is(err, client.ErrClosed) {
		t.Errorf("recv: %v", err)
	}
	if err := c.Send(t.Context(), &proto.Pong{}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if l := await[server.Left](t, &ev); !strings.Contains(l.Reason, "lunch") {
		t.Errorf("the host: %+v", l)
	}
	c.Close("again")
}
