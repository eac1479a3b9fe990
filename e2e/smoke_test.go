// Package e2e drives the binaries as their users do.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSmoke: a short demo over some providers is the run of one process, to the bit.
func TestSmoke(t *testing.T) {
	bin := os.Getenv("RAVNEST_BIN")
	if bin == "" {
		t.Fatal("RAVNEST_BIN is not set: run make test-e2e")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(filepath.Join(bin, "ravnest"), args...).CombinedOutput(); err != nil {
			t.Fatalf("ravnest %v: %v\n%s", args, err, out)
		}
	}
	read := func(d, name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, d, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run("init", filepath.Join(dir, "local"))
	run("train", "--local", "--epochs", "3", filepath.Join(dir, "local"))
	for _, n := range []int{1, 2, 3, 5} {
		d := fmt.Sprint(n)
		run("demo", "--epochs", "3", "--providers", d, "--threads", fmt.Sprint(n%3+1), "--dir", filepath.Join(dir, d))
		for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
			if !bytes.Equal(read("local", f), read(d, f)) {
				t.Errorf("%d providers: %s is not that of one process", n, f)
			}
		}
	}
}
