//go:build !js

package rtc

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

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
