package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPack packs this very test's program, twice, from files of another age: the same bytes,
// with the modules that it is made of.
func TestPack(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	results := []map[string][]byte{{}, {}}
	for i, all := range results {
		in, out := t.TempDir(), t.TempDir()
		var dirs []string
		for _, d := range []string{"linux-arm64", "windows-amd64"} {
			dir := filepath.Join(in, d)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(dir, "ravnest")
			if err := os.WriteFile(name, program, 0o600); err != nil {
				t.Fatal(err)
			}
			old := time.Unix(int64(1e9*i), 0)
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, dir)
		}
		r := release{version: "v1.2.3", at: time.Unix(1_700_000_000, 0).UTC(), root: filepath.Join("..", "..", ".."), out: out}
		if err := r.make(dirs); err != nil {
			t.Fatal(err)
		}
		names, _ := filepath.Glob(filepath.Join(out, "*"))
		for _, n := range names {
			if all[filepath.Base(n)], err = os.ReadFile(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	a := results[0]
	if len(a) != 4 {
		t.Fatalf("%d files, want two archives, a bill of materials and checksums", len(a))
	}
	for name, data := range a {
		if !bytes.Equal(data, results[1][name]) {
			t.Errorf("%s is not the same twice", name)
		}
		if name != "SHA256SUMS" && !strings.Contains(string(a["SHA256SUMS"]), fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name)) {
			t.Errorf("no checksum of %s", name)
		}
	}
	gz, err := gzip.NewReader(bytes.NewReader(a["ravnest_v1.2.3_linux_arm64.tar.gz"]))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int64{}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = h.Mode
	}
	for name, mode := range map[string]int64{"ravnest": 0o755, "LICENSE": 0o644, "deploy/ravnest-provider.service": 0o644} {
		if seen["ravnest_v1.2.3_linux_arm64/"+name] != mode {
			t.Errorf("%s has mode %o in %v", name, seen["ravnest_v1.2.3_linux_arm64/"+name], seen)
		}
	}
	data := a["ravnest_v1.2.3_windows_amd64.zip"]
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		if strings.ContainsAny(f.Name, `:*?"<>|\`) || strings.Contains(f.Name, "deploy/") {
			t.Errorf("%s is in the archive for Windows", f.Name)
		}
	}
	var bom struct {
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(a["ravnest_v1.2.3_sbom.cdx.json"], &bom); err != nil {
		t.Fatal(err)
	}
	for _, c := range bom.Components {
		if c.Name == "" || c.Version == "" {
			t.Errorf("a component without a name or a version: %+v", c)
		}
	}
	r := release{version: "a:b", out: t.TempDir()}
	if r.make(nil) == nil {
		t.Error("a version with a colon was taken")
	}
}
