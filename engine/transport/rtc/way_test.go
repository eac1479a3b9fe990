//go:build !js

package rtc

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/transport"
)

// nearby is the Here signal of a peer on loopback.
var nearby = json.RawMessage(`{"kind":"here","loopback":true}`)

// TestWay checks which peers connect over loopback and which over the network.
func TestWay(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		peer string
		want way
	}{
		{Config{Loopback: true, Machine: "a"}, `{"kind":"here","loopback":true,"machine":"a"}`, loopback},
		{Config{Loopback: true}, `{"kind":"here","loopback":true}`, loopback},
		{Config{Loopback: true, Machine: "a"}, `{"kind":"here","loopback":true}`, both},                  // a browser
		{Config{Loopback: true, Machine: "a"}, `{"kind":"here","loopback":true,"machine":"b"}`, network}, // a tunnel
		{Config{Loopback: true, Machine: "a"}, `{"kind":"here","machine":"a"}`, network},
		{Config{Machine: "a"}, `{"kind":"here","loopback":true,"machine":"a"}`, network}, // a stranger's claim does not suffice
		{Config{Loopback: true, Machine: "a"}, `{"loopback":`, network},
		{Config{Loopback: true, Machine: "a"}, ``, network},
	} {
		if got := choose(c.cfg, parseHere(json.RawMessage(c.peer))); got != c.want {
			t.Errorf("%+v and %s: way %d, want %d", c.cfg, c.peer, got, c.want)
		}
	}
}

// meet connects two endpoints; change may add to what the first one signals.
func meet(ctx context.Context, x, y *Endpoint, change func(json.RawMessage) []json.RawMessage) (ea, eb error) {
	xy, yx := make(chan json.RawMessage, 1024), make(chan json.RawMessage, 1024)
	var wg sync.WaitGroup
	var a, b transport.Pipe
	wg.Go(func() {
		p, err := x.Connect(ctx, true, y.Here(), func(m json.RawMessage) error {
			for _, c := range change(m) {
				xy <- c
			}
			return nil
		}, yx)
		a, ea = p, err
	})
	wg.Go(func() {
		p, err := y.Connect(ctx, false, x.Here(), func(m json.RawMessage) error { yx <- m; return nil }, xy)
		b, eb = p, err
	})
	wg.Wait()
	for _, p := range []transport.Pipe{a, b} {
		if p != nil {
			_ = p.Close()
		}
	}
	return ea, eb
}

func as(m json.RawMessage) []json.RawMessage { return []json.RawMessage{m} }

// TestManyAddresses checks that a peer with more candidates than are used can still connect.
func TestManyAddresses(t *testing.T) {
	junk := json.RawMessage(`{"kind":"candidate","candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host"}`)
	ea, eb := meet(soon(t), endpoint(t), endpoint(t), func(m json.RawMessage) []json.RawMessage {
		out := as(m)
		if !strings.Contains(string(m), `"offer"`) {
			for range 3 * MaxCandidates {
				out = append(out, junk)
			}
		}
		return out
	})
	if ea != nil || eb != nil {
		t.Errorf("%v; %v", ea, eb)
	}
}

// TestNoUDP checks that if no packets get through, the error says what may be in the way.
func TestNoUDP(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second) // of which descriptions take little
	defer cancel()
	ea, eb := meet(ctx, endpoint(t), endpoint(t), func(m json.RawMessage) []json.RawMessage {
		if strings.Contains(string(m), `"candidate:`) {
			return nil
		}
		// The description must not have any either.
		var s Signal
		if err := json.Unmarshal(m, &s); err != nil {
			t.Error(err)
		}
		var keep []string
		for _, l := range strings.SplitAfter(s.SDP, "\r\n") {
			if !strings.HasPrefix(l, "a=candidate") && !strings.HasPrefix(l, "a=end-of-candidates") {
				keep = append(keep, l)
			}
		}
		s.SDP = strings.ReplaceAll(strings.Join(keep, ""), "a=ice-pwd:", "a=ice-pwd:x") // so that its own packets are refused
		b, err := json.Marshal(s)
		if err != nil {
			t.Error(err)
		}
		return []json.RawMessage{b}
	})
	for _, err := range []error{ea, eb} {
		if err == nil || !strings.Contains(err.Error(), "firewall") {
			t.Errorf("got %v, want that it speaks of firewalls", err)
		}
	}
}
