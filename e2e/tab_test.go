// Browser tabs as providers: the page, the button, real WebRTC to native providers and
// to other tabs.

package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// tabDemo starts a demo of n providers of which the named places are tabs, and waits for
// its end.
func (s *scene) hybrid(b *browser, dir string, n, tabs int, args ...string) summary {
	s.Helper()
	args = append([]string{"demo", "--json", "--providers", fmt.Sprint(n), "--tabs", fmt.Sprint(tabs), "--dir", dir}, args...)
	host := s.start("ravnest", args...)
	url := host.says(`contribute: (http://\S+)`, limit)[1]
	var pages []*page
	for range tabs {
		p := b.open(url)
		p.lend()
		pages = append(pages, p)
	}
	if code := host.wait(limit); code != 0 {
		s.Fatalf("demo: code %d\n%s", code, tail(host.err.String()))
	}
	for _, p := range pages {
		p.shows(5*time.Second, "#state", "Not taking part")
		p.clean(s)
	}
	return parse[summary](s, host.out.String())
}

// TestTabs: a job over tabs and natives, and over tabs alone, is the run of one process,
// bit for bit.
func TestTabs(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	local := filepath.Join(tmp, "local")
	s.ok("ravnest", "init", "--epochs", "2", local)
	s.ok("ravnest", "train", "--local", local)
	want := read(t, local, "losses.txt")
	b := s.browser()
	for _, c := range []struct{ n, tabs int }{{1, 1}, {3, 1}, {3, 3}} {
		dir := filepath.Join(tmp, fmt.Sprintf("%d-%d", c.n, c.tabs))
		sum := s.hybrid(b, dir, c.n, c.tabs, "--epochs", "2")
		if !bytes.Equal(read(t, dir, "losses.txt"), want) {
			t.Errorf("%d providers, %d of them tabs: losses.txt is not that of one process", c.n, c.tabs)
		}
		t.Logf("%d providers, %d of them tabs: %.0f samples/s", c.n, c.tabs, sum.SamplesPerS)
	}
}
