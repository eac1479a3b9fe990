// The daily life of a provider: it waits for its host, leaves politely, and works under
// nohup.

package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProviderFirst: a provider that starts before its host waits for it without repeating
// itself, and waits for the next host when that one has ended.
func TestProviderFirst(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	address := freePort(t)
	p := s.start("ravnest-provider", "--join", address)
	p.says("trying again until it answers", limit)
	time.Sleep(2 * time.Second)
	for _, name := range []string{"first", "second"} {
		dir := filepath.Join(tmp, name)
		s.ok("ravnest", "init", "--nodes", "1", "--epochs", "2", dir)
		s.ok("ravnest", "clusterize", dir)
		host := s.start("ravnest", "serve", "--listen", address, dir)
		if code := host.wait(limit); code != 0 {
			t.Fatalf("the %s host: code %d\n%s", name, code, tail(host.err.String()))
		}
	}
	if n := strings.Count(p.err.String(), "cannot reach the signaling host"); n > 4 {
		t.Errorf("it says %d times that it cannot reach a host:\n%s", n, p.err.String())
	}
	p.stops()
	s.bad([]string{"cannot reach the signaling host"}, "ravnest-provider", "--join", address, "--wait", "1s")
	a, b := read(t, tmp, "first", "losses.txt"), read(t, tmp, "second", "losses.txt")
	if !bytes.Equal(a, b) {
		t.Error("the losses of the two runs differ")
	}
}

// TestNohup: under nohup, which has SIGHUP ignored from the start, that signal stops neither
// host nor provider.
func TestNohup(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--nodes", "1", "--epochs", endless, dir)
	s.ok("ravnest", "clusterize", dir)
	address := freePort(t)
	host := s.begin(exec.Command("nohup", filepath.Join(bin, "ravnest"), "serve", "--listen", address, dir))
	p := s.begin(exec.Command("nohup", filepath.Join(bin, "ravnest-provider"), "--join", address))
	eventually(t, "some losses", limit, func() bool { return size(dir, "losses.txt") > 400 })
	for _, x := range []*proc{p, host} {
		if err := x.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	was := size(dir, "losses.txt")
	eventually(t, "more losses", limit, func() bool { return size(dir, "losses.txt") > was+4000 })
	// Two signals in quick succession count as one.
	_ = host.cmd.Process.Signal(syscall.SIGTERM)
	_ = host.cmd.Process.Signal(syscall.SIGTERM)
	if code := host.wait(limit); code != 130 {
		t.Errorf("the host: code %d, want 130\n%s", code, tail(host.err.String()))
	}
	s.ok("ravnest", "fuse", dir)
}
