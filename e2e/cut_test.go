// Providers whose connection to the host is cut, and no other, as by a proxy that restarts
// or a phone that changes its network: they go on, come back by themselves, and the run does
// not notice.

package e2e

import (
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// way is a way to a host, by TCP, that can be cut.
type way struct {
	ln    net.Listener
	to    string
	wg    sync.WaitGroup
	mu    sync.Mutex
	over  bool
	conns map[net.Conn]bool
}

// wayTo makes a way to the host at this URL.
func wayTo(t testing.TB, url string) *way {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{ln: ln, to: strings.TrimPrefix(url, "http://"), conns: map[net.Conn]bool{}}
	w.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.carry(in) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		w.mu.Lock()
		w.over = true
		w.mu.Unlock()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *way) url() string { return "http://" + w.ln.Addr().String() }

func (w *way) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer out.Close()
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return
	}
	w.conns[in] = true
	w.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range [2][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(p[0], p[1])
			in.Close()
			out.Close()
		})
	}
	wg.Wait()
	w.mu.Lock()
	delete(w.conns, in)
	w.mu.Unlock()
}

// cut ends all connections, and loses what is on its way.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(w.conns)
}

// uncut checks that a host has seen n returns, and nothing else.
func (s *scene) uncut(host *proc, n int) {
	s.Helper()
	said := host.err.String()
	if strings.Contains(said, "the run goes on from step") || strings.Contains(said, "left:") {
		s.Errorf("a cut connection was taken for a loss:\n%s", said)
	}
	if got := strings.Count(said, "lost its connection to this host and has another one"); got < n {
		s.Errorf("the host tells of %d returns, want %d at least", got, n)
	}
}

// TestConnectionCut cuts the connections of three native providers, again and again, each by
// itself and at random moments.
func TestConnectionCut(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	host, url := s.serve(dir)
	var ways []*way
	var ps []*proc
	for _, name := range []string{"node_0", "node_1", "node_2"} {
		w := wayTo(t, url)
		ways = append(ways, w)
		ps = append(ps, s.provide(w.url(), name)...)
	}
	host.says("training", limit)
	s.saved(dir, 5)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		ways[rng.IntN(len(ways))].cut()
	}
	ps[0].says("connected to the host again after .*, nothing is lost", limit)
	s.more(dir, 20)
	s.uncut(host, 10)
	s.ends(host, dir)
}

// TestTabConnectionCut does so to a tab.
func TestTabConnectionCut(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.job(dir, "--epochs", endless)
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
	b := s.browser()
	host, url := s.serve(dir)
	s.provide(url, "node_0")
	host.says("node_0 joined", limit)
	s.provide(url, "node_1")
	host.says("node_1 joined", limit)
	w := wayTo(t, url)
	p := b.open(w.url())
	p.lend()
	p.shows(limit, "#state", "Training")
	s.saved(dir, 5)
	for i := range 6 {
		time.Sleep(time.Duration(100+170*i) * time.Millisecond)
		w.cut()
	}
	s.more(dir, 20)
	p.shows(limit, "#state", "Training")
	s.uncut(host, 4)
	s.ends(host, dir)
}
