// Providers with whom training is no faster are spares: of a demo that is planned by benchmarks, and
// of an open host. A pool that is written down is used whole.

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSpares(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	local, dir := filepath.Join(tmp, "local"), filepath.Join(tmp, "job")
	s.local(local, "--steps", "20")
	s.ok("ravnest", "init", "--steps", "20", dir) // of three nodes
	// Its batches stay whole and are computed sooner than they are sent around.
	out, said := s.ok("ravnest", "demo", "--json", "--providers", "2", "--dir", dir)
	if sum := parse[summary](t, out); len(sum.Cuts) != 1 || !strings.Contains(said, "to spare: ") || !strings.Contains(said, "--clusters 1 would have all 2 providers take part") {
		t.Errorf("stages from %v; demo says\n%s", sum.Cuts, said)
	}
	s.same("one of two", dir, local)
	for n, args := range map[int][]string{2: {"--providers", "2", "--clusters", "1"}, 3: nil} {
		if sum := s.demo(append(args, "--dir", dir)...); len(sum.Cuts) != n {
			t.Errorf("%v: stages from %v, want %d", args, sum.Cuts, n)
		}
		s.same("all", dir, local)
	}
}
