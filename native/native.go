// The package's doc comment, and code that does not depend on the system.

// Package native does what only a native machine can do for a job: measure the memory and cores
// that a process may use, save files so that a crash or a full disk loses nothing, lock files,
// turn signals into a context, and run child processes that do not outlive their parent.
//
// Linux is the reference. macOS and Windows have correct but coarser implementations. What a
// system cannot tell is an error that wraps errors.ErrUnsupported, never a guess.
package native

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// MaxSize is the largest size that ParseSize accepts, in bytes.
const MaxSize = 1 << 50

var sizeUnits = map[string]float64{
	"": 1e9, "b": 1,
	"k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

// ParseSize parses a size as people write it and returns bytes: "8" is 8 GB, as in Ravnest's
// node files; "8GB", "512 MB" and "1.5g" are decimal, "8GiB" is binary. The size must be at
// least one byte.
func ParseSize(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	number := strings.TrimRight(t, "abcdefghijklmnopqrstuvwxyz ")
	unit, known := sizeUnits[strings.TrimSpace(t[len(number):])]
	// Only digits and a dot: ParseFloat alone would take 0x1p9, 1e3, +1 and 1_0.
	plain := number != "" && len(number) <= 32 && strings.Trim(number, "0123456789.") == ""
	v, err := strconv.ParseFloat(number, 64)
	if !known || !plain || err != nil {
		return 0, fmt.Errorf("%.40q is not a size: write it like 8 (GB), 8GB, 512MB or 1.5GiB", s)
	}
	if v = math.Floor(v * unit); v < 1 || v > MaxSize {
		return 0, fmt.Errorf("%.40q is outside 1 byte to %s", s, FormatSize(MaxSize))
	}
	return int64(v), nil
}

// FormatSize formats a number of bytes in a decimal unit, as ParseSize reads it.
func FormatSize(n int64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if v := float64(n) / u.size; math.Abs(v) >= 0.9995 {
			return strconv.FormatFloat(v, 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

// Usage is a process's use of its machine.
type Usage struct {
	RSS     int64         // resident bytes now
	PeakRSS int64         // most resident bytes since it started
	CPU     time.Duration // user and system time of all its threads
}

// PeakRSS returns the most memory that this process has had resident, in bytes.
func PeakRSS() (int64, error) {
	u, err := UsageOf(os.Getpid())
	return u.PeakRSS, err
}
