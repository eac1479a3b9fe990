package jetstream

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// TestLinesWait: lines that come while NATS is away take memory up to a bound, the rest of them waits in
// the cache, and NATS gets all in order.
func TestLinesWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := serve(t, func(o *server.Options) { o.StoreDir = dir })
	var told said
	oa := options(t, "a")
	oa.Say = told.say
	a := open(t, n.ClientURL(), oa)
	mustLead(t, a)
	port := n.Addr().(*net.TCPAddr).Port
	n.Shutdown()
	n.WaitForShutdown()
	line := func(i int) []byte { return fmt.Appendf(nil, "%07d%s\n", i, strings.Repeat("x", 1016)) }
	share := func(from, to int) {
		for i := from; i < to; i += 64 {
			var b bytes.Buffer
			for k := range min(64, to-i) {
				b.Write(line(i + k))
			}
			if err := a.Share("events", b.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	}
	l, err := a.term()
	if err != nil {
		t.Fatal(err)
	}
	memory := func() (sum, ops int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, o := range l.queue {
			sum += len(o.data)
		}
		return sum, len(l.queue)
	}
	const all = 3 * maxWaiting / 1024
	share(0, all)
	if sum, ops := memory(); sum > maxWaiting+maxLines || sum < maxWaiting/4 || ops > all/128 {
		t.Errorf("%d bytes of %d lines are in memory, as %d writes", sum, all, ops)
	}
	files := func() int {
		fs, err := oa.Cache.List(t.Context(), waiting)
		if err != nil {
			t.Fatal(err)
		}
		return len(fs)
	}
	if files() == 0 {
		t.Error("nothing waits in the cache")
	}
	done := commit(a, "digits/manifest.json", "behind them")
	serve(t, func(o *server.Options) { o.StoreDir, o.Port = dir, port })
	if err := within(t, done); err != nil {
		t.Fatal(err)
	}
	at := 0
	err = a.Lines(t.Context(), "events", func(b []byte) error {
		if string(b)+"\n" != string(line(at)) {
			return fmt.Errorf("line %d is %.20q", at, b)
		}
		at++
		return nil
	})
	if err != nil || at != all {
		t.Errorf("%d lines of %d, %v", at, all, err)
	}
	if k := files(); k != 0 {
		t.Errorf("%d files are left", k)
	}
	if sum, _ := memory(); sum != 0 || l.lines != 0 {
		t.Errorf("%d bytes are left, %d are counted", sum, l.lines)
	}
}

// TestLinesRefused: where the disk takes nothing either, lines are taken up to a bound, which is told once.
func TestLinesRefused(t *testing.T) {
	var told said
	o := options(t, "a")
	o.Say = told.say
	if err := o.Cache.Put(t.Context(), strings.TrimSuffix(waiting, "/"), strings.NewReader("in the folder's place")); err != nil {
		t.Fatal(err)
	}
	s := &Store{opt: o}
	l := &lead{ctx: t.Context(), wake: make(chan struct{}, 1)}
	s.lead = l
	lines := bytes.Repeat([]byte("0123456\n"), maxLines/8)
	for range 2 * mostWaiting / maxLines {
		if err := s.Share("events", lines); err != nil {
			t.Fatal(err)
		}
	}
	if l.lines != mostWaiting || len(l.queue) != mostWaiting/maxLines {
		t.Errorf("%d bytes in %d writes", l.lines, len(l.queue))
	}
	if s := told.text(); strings.Count(s, "it lacks the losses from here on") != 1 {
		t.Errorf("told: %q", s)
	}
}
