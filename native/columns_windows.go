// The width of a console.

package native

import (
	"os"

	"golang.org/x/sys/windows"
)

// Columns returns the width of the console f, or 0 if it is unknown.
func Columns(f *os.File) int {
	var info windows.ConsoleScreenBufferInfo
	if windows.GetConsoleScreenBufferInfo(windows.Handle(f.Fd()), &info) != nil {
		return 0
	}
	return int(info.Window.Right-info.Window.Left) + 1
}
