//go:build !linux

package planner_test

import "time"

// processorTime is the wall's clock, so that benchmarks want an idle machine.
func processorTime() func() time.Duration {
	begin := time.Now()
	return func() time.Duration { return time.Since(begin) }
}
