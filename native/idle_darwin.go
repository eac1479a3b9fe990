// Use of a Mac, as the driver of its input devices counts it.

package native

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

var hidIdle = regexp.MustCompile(`"HIDIdleTime" = ([0-9]+)`)

// silence is how long no input device was used.
func silence() (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/ioreg", "-c", "IOHIDSystem", "-d", "4").Output()
	if err != nil {
		return 0, "", err
	}
	m := hidIdle.FindSubmatch(out)
	if m == nil {
		return 0, "", errors.New("ioreg tells no HIDIdleTime")
	}
	ns, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return 0, "", err
	}
	return time.Duration(ns), "input devices", nil
}
