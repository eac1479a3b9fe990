//go:build !linux && !darwin && !windows

// What can be said on systems that nobody has taught this package about.

package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

// AvailableRAM is not known here.
func AvailableRAM() (int64, error) {
	return 0, fmt.Errorf("reading the machine's memory on %s: %w; give the memory with --ram", runtime.GOOS, errors.ErrUnsupported)
}

// Cores is how many cores this process may use.
func Cores() int { return runtime.NumCPU() }

// CPUTime is not known here.
func CPUTime() (time.Duration, error) {
	return 0, fmt.Errorf("processor time on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// UsageOf is not known here.
func UsageOf(int) (Usage, error) {
	return Usage{}, fmt.Errorf("process usage on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// IsTerminal says whether f is a character device.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
