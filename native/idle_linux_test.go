package native

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminals types at a real terminal, and is seen to.
func TestTerminals(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer ptmx.Close()
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	// A directory with this terminal alone: others of this machine may be in use.
	dev := t.TempDir()
	if err := os.Mkdir(filepath.Join(dev, "pts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, found := terminals(dev, time.Now()); found != 0 {
		t.Errorf("%d terminals in an empty directory", found)
	}
	if err := os.Symlink(name, filepath.Join(dev, "pts", "0")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dev, "pts", "1"), nil, 0o644); err != nil { // no terminal
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Skip(err)
	}
	if d, found := terminals(dev, time.Now()); found != 1 || d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("an hour after the last key: %v at %d terminals", d, found)
	}
	if _, err := ptmx.WriteString("x\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := tty.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if d, _ := terminals(dev, time.Now()); d > 20*time.Second {
		t.Errorf("right after a key: %v", d)
	}
}

func TestHint(t *testing.T) {
	now := time.UnixMicro(2_000_000_000)
	for _, c := range []struct {
		out  string
		want time.Duration
		ok   bool
	}{
		{"IdleHint=no\nIdleSinceHint=1000000000\n", 0, true},
		{"IdleHint=yes\nIdleSinceHint=1000000000\n", 1000 * time.Second, true},
		{"IdleSinceHint=1999000000\nIdleHint=yes\n", time.Second, true},
		{"IdleHint=yes\nIdleSinceHint=9000000000\n", 0, true}, // the clock was set back
		{"IdleHint=yes\nIdleSinceHint=x\n", 0, false},
		{"IdleHint=perhaps\n", 0, false},
		{"", 0, false},
	} {
		if d, ok := hint(c.out, now); ok != c.ok || ok && d != c.want {
			t.Errorf("%q: %v %v", c.out, d, ok)
		}
	}
	if d, ok := hint("IdleHint=yes\nIdleSinceHint=0\n", now); !ok || d < 24*time.Hour {
		t.Errorf("idle ever since: %v %v", d, ok)
	}
}

func TestIdle(t *testing.T) {
	silent, fail := time.Minute, error(nil)
	look := func() (time.Duration, string, error) { return silent, "a test", fail }
	i, err := newIdle(time.Second, look)
	if err != nil || i.By() != "a test" {
		t.Fatal(err)
	}
	if why, ok := i.May(); !ok {
		t.Error(why)
	}
	silent, i.looked = 0, time.Time{}
	if why, ok := i.May(); ok || !strings.Contains(why, "somebody uses this machine") {
		t.Error(why, ok)
	}
	fail, i.looked = errors.New("gone"), time.Time{}
	if why, ok := i.May(); ok || !strings.Contains(why, "gone") {
		t.Error(why, ok)
	}
	if _, err := newIdle(time.Second, look); !errors.Is(err, ErrNoIdle) {
		t.Error(err)
	}
}

// TestNice: every thread gives way, in a process of its own, since only root may undo it.
func TestNice(t *testing.T) {
	if os.Getenv("RAVNEST_TEST_NICE") != "" {
		done := make(chan bool)
		for range 4 { // threads that were there before
			go func() {
				time.Sleep(time.Millisecond)
				<-done
			}()
		}
		if err := Nice(12); err != nil {
			t.Fatal(err)
		}
		tasks, _ := filepath.Glob("/proc/self/task/[0-9]*")
		if len(tasks) < 2 {
			t.Fatalf("only %d threads", len(tasks))
		}
		for _, task := range tasks {
			stat, err := os.ReadFile(filepath.Join(task, "stat"))
			if err != nil {
				continue
			}
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			if f[16] != "12" {
				t.Errorf("thread %s has nice %s", filepath.Base(task), f[16])
			}
		}
		close(done)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNice$")
	cmd.Env = append(os.Environ(), "RAVNEST_TEST_NICE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
