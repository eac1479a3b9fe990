// Providers that lose their connection to the host and nothing else, as when a proxy restarts
// or a phone changes its network: they go on training, reconnect by themselves, and the run
// does not notice.

package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proxytest"
)

// uncut checks that the host has seen no provider leave.
func (s *scene) uncut(host *proc) {
	s.Helper()
	said := host.err.String()
	if strings.Contains(said, "the run goes on from step") || strings.Contains(said, "left:") {
		s.Errorf("a cut connection was taken for a loss:\n%s", said)
	}
}

// cut cuts the connections of one of the proxies, n times at random moments, and waits each time
// until the host says that its provider has returned.
func (s *scene) cut(host *proc, rng *rand.Rand, n int, proxies ...*proxytest.Proxy) {
	s.Helper()
	for i := range n {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		proxies[rng.IntN(len(proxies))].Cut()
		eventually(s, "its provider returns", limit, func() bool {
			return strings.Count(host.err.String(), "lost its connection to this host and has another one") > i
		})
	}
}

// TestConnectionCut cuts the connections of three native providers again and again, one at a
// time and at random moments.
func TestConnectionCut(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	host, url := s.serve(dir)
	var proxies []*proxytest.Proxy
	var ps []*proc
	for _, name := range []string{"node_0", "node_1", "node_2"} {
		p := proxytest.New(t, strings.TrimPrefix(url, "http://"))
		proxies = append(proxies, p)
		ps = append(ps, s.provide("http://"+p.Addr(), name)...)
	}
	host.says("training", limit)
	s.saved(dir, 5)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s.cut(host, rng, 12, proxies...)
	ps[0].says("connected to the host again after .*, nothing is lost", limit)
	s.more(dir, 20)
	s.uncut(host)
	s.ends(host, dir)
}

// TestTabConnectionCut cuts the connection of a tab.
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
	proxy := proxytest.New(t, strings.TrimPrefix(url, "http://"))
	p := b.open("http://" + proxy.Addr())
	p.lend()
	p.shows(limit, "#state", "Training")
	s.saved(dir, 5)
	s.cut(host, rand.New(rand.NewPCG(1, 2)), 5, proxy)
	s.more(dir, 20)
	p.shows(limit, "#state", "Training")
	s.uncut(host)
	s.ends(host, dir)
}
