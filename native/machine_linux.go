// Memory, cores and usage on Linux, read from /proc and the control groups. All functions take
// the root of the file system, so that tests can simulate other machines.

package native

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AvailableRAM returns how many more bytes this process can use without making the machine swap
// or exceeding the limit of its control group.
func AvailableRAM() (int64, error) {
	avail, err := availableRAM(os.DirFS("/"))
	if err != nil {
		return 0, err
	}
	// ulimit -v and -d.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return avail, nil
	}
	for _, l := range []struct {
		resource int
		used     string
	}{{unix.RLIMIT_AS, "VmSize"}, {unix.RLIMIT_DATA, "VmData"}} {
		var r unix.Rlimit
		used, ok := field(status, l.used)
		if ok && unix.Getrlimit(l.resource, &r) == nil && r.Cur < math.MaxInt64 {
			avail = min(avail, max(0, int64(r.Cur)-used))
		}
	}
	return avail, nil
}

// Cores returns how many cores this process may use: those of its affinity, limited by its
// control group's quota rounded down to whole cores (at least 1). It rounds down because a
// throttled team of threads waits for its slowest member.
func Cores() int { return cores(os.DirFS("/"), runtime.NumCPU()) }

// PhysicalCores returns how many of the processors that this process may use are cores of their own, and
// not further threads of one: all where the system does not say, as in many virtual machines.
func PhysicalCores() int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return runtime.NumCPU()
	}
	var allowed []int
	for i := range 64 * len(set) {
		if set.IsSet(i) {
			allowed = append(allowed, i)
		}
	}
	return physicalCores(os.DirFS("/"), allowed)
}

// CPUTime returns the processor time of this process.
func CPUTime() (time.Duration, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("reading this process's usage: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

// UsageOf reads the usage of a running process. If the process has ended, even if its parent
// has not yet waited for it, the error wraps fs.ErrNotExist.
func UsageOf(pid int) (Usage, error) {
	u, err := usageOf(os.DirFS("/"), pid)
	if err == nil && pid == os.Getpid() {
		u.CPU, err = CPUTime() // finer than the ticks of /proc
	}
	return u, err
}

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// field finds "name: value kB" (meminfo, status) or "name value" (memory.stat) in the lines of
// a file. It converts kilobytes to bytes.
func field(data []byte, name string) (int64, bool) {
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 || strings.TrimSuffix(f[0], ":") != name {
			continue
		}
		v, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || v < 0 {
			return 0, false
		}
		if len(f) > 2 && f[2] == "kB" {
			if v > math.MaxInt64/1024 {
				return 0, false
			}
			v *= 1024
		}
		return v, true
	}
	return 0, false
}

func availableRAM(root fs.FS) (int64, error) {
	info, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w", err)
	}
	avail, ok := field(info, "MemAvailable")
	if !ok {
		return 0, errors.New("reading the machine's memory: /proc/meminfo has no MemAvailable; give the memory with --ram")
	}
	// The limits of parent groups apply too.
	groups(root, "memory", func(dir string, v2 bool) {
		names := [3]string{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
		if v2 {
			names = [3]string{"memory.max", "memory.current", "inactive_file"}
		}
		limit, ok1 := number(root, path.Join(dir, names[0]))
		used, ok2 := number(root, path.Join(dir, names[1]))
		if !ok1 || !ok2 {
			return // "max", the root group, or no such controller
		}
		// Cached file pages count as used, but are released when memory runs short.
		if stat, err := fs.ReadFile(root, path.Join(dir, "memory.stat")); err == nil {
			if cached, ok := field(stat, names[2]); ok {
				used -= min(used, cached)
			}
		}
		avail = min(avail, max(0, limit-used))
	})
	return avail, nil
}

func cores(root fs.FS, affinity int) int {
	n := affinity
	groups(root, "cpu", func(dir string, v2 bool) {
		var quota, period int64
		if v2 {
			data, err := fs.ReadFile(root, path.Join(dir, "cpu.max"))
			if err != nil {
				return
			}
			if _, err := fmt.Sscan(string(data), &quota, &period); err != nil {
				return // "max 100000"
			}
		} else {
			var ok1, ok2 bool
			quota, ok1 = number(root, path.Join(dir, "cpu.cfs_quota_us")) // -1: none
			period, ok2 = number(root, path.Join(dir, "cpu.cfs_period_us"))
			if !ok1 || !ok2 {
				return
			}
		}
		if quota > 0 && period > 0 {
			n = int(min(int64(n), quota/period))
		}
	})
	return max(1, n)
}

func physicalCores(root fs.FS, allowed []int) int {
	seen := map[string]bool{}
	for _, i := range allowed {
		siblings, err := fs.ReadFile(root, fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i))
		if err != nil {
			return len(allowed)
		}
		seen[string(siblings)] = true
	}
	return len(seen)
}

