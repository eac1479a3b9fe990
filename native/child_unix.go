//go:build unix && !linux

// Process groups without a death signal.

package native

import (
	"os"
	"os/exec"
	"syscall"
)

func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

func end(p *os.Process, force bool) {
	s := syscall.SIGTERM
	if force {
		s = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, s) // it may have ended
}

// ended cannot be implemented here without reaping the process.
func ended(int) bool { return false }
