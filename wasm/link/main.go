// Command link makes a linked Go program take its memory from outside: it replaces the memory
// of a js/wasm binary by the import env.memory. The kernels' module can then be instantiated
// first, on the same memory, and its functions become imports of the Go program, without any
// JavaScript in between. It also makes the program smaller to fetch.
//
//	link [-shared] [-lines] -o OUT IN     rewrites IN, without the tables of lines unless -lines is given
//	link -run LOADER IN ARGS              rewrites IN and runs it in Node, for go test -exec
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "link:", err)
		os.Exit(1)
	}
}

func run() error {
	shared := flag.Bool("shared", false, "make the memory shared between workers")
	lines := flag.Bool("lines", false, "keep the tables of lines, which traces of a crash show")
	out := flag.String("o", "", "`FILE` to write")
	loader := flag.String("run", "", "the `SCRIPT` that runs the program in Node")
	flag.Parse()
	if flag.NArg() < 1 || (*out == "") == (*loader == "") {
		return errors.New("usage: link [-shared] [-lines] -o OUT IN, or link -run LOADER IN ARGS")
	}
	in, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		return err
	}
	b, err := Import(in, *shared)
	if err == nil {
		b, err = compact(b, *lines || *loader != "")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag.Arg(0), err)
	}
	if *out != "" {
		return os.WriteFile(*out, b, 0o644)
	}
	dir, err := os.MkdirTemp("", "link-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	prog := filepath.Join(dir, "program.wasm")
	if err := os.WriteFile(prog, b, 0o600); err != nil {
		return err
	}
	cmd, err := inNode(context.Background(), *loader, prog, flag.Args()[1:]...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// compact is Compact, but keeps the tables of lines where another release of Go has put them elsewhere:
// the program is then larger, and right.
func compact(b []byte, lines bool) ([]byte, error) {
	out, err := Compact(b, lines)
	if errors.Is(err, errTable) {
		fmt.Fprintf(os.Stderr, "link: %v: lines are kept, and a tab fetches more\n", err)
		return Compact(b, true)
	}
	return out, err
}

// inNode is the command that runs a program in Node.
func inNode(ctx context.Context, loader, prog string, args ...string) (*exec.Cmd, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("asking go where it is: %w", err)
	}
	cmd := exec.CommandContext(ctx, "node", append([]string{"--stack-size=8192", "--experimental-wasm-relaxed-simd", loader, prog}, args...)...)
	cmd.Env = append(os.Environ(), "WASM_EXEC="+filepath.Join(strings.TrimSpace(string(root)), "lib/wasm/wasm_exec.js"))
	return cmd, nil
}