func number(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return v, err == nil && v >= 0
}

// groups calls f for this process's control group of a controller and for each of its parents,
// up to where the hierarchy is mounted.
func groups(root fs.FS, controller string, f func(dir string, v2 bool)) {
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return // no control groups: no limits
	}
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path; version 2 is hierarchy 0 without controllers.
		p := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(p) != 3 {
			continue
		}
		v2 := p[0] == "0" && p[1] == ""
		if !v2 && !has(p[1], controller) {
			continue
		}
		at, from, ok := mounted(string(mounts), controller, v2)
		if !ok {
			continue
		}
		// In a container the path may be the host's; then the mount itself is the group.
		rel, inside := strings.CutPrefix(path.Clean(p[2]), strings.TrimSuffix(from, "/"))
		if !inside || (rel != "" && rel[0] != '/') || strings.Contains(rel, "..") {
			rel = ""
		}
		for top := strings.TrimPrefix(at, "/"); ; rel = path.Dir(rel) {
			f(path.Join(top, rel), v2)
			if rel == "" || rel == "/" || rel == "." {
				break
			}
		}
	}
}

func has(list, item string) bool {
	for v := range strings.SplitSeq(list, ",") {
		if v == item {
			return true
		}
	}
	return false
}

// mounted returns where a hierarchy is mounted, and which of its groups is the mount's root.
// A line of mountinfo: id parent major:minor root mountpoint options [optional]... - type source superoptions
func mounted(mounts, controller string, v2 bool) (at, root string, ok bool) {
	for line := range strings.Lines(mounts) {
		left, right, found := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !found || len(l) < 5 || len(r) < 3 {
			continue
		}
		if v2 && r[0] == "cgroup2" || !v2 && r[0] == "cgroup" && has(r[2], controller) {
			return path.Clean(l[4]), path.Clean(l[3]), true
		}
	}
	return "", "", false
}

// ticks of /proc/PID/stat per second: USER_HZ, a constant of the interface.
const ticks = 100

func usageOf(root fs.FS, pid int) (Usage, error) {
	dir := "proc/" + strconv.Itoa(pid)
	status, err := fs.ReadFile(root, dir+"/status")
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = fs.ErrNotExist
		}
		return Usage{}, fmt.Errorf("usage of process %d: %w", pid, err)
	}
	var u Usage
	var ok1, ok2 bool
	u.RSS, ok1 = field(status, "VmRSS")
	u.PeakRSS, ok2 = field(status, "VmHWM")
	if !ok1 || !ok2 {
		return Usage{}, fmt.Errorf("usage of process %d: it has ended: %w", pid, fs.ErrNotExist)
	}
	stat, err := fs.ReadFile(root, dir+"/stat")
	if err != nil {
		return Usage{}, fmt.Errorf("usage of process %d: %w", pid, err)
	}
	// The command in parentheses may contain anything, including parentheses: count from the
	// last one.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return Usage{}, fmt.Errorf("usage of process %d: /proc/%d/stat has only %d fields after the command, want at least 13", pid, pid, len(f))
	}
	for _, s := range f[11:13] { // utime, stime
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil || v < 0 || v > math.MaxInt64/int64(time.Second) {
			return Usage{}, fmt.Errorf("usage of process %d: processor time %q is not a count of ticks", pid, s)
		}
		u.CPU += time.Duration(v) * (time.Second / ticks)
	}
	return u, nil
}
