// How long providers compute for what they train, beside what was forecast: who turns out to be slower than
// its benchmark says, as a laptop that gets warm, gets less to do when a run is planned anew.

package host

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// load is what a provider computes for samples, by its reports.
type load struct {
	last    time.Time
	samples int64 // of the attempt, at the last report
	// Seconds that it computed and what it trained in them. What is older counts less.
	busy, trained float64
}

// Reports count half after loadHalf. A provider is corrected by no less than tookLeast: forecasts of one
// stage beside another are no better, and nobody is to move after a loss for that. Where a batch takes
// less than leastWork, what it takes is mostly what a forecast does not know.
const (
	loadHalf  = time.Minute
	tookLeast = 1.5
	leastWork = 5e-3 // seconds
)

// report adds a report: how many samples of the attempt are trained, and which part of the time since the
// last report it computed.
func (l load) report(now time.Time, samples int64, busy float64) load {
	if d := now.Sub(l.last).Seconds(); !l.last.IsZero() && d > 0 && samples >= l.samples {
		keep := math.Exp2(-d / loadHalf.Seconds())
		l.busy, l.trained = keep*l.busy+d*busy, keep*l.trained+float64(samples-l.samples)
	}
	l.last, l.samples = now, samples
	return l
}

// took is how many times as long as forecast the providers of an attempt computed for a sample, by name:
// beside one another, since what all have in common is planner.Facts.Achieved. forecast are seconds for a sample,
// corrected by what was known before. Whoever is known already comes half as far: one odd attempt does
// not count for all. What was known of others stays.
func took(loads map[string]load, forecast, before map[string]float64, batch int) map[string]float64 {
	seen, sum := map[string]float64{}, 0.0
	for name, l := range loads {
		if f := forecast[name]; f*float64(batch) >= leastWork && l.busy > 0 && l.trained >= float64(paceBatches*batch) {
			seen[name] = math.Log(l.busy / l.trained / f)
			sum += seen[name]
		}
	}
	all := maps.Clone(before)
	if all == nil {
		all = map[string]float64{}
	}
	for name, t := range seen {
		t -= sum / float64(len(seen))
		if was := before[name]; was > 0 {
			t = math.Log(was) + t/2
		}
		if delete(all, name); math.Abs(t) > math.Log(tookLeast) {
			all[name] = math.Exp(t)
		}
	}
	return all
}

// seen says for people what was found.
func seen(took map[string]float64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(took)) {
		verb := ""
		if len(parts) == 0 {
			verb = " took"
		}
		parts = append(parts, fmt.Sprintf("%s%s %.2f times", name, verb, took[name]))
	}
	return strings.Join(parts, ", ") + " as long as forecast, beside the others"
}

// loads are those of the attempt that trains. The reporter tells it what comes in while plans are made, so
// it has a lock of its own.
type loads struct {
	mu       sync.Mutex
	batch    int
	of       map[string]load
	forecast map[string]float64
	before   map[string]float64 // that the attempt was planned with
}

// begin notes that an attempt trains, as it was planned.
func (l *loads) begin(p placed, batch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch, l.of, l.forecast, l.before = batch, map[string]load{}, map[string]float64{}, p.took
	if p.plan == nil {
		return
	}
	for _, c := range p.plan.Clusters {
		for _, s := range c.Stages {
			l.forecast[s.Name] = s.Seconds
		}
	}
}

// report adds a provider's report.
func (l *loads) report(now time.Time, name string, samples int64, busy float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forecast[name] > 0 {
		l.of[name] = l.of[name].report(now, samples, busy)
	}
}

// took is what is known by now.
func (l *loads) took() map[string]float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return took(l.of, l.forecast, l.before, l.batch)
}
