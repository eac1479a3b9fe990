// How much garbage a provider lets lie.

package lend

import (
	"runtime/debug"
	"sync"

	"github.com/ravnest/ravnest/engine/provider"
)

const (
	// garbage is how much may lie before it is collected. A stage's own memory is allocated once;
	// what comes after it are packets, of which a small model's fill a small heap again within
	// a few batches. More than this costs more in caches and fresh pages than collections do.
	garbage = 32 << 20
	// program is what lives in a provider's heap beside the stage.
	program = 4 << 20
	// leastPercent holds where garbage, or what is lent, is small beside the stage.
	leastPercent = 50
)

// GCPercent is what debug.SetGCPercent should be given where the stage takes promised bytes, of
// lent ones; a promise of 0: there is no stage. Of what is lent beyond the promise, garbage takes at
// most a quarter.
func GCPercent(promised, lent int64) int {
	if promised <= 0 {
		return leastPercent
	}
	live := promised + program
	most := min(garbage, max(lent-live, 0)/4)
	return max(leastPercent, int(100*most/live))
}

// Collector returns what is to be told of each Update where lent bytes are lent: it sets how often
// this process collects garbage. It begins as for a provider without a stage.
func Collector(lent int64) func(provider.Update) {
	var mu sync.Mutex
	percent := leastPercent
	debug.SetGCPercent(percent)
	return func(u provider.Update) {
		mu.Lock()
		defer mu.Unlock()
		if n := GCPercent(u.Peak, lent); n != percent { // setting it stops the process for a moment
			percent = n
			debug.SetGCPercent(n)
		}
	}
}
