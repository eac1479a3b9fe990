//go:build !js

package rtc

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/ravnest/ravnest/engine/transport"
)

// TestMove checks that a connection moves to other addresses, at the wish of either side and of
// both at once, while frames pass in both directions, and that none is lost.
func TestMove(t *testing.T) {
	a, b := pair(t)
	ctx := soon(t)
	local := func(p transport.Pipe) string {
		k, err := p.(*pipe).agent.GetSelectedCandidatePair()
		if err != nil || k == nil {
			return ""
		}
		return k.Local.String()
	}
	const frames = 400
	var wg sync.WaitGroup
	for _, p := range []transport.Pipe{a, b} {
		wg.Go(func() {
			f := make([]byte, 10_000)
			for i := range uint64(frames) {
				binary.LittleEndian.PutUint64(f, i)
				if err := p.Send(ctx, f); err != nil {
					t.Errorf("frame %d: %v", i, err)
					return
				}
			}
		})
		wg.Go(func() {
			for i := range uint64(frames) {
				f, err := p.Recv(ctx)
				if err != nil || len(f) != 10_000 || binary.LittleEndian.Uint64(f) != i {
					t.Errorf("frame %d: %v", i, err)
					return
				}
			}
		})
	}
	for _, who := range [][]transport.Pipe{{a}, {b}, {a, b}} {
		before := local(a)
		for _, p := range who {
			p.(*pipe).uproot <- struct{}{}
		}
		for now := before; now == before || now == ""; now = local(a) {
			if ctx.Err() != nil || t.Failed() {
				t.Fatalf("no other path was found")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	wg.Wait()
}

// TestManyCandidates: of the candidates that a peer tells while the connection stands, as many count as
// at its beginning, so that it does not make this side ask any number of addresses.
func TestManyCandidates(t *testing.T) {
	a, _ := pair(t)
	p := a.(*pipe)
	r := &roamer{p: p}
	for k := range 4 * MaxCandidates {
		b, err := json.Marshal(Signal{Kind: Candidate, Candidate: fmt.Sprintf("candidate:1 1 udp 2130706431 127.0.0.1 %d typ host", 20000+k)})
		if err != nil {
			t.Fatal(err)
		}
		r.hear(b)
	}
	var all []ice.Candidate
	for end := time.Now().Add(5 * time.Second); len(all) < MaxCandidates && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var err error
		if all, err = p.agent.GetRemoteCandidates(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(all); n < MaxCandidates || n > 2*MaxCandidates {
		t.Errorf("%d candidates of the peer are known, want about %d", n, MaxCandidates)
	}
}
