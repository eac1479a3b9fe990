// What a host learns of its pool beyond the figures that providers give of themselves: round
// trips, who shares a machine with whom, and what runs and providers achieved by what was forecast.

package host

import (
	"cmp"
	"maps"
	"math"
	"net"
	"time"

	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/signaling/server"
)

// trips are round trips of links, by the names of both ends in alphabetical order.
type trips map[[2]string]time.Duration

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// note keeps what a provider has measured of its links. Of what both ends of a link say, the
// last counts.
func (t trips) note(name string, rtt map[string]time.Duration) {
	for peer, d := range rtt {
		t[pair(name, peer)] = d
	}
}

// between is the round trip between two members in seconds: as measured on their link, or
// else by way of the host, where both have measured theirs. On one machine it is not told: the
// way to the host takes as long as the host needs to answer.
func (t trips) between(a, b server.Member) float64 {
	if d, ok := t[pair(a.Name, b.Name)]; ok {
		return d.Seconds()
	}
	if a.RTT <= 0 || b.RTT <= 0 {
		return 0
	}
	return (a.RTT + b.RTT).Seconds()
}

// machines numbers the machines that members compute on, and tells how many cores each of those has,
// where that is known, and how many each member leaves free when all compute. Two threads of a core
// compute hardly more than one, but do serve links beside it. A tab cannot tell its machine: one on the
// host's own loopback interface is on the host's machine.
func machines(pool []server.Member) (number []int, cores, spare []float64) {
	known := map[string]int{}
	threads, whole, all, on := map[int]int{}, map[int]int{}, map[int]int{}, map[int]int{}
	for _, m := range pool {
		id := m.Hello.Machine
		if host, _, err := net.SplitHostPort(m.Addr); id == "" && err == nil && net.ParseIP(host).IsLoopback() {
			id = native.Processor()
		}
		if id == "" {
			number = append(number, -1)
			continue
		}
		k, ok := known[id]
		if !ok {
			k = len(known)
			known[id] = k
		}
		number = append(number, k)
		threads[k] = max(threads[k], m.Hello.Cores)
		whole[k] = max(whole[k], min(cmp.Or(m.Hello.Physical, m.Hello.Cores), m.Hello.Cores))
		all[k] += max(m.Hello.Threads, 1)
		on[k]++
	}
	for _, k := range number {
		if k < 0 || threads[k] == 0 {
			cores, spare = append(cores, 0), append(spare, 0)
			continue
		}
		spare = append(spare, float64(max(0, threads[k]-all[k]))/float64(on[k]))
		cores = append(cores, float64(max(1, whole[k])))
	}
	return number, cores, spare
}

// facts are what the planner is told of a pool.
func (r *roster) facts(pool []server.Member) planner.Facts {
	trips := maps.Clone(r.trips) // which links go on measuring
	f := form.Facts(r.p, r.achieved)
	f.Machine, f.Cores, f.Spare = machines(pool)
	model, took := planner.ModelOf(r.p.Graph, r.p.Job.BatchSize), r.loads.took()
	for _, m := range pool {
		f.Took = append(f.Took, took[m.Name])
		f.Gain, f.Threads = append(f.Gain, model.Gain(speeds(m.Hello))), append(f.Threads, m.Hello.Threads)
	}
	f.RTT = func(a, b int) float64 {
		if _, measured := trips[pair(pool[a].Name, pool[b].Name)]; !measured && f.Machine[a] >= 0 && f.Machine[a] == f.Machine[b] {
			return 0
		}
		return trips.between(pool[a], pool[b])
	}
	return f
}

// pace is how fast an attempt trains.
type pace struct {
	began    time.Time
	samples  int64   // trained before
	forecast float64 // samples a second, corrected by factor
	factor   float64 // 0: not corrected
}

// Shorter attempts say little.
const (
	paceTime    = 3 * time.Second
	paceBatches = 16
)

// learn is the factor by which later forecasts are to be corrected: what the attempt achieved
// by what was forecast; where a factor was known, the geometric mean of the two, so that one
// odd attempt does not count for all. false: there was too little to learn from.
func (p pace) learn(now time.Time, samples int64, batch int) (float64, bool) {
	took, n := now.Sub(p.began), samples-p.samples
	if p.began.IsZero() || p.forecast <= 0 || took < paceTime || n < int64(paceBatches*batch) {
		return 0, false
	}
	seen := float64(n) / took.Seconds() / p.forecast
	if p.factor > 0 {
		return p.factor * math.Sqrt(seen), true
	}
	return seen, true
}
