// Runs that end early: by Ctrl-C, by a host that is killed, on a full disk.

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endless is a number of epochs that no test waits for.
const endless = "1000000"

// TestInterrupt: Ctrl-C in the middle of a demo saves, fuses and ends it, and the next run
// moves the results aside.
func TestInterrupt(t *testing.T) {
	posix(t)
	for _, schedule := range []string{"sync", "async"} {
		t.Run(schedule, func(t *testing.T) {
			s := newScene(t)
			dir := filepath.Join(t.TempDir(), "job")
			p := s.start("ravnest", "demo", "--json", "--schedule", schedule, "--epochs", endless, "--dir", dir)
			eventually(t, "some losses in losses.txt", limit, func() bool { return size(dir, "losses.txt") > 400 })
			if n := len(running(s.mark)); runtime.GOOS == "linux" && n != 4 {
				t.Errorf("%d processes in the middle of a demo with 3 providers, want 4", n)
			}
			begin := time.Now()
			p.stops()
			t.Logf("ended %.2f s after Ctrl-C", time.Since(begin).Seconds())
			s.alone()
			if !strings.Contains(p.err.String(), "interrupted: the trained state is saved") {
				t.Errorf("stderr does not say that the state is saved:\n%s", tail(p.err.String()))
			}
			sum := parse[summary](t, p.out.String())
			if !sum.Interrupted || sum.Steps < 17 {
				t.Errorf("the result of an interrupted run: %+v", sum)
			}
			checkLosses(t, dir, int(sum.Steps))
			s.ok("ravnest", "eval", dir)
			was := results(t, dir)
			if n := len(was); n != 7 {
				t.Errorf("%d result files, want 7: losses, accuracies, two fused files and three stages", n)
			}
			s.ok("ravnest", "fuse", dir)
			kept(t, was, dir) // fusing again gives the same files

			s.demo("--epochs", "1", "--dir", dir)
			kept(t, was, filepath.Join(dir, "previous/1"))
			checkLosses(t, dir, 17)
			s.demo("--epochs", "1", "--dir", dir)
			kept(t, was, filepath.Join(dir, "previous/1"))
			checkLosses(t, filepath.Join(dir, "previous/2"), 17)
		})
	}
}

// TestInterruptEarly: Ctrl-C before training begins leaves older results in place.
func TestInterruptEarly(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.demo("--epochs", "1", "--dir", dir)
	was := results(t, dir)
	p := s.start("ravnest", "demo", "--tabs", "1", "--dir", dir) // which nobody opens
	p.says("starting 2 providers", limit)
	p.stops()
	s.alone()
	kept(t, was, dir)

	s.ok("ravnest", "clusterize", dir)
	p, url := s.serve(dir)
	q := s.start("ravnest-provider", "--join", url, "--name", "node_1", "--once")
	p.says("node_1 joined", limit)
	p.stops()
	if code := q.wait(limit); code != 0 {
		t.Errorf("a provider that the host dismissed: code %d, want 0", code)
	}
	kept(t, was, dir)
}

// TestInterruptLocal: Ctrl-C saves the state of train --local, too.
func TestInterruptLocal(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", endless, dir)
	p := s.start("ravnest", "train", "--local", "--json", dir)
	eventually(t, "some losses in losses.txt", limit, func() bool { return size(dir, "losses.txt") > 400 })
	p.stops()
	checkLosses(t, dir, int(parse[summary](t, p.out.String()).Steps))
	s.ok("ravnest", "eval", dir)
}

// running starts a host of an endless job that saves every epoch, with three providers, and
// waits until all stages are saved.
func (s *scene) running(dir string) (host *proc, ps []*proc) {
	s.Helper()
	s.ok("ravnest", "init", "--epochs", endless, dir)
	edit(s, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 1`)
	s.ok("ravnest", "clusterize", dir)
	host, url := s.serve(dir)
	for k := range 3 {
		ps = append(ps, s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once", "--wait", "0s"))
	}
	host.says("training", limit)
	for k := range 3 {
		eventually(s, "a saved stage", limit, func() bool {
			return size(dir, fmt.Sprintf("node_data/cluster_0/0.0.0.0:%d/weights.safetensors", 8080+k)) > 0
		})
	}
	return host, ps
}

// size returns the size of a file, 0 if there is none.
func size(dir, name string) int64 {
	fi, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// TestHostKilled: providers that are not to wait for another host end when theirs is killed.
func TestHostKilled(t *testing.T) {
	posix(t)
	s := newScene(t)
	host, ps := s.running(filepath.Join(t.TempDir(), "job"))
	if err := host.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, p := range ps {
		if code := p.wait(limit); code != 1 {
			t.Errorf("provider %d: code %d, want 1", i, code)
		}
	}
}

// TestFullDisk: the disk is full when the state is saved. Older results are kept, the error
// says what could not be written and why, and nothing is left running.
func TestFullDisk(t *testing.T) {
	posix(t)
	commands := [][]string{
		{"demo", "--epochs", "2", "--dir"},
		{"train", "--local", "--epochs", "2"},
	}
	// A limit on the size of files acts like a full disk and needs no privileges. The largest
	// stage takes between 24 and 64 KiB, the fused file more.
	t.Run("limit", func(t *testing.T) {
		for _, c := range commands {
			s := newScene(t)
			dir, was := trained(s, filepath.Join(t.TempDir(), "job"))
			p := s.begin(exec.Command("bash", append([]string{"-c", `ulimit -f 24 && exec "$@"`, "-", filepath.Join(bin, "ravnest")}, append(c, dir)...)...))
			p.failed(limit, "file too large")
			aside(t, was, dir)
		}
	})
	// A file system that really is full, where the test may mount one. In most containers it
	// may not.
	t.Run("tmpfs", func(t *testing.T) {
		s := newScene(t)
		mnt := smallDisk(t, "2m")
		for i, c := range commands {
			dir, was := trained(s, filepath.Join(mnt, fmt.Sprint(i)))
			fill(t, mnt, 32<<10)
			p := s.start("ravnest", append(c, dir)...)
			p.failed(limit, "no space left on device")
			aside(t, was, dir)
			if err := os.Remove(filepath.Join(mnt, "ballast")); err != nil {
				t.Fatal(err)
			}
			// With space again the job runs.
			s.ok("ravnest", append(c, dir)...)
			s.ok("ravnest", "eval", dir)
		}
	})
}

// trained makes a job and trains it, and returns its results.
func trained(s *scene, dir string) (string, map[string]string) {
	s.Helper()
	s.demo("--epochs", "1", "--dir", dir)
	return dir, results(s, dir)
}

// aside checks that older results are in place, or all in previous/1.
func aside(t *testing.T, was map[string]string, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "previous/1")); err == nil {
		dir = filepath.Join(dir, "previous/1")
	}
	kept(t, was, dir)
}

// fill fills a file system up to the last room bytes.
func fill(t *testing.T, mnt string, room uint64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(mnt, &st); err != nil {
		t.Fatal(err)
	}
	n := st.Bavail*uint64(st.Bsize) - room
	if err := os.WriteFile(filepath.Join(mnt, "ballast"), make([]byte, n), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) { // others write, too
		t.Fatal(err)
	}
}
