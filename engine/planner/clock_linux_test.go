package planner_test

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is a clock of what this goroutine computes, so that it does not count what other programs do
// on the machine. It keeps its thread.
func processorTime() func() time.Duration {
	runtime.LockOSThread()
	return func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			panic(err)
		}
		return time.Duration(t.Nano())
	}
}
