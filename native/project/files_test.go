//go:build unix

package project_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/ravnest/ravnest/native/project"
)

// TestNames does everything that a run does in directories with unusual names.
func TestNames(t *testing.T) {
	for _, name := range []string{
		"plain", "with spaces ", "[glob]*?", "-dash", "quote'\"`$HOME", "ünï cödé 名前", "a\\b", "{a,b}", "~", "#x", "%s%d", ".hidden",
		"new\nline", strings.Repeat("long", 60), "bad utf8 \xff",
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := project.Init(dir, "cnn", 3, nil); err != nil {
			t.Errorf("%q: init: %v", name, err)
			continue
		}
		p, err := project.Open(dir)
		if err != nil {
			t.Errorf("%q: open: %v", name, err)
			continue
		}
		for run := 1; run <= 2; run++ {
			for _, f := range []string{"losses.txt", "val_losses.txt", "trained/x.pt", "node_data/cluster_0/0.0.0.0:8080/weights.safetensors", "node_data/manifest.json"} {
				path := filepath.Join(dir, f)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte{byte(run)}, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := p.MoveAside(); n != run || err != nil {
				t.Errorf("%q: moving run %d aside: %d, %v", name, run, n, err)
			}
			// The next run discards the objects that the manifest names, so no copy of it is kept.
			for _, d := range []string{dir, filepath.Join(dir, "previous", string(rune('0'+run)))} {
				if _, err := os.Lstat(filepath.Join(d, "node_data/manifest.json")); err == nil {
					t.Errorf("%q: a manifest is left in %s", name, d)
				}
			}
			for _, f := range []string{"losses.txt", "node_data/cluster_0/0.0.0.0:8080/weights.safetensors"} {
				b, err := os.ReadFile(filepath.Join(dir, "previous", string(rune('0'+run)), f))
				if err != nil || len(b) != 1 || b[0] != byte(run) {
					t.Errorf("%q: the older run's %s: %v, %v", name, f, b, err)
				}
			}
		}
		unlock, err := project.Lock(dir, "test")
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		unlock()
	}
}

// TestEditors reads files as saved by editors on Windows.
func TestEditors(t *testing.T) {
	dir := fresh(t)
	for i, save := range []func(string) string{
		func(s string) string { return "\ufeff" + s },
		func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		func(s string) string {
			var b []byte
			for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
				b = binary.LittleEndian.AppendUint16(b, u)
			}
			return string(b)
		},
	} {
		for _, f := range []string{"job.json", "model.json", "node_data/node_configs.json"} {
			path := filepath.Join(dir, f)
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(save(string(was))), 0o644); err != nil {
				t.Fatal(err)
			}
			p, err := project.Open(dir)
			if err == nil {
				_, err = p.Pool()
			}
			if err != nil {
				t.Errorf("way %d, %s: %v", i, f, err)
			}
			if err := os.WriteFile(path, was, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSpecialFiles checks that files which are not regular are refused without blocking.
func TestSpecialFiles(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"a named pipe": func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a device":     func(path string) error { return os.Symlink("/dev/zero", path) },
		"a directory":  func(path string) error { return os.Mkdir(path, 0o755) },
		"does not exist": func(path string) error {
			return os.Symlink("/nowhere/at all", path)
		},
	} {
		for _, f := range []string{"job.json", "model.json"} {
			dir := fresh(t)
			path := filepath.Join(dir, f)
			if err := errors.Join(os.Remove(path), replace(path)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { _, err := project.Open(dir); done <- err }()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%s is %s: %v", f, name, err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s is %s: it is waited for", f, name)
			}
		}
	}
}

// TestSymbolicLinks checks that the owner's links are followed for reading and never for writing.
func TestSymbolicLinks(t *testing.T) {
	dir, out := fresh(t), t.TempDir()
	if err := errors.Join(os.Rename(filepath.Join(dir, "model.json"), filepath.Join(out, "m")), os.Symlink(filepath.Join(out, "m"), filepath.Join(dir, "model.json"))); err != nil {
		t.Fatal(err)
	}
	p := open(t, dir)
	precious := filepath.Join(out, "precious")
	if err := errors.Join(os.WriteFile(precious, []byte("1"), 0o644), os.Symlink(precious, filepath.Join(dir, "losses.txt")), os.Symlink(out, filepath.Join(dir, "trained"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"losses.txt", "trained/x", "trained"} {
		if err := p.Inside(name); !errors.Is(err, project.ErrOutside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// MoveAside moves the links themselves.
	if n, err := p.MoveAside(); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "1" {
		t.Errorf("what a link leads to: %q, %v", b, err)
	}
	for _, name := range []string{"losses.txt", "trained/x", "node_data/new/x"} {
		if err := p.Inside(name); err != nil {
			t.Error(err)
		}
	}
	// A link that stays inside the directory is allowed.
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", filepath.Join(dir, "trained"))); err != nil {
		t.Fatal(err)
	}
	if err := p.Inside("trained/x"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "previous")), os.Symlink(out, filepath.Join(dir, "previous")), os.WriteFile(filepath.Join(dir, "losses.txt"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.MoveAside(); !errors.Is(err, project.ErrOutside) {
		t.Errorf("previous leads out: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "losses.txt")); err != nil {
		t.Errorf("what could not be moved is gone: %v", err)
	}
}
