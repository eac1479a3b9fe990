// Disks that are full for a time, may not be written, or have lost a part of a file.

package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// smallDisk mounts a file system of so many bytes, where the test may.
func smallDisk(t *testing.T, size string) (mnt string) {
	t.Helper()
	mnt = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Skipf("not allowed to mount a small file system: %v: %s", err, bytes.TrimSpace(out))
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", "-l", mnt).Run(); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// goesOn waits until a host's run has got so many steps further, as it tells itself.
func (s *scene) goesOn(url string, steps int) {
	s.Helper()
	at := func() int {
		out, _ := s.ok("ravnest", "status", url)
		if m := regexp.MustCompile(`step (\d+), loss`).FindStringSubmatch(out); m != nil {
			n, _ := strconv.Atoi(m[1])
			return n
		}
		return -1
	}
	from := at()
	eventually(s, "more steps", limit, func() bool { return at() >= from+steps })
}

// TestServeOnFullDisk: the disk is full for a time while a run is served. It trains on, also
// through the loss of a provider, says so, and saves again when there is room. No byte of the
// result is another.
func TestServeOnFullDisk(t *testing.T) {
	posix(t)
	s := newScene(t)
	mnt := smallDisk(t, "4m")
	dir := filepath.Join(mnt, "job")
	s.ok("ravnest", "init", "--epochs", endless, dir)
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
	s.ok("ravnest", "clusterize", dir)
	address := freePort(t)
	host, url := s.serve("--listen", address, dir)
	ps := s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.provide(url, "")
	s.saved(dir, 5)

	fill(t, mnt, 8<<10)
	host.says(`warning: .*no space left on device: training goes on, and saving is tried again; what was saved at step \d+ is kept`, limit)
	s.goesOn(url, 50)
	dash := s.browser().open(url + "/dashboard")
	dash.shows(limit, "#unsaved", "no space left on device")
	if out, _ := s.ok("ravnest", "status", url); !strings.Contains(out, "nothing can be saved now: ") {
		t.Errorf("status says %q", out)
	}
	elsewhere := filepath.Join(t.TempDir(), "copy") // where there is room
	if err := os.CopyFS(elsewhere, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s.ok("ravnest", "fuse", elsewhere)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`node_1.*\n(.*\n)*training resumes from step \d+`, limit)
	s.goesOn(url, 50)

	empty(t, mnt)
	host.says(`saved at step \d+, after \d+ s in which nothing could be saved`, limit)
	eventually(t, "the dashboard forgets the full disk", limit, func() bool { return dash.text("#unsaved") == "" })
	s.more(dir, 20)

	// Killed while it is full again, it goes on from what was saved last once there is room.
	fill(t, mnt, 8<<10)
	s.goesOn(url, 20)
	if err := host.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-host.done
	out, _ := s.ok("ravnest", "status", dir)
	if !regexp.MustCompile(`saved at step \d+ of \d+; ravnest serve resumes from there`).MatchString(out) {
		t.Errorf("status says %q", out)
	}
	empty(t, mnt)
	fill(t, mnt, 0) // nobody writes now, so that no room is left at all
	s.bad([]string{"no space left on device"}, "ravnest", "serve", "--listen", address, dir)
	empty(t, mnt)
	host, _ = s.serve("--listen", address, dir)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}

// empty makes the room again that fill has taken.
func empty(t *testing.T, mnt string) {
	t.Helper()
	if err := os.Remove(filepath.Join(mnt, "ballast")); err != nil {
		t.Fatal(err)
	}
}

// TestFullDiskAtTheEnd: a run whose last state has no room ends when there is some.
func TestFullDiskAtTheEnd(t *testing.T) {
	posix(t)
	s := newScene(t)
	mnt := smallDisk(t, "4m")
	dir, local := filepath.Join(mnt, "job"), filepath.Join(t.TempDir(), "local")
	for _, d := range []string{dir, local} {
		s.ok("ravnest", "init", "--epochs", "40", d)
		edit(t, filepath.Join(d, "job.json"), `"save_every": 10`, `"save_every": 1000`)
	}
	s.ok("ravnest", "train", "--local", local)
	s.ok("ravnest", "clusterize", dir)
	host, url := s.serve(dir)
	s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	fill(t, mnt, 8<<10)
	host.says(`no space left on device: the run ends when its last state can be saved`, limit)
	empty(t, mnt)
	if code := host.wait(limit); code != 0 {
		t.Errorf("code %d\n%s", code, host.err.String())
	}
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "val_losses.txt", "metrics.csv", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
			t.Errorf("%s differs from that of one process", f)
		}
	}
}

// TestReadOnlyDirectory: a host that could save nothing does not begin.
func TestReadOnlyDirectory(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(smallDisk(t, "4m"), "job")
	s.ok("ravnest", "init", dir)
	if out, err := exec.Command("mount", "-o", "remount,ro", filepath.Dir(dir)).CombinedOutput(); err != nil {
		t.Skipf("not allowed to make a file system read-only: %v: %s", err, bytes.TrimSpace(out))
	}
	s.bad([]string{regexp.QuoteMeta(dir), "read-only file system", "copy of the job"}, "ravnest", "serve", "--listen", "127.0.0.1:0", "--providers", "1", dir)
}

// TestTornFiles: a host was killed, and then a file of its directory has lost its second half. What
// a run needs is missed by name; of the rest the run makes what it needs anew.
func TestTornFiles(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, address := s.abandoned()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		rel, _ := filepath.Rel(dir, path)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue // the host was killed while it wrote it, and another one has removed it
		}
		whole := read(t, path)
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		host := s.start("ravnest", "serve", "--listen", "127.0.0.1:0", dir)
		eventually(t, "it begins or ends", limit, func() bool {
			select {
			case <-host.done:
				return true
			default:
				return regexp.MustCompile(`resuming the run that ended at step \d+`).MatchString(host.err.String())
			}
		})
		_ = host.cmd.Process.Signal(os.Interrupt) // it may have ended
		switch code := host.wait(limit); code {
		case 130:
			t.Logf("%s: the run goes on", rel)
		case 1:
			if !bytes.Contains([]byte(host.err.String()), []byte(filepath.Base(path))) {
				t.Errorf("%s: it is not named: %s", rel, host.err.String())
			}
			t.Logf("%s: %s", rel, host.err.String())
		default:
			t.Errorf("%s: code %d: %s", rel, code, host.err.String())
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, _ := s.serve("--listen", address, dir)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}
