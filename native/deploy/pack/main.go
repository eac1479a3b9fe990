// Command pack turns built programs into the archives of a release: the same bytes whenever
// and wherever it runs. Beside them it writes a bill of materials (CycloneDX), read from the
// programs themselves, and the checksums of all.
//
//	pack -version V -time SECONDS -out DIR DIR/linux-amd64 DIR/windows-amd64 ...
//
// A directory of programs is named after its system and processor.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

func main() {
	version := flag.String("version", "dev", "of the release")
	seconds := flag.Int64("time", 0, "of all files, in seconds since 1970")
	out := flag.String("out", "", "directory of the archives")
	root := flag.String("root", ".", "directory of the project")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	r := release{version: *version, at: time.Unix(*seconds, 0).UTC(), root: *root, out: *out}
	if err := r.make(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

type release struct {
	version   string
	at        time.Time
	root, out string
	modules   map[string]debug.Module // of all programs
	sums      []string
}

func (r *release) make(dirs []string) error {
	if strings.ContainsAny(r.version, `/\:*?"<>| `) || r.version == "" {
		return fmt.Errorf("the version %q cannot be a part of a file's name", r.version)
	}
	r.modules = map[string]debug.Module{}
	for _, dir := range dirs {
		if err := r.archive(dir); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	bom, err := r.bom()
	if err != nil {
		return err
	}
	if err := r.write("ravnest_"+r.version+"_sbom.cdx.json", bom); err != nil {
		return err
	}
	slices.Sort(r.sums)
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(strings.Join(r.sums, "")), 0o644)
}

// write writes a file of the release and notes its checksum, as sha256sum prints it.
func (r *release) write(name string, data []byte) error {
	sum := sha256.Sum256(data)
	r.sums = append(r.sums, fmt.Sprintf("%x  %s\n", sum, name))
	return os.WriteFile(filepath.Join(r.out, name), data, 0o644)
}

// entry is a file of an archive.
type entry struct {
	name string
	data []byte
	exec bool
}

// archive packs one system's programs with what goes with them.
func (r *release) archive(dir string) error {
	system, arch, ok := strings.Cut(filepath.Base(dir), "-")
	if !ok {
		return errors.New("the directory's name is not SYSTEM-PROCESSOR")
	}
	name := fmt.Sprintf("ravnest_%s_%s_%s", r.version, system, arch)
	var files []entry
	programs, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, p := range programs {
		data, err := os.ReadFile(filepath.Join(dir, p.Name()))
		if err != nil {
			return err
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name(), err)
		}
		for _, m := range info.Deps {
			r.modules[m.Path] = *m
		}
		files = append(files, entry{p.Name(), data, true})
	}
	for _, text := range []string{"LICENSE", "README.md", "cmd/README.md", "CHANGELOG.md"} {
		data, err := os.ReadFile(filepath.Join(r.root, text))
		if err != nil {
			return err
		}
		files = append(files, entry{name: text, data: data})
	}
	if system == "linux" {
		deploy := os.DirFS(filepath.Join(r.root, "native", "deploy"))
		for _, pattern := range []string{"*.service", "*.env", "*.json", "*.yaml", "Dockerfile"} {
			found, err := fs.Glob(deploy, pattern)
			if err != nil {
				return err
			}
			for _, f := range found {
				data, err := fs.ReadFile(deploy, f)
				if err != nil {
					return err
				}
				files = append(files, entry{name: path.Join("deploy", f), data: data})
			}
		}
	}
	slices.SortFunc(files, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var buf bytes.Buffer
	if system == "windows" {
		err = r.zip(&buf, name, files)
		name += ".zip"
	} else {
		err = r.tar(&buf, name, files)
		name += ".tar.gz"
	}
	if err != nil {
		return err
	}
	return r.write(name, buf.Bytes())
}

func (e *entry) mode() fs.FileMode {
	if e.exec {
		return 0o755
	}
	return 0o644
}

func (r *release) tar(w io.Writer, dir string, files []entry) error {
	gz, err := gzip.NewWriterLevel(w, gzip.BestCompression) // without a name and a time
	if err != nil {
		return err
	}
	t := tar.NewWriter(gz)
	for _, f := range files {
		h := &tar.Header{Name: path.Join(dir, f.name), Mode: int64(f.mode()), Size: int64(len(f.data)), ModTime: r.at, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), gz.Close())
}

func (r *release) zip(w io.Writer, dir string, files []entry) error {
	z := zip.NewWriter(w)
	for _, f := range files {
		h := &zip.FileHeader{Name: path.Join(dir, f.name), Method: zip.Deflate, Modified: r.at}
		h.SetMode(f.mode())
		out, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return z.Close()
}

// bom is the bill of materials: every module that is in one of the programs, with the hash
// by which Go's checksum database knows it.
func (r *release) bom() ([]byte, error) {
	type hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	type component struct {
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
		Hashes  []hash `json:"hashes,omitempty"`
	}
	var parts []component
	for _, m := range r.modules {
		if m.Replace != nil {
			m = *m.Replace
		}
		c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + m.Version}
		if b64, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
			sum, err := base64.StdEncoding.DecodeString(b64)
			if err != nil {
				return nil, fmt.Errorf("the checksum of %s: %w", m.Path, err)
			}
			c.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum)}}
		}
		parts = append(parts, c)
	}
	slices.SortFunc(parts, func(a, b component) int { return strings.Compare(a.PURL, b.PURL) })
	doc := map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"metadata": map[string]any{
			"timestamp": r.at.Format(time.RFC3339),
			"component": component{Type: "application", Name: "ravnest", Version: r.version, PURL: "pkg:golang/github.com/ravnest/ravnest@" + r.version},
		},
		"components": parts,
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}
