//go:build !linux && !darwin && !windows

// Systems on which the width of a terminal is not known.

package native

import "os"

// Columns is not supported here.
func Columns(*os.File) int { return 0 }
