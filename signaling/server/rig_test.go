package server_test

// A host on a loopback port, real clients, and providers that tests play.

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
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
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
	if opt.Timeout == 0 {
		opt.Timeout = patience
	}
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

// run returns when the host has the job.
func run(t *testing.T, s *server.Server, job server.Job, e *events) chan result {
	t.Helper()
	done := make(chan result, 1)
	go func() {
		r, err := s.Run(t.Context(), job, e.on)
		done <- result{r, err}
	}()
	for end := time.Now().Add(patience); s.Status().Phase == string(machine.Idle) && len(done) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the job does not begin")
		}
	}
	return done
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

// alone brings a host with a single provider to running.
func alone(t *testing.T, cfg server.Config) (s *server.Server, addr string, c *client.Conn, ev *events, done chan result) {
	t.Helper()
	return aloneBehind(t, cfg, func(l net.Listener) net.Listener { return l })
}

// aloneBehind is alone with a wrapped listener.
func aloneBehind(t *testing.T, cfg server.Config, wrap func(net.Listener) net.Listener) (s *server.Server, addr string, c *client.Conn, ev *events, done chan result) {
	t.Helper()
	return aloneWith(t, cfg, testJob(blobs{}, 1), wrap)
}

// aloneWith is aloneBehind with a job of one provider.
func aloneWith(t *testing.T, cfg server.Config, job server.Job, wrap func(net.Listener) net.Listener) (s *server.Server, addr string, c *client.Conn, ev *events, done chan result) {
	t.Helper()
	s, addr = startOn(t, cfg, wrap)
	ev = &events{}
	done = run(t, s, job, ev)
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
