//go:build unix && !linux

package native

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Nice makes this process give way to others': 0 to 19, as nice(1) counts.
func Nice(n int) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, n); err != nil {
		return fmt.Errorf("setting the priority to nice %d: %w", n, err)
	}
	return nil
}
