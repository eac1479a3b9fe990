// A run that loses a provider, or its host, ends as one in which nothing happened: the
// same weights, the same losses, bit for bit.

package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// yardstick makes a job, trains a copy of it in one process, and returns the directories
// of both.
func (s *scene) yardstick(epochs int) (dir, local string) {
	s.Helper()
	base := s.TempDir()
	dir, local = filepath.Join(base, "served"), filepath.Join(base, "local")
	for _, d := range []string{dir, local} {
		s.ok("ravnest", "init", "--epochs", fmt.Sprint(epochs), d)
		edit(s, filepath.Join(d, "job.json"), `"save_every": 10`, `"save_every": 3`)
	}
	s.ok("ravnest", "train", "--local", local)
	s.ok("ravnest", "clusterize", dir)
	return dir, local
}

// equal holds what was trained on providers against what one process trained.
func (s *scene) equal(dir, local string) {
	s.Helper()
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "val_accuracies.txt", "val_losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(s, filepath.Join(dir, f)), read(s, filepath.Join(local, f))) {
			s.Errorf("%s is not what one process makes", f)
		}
	}
}

// provide starts providers by name; "" is one to spare.
func (s *scene) provide(url string, names ...string) (ps []*proc) {
	s.Helper()
	for _, n := range names {
		args := []string{"--join", url}
		if n != "" {
			args = append(args, "--name", n)
		}
		ps = append(ps, s.start("ravnest-provider", args...))
	}
	return ps
}

// steps waits until so many lines of losses are there.
func (s *scene) steps(dir string, n int) {
	s.Helper()
	eventually(s, "more losses", limit, func() bool { return size(dir, "losses.txt") > int64(7*n) })
}

// TestKilled: a provider is killed in the middle of training.
func TestKilled(t *testing.T) {
	posix(t)
	for k, role := range []string{"root", "stem", "leaf"} {
		t.Run(role, func(t *testing.T) {
			s := newScene(t)
			dir, local := s.yardstick(150)
			host, url := s.serve(dir)
			ps := s.provide(url, "node_0", "node_1", "node_2")
			host.says("training", limit)
			s.provide(url, "") // before, it would be given one of their names
			host.says("node_3 joined", limit)
			s.steps(dir, 120)
			begin := time.Now()
			if err := ps[k].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			host.says(`the run goes on from step \d+; \d+ steps are done again`, limit)
			host.says(`training goes on from step \d+`, limit)
			t.Logf("training again %.2f s after the kill", time.Since(begin).Seconds())
			if code := host.wait(limit); code != 0 {
				t.Fatalf("the host: code %d", code)
			}
			s.equal(dir, local)
		})
	}
}

// TestKilledWithoutSpare: its name comes back and takes its stage again.
func TestKilledWithoutSpare(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, local := s.yardstick(150)
	host, url := s.serve(dir)
	ps := s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.steps(dir, 120)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says("waiting for node_1", limit)
	s.provide(url, "node_1")
	if code := host.wait(limit); code != 0 {
		t.Fatalf("the host: code %d", code)
	}
	s.equal(dir, local)
}

// TestFrozen: one that is silent without being gone is given up.
func TestFrozen(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, local := s.yardstick(150)
	host, url := s.serve(dir)
	ps := s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.provide(url, "") // before, it would be given one of their names
	host.says("node_3 joined", limit)
	s.steps(dir, 120)
	begin := time.Now()
	if err := ps[1].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	host.says(`node_1.*the run goes on from step`, limit)
	t.Logf("noticed %.2f s after the provider froze", time.Since(begin).Seconds())
	host.says(`training goes on from step`, limit)
	if err := ps[1].cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := host.wait(limit); code != 0 {
		t.Fatalf("the host: code %d", code)
	}
	s.equal(dir, local)
}

// TestProviderLeaves: one that is asked to leave goes as soon as its state is saved.
func TestProviderLeaves(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, local := s.yardstick(150)
	host, url := s.serve(dir)
	ps := s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.provide(url, "") // before, it would be given one of their names
	host.says("node_3 joined", limit)
	s.steps(dir, 30) // before anything was saved by the job's own rule
	ps[2].interrupt()
	if code := ps[2].wait(20 * time.Second); code != 130 {
		t.Errorf("the provider that left: code %d, want 130", code)
	}
	host.says(`node_2 wants to leave`, limit)
	host.says(`the run goes on from step \d+`, limit)
	if code := host.wait(limit); code != 0 {
		t.Fatalf("the host: code %d", code)
	}
	s.equal(dir, local)
}

// TestHostComesBack: a host that was killed, or stopped by its requester, goes on with the
// run when it is started again.
func TestHostComesBack(t *testing.T) {
	posix(t)
	for _, how := range []string{"killed", "stopped"} {
		t.Run(how, func(t *testing.T) {
			s := newScene(t)
			dir, local := s.yardstick(60)
			address := freePort(t)
			host, url := s.serve("--listen", address, dir)
			s.provide(url, "node_0", "node_1", "node_2")
			s.steps(dir, 150)
			if how == "killed" {
				if err := host.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				<-host.done
			} else {
				host.interrupt()
				if code := host.wait(20 * time.Second); code != 130 {
					t.Errorf("a host that is stopped: code %d, want 130", code)
				}
			}
			if out, _ := s.ok("ravnest", "status", dir); !regexp.MustCompile(`saved at step \d+ of 1020; ravnest serve goes on from there`).MatchString(out) {
				t.Errorf("status says %q", out)
			}
			host, _ = s.serve("--listen", address, dir)
			host.says(`going on with the run that ended at step \d+`, limit)
			host.says(`training goes on from step \d+`, limit)
			if code := host.wait(limit); code != 0 {
				t.Fatalf("the host: code %d", code)
			}
			s.equal(dir, local)
		})
	}
}
