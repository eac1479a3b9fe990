package run

// How often to save: what checkpoints cost against what losses would.

import (
	"math"
	"time"
)

const (
	// slowdown is the share of its speed that training loses while states are uploaded beside
	// it, by the links that both use.
	slowdown = 0.25
	// leastSpacing and mostSpacing are bounds, in the time that an upload takes.
	leastSpacing, mostSpacing = 2, 20
	// calm is how long a run is expected to go without a loss before any was seen: it counts
	// as much as one loss.
	calm = time.Hour
)

// Spacing is the time from one checkpoint to the next that costs a run least, by Young's rule
// (CACM 17(9), 1974): the square root of twice what a checkpoint costs times the mean time
// between two losses. cost is how long the dearest upload takes. The result stays within
// bounds, so that uploads neither take all of the time nor are rare.
func Spacing(cost, meanTime time.Duration) time.Duration {
	best := time.Duration(math.Sqrt(2 * slowdown * float64(cost) * float64(meanTime)))
	return min(max(best, leastSpacing*cost), mostSpacing*cost)
}

// meanTime is the mean time of training between losses, as far as it is known, when there were
// so many.
func (m *Machine) meanTime(now time.Time, losses int) time.Duration {
	return (m.Trained + now.Sub(m.Started) + calm) / time.Duration(losses+1)
}

// saving tells whether states are on their way to a checkpoint.
func (m *Machine) saving() bool {
	if len(m.Pending) > 0 || len(m.Saves) > 0 || m.busyUploading() {
		return true
	}
	for _, x := range m.assigned() {
		if len(x.Uploads) > 0 {
			return true
		}
	}
	return false
}
