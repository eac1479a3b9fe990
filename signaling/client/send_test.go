//go:build !js

package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestCancelledSend has contexts end in the middle of writes, because the host does not read
// for a while. Every message that arrives must be whole, and the session must go on.
func TestCancelledSend(t *testing.T) {
	read := make(chan struct{})
	last := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(proto.MaxMessage)
		if _, _, err := ws.Read(r.Context()); err != nil {
			t.Error(err)
			return
		}
		b, err := proto.Encode(&proto.Welcome{ID: "p", Name: "n", Session: "s", Heartbeat: 1000, Timeout: 60_000})
		if err != nil {
			t.Error(err)
			return
		}
		if err := ws.Write(r.Context(), websocket.MessageText, b); err != nil {
			t.Error(err)
			return
		}
		<-read
		for {
			_, b, err := ws.Read(r.Context())
			if err != nil {
				t.Errorf("after a Send that was given up: %v", err)
				last <- ""
				return
			}
			m, err := proto.Decode(b)
			if err != nil {
				t.Error(err)
			}
			if d, ok := m.(*proto.Done); ok {
				last <- d.Run
				return
			}
		}
	}))
	defer srv.Close()
	c, err := client.Dial(t.Context(), srv.URL, client.Options{Hello: proto.Hello{Class: proto.ClassFMA}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	big := &proto.Progress{Run: "r", Losses: make([]proto.Loss, proto.MaxLosses)}
	given := errors.New("no time")
	stuck := false
	for range 1000 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, given)
		err := c.Send(ctx, big)
		cancel()
		if err != nil {
			if !errors.Is(err, given) {
				t.Fatalf("got %v, want the context's cause", err)
			}
			if stuck {
				break // one was being written, one waited behind it
			}
			stuck = true
		}
	}
	if !stuck {
		t.Fatal("the connection takes everything: the test shows nothing")
	}
	close(read)
	if err := c.Send(t.Context(), &proto.Done{Run: "over"}); err != nil {
		t.Fatal(err)
	}
	if got := <-last; got != "over" {
		t.Errorf("the host heard %q last", got)
	}
}
