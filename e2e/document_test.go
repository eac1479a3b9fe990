package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedCommands: every command and flag that the documents mention appears in the
// help of the programs.
func TestDocumentedCommands(t *testing.T) {
	command := regexp.MustCompile("(?:bin/)?(ravnest(?:-provider)?)((?: [^\\s`#|]+)*)")
	flag := regexp.MustCompile(`^--([a-z][a-z-]*)`)
	helps := map[string]string{}
	help := func(args ...string) string {
		key := strings.Join(args, " ")
		if _, ok := helps[key]; !ok {
			out, err := exec.Command(filepath.Join(bin, args[0]), append(args[1:], "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("%s --help: %v\n%s", key, err, out)
			}
			helps[key] = string(out)
		}
		return helps[key]
	}
	seen := 0
	for _, name := range []string{"README.md", "cmd/README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CONTRIBUTING.md"} {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string // of code
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "    ") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		for i, s := range strings.Split(string(b), "`") {
			if i%2 == 1 {
				lines = append(lines, s)
			}
		}
		for _, line := range lines {
			m := command.FindStringSubmatch(line)
			if m == nil || !strings.HasPrefix(line, m[0]) {
				continue
			}
			args, words := []string{m[1]}, strings.Fields(m[2])
			if len(words) > 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(words[0]) {
				args = append(args, words[0])
				if !regexp.MustCompile(`(?m)^\s+` + words[0] + `[\s,]`).MatchString(help(m[1])) {
					t.Errorf("%s: %q: %s has no command %s", name, line, m[1], words[0])
					continue
				}
			}
			for _, w := range words {
				f := flag.FindStringSubmatch(w)
				if f == nil {
					continue
				}
				seen++
				if !regexp.MustCompile(`--` + f[1] + `\b`).MatchString(help(args...)) {
					t.Errorf("%s: %q: %s has no flag --%s", name, line, strings.Join(args, " "), f[1])
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d flags were found in the documents: the test does not read them correctly", seen)
	}
}
