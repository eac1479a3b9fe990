// Package policy checks what the compiler does not: which package may import which,
// and that every package says what it is for.
package policy

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	pathpkg "path"
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

// folders are the directories at the top level that hold the project.
var folders = []string{"cmd", "e2e", "engine", "ga", "native", "signaling", "site", "wasm"}

// tracked lists the files of the project as paths with slashes from root: those that git
// tracks and that are there. What else lies in a checkout (a demo's job, an editor's files,
// a scratch program) belongs to its owner. ok is false where there is no git to ask, as in
// an unpacked archive.
func tracked(t *testing.T, root string) (files []string, ok bool) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(root, ".git")); err != nil {
		return nil, false // another repository may begin above us
	}
	cmd := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "--cached")
	// Whose the checkout is does not matter for reading its list of files.
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_OPTIONAL_LOCKS=0")
	out, err := cmd.Output()
	if err != nil {
		t.Logf("git does not list the files (%v): names decide", err)
		return nil, false
	}
	// go test keeps results by the files that a test has looked at: this one knows what git tracks.
	if index, err := exec.CommandContext(t.Context(), "git", "-C", root, "rev-parse", "--git-path", "index").Output(); err == nil {
		path := strings.TrimSuffix(string(index), "\n")
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, path)
		}
		_, _ = os.Stat(path)
	}
	for name := range strings.SplitSeq(string(out), "\x00") {
		if name == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, filepath.FromSlash(name))); err == nil {
			files = append(files, name)
		}
	}
	return files, true
}

// listed is tracked, or without git what lies in the folders.
func listed(t *testing.T, root string) []string {
	t.Helper()
	files, ok := tracked(t, root)
	if ok {
		return files
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		first, _, deep := strings.Cut(rel, "/")
		switch n := d.Name(); {
		case d.IsDir() && (!slices.Contains(folders, first) || n == "node_modules" || n == "dist" || n[0] == '.'):
			return filepath.SkipDir
		case d.Type().IsRegular() && deep && n[0] != '.':
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// tree parses the Go files of the project, without modules of their own such as _gen.
func tree(t *testing.T) []file {
	t.Helper()
	return slices.DeleteFunc(sources(t), func(f file) bool { return strings.Contains(f.path, "/_") })
}

// sources parses all Go files of the project.
func sources(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []file
	for _, path := range listed(t, root) {
		skip := !strings.HasSuffix(path, ".go")
		for part := range strings.SplitSeq(path, "/") {
			skip = skip || part == "testdata" || part[0] == '.'
		}
		if !skip {
			all = append(all, parse(t, root, path))
		}
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found from %s", len(all), root)
	}
	return all
}

// parse reads the imports and the package comment of a file.
func parse(t *testing.T, root, path string) file {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(path)), nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	x := file{path: path, dir: pathpkg.Dir(path), test: strings.HasSuffix(path, "_test.go"), doc: docOf(f)}
	for _, im := range f.Imports {
		p, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		x.imports = append(x.imports, p)
	}
	return x
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
	{"engine/kernel", "engine/state", "engine/codec", "engine/wire", "engine/pipeline/order", "engine/job", "engine/strict", "ga", "signaling/proto", "signaling/store", "signaling/relay"},
	{"engine/graph", "engine/format", "engine/pipeline/snapshot", "engine/data", "engine/transport", "engine/provider/machine", "signaling/client", "signaling/run"},
	{"engine/autodiff", "engine/zoo", "engine/fuse", "engine/importer", "engine/exporter", "signaling/server", "signaling/simulate", "engine/loss", "engine/optim"},
	{"engine/exec"},
	{"engine/pipeline"},
	{"engine/train", "engine/planner"},
	{"engine/provider"},
	{"native", "wasm"},
	{"native/project", "native/dataset", "native/console", "native/members", "native/otlp"},
	{"native/form", "native/weights"},
	{"native/journal", "native/infer", "native/audit", "native/status"},
	{"native/local"},
	{"native/host"},
	{"native/demo"},
	{"cmd"},
	{"e2e"},
}

// layer is the line of the nearest folder above a package; -1: there is none.
func layer(dir string) int {
	line, nearest := -1, ""
	for i, l := range layers {
		for _, d := range l {
			if within(dir, d) && len(d) > len(nearest) {
				line, nearest = i, d
			}
		}
	}
	return line
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
			case strings.HasPrefix(im, "github.com/pion/") && !within(f.dir, "engine/transport/rtc") && f.dir != "signaling/relay":
				bad("only engine/transport/rtc speaks WebRTC, and signaling/relay TURN")
			case strings.HasPrefix(im, "github.com/nats-io/") && f.dir != "signaling/store/jetstream":
				bad("only signaling/store/jetstream speaks to NATS")
			case within(f.dir, "engine") && !within(f.dir, "engine/transport/rtc") && slices.Contains([]string{"os", "net", "log", "os/exec", "net/http"}, im):
				bad("the engine sees the world through interfaces")
			case f.dir == "signaling/proto" && !std:
				bad("proto is the standard library only")
			case within(f.dir, "ga") && strings.HasPrefix(im, module+"engine"):
				bad("the planner gets numbers, not models")
			case within(f.dir, "engine/pipeline/order") && (!std || slices.Contains([]string{"time", "context", "syscall"}, im)):
				bad("the order of work is a pure function of numbers")
			case within(f.dir, "signaling/server") && strings.HasPrefix(im, module+"engine") && !strings.HasPrefix(im, module+"engine/pipeline/order") && !strings.HasPrefix(im, module+"engine/pipeline/snapshot"):
				bad("the host never runs a model")
			case f.dir == "engine/kernel" && !std && im != "golang.org/x/sys/cpu":
				bad("kernels are float32 slices only")
			case im == "syscall/js" && !strings.HasSuffix(f.path, "_js.go") && !within(f.dir, "wasm"):
				bad("the browser is behind _js.go twins")
			}
		}
	}
}

