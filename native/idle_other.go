//go:build !linux && !darwin && !windows

package native

import (
	"errors"
	"time"
)

func silence() (time.Duration, string, error) { return 0, "", errors.ErrUnsupported }
