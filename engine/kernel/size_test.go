package kernel

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestAssemblyBudget holds the committed assembly to the lines that README.md grants each
// file.
func TestAssemblyBudget(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	budget := map[string]int{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(z_[a-z0-9_]+\\.s)` \\| ([0-9,]+) \\|").FindAllSubmatch(page, -1) {
		n, err := strconv.Atoi(strings.ReplaceAll(string(m[2]), ",", ""))
		if err != nil {
			t.Fatal(err)
		}
		budget[string(m[1])] = n
	}
	files, err := filepath.Glob("*.s")
	if err != nil || len(files) == 0 {
		t.Fatalf("no assembly found: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		limit, ok := budget[name]
		if lines := bytes.Count(text, []byte("\n")); !ok {
			t.Errorf("%s has no budget: README.md says what each file of assembly earns", name)
		} else if lines > limit {
			t.Errorf("%s has %d lines, README.md grants %d", name, lines, limit)
		}
		delete(budget, name)
	}
	for name := range budget {
		t.Errorf("README.md has a budget for %s, which is not there", name)
	}
}