// TestPureRooms: what decides sees no clock, no socket and no file, and can so be stored,
// restored and run under a virtual clock.
func TestPureRooms(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	seen := map[string]bool{}
	for _, f := range tree(t) {
		pure := f.dir == "signaling/run" || within(f.dir, "signaling/run/runtest") || within(f.dir, "engine/pipeline/order") || within(f.dir, "ga")
		if !pure || f.test {
			continue
		}
		seen[f.dir] = true
		for _, im := range f.imports {
			if top, _, _ := strings.Cut(im, "/"); slices.Contains([]string{"net", "os", "syscall", "log"}, top) {
				t.Errorf("%s imports %s: it decides, and sees nothing of the world", f.path, im)
			}
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", f.path), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, sel.Sel.Name) {
				t.Errorf("%s calls time.%s: time comes with events", f.path, sel.Sel.Name)
			}
			return true
		})
	}
	for _, dir := range []string{"signaling/run", "engine/pipeline/order", "ga"} {
		if !seen[dir] {
			t.Errorf("%s was not looked at", dir)
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

// TestTopLevel checks that the tree's folders are the ones agreed on. It looks at what git
// tracks, so a directory that the demo left or an editor's file does not matter.
func TestTopLevel(t *testing.T) {
	allowed := append(slices.Clone(folders),
		"go.mod", "go.sum", "Makefile", "README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md",
		"LICENSE", ".ci", ".gitattributes", ".gitignore")
	seen := map[string]bool{}
	for _, path := range listed(t, filepath.Join("..", "..")) {
		top, _, _ := strings.Cut(path, "/")
		if !seen[top] && !slices.Contains(allowed, top) {
			t.Errorf("%s does not belong at the top level", top)
		}
		seen[top] = true
	}
	for _, folder := range folders {
		if !seen[folder] {
			t.Errorf("there is no %s at the top level", folder)
		}
	}
}

// TestLocalFiles runs the listing in a repository with files of a user's own.
func TestLocalFiles(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git here: ", err)
	}
	root := filepath.Join(t.TempDir(), "a clone with spaces")
	write := func(name, text string) {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", root, "-c", "core.excludesFile="}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write("ga/ga.go", "package ga")
	write("ga/gone.go", "package ga")
	git("init", "-q")
	git("add", ".")
	if err := os.Remove(filepath.Join(root, "ga", "gone.go")); err != nil {
		t.Fatal(err)
	}
	for _, local := range []string{
		"ravnest-demo/job.json", "my job/scratch.go", "ga/.#ga.go", "ga/ga.go~", ".idea/workspace.xml",
		"site/node_modules/flatted/golang/flatted.go", "bench.jsonl", "broken.go",
	} {
		write(local, "this is not Go")
	}
	if got := listed(t, root); !slices.Equal(got, []string{"ga/ga.go"}) {
		t.Errorf("with git: %q", got)
	}
	if err := os.RemoveAll(filepath.Join(root, ".git")); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, root); !slices.Equal(got, []string{"ga/ga.go", "ga/ga.go~"}) {
		t.Errorf("without git: %q", got)
	}
}

// TestFunctionLength keeps functions short enough to be read at once.
func TestFunctionLength(t *testing.T) {
	const limit = 100 // lines, from func to the closing brace
	root, seen, generator := filepath.Join("..", ".."), 0, false
	for _, f := range sources(t) {
		generator = generator || within(f.dir, "engine/kernel/_gen")
		fset := token.NewFileSet()
		x, err := parser.ParseFile(fset, filepath.Join(root, filepath.FromSlash(f.path)), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(x) {
			continue
		}
		for _, d := range x.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			seen++
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > limit {
				t.Errorf("%s: %s has %d lines, at most %d are allowed: split it", f.path, fn.Name.Name, n, limit)
			}
		}
	}
	if seen < 1000 || !generator {
		t.Fatalf("%d functions were seen (the kernels' generator: %t)", seen, generator)
	}
}
