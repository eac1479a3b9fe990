package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are what a reader is told to trust.
var documents = []string{"README.md", "cmd/README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CONTRIBUTING.md", "engine/kernel/README.md"}

var (
	code   = regexp.MustCompile("`([^`\n]+)`")
	aPath  = regexp.MustCompile(`^(?:\.\./)*[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.*-]+)+/?$`)
	target = regexp.MustCompile(`\bmake ([a-z][a-z0-9-]*)`)
	aTest  = regexp.MustCompile(`^(?:[a-z]+\.)?((?:Test|Benchmark|Fuzz)[A-Z]\w*)$`)
	link   = regexp.MustCompile(`\]\(([^)#\s]+)`)
)

// TestDocuments: every file, directory, make target and test that a document names is
// there.
func TestDocuments(t *testing.T) {
	root := filepath.Join("..", "..")
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t, root)
	for _, name := range documents {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, dir := string(b), filepath.Join(root, filepath.Dir(name))
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			switch s := m[1]; {
			case aTest.MatchString(s):
				if fn := aTest.FindStringSubmatch(s)[1]; !slices.Contains(tests, fn) {
					t.Errorf("%s names %s, and there is no such test", name, s)
				}
			case aPath.MatchString(s) && inTree(root, s):
				if found, err := filepath.Glob(filepath.Join(root, s)); err != nil || len(found) == 0 {
					t.Errorf("%s names %s, which is not there", name, s)
				}
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				if prose(m[1]) {
					continue
				}
				t.Errorf("%s says make %s, which the Makefile does not have", name, m[1])
			}
		}
	}
}

// TestGoInREADME: what README shows of Go is the example that the tests run, line for line.
func TestGoInREADME(t *testing.T) {
	root := filepath.Join("..", "..")
	lines := func(text string) (out []string) {
		for l := range strings.Lines(text) {
			if l = strings.TrimSpace(l); l != "" {
				out = append(out, l)
			}
		}
		return out
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "engine", "train", "example_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	shown, _, found := strings.Cut(rest, "```")
	_, body, _ := strings.Cut(string(example), "func Example() {\n")
	run, _, _ := strings.Cut(body, "// Output:")
	if got, want := lines(shown), lines(run); !found || !slices.Equal(got, want) {
		t.Errorf("README's Go is not that of engine/train/example_test.go: copy the body of Example\n%s", strings.Join(want, "\n"))
	}
}

// prose tells a verb's object from a target: "make a change".
func prose(word string) bool {
	return slices.Contains([]string{"a", "an", "the", "it", "them", "that", "this", "up", "sure", "one", "no", "then", "and", "is", "or", "for"}, word)
}

// inTree tells whether a path begins in one of the tree's own top-level folders.
func inTree(root, path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return slices.Contains([]string{"cmd", "wasm", "signaling", "native", "engine", "ga", "site", "e2e", ".ci"}, first)
}

// testNames are all tests, benchmarks and fuzz targets of the tree.
func testNames(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n := d.Name(); d.IsDir() && path != root && (strings.HasPrefix(n, ".") || n == "node_modules" || n == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names = append(names, fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
