package native

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLock holds a lock in another process, ends that process, and takes it over.
func TestLock(t *testing.T) {
	if os.Getenv("LOCK_HOLDER") != "" {
		if _, err := Lock(os.Getenv("LOCK_HOLDER"), "the holder\x1b[2J"); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		select {}
	}
	path := filepath.Join(t.TempDir(), "a [dir]", "lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLock$")
	cmd.Env = append(os.Environ(), "LOCK_HOLDER="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the holder says %q", line)
	}
	_, err = Lock(path, "second")
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "in use by the holder[2J (process") {
		t.Errorf("a lock that is held: %v", err)
	}
	_ = cmd.Process.Kill() // without unlocking
	_ = cmd.Wait()
	for range 2 {
		unlock, err := Lock(path, "third")
		if err != nil {
			t.Fatalf("the lock of a process that died: %v", err)
		}
		unlock()
	}
	if _, err := Lock(filepath.Dir(path), "x"); err == nil {
		t.Error("a directory is locked")
	}
}
