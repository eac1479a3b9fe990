//go:build !unix

// Children on systems without process groups.

package native

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

func end(p *os.Process, _ bool) { _ = p.Kill() }

// ended cannot be implemented here without reaping the process.
func ended(int) bool { return false }
