package client

// Tests of the browser's half, run by TestWasm.

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

func TestJS(t *testing.T) {
	addr := os.Getenv("RAVNEST_TEST_HOST")
	if addr == "" {
		t.Skip("no host: TestWasm of the native tests starts one and sets RAVNEST_TEST_HOST")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	hello := proto.Hello{Agent: "test", Platform: "js/wasm", Class: proto.ClassNoFMA}
	if _, err := Dial(ctx, addr, Options{Token: "wrong", Hello: hello}); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("wrong token: %v", err)
	}
	if _, err := Dial(ctx, "127.0.0.1:1", Options{Token: "t", Hello: hello, Timeout: 2 * time.Second}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	up, down, err := MeasureBandwidth(ctx, addr, Options{Token: "t"})
	if err != nil || up <= 0 || down <= 0 {
		t.Errorf("bandwidth: %g, %g, %v", up, down, err)
	}
	t.Logf("up %.1f, down %.1f Mbit/s", up/1e6, down/1e6)
	cut(ctx, t)
	c, err := Dial(ctx, addr, Options{Token: "t", Hello: hello})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *proto.Assign:
			b, err := c.Blob(ctx, m.Graph)
			if err != nil || string(b) != "graph" {
				t.Errorf("blob: %q, %v", b, err)
			}
			if err := c.Send(ctx, &proto.Ready{Run: m.Run}); err != nil {
				t.Error(err)
			}
		case *proto.Start:
			ref, err := c.Upload(ctx, m.Run, 0, make([]byte, 300_000))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(
				c.Send(ctx, &proto.Saved{Run: m.Run, Blob: ref}),
				c.Send(ctx, &proto.Done{Run: m.Run}),
			); err != nil {
				t.Fatal(err)
			}
		case *proto.Bye:
			if _, err := c.Recv(ctx); !errors.Is(err, ErrLost) {
				t.Errorf("after bye: %v", err)
			}
			c.Close("")
			return
		}
	}
}

// cut checks that a request which gets no answer, as over a network that has gone, ends when the
// connection to the host has been made anew.
func cut(ctx context.Context, t *testing.T) {
	u, err := ParseURL(os.Getenv("RAVNEST_TEST_SILENT"))
	if err != nil {
		t.Fatal(err)
	}
	var o Options
	h := o.host(u)
	ended := make(chan error, 1)
	go func() {
		_, err := h.send(ctx, "GET", u.String(), nil, nil, 0)
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			if err == nil || ctx.Err() != nil {
				t.Errorf("the request ended with %v (%v)", err, ctx.Err())
			}
			if len(h.http.under) != 0 {
				t.Errorf("%d requests are under way", len(h.http.under))
			}
			return
		case <-time.After(10 * time.Millisecond):
			h.cut()
		}
	}
}
