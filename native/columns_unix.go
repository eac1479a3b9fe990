//go:build linux || darwin

// The width of a terminal.

package native

import (
	"os"

	"golang.org/x/sys/unix"
)

// Columns returns the width of the terminal f, or 0 if it is unknown.
func Columns(f *os.File) int {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(w.Col)
}
