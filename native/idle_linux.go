// Use of a Linux machine, by its terminals and by logind, which knows of desktops.

package native

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long nobody has typed at a terminal or used a desktop.
func silence() (time.Duration, string, error) {
	now := time.Now()
	silent, found := terminals("/dev", now)
	by := []string{"terminals"}[:min(1, found)]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	// Without a session it describes the whole machine.
	out, err := exec.CommandContext(ctx, "loginctl", "show-session", "--property=IdleHint", "--property=IdleSinceHint").Output()
	if err == nil {
		d, ok := hint(string(out), now)
		if ok {
			by = append(by, "logind")
			if found == 0 || d < silent {
				silent = d
			}
		}
	}
	if len(by) == 0 {
		return 0, "", errors.New("no terminal is open and logind does not answer")
	}
	return silent, strings.Join(by, " and "), nil
}

// terminals is how long none of the terminals below dev has been read from, and how many
// there are. The kernel notes the time of input in steps of eight seconds.
func terminals(dev string, now time.Time) (silent time.Duration, found int) {
	names, _ := filepath.Glob(filepath.Join(dev, "pts", "[0-9]*"))
	consoles, _ := filepath.Glob(filepath.Join(dev, "tty[0-9]*"))
	for _, name := range append(names, consoles...) {
		var st unix.Stat_t
		if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		d := max(0, now.Sub(time.Unix(st.Atim.Unix())))
		if found == 0 || d < silent {
			silent = d
		}
		found++
	}
	return silent, found
}

// hint reads logind's IdleHint and IdleSinceHint (microseconds since 1970).
func hint(out string, now time.Time) (silent time.Duration, ok bool) {
	var since int64
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "IdleHint":
			if value != "yes" && value != "no" {
				return 0, false
			}
			if ok = true; value == "no" {
				return 0, true
			}
		case "IdleSinceHint":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return 0, false
			}
			since = n
		}
	}
	if !ok || since == 0 { // idle for as long as it is known
		return 365 * 24 * time.Hour, ok
	}
	return max(0, now.Sub(time.UnixMicro(since))), true
}

// Nice makes all threads of this process give way to others': 0 to 19, as nice(1) counts. One
// that gives way further already stays as it is.
func Nice(n int) error {
	if raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-raw >= n {
		return nil
	}
	// The call is for one thread; those to come inherit from those that are.
	for range 2 {
		tasks, err := filepath.Glob("/proc/self/task/[0-9]*")
		if err != nil || len(tasks) == 0 {
			tasks = []string{"0"}
		}
		for _, t := range tasks {
			id, err := strconv.Atoi(filepath.Base(t))
			if err != nil {
				continue
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, id, n); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("setting the priority to nice %d: %w", n, err)
			}
		}
	}
	return nil
}
