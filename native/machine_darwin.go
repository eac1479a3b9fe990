// Memory, cores and usage on macOS.

package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AvailableRAM returns half of the machine's memory: macOS uses most of the rest for caches,
// which cannot be told apart without private calls.
func AvailableRAM() (int64, error) {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w; give the memory with --ram", err)
	}
	return int64(min(n, 1<<62) / 2), nil
}

// Cores returns how many cores this process may use.
func Cores() int { return runtime.NumCPU() }

// PhysicalCores returns how many processors are cores of their own, and not further threads of one.
func PhysicalCores() int {
	n, err := unix.SysctlUint32("hw.physicalcpu")
	if err != nil || n == 0 {
		return runtime.NumCPU()
	}
	return min(int(n), runtime.NumCPU())
}

// CPUTime returns the processor time of this process.
func CPUTime() (time.Duration, error) {
	u, err := UsageOf(os.Getpid())
	return u.CPU, err
}

// UsageOf reads the usage of this process; RSS is its peak. Others are not supported.
func UsageOf(pid int) (Usage, error) {
	if pid != os.Getpid() {
		return Usage{}, fmt.Errorf("usage of another process: %w", errors.ErrUnsupported)
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return Usage{}, fmt.Errorf("reading this process's usage: %w", err)
	}
	// Maxrss is in bytes on macOS, in kilobytes elsewhere.
	return Usage{RSS: r.Maxrss, PeakRSS: r.Maxrss, CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano())}, nil
}

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TIOCGETA)
	return err == nil
}
