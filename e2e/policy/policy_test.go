// Package policy checks what the compiler does not: which package may import which,
// and that every package says what it is for.
package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ravnest/ravnest/"

// file is one Go file of the tree: its directory and what it imports.
type file struct {
	path, dir string
	test      bool
	imports   []string
	doc       string
}

func tree(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var fs_ []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			n := d.Name()
			if path != root && (strings.HasPrefix(n, ".") || strings.HasPrefix(n, "_") || n == "testdata" || n == "node_modules" || n == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		x := file{path: filepath.ToSlash(rel), dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(path, "_test.go")}
		for _, im := range f.Imports {
			p, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				return err
			}
			x.imports = append(x.imports, p)
		}
		x.doc = docOf(f)
		fs_ = append(fs_, x)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(fs_) < 20 {
		t.Fatalf("only %d Go files found from %s", len(fs_), root)
	}
	return fs_
}

func docOf(f *ast.File) string {
	if f.Doc == nil {
		return ""
	}
	return f.Doc.Text()
}

// within tells whether a package path is dir or below it.
func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// layers is the direction of imports: a package may import those of its own line and
// of lines above it. Packages that are not listed are free.
var layers = [][]string{
	{"engine/kernel", "engine/state", "engine/codec", "engine/wire", "engine/job", "ga", "signaling/proto", "signaling/store"},
	{"engine/graph", "engine/format", "engine/data", "engine/transport", "signaling/client", "signaling/server"},
	{"engine/autodiff", "engine/zoo", "engine/fuse", "engine/loss", "engine/optim"},
	{"engine/exec"},
	{"engine/pipeline"},
	{"engine/train", "engine/planner"},
	{"engine/provider"},
	{"native", "wasm"},
	{"cmd"},
	{"e2e"},
}

func layer(dir string) int {
	for i, l := range layers {
		for _, d := range l {
			if within(dir, d) {
				return i
			}
		}
	}
	return -1
}

func TestDirectionOfImports(t *testing.T) {
	for _, f := range tree(t) {
		if f.test {
			continue
		}
		from := layer(f.dir)
		for _, im := range f.imports {
			pkg, ours := strings.CutPrefix(im, module)
			if !ours || from < 0 {
				continue
			}
			if to := layer(pkg); to > from {
				t.Errorf("%s imports %s, which is above it", f.path, pkg)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, f := range tree(t) {
		if f.test {
			continue
		}
		for _, im := range f.imports {
			bad := func(why string) { t.Errorf("%s imports %s: %s", f.path, im, why) }
			std := !strings.Contains(strings.SplitN(im, "/", 2)[0], ".")
			switch {
			case strings.HasPrefix(im, "github.com/pion/") && !within(f.dir, "engine/transport/rtc"):
				bad("only engine/transport/rtc speaks WebRTC")
			case within(f.dir, "engine") && !within(f.dir, "engine/transport/rtc") && slices.Contains([]string{"os", "net", "log", "os/exec", "net/http"}, im):
				bad("the engine sees the world through interfaces")
			case f.dir == "signaling/proto" && !std:
				bad("proto is the standard library only")
			case within(f.dir, "ga") && strings.HasPrefix(im, module+"engine"):
				bad("the planner gets numbers, not models")
			case within(f.dir, "signaling/server") && strings.HasPrefix(im, module+"engine"):
				bad("the host never runs a model")
			case f.dir == "engine/kernel" && !std && im != "golang.org/x/sys/cpu":
				bad("kernels are float32 slices only")
			case im == "syscall/js" && !strings.HasSuffix(f.path, "_js.go") && !within(f.dir, "wasm"):
				bad("the browser is behind _js.go twins")
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	doc := map[string]bool{}
	for _, f := range tree(t) {
		if f.test && f.dir != "e2e/policy" {
			continue
		}
		doc[f.dir] = doc[f.dir] || strings.HasPrefix(f.doc, "Package ") || strings.HasPrefix(f.doc, "Command ")
	}
	for dir, ok := range doc {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// TestTopLevel: the tree's rooms are fixed.
func TestTopLevel(t *testing.T) {
	allowed := []string{
		"go.mod", "go.sum", "cmd", "wasm", "signaling", "native", "engine", "ga", "site", "e2e", "Makefile",
		"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", ".ci", ".git", ".gitignore", "bin", "OUT",
	}
	es, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if !slices.Contains(allowed, e.Name()) && !strings.HasSuffix(e.Name(), ".jsonl") {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}
