package server_test

// The host and real clients over loopback.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/proxytest"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// patience is the limit for what takes milliseconds on an idle machine.
const patience = time.Minute

// leaks fails the test if goroutines outlive it.
func leaks(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > before {
			http.DefaultClient.CloseIdleConnections()
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// start serves a host on a free loopback port. Whoever is slow is lost only where cfg says so:
// the machine may be busy.
func start(t *testing.T, cfg server.Config) (s *server.Server, addr string) {
	t.Helper()
	return startOn(t, cfg, func(ln net.Listener) net.Listener { return ln })
}

// thin is a listener whose connections have small kernel buffers.
type thin struct{ net.Listener }

func (l thin) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return c, err
}

func startOn(t *testing.T, cfg server.Config, wrap func(net.Listener) net.Listener) (s *server.Server, addr string) {
	t.Helper()
	leaks(t)
	if cfg.Timeout == 0 {
		cfg.Timeout = patience
	}
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = patience
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen("127.0.0.1:0", cfg.Token)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(wrap(ln)) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, ln.Addr().String()
}

func hello(name string) proto.Hello {
	return proto.Hello{Name: name, Agent: "fake", Platform: "test/test", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1}
}

func dial(t *testing.T, addr string, opt client.Options) *client.Conn {
	t.Helper()
	c, err := client.Dial(t.Context(), addr, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close("the test is over") })
	return c
}

type blobs map[string][]byte

func (b blobs) Blob(sum string) (io.ReaderAt, int64, error) {
	v, ok := b[sum]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return bytes.NewReader(v), int64(len(v)), nil
}

func (b blobs) add(v []byte) proto.Ref {
	s := sha256.Sum256(v)
	sum := hex.EncodeToString(s[:])
	b[sum] = v
	return proto.Ref{SHA256: sum, Size: int64(len(v))}
}

// testJob places the pool as one cluster in its order.
func testJob(b blobs, want int) server.Job {
	graph := b.add([]byte(`{"graph":1}`))
	data := b.add(bytes.Repeat([]byte("digits"), 50_000))
	return server.Job{
		Job:   machine.Job{ID: "digits", Raw: json.RawMessage(`{"epochs":1}`), Want: want},
		Blobs: b,
		Plan: func(_ context.Context, ask server.Ask) ([]server.Assignment, error) {
			var as []server.Assignment
			pool := ask.Pool
			for i, m := range pool {
				as = append(as, server.Assignment{
					MemberID: m.ID, Stage: i, Stages: len(pool), Segment: snapshot.Segment{From: i, To: i + 1}, Graph: graph,
					Data: map[string]proto.Ref{"inputs": data}, Plan: json.RawMessage(`{"cut":1}`),
				})
			}
			return as, nil
		},
	}
}

// provider plays a provider throughout a run: it exchanges signals with each peer, is
// ready, trains until steps or a graceful stop, saves and is done. It returns when its part
// in the run is over.
func provider(ctx context.Context, c *client.Conn, steps int64) error {
	var a *proto.Assign
	for a == nil {
		m, err := c.Recv(ctx)
		if err != nil {
			return err
		}
		a, _ = m.(*proto.Assign)
	}
	for _, ref := range []proto.Ref{a.Graph, a.Data["inputs"]} {
		if _, err := c.Blob(ctx, ref); err != nil {
			return err
		}
	}
	for _, p := range a.Peers {
		body := json.RawMessage(fmt.Sprintf(`{"from":%d}`, a.Stage))
		if err := c.Send(ctx, &proto.Signal{Run: a.Run, To: p.ID, Body: body}); err != nil {
			return err
		}
	}
	met := map[string]bool{}
	ready := func() error {
		if len(met) == len(a.Peers) {
			return c.Send(ctx, &proto.Ready{Run: a.Run, Peak: 1 << 20})
		}
		return nil
	}
	if err := ready(); err != nil {
		return err
	}
	var step int64
	finish := func() error {
		ref, err := c.Upload(ctx, a.Run, a.Stage, fmt.Appendf(nil, "weights of stage %d after %d", a.Stage, step))
		if err != nil {
			return err
		}
		if err := c.Send(ctx, &proto.Saved{Run: a.Run, Stage: a.Stage, Step: step, Epoch: 1, Blob: ref}); err != nil {
			return err
		}
		return c.Send(ctx, &proto.Done{Run: a.Run, Stage: a.Stage, Step: step})
	}
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *proto.Signal:
			met[m.From] = true
			if err := ready(); err != nil {
				return err
			}
		case *proto.Start:
			p := &proto.Progress{Run: a.Run, Stage: a.Stage, Samples: 64 * steps, Busy: 0.5}
			for ; step < steps; step++ {
				if a.Stage == a.Stages-1 {
					p.Losses = append(p.Losses, proto.Loss{Step: step + 1, Loss: proto.Real(float32(1) / float32(step+2))})
				}
			}
			p.Step = step
			if err := c.Send(ctx, p); err != nil {
				return err
			}
			if steps < 1000 { // otherwise as if it trained on
				return finish()
			}
		case *proto.Stop:
			if m.Mode == proto.Graceful {
				return finish()
			}
			return errors.New("stopped: " + m.Reason)
		}
	}
}

