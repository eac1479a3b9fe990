// Package command runs ravnest for benchmarks, as its user does.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Bin is the directory of the binaries: that of RAVNEST_BIN, or bin.
func Bin() (string, error) {
	bin := os.Getenv("RAVNEST_BIN")
	if bin == "" {
		bin = "bin"
	}
	if _, err := os.Stat(filepath.Join(bin, "ravnest")); err != nil {
		return "", fmt.Errorf("%w: run make build, or name the directory of the binaries in RAVNEST_BIN", err)
	}
	return bin, nil
}

// Ravnest runs ravnest of the directory bin and decodes the JSON that it prints into result, unless
// that is nil.
func Ravnest(ctx context.Context, bin string, result any, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "ravnest"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ravnest %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), result); err != nil {
		return fmt.Errorf("ravnest %s printed %q: %w", strings.Join(args, " "), stdout.String(), err)
	}
	return nil
}
