// Memory, cores and usage on Windows.

package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

var (
	kernel32     = windows.NewLazySystemDLL("kernel32.dll")
	memoryStatus = kernel32.NewProc("GlobalMemoryStatusEx")
	memoryInfo   = kernel32.NewProc("K32GetProcessMemoryInfo")
)

// AvailableRAM returns the physical memory that is free or can be freed at once, in bytes.
func AvailableRAM() (int64, error) {
	// MEMORYSTATUSEX
	var m struct {
		length, load               uint32
		total, available           uint64
		totalPage, availablePage   uint64
		totalVirtual, availVirtual uint64
		availableExtended          uint64
	}
	m.length = uint32(unsafe.Sizeof(m))
	if ok, _, err := memoryStatus.Call(uintptr(unsafe.Pointer(&m))); ok == 0 {
		return 0, fmt.Errorf("reading the machine's memory: %w; give the memory with --ram", err)
	}
	return int64(min(m.available, 1<<62)), nil
}

// Cores returns how many cores this process may use.
func Cores() int { return runtime.NumCPU() }

// PhysicalCores returns how many of them are taken for cores of their own, and not threads of one: all.
func PhysicalCores() int { return runtime.NumCPU() }

// CPUTime returns the processor time of this process.
func CPUTime() (time.Duration, error) {
	var created, ended, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &created, &ended, &kernel, &user); err != nil {
		return 0, fmt.Errorf("reading this process's usage: %w", err)
	}
	ns := func(f windows.Filetime) int64 { return (int64(f.HighDateTime)<<32 | int64(f.LowDateTime)) * 100 }
	return time.Duration(ns(kernel) + ns(user)), nil
}

// UsageOf reads the usage of this process. Others are not supported.
func UsageOf(pid int) (Usage, error) {
	if pid != os.Getpid() {
		return Usage{}, fmt.Errorf("usage of another process: %w", errors.ErrUnsupported)
	}
	// PROCESS_MEMORY_COUNTERS
	var m struct {
		size, faults  uint32
		peak, working uintptr
		rest          [6]uintptr
	}
	m.size = uint32(unsafe.Sizeof(m))
	if ok, _, err := memoryInfo.Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&m)), uintptr(m.size)); ok == 0 {
		return Usage{}, fmt.Errorf("reading this process's usage: %w", err)
	}
	cpu, err := CPUTime()
	return Usage{RSS: int64(m.working), PeakRSS: int64(m.peak), CPU: cpu}, err
}

// IsTerminal reports whether f is a console.
func IsTerminal(f *os.File) bool {
	var mode uint32
	return windows.GetConsoleMode(windows.Handle(f.Fd()), &mode) == nil
}
