// Use of a Windows machine, and priorities.

package native

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

var (
	lastInput = windows.NewLazySystemDLL("user32.dll").NewProc("GetLastInputInfo")
	tickCount = kernel32.NewProc("GetTickCount")
)

// silence is how long this session has had no input.
func silence() (time.Duration, string, error) {
	// LASTINPUTINFO
	info := struct{ size, time uint32 }{size: 8}
	if ok, _, err := lastInput.Call(uintptr(unsafe.Pointer(&info))); ok == 0 {
		return 0, "", err
	}
	now, _, _ := tickCount.Call()
	return time.Duration(uint32(now)-info.time) * time.Millisecond, "the session's input", nil
}

// Nice makes this process give way to others': from 1 on below normal, from 15 on only when
// nobody else computes.
func Nice(n int) error {
	class := uint32(windows.NORMAL_PRIORITY_CLASS)
	switch {
	case n >= 15:
		class = windows.IDLE_PRIORITY_CLASS
	case n > 0:
		class = windows.BELOW_NORMAL_PRIORITY_CLASS
	}
	if err := windows.SetPriorityClass(windows.CurrentProcess(), class); err != nil {
		return fmt.Errorf("setting the priority: %w", err)
	}
	return nil
}
