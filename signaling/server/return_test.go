package server_test

// Sessions whose connections end.

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
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

// TestConnectionsCut cuts the connections of two providers that train, at random, again and
// again. Everything that either side says comes once and in order, an upload too, and the run
// goes on as if nothing had been.
func TestConnectionsCut(t *testing.T) {
	s, addr := start(t, server.Config{Rate: 1e5, Burst: 1e5})
	var ev events
	b := blobs{}
	done := run(t, s, testJob(b, 2), &ev)
	const losses = 2000
	proxies := [2]*proxytest.Proxy{proxytest.New(t, addr), proxytest.New(t, addr)}
	var conns [2]*client.Conn
	back := make(chan struct{}, 1000)
	for i := range conns {
		conns[i] = dial(t, proxies[i].Addr(), client.Options{Hello: hello(""), Back: func(time.Duration) { back <- struct{}{} }})
	}
	stop := make(chan struct{})
	var wg, cutting sync.WaitGroup
	cuts := 0
	for i, c := range conns {
		wg.Go(func() {
			if err := talkative(t.Context(), c, losses); err != nil {
				t.Errorf("provider %d: %v", i, err)
			}
		})
	}
	await[server.Started](t, &ev)
	cutting.Go(func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rng.IntN(60)) * time.Millisecond):
				cuts += proxies[rng.IntN(2)].Cut()
			}
		}
	})
	wg.Wait()
	close(stop)
	cutting.Wait()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	next, returned := int64(0), 0
	for _, e := range ev.all {
		switch e := e.(type) {
		case server.Loss:
			if e.Step != next {
				t.Fatalf("the loss of step %d came in the place of %d", e.Step, next)
			}
			next++
		case server.Recovering, server.Left:
			t.Errorf("%T: %+v", e, e)
		case server.Returned:
			returned++
		}
	}
	if next != losses {
		t.Errorf("%d losses came of %d", next, losses)
	}
	t.Logf("%d connections were cut, %d returns", cuts, returned)
	if returned < 3 {
		t.Errorf("%d returns: the test shows nothing", returned)
	}
}

// talkative is a provider that says one loss after the other, each in a message of its own,
// and uploads now and then.
func talkative(ctx context.Context, c *client.Conn, losses int) error {
	var a *proto.Assign
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *proto.Assign:
			a = m
			if err := c.Send(ctx, &proto.Ready{Run: a.Run, Peak: 1}); err != nil {
				return err
			}
			continue
		case *proto.Stop:
			return errors.New(m.Reason)
		case *proto.Start:
		default:
			continue
		}
		break
	}
	for i := range losses {
		if a.Stage == a.Stages-1 {
			l := []proto.Loss{{Step: int64(i), Loss: proto.Real(i)}}
			if err := c.Send(ctx, &proto.Progress{Run: a.Run, Stage: a.Stage, Step: int64(i), Losses: l}); err != nil {
				return err
			}
			time.Sleep(500 * time.Microsecond)
		}
		if i%(losses/5) == 0 || i == losses-1 {
			ref, err := c.Upload(ctx, a.Run, a.Stage, bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(a.Stage)}, 500_000))
			if err != nil {
				return err
			}
			if err := c.Send(ctx, &proto.Saved{Run: a.Run, Stage: a.Stage, Step: int64(i), Blob: ref}); err != nil {
				return err
			}
		}
	}
	return c.Send(ctx, &proto.Done{Run: a.Run, Stage: a.Stage, Step: int64(losses)})
}

// TestNoReturn: a session that has ended, or a secret that is none, is not gone on with, and
// the live session does not notice.
func TestNoReturn(t *testing.T) {
	s, addr := start(t, server.Config{})
	h := hello("")
	ws := raw(t, addr)
	say(t, ws, &h)
	m, err := hear(t, ws)
	if err != nil {
		t.Fatal(err)
	}
	w := m.(*proto.Welcome)
	if w.Keep <= 0 {
		t.Fatalf("the session is kept for %d ms", w.Keep)
	}
	refused := func(r proto.Return) {
		t.Helper()
		h := hello("")
		h.Return = &r
		ws := raw(t, addr)
		say(t, ws, &h)
		m, err := hear(t, ws)
		if e, ok := m.(*proto.Error); !ok || e.Code != proto.Forgotten {
			t.Errorf("%+v is answered by %+v, %v", r, m, err)
		}
	}
	refused(proto.Return{Session: strings.Repeat("0", 32)})
	say(t, ws, &proto.Pong{Seq: 1})
	again := raw(t, addr)
	h.Return = &proto.Return{Session: w.Session}
	say(t, again, &h)
	m, err = hear(t, again)
	if x, ok := m.(*proto.Welcome); !ok || x.ID != w.ID || x.Name != w.Name || x.Session != w.Session {
		t.Fatalf("the return is answered by %+v, %v", m, err)
	}
	if _, err := hear(t, ws); err == nil {
		t.Error("the old connection goes on")
	}
	// One that claims to have what was never sent is not believed.
	refused(proto.Return{Session: w.Session, Got: 99})
	// One that goes away on purpose, as a tab that is closed, is not waited for.
	again = raw(t, addr)
	say(t, again, &h)
	if m, err = hear(t, again); m == nil || m.Type() != "welcome" {
		t.Fatalf("the return is answered by %+v, %v", m, err)
	}
	_ = again.Close(websocket.StatusGoingAway, "")
	for end := time.Now().Add(patience); len(s.Status().Members) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the host still waits for it")
		}
	}
	refused(proto.Return{Session: w.Session})
}

// TestAcknowledgesTooMuch: an acknowledgement of what was never sent breaks the protocol.
func TestAcknowledgesTooMuch(t *testing.T) {
	_, addr := start(t, server.Config{})
	for _, lie := range []proto.Message{&proto.Ack{Got: 7}, &proto.Pong{Seq: 1, Got: 1 << 60}} {
		h := hello("")
		ws := raw(t, addr)
		say(t, ws, &h)
		if _, err := hear(t, ws); err != nil {
			t.Fatal(err)
		}
		say(t, ws, lie)
		m, err := hear(t, ws)
		if e, ok := m.(*proto.Error); !ok || e.Code != proto.Protocol || !strings.Contains(e.Message, "acknowledges") {
			t.Errorf("%+v is answered by %+v, %v", lie, m, err)
		}
	}
}

// TestHostForgets: the session of a host that is no more ends, and says so.
func TestHostForgets(t *testing.T) {
	_, addr := start(t, server.Config{Away: 600 * time.Millisecond})
	proxy := proxytest.New(t, addr)
	c := dial(t, proxy.Addr(), client.Options{Hello: hello("")})
	begin := time.Now()
	proxy.Close()
	if _, err := c.Recv(t.Context()); !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "could not be reached again for 600ms") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begin); d < 600*time.Millisecond {
		t.Errorf("the session ended after %v", d)
	}
	// Another host has its place.
	_, addr = start(t, server.Config{})
	_, other := start(t, server.Config{})
	proxy = proxytest.New(t, addr)
	c = dial(t, proxy.Addr(), client.Options{Hello: hello("")})
	proxy.Redirect(other)
	proxy.Cut()
	if _, err := c.Recv(t.Context()); !errors.Is(err, client.ErrLost) || !strings.Contains(err.Error(), "does not know this session") || errors.Is(err, proto.ErrForgotten) {
		t.Errorf("got %v", err)
	}
}
