package server_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/proxytest"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// TestStandby: a host that stands by takes no providers and says who leads; one that is deposed
// sends its providers away, and they find out at once that their sessions are over.
func TestStandby(t *testing.T) {
	var second atomic.Bool // the second host leads
	var a, b string
	standby := func(first bool) func() *proto.Error {
		return func() *proto.Error {
			if first != second.Load() {
				return nil
			}
			at := a
			if first {
				at = b
			}
			return &proto.Error{Code: proto.Elsewhere, Message: "another host leads", Host: at}
		}
	}
	hosts := func() []string { return []string{a, b} }
	st := &store.Mem{}
	s1, a1 := start(t, server.Config{Store: st, Standby: standby(true), Hosts: hosts})
	s2, b1 := start(t, server.Config{Store: st, Standby: standby(false), Hosts: hosts})
	a, b = "http://"+a1, "http://"+b1

	_, err := client.Dial(t.Context(), b, client.Options{Hello: hello("")})
	var pe *proto.Error
	if !errors.As(err, &pe) || pe.Code != proto.Elsewhere || pe.Host != a {
		t.Fatalf("joining the host that stands by: %v", err)
	}
	if _, _, err := client.MeasureBandwidth(t.Context(), b, client.Options{}); !errors.As(err, &pe) || pe.Host != a {
		t.Errorf("measuring it: %v", err)
	}
	if st := s2.Status(); st.Phase != server.StandingBy || st.Waiting != "another host leads" {
		t.Errorf("it says %q, %q", st.Phase, st.Waiting)
	}

	e := &events{}
	done := run(t, s1, testJob(blobs{}, 2), e)
	c := dial(t, a, client.Options{Hello: hello("")})
	if w := c.Welcome(); len(w.Hosts) != 2 || w.Hosts[1] != b {
		t.Errorf("the welcome names the hosts %q", w.Hosts)
	}
	await[server.Joined](t, e)
	second.Store(true)
	s1.Depose(standby(true)())
	if r := <-done; !errors.Is(r.err, server.ErrDeposed) {
		t.Errorf("the run of a deposed host: %v", r.err)
	}
	for {
		_, err = c.Recv(t.Context())
		if err != nil {
			break
		}
	}
	if !errors.As(err, &pe) || pe.Code != proto.Elsewhere || pe.Host != b {
		t.Errorf("its provider's session: %v", err)
	}
}

// TestReplaced: a provider that cannot reach its host any more learns from another one, which
// leads now, that it need not wait for its session.
func TestReplaced(t *testing.T) {
	_, a := start(t, server.Config{Timeout: time.Hour})
	_, b := start(t, server.Config{})
	way := proxytest.New(t, a)
	c := dial(t, way.Addr(), client.Options{Hello: hello(""), Others: func() []string { return []string{"http://" + b} }})
	way.Close()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("it still waits for the host that is gone")
	}
	if _, err := c.Recv(t.Context()); !errors.Is(err, client.ErrLost) {
		t.Error(err)
	}
}

// TestSisters: pages of the job's other hosts may use this one's routes, those of others not.
func TestSisters(t *testing.T) {
	_, addr := start(t, server.Config{Hosts: func() []string { return []string{"https://b.example/prefix"} }})
	ask := func(method, path, origin string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	for _, c := range []struct {
		method, path, origin, allowed string
		status                        int
	}{
		{"OPTIONS", "/v1/upload/r/0/" + strings.Repeat("0", 64), "https://b.example", "https://b.example", 204},
		{"GET", "/v1/status", "https://b.example", "https://b.example", 200},
		{"POST", "/v1/speed", "https://b.example", "https://b.example", 204},
		{"GET", "/v1/status", "https://c.example", "", 200}, // whose page may not read it
		{"POST", "/v1/speed", "https://c.example", "", 403},
		{"POST", "/v1/speed", "http://b.example", "", 403},
		{"GET", "/", "https://b.example", "", 200},
	} {
		resp := ask(c.method, c.path, c.origin)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != c.allowed || resp.StatusCode != c.status {
			t.Errorf("%s %s from %s: %d, allowed %q", c.method, c.path, c.origin, resp.StatusCode, got)
		}
	}
	if _, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://c.example"}}}); err == nil {
		t.Error("a page of another site may join")
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://b.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	_ = ws.CloseNow()
}
