//go:build unix

package main

import (
	"syscall"
	"time"
)

// now is the processor time of this process if it works alone on one thread, else the time of
// day: what else the machine does counts little then.
func now(threads int) time.Duration {
	var u syscall.Rusage
	if threads > 1 || syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
