//go:build !linux && !darwin && !windows

// Fallbacks for other systems.

package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

// AvailableRAM is not supported here.
func AvailableRAM() (int64, error) {
	return 0, fmt.Errorf("reading the machine's memory on %s: %w; give the memory with --ram", runtime.GOOS, errors.ErrUnsupported)
}

// Cores returns how many cores this process may use.
func Cores() int { return runtime.NumCPU() }

// PhysicalCores returns how many of them are taken for cores of their own, and not threads of one: all.
func PhysicalCores() int { return runtime.NumCPU() }

// CPUTime is not supported here.
func CPUTime() (time.Duration, error) {
	return 0, fmt.Errorf("processor time on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// UsageOf is not supported here.
func UsageOf(int) (Usage, error) {
	return Usage{}, fmt.Errorf("process usage on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// IsTerminal reports whether f is a character device.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