// events collects a run's events.
type events struct {
	mu  sync.Mutex
	all []server.Event
}

func (e *events) on(ev server.Event) {
	e.mu.Lock()
	e.all = append(e.all, ev)
	e.mu.Unlock()
}

func has[T server.Event](e *events) (last T, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.all {
		if x, ok := x.(T); ok {
			last = x
			n++
		}
	}
	return last, n
}

func await[T server.Event](t *testing.T, e *events) T {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if x, n := has[T](e); n > 0 {
			return x
		}
		if time.Now().After(end) {
			var zero T
			t.Fatalf("no %T came", zero)
		}
	}
}

type result struct {
	server.Result
	err error
}

func run(t *testing.T, s *server.Server, job server.Job, e *events) chan result {
	done := make(chan result, 1)
	go func() {
		r, err := s.Run(t.Context(), job, e.on)
		done <- result{r, err}
	}()
	return done
}

func TestWholeRun(t *testing.T) {
	st := &store.Mem{}
	s, addr := start(t, server.Config{Token: "open sesame", Store: st, Once: true})
	var ev events
	done := run(t, s, testJob(blobs{}, 3), &ev)
	var wg sync.WaitGroup
	begin := time.Now()
	var joined time.Time
	for i := range 3 {
		c := dial(t, []string{addr, "http://" + addr, "ws://" + addr + "/"}[i], client.Options{Token: "open sesame", Hello: hello("")})
		joined = time.Now()
		wg.Go(func() {
			if err := provider(t.Context(), c, 20); err != nil {
				t.Error(err)
			}
			for { // the host says bye
				if _, err := c.Recv(t.Context()); err != nil {
					if !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "the run is over") {
						t.Errorf("after the run: %v", err)
					}
					return
				}
			}
		})
	}
	await[server.Started](t, &ev)
	t.Logf("three joins in %v, last join to start %v", joined.Sub(begin), time.Since(joined))
	r := <-done
	wg.Wait()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.Run != "digits-1" || r.Interrupted || r.Checkpoint == nil || r.Checkpoint.Position.Step != 20 {
		t.Errorf("result %+v", r.Result)
	}
	for i, stage := range r.Checkpoint.Parts {
		rc, err := st.Get(t.Context(), stage.Object)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(rc)
		if want := fmt.Sprintf("weights of stage %d after 20", i); string(b) != want || stage.Provider != fmt.Sprintf("node_%d", i) {
			t.Errorf("%s holds %q, want %q", stage.Object, b, want)
		}
	}
	rc, err := st.Get(t.Context(), "digits/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(rc)
	if saved, err := snapshot.ParseManifest(b); err != nil || saved.Position.Step != 20 || len(saved.Parts) != 3 {
		t.Errorf("manifest.json: %+v, %v", saved, err)
	}
	if rc, err := st.Get(t.Context(), "digits/job.json"); err != nil {
		t.Error(err)
	} else if b, _ := io.ReadAll(rc); !json.Valid(b) || strings.Contains(string(b), "sesame") {
		t.Errorf("job.json: %s", b)
	}
	if n := bytes.Count(st.Log("digits/metrics"), []byte("\n")); n != 3 {
		t.Errorf("%d lines of metrics, want 3", n)
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	counts := map[string]int{}
	for _, e := range ev.all {
		counts[strings.TrimPrefix(fmt.Sprintf("%T", e), "run.")]++
		if l, ok := e.(server.Loss); ok && float32(l.Loss.Loss) != float32(1)/float32(l.Step+1) {
			t.Errorf("the loss of step %d changed its bits on the way", l.Step)
		}
	}
	for name, want := range map[string]int{
		"Joined": 3, "Planned": 1, "Ready": 3, "Started": 1, "Loss": 20, "Progress": 3, "Saved": 3, "Checkpointed": 1, "StageDone": 3, "Done": 1,
	} {
		if counts[name] != want {
			t.Errorf("%d events %s, want %d", counts[name], name, want)
		}
	}
	if _, ok := ev.all[len(ev.all)-1].(server.Left); ok {
		t.Error("an event after the run's end")
	}
}

func TestProvidersStayForTheNextRun(t *testing.T) {
	s, addr := start(t, server.Config{})
	var cs []*client.Conn
	for range 2 {
		cs = append(cs, dial(t, addr, client.Options{Hello: hello("")}))
	}
	for range 2 {
		var ev events
		done := run(t, s, testJob(blobs{}, 2), &ev)
		var wg sync.WaitGroup
		for _, c := range cs {
			wg.Go(func() {
				if err := provider(t.Context(), c, 5); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if r := <-done; r.err != nil {
			t.Fatal(r.err)
		}
		if _, n := has[server.Joined](&ev); n != 2 {
			t.Errorf("%d joined events, want 2", n)
		}
	}
}

func TestGracefulStopOverTheWire(t *testing.T) {
	s, addr := start(t, server.Config{})
	var ev events
	done := run(t, s, testJob(blobs{}, 2), &ev)
	var wg sync.WaitGroup
	for range 2 {
		c := dial(t, addr, client.Options{Hello: hello("")})
		wg.Go(func() {
			if err := provider(t.Context(), c, 1<<10); err != nil {
				t.Error(err)
			}
		})
	}
	await[server.Progress](t, &ev)
	if _, err := s.Run(t.Context(), testJob(blobs{}, 2), nil); !errors.Is(err, server.ErrBusy) {
		t.Errorf("a second run: %v", err)
	}
	s.Stop("Ctrl-C")
	r := <-done
	wg.Wait()
	if r.err != nil || !r.Interrupted || r.Checkpoint == nil {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
}

// TestStopBeforeTheRun: who asks to stop while the run is still being set up is heard.
func TestStopBeforeTheRun(t *testing.T) {
	s, _ := start(t, server.Config{})
	job, stop := testJob(blobs{}, 1), make(chan string, 1)
	job.Stop = stop
	stop <- "Ctrl-C"
	if _, err := s.Run(t.Context(), job, nil); !errors.Is(err, server.ErrStopped) || !strings.Contains(err.Error(), "Ctrl-C") {
		t.Errorf("got %v, want a run that was stopped", err)
	}
}

func TestCancelledRun(t *testing.T) {
	s, addr := start(t, server.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var ev events
	done := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx, testJob(blobs{}, 1), ev.on)
		done <- err
	}()
	c := dial(t, addr, client.Options{Hello: hello("")})
	stopped := make(chan error, 1)
	go func() { stopped <- provider(t.Context(), c, 1<<10) }()
	await[server.Progress](t, &ev)
	cancel()
	if err := <-done; !errors.Is(err, server.ErrStopped) {
		t.Errorf("got %v", err)
	}
	if err := <-stopped; err == nil || !strings.Contains(err.Error(), "stopped by the requester") {
		t.Errorf("the provider: %v", err)
	}
}

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

// raw joins without the client, to behave badly.
func raw(t *testing.T, addr string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(proto.MaxMessage)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

func say(t *testing.T, ws *websocket.Conn, m proto.Message) {
	t.Helper()
	b, err := proto.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, b); err != nil {
		t.Fatal(err)
	}
}

// hear returns the next message other than a ping.
func hear(t *testing.T, ws *websocket.Conn) (proto.Message, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		_, b, err := ws.Read(ctx)
		if err != nil {
			return nil, err
		}
		m, err := proto.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.(*proto.Ping); !ok {
			return m, nil
		}
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
			for range 2000 {
				if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"v":%d,"type":"pong","body":{"seq":99}}`, proto.Version)); err != nil {
					return nil // hung up on
				}
			}
			return nil
		}, "more than 100 messages a second"},
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

func TestBlobs(t *testing.T) {
	s, addr := start(t, server.Config{Token: "t"})
	b := blobs{}
	job := testJob(b, 9)
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * i >> 3)
	}
	ref := b.add(big)
	var ev events
	_ = run(t, s, job, &ev)
	c := dial(t, addr, client.Options{Token: "t", Hello: hello(""), MaxBlob: 6 << 20})
	got, err := c.Blob(t.Context(), ref)
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	empty := b.add(nil)
	if got, err := c.Blob(t.Context(), empty); err != nil || len(got) != 0 {
		t.Errorf("empty blob: %d bytes, %v", len(got), err)
	}
	liar := proto.Ref{SHA256: strings.Repeat("0", 64), Size: 4}
	b[liar.SHA256] = []byte("lies")
	tests := []struct {
		name string
		ref  proto.Ref
		want error
		text string
	}{
		{"not there", proto.Ref{SHA256: strings.Repeat("1", 64), Size: 4}, proto.ErrNotFound, ""},
		{"other bytes", liar, client.ErrBlob, "SHA-256"},
		{"shorter", proto.Ref{SHA256: ref.SHA256, Size: ref.Size + 1}, client.ErrBlob, "bytes"},
		{"longer", proto.Ref{SHA256: ref.SHA256, Size: ref.Size - 1}, client.ErrBlob, "bytes"},
		{"too large", proto.Ref{SHA256: ref.SHA256, Size: 1 << 40}, nil, "takes up to"},
		{"no hash", proto.Ref{SHA256: "../../etc/passwd", Size: 1}, nil, "SHA-256"},
	}
	for _, tt := range tests {
		_, err := c.Blob(t.Context(), tt.ref)
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestHTTPGuards(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", Site: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the site")
	})})
	sum := strings.Repeat("a", 64)
	tests := []struct {
		method, path string
		header       map[string]string
		want         int
	}{
		{"GET", "/", nil, 200},
		{"GET", "/v1/blob/" + sum, nil, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer x"}, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "t"}, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer t"}, 404},
		{"GET", "/v1/blob/..%2f..%2fetc", map[string]string{"Authorization": "Bearer t"}, 404},
		{"GET", "/v1/speed?bytes=10", nil, 401},
		{"GET", "/v1/speed?bytes=10", map[string]string{"Authorization": "Bearer t"}, 200},
		{"GET", "/v1/speed?bytes=99999999999", map[string]string{"Authorization": "Bearer t"}, 400},
		{"GET", "/v1/speed?bytes=-1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"GET", "/v1/status", nil, 401}, // loopback needs it too: a proxy's requests come from there
		{"GET", "/v1/watch", nil, 401},
		{"GET", "/v1/status", map[string]string{"Authorization": "Bearer t"}, 200},
		{"GET", "/v1/status", map[string]string{"Authorization": proto.Authorization("t")}, 200},
		{"GET", "/v1/status", map[string]string{"Authorization": "Ravnest t"}, 401},
		{"GET", "/v1/status", map[string]string{"Authorization": "Ravnest"}, 401},
		{"GET", "/v1/nothing", nil, 404},
		{"PUT", proto.UploadPath("r", 0, sum), nil, 401},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 403},
		{"PUT", proto.UploadPath("r", 0, "short") + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum), map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=2&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=-1&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", "/v1/upload/r/x/" + sum + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"POST", "/v1/speed", map[string]string{"Authorization": "Bearer t", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"DELETE", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer t"}, 404},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range tt.header {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s %v: %d, want %d", tt.method, tt.path, tt.header, resp.StatusCode, tt.want)
		}
	}
	// A page of another site cannot join.
	_, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}})
	if err == nil {
		t.Error("a page of another site joined")
	}
}

func TestOpenHostServesThisMachineOnly(t *testing.T) {
	_, addr := start(t, server.Config{})
	// DNS rebinding: an attacker's name that points here.
	_, port, _ := net.SplitHostPort(addr)
	for _, path := range []string{proto.StatusPath, proto.WatchPath, "/v1/speed?bytes=1", proto.JoinPath} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example:" + port
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 && resp.StatusCode != 403 {
			t.Errorf("%s by a foreign name: %d", path, resp.StatusCode)
		}
	}
}

// fullStore refuses objects of stages while full.
type fullStore struct {
	store.Mem
	mu   sync.Mutex
	full bool
}

func (f *fullStore) Put(ctx context.Context, name string, r io.Reader) error {
	f.mu.Lock()
	full := f.full
	f.mu.Unlock()
	if full && strings.Contains(name, "/stage_") {
		_, _ = io.CopyN(io.Discard, r, 100)
		return &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	return f.Mem.Put(ctx, name, r)
}

// alone brings a host with a single provider to running.
func alone(t *testing.T, cfg server.Config) (s *server.Server, addr string, c *client.Conn, ev *events, done chan result) {
	t.Helper()
	return aloneBehind(t, cfg, func(l net.Listener) net.Listener { return l })
}

// aloneBehind is alone with a wrapped listener.
func aloneBehind(t *testing.T, cfg server.Config, wrap func(net.Listener) net.Listener) (s *server.Server, addr string, c *client.Conn, ev *events, done chan result) {
	t.Helper()
	s, addr = startOn(t, cfg, wrap)
	ev = &events{}
	done = run(t, s, testJob(blobs{}, 1), ev)
	c = dial(t, addr, client.Options{Hello: hello("")})
	for {
		m, err := c.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *proto.Assign:
			if err := c.Send(t.Context(), &proto.Ready{Run: m.Run}); err != nil {
				t.Fatal(err)
			}
		case *proto.Start:
			return s, addr, c, ev, done
		}
	}
}

func TestFullDisk(t *testing.T) {
	st := &fullStore{}
	_, _, c, ev, done := alone(t, server.Config{Store: st})
	run := "digits-1"
	save := func(step int64, text string) error {
		ref, err := c.Upload(t.Context(), run, 0, []byte(text))
		if err != nil {
			return err
		}
		return c.Send(t.Context(), &proto.Saved{Run: run, Step: step, Blob: ref})
	}
	if err := save(1, "the first"); err != nil {
		t.Fatal(err)
	}
	first := await[server.Checkpointed](t, ev)
	st.mu.Lock()
	st.full = true
	st.mu.Unlock()
	refusal := save(2, strings.Repeat("the second ", 1<<20)) // 11 MiB, so that the answer must cross the body
	if !errors.Is(refusal, proto.ErrStorage) || !strings.Contains(refusal.Error(), "no space left") {
		t.Fatalf("the provider was told %v", refusal)
	}
	if w := await[server.Warning](t, ev); !errors.Is(w.Err, syscall.ENOSPC) || !errors.Is(w.Err, server.ErrStore) {
		t.Errorf("the requester was told %v", w.Err)
	}
	rc, err := st.Get(t.Context(), first.Manifest.Parts[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(rc); string(b) != "the first" {
		t.Errorf("the earlier object holds %q", b)
	}
	st.mu.Lock()
	st.full = false
	st.mu.Unlock()
	if err := save(3, "the third"); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), &proto.Done{Run: run, Step: 3}); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.Checkpoint == nil || r.Checkpoint.Position.Step != 3 {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
	if again := await[server.Checkpointed](t, ev); again.Manifest.Position.Step != 3 || again.After <= 0 {
		t.Errorf("saved again: %+v", again)
	}
}

func TestUploadGuards(t *testing.T) {
	st := &store.Mem{}
	_, addr, c, _, _ := alone(t, server.Config{Store: st, MaxUpload: 1000})
	other := dial(t, addr, client.Options{Hello: hello("other")})
	run := "digits-1"
	if _, err := c.Upload(t.Context(), run, 0, make([]byte, 1001)); !errors.Is(err, proto.ErrOverLimit) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := c.Upload(t.Context(), run, 1, []byte("x")); !errors.Is(err, proto.ErrForbidden) {
		t.Errorf("another's stage: %v", err)
	}
	if _, err := other.Upload(t.Context(), run, 0, []byte("x")); !errors.Is(err, proto.ErrStopped) {
		t.Errorf("from an unassigned session: %v", err)
	}
	put := func(sum string, size int, body io.Reader) int {
		url := fmt.Sprintf("http://%s%s?offset=0&size=%d", addr, proto.UploadPath(run, 0, sum), size)
		req, err := http.NewRequestWithContext(t.Context(), "PUT", url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(proto.SessionHeader, c.Welcome().Session)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := put(strings.Repeat("b", 64), 8, strings.NewReader("not that")); got != 422 {
		t.Errorf("a wrong hash: %d", got)
	}
	// Without a length it is cut off while being read.
	if got := put(strings.Repeat("b", 64), 900, struct{ io.Reader }{bytes.NewReader(make([]byte, 2000))}); got != 400 {
		t.Errorf("a long body without a length: %d", got)
	}
	if l, err := st.List(t.Context(), run+"/cluster"); err != nil || len(l) != 0 {
		t.Errorf("stored all the same: %v, %v", l, err)
	}
	if _, err := c.Upload(t.Context(), run, 0, []byte("good")); err != nil {
		t.Error(err)
	}
}

func TestStalledUpload(t *testing.T) {
	_, addr, c, _, _ := alone(t, server.Config{IdleTimeout: 500 * time.Millisecond})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT %s?offset=0&size=100 HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: 100\r\n\r\nhalf", proto.UploadPath("digits-1", 0, strings.Repeat("b", 64)), addr, proto.SessionHeader, c.Welcome().Session)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("the host still waits for the rest: %v", err)
	}
	if !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("got %.80q", b)
	}
	// The session may try again.
	if _, err := c.Upload(t.Context(), "digits-1", 0, []byte("whole")); err != nil {
		t.Error(err)
	}
}

func TestBandwidth(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t"})
	up, down, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if up <= 0 || down <= 0 {
		t.Errorf("up %g, down %g bits/s", up, down)
	}
	t.Logf("up %.2f, down %.2f Gbit/s", up/1e9, down/1e9)
	if _, _, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: "x"}); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("wrong token: %v", err)
	}
}

func TestListen(t *testing.T) {
	ln, err := server.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	_, err = server.Listen(addr, "")
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "another port") {
		t.Errorf("port in use: %v", err)
	}
	for _, open := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		if _, err := server.Listen(open, ""); !errors.Is(err, server.ErrOpen) || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s without a token: %v", open, err)
		}
	}
	for _, bad := range []string{"nonsense", "127.0.0.1:99999", "127.0.0.1"} {
		if _, err := server.Listen(bad, ""); err == nil || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if l, err := server.Listen("localhost:0", ""); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

func TestShutdownLeavesNothing(t *testing.T) {
	leaks(t)
	s, err := server.New(server.Config{HelloTimeout: time.Hour}) // nobody waits for that
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	addr := ln.Addr().String()
	var ev events
	done := run(t, s, testJob(blobs{}, 3), &ev)
	a := dial(t, addr, client.Options{Hello: hello("")})
	ws := raw(t, addr) // one that never says hello
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if r := <-done; !errors.Is(r.err, server.ErrStopped) {
		t.Errorf("the run: %v", r.err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	_, err = a.Recv(t.Context())
	for err == nil {
		_, err = a.Recv(t.Context())
	}
	if !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the provider: %v", err)
	}
	if _, err := s.Run(t.Context(), testJob(blobs{}, 1), nil); !errors.Is(err, server.ErrStopped) {
		t.Errorf("a run afterwards: %v", err)
	}
	_ = ws.CloseNow()
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

// BenchmarkJoinToStart measures the time from the last join to the start with providers that
// answer at once: the delay that the host itself adds.
func BenchmarkJoinToStart(b *testing.B) {
	for b.Loop() {
		s, err := server.New(server.Config{Once: true})
		if err != nil {
			b.Fatal(err)
		}
		ln, err := server.Listen("127.0.0.1:0", "")
		if err != nil {
			b.Fatal(err)
		}
		go s.Serve(ln)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Run(b.Context(), testJob(blobs{}, 3), nil); err != nil {
				b.Error(err)
			}
		})
		for range 3 {
			c, err := client.Dial(b.Context(), ln.Addr().String(), client.Options{Hello: hello("")})
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				if err := provider(b.Context(), c, 1); err != nil {
					b.Error(err)
				}
				c.Close("")
			})
		}
		wg.Wait()
		if err := s.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
