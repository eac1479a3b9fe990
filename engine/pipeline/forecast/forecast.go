// Package forecast tells how long an update of a pipeline will take, and how much of that
// each stage stands still, by walking the synchronous schedule (one forward, one backward)
// over stages, links and micro-batches with the costs of each. It is pure arithmetic: what
// the costs are is for others to measure.
package forecast

import "github.com/ravnest/ravnest/engine/pipeline/order"

// Stage is what one stage costs. Times are in seconds.
type Stage struct {
	Forward, Backward float64 // for each row
	// EachForward and EachBackward come with every micro-batch, however few its rows:
	// weights are read and kernels started.
	EachForward, EachBackward float64
	Update                    float64 // for each update
}

// Link is the connection of a stage with the next. Both directions work at once.
type Link struct {
	Out, Back float64 // bytes for each row: activations forwards, gradients backwards
	Seconds   float64 // for each byte
	Latency   float64 // seconds
	Work      float64 // seconds of computing for each byte, at both ends
}

// Pipeline is stages and the links between them, one fewer.
type Pipeline struct {
	Stages []Stage
	Links  []Link
	// Ahead bounds the batches that wait for their backward passes: where replicas take turns,
	// those of the units in flight. 0: no bound. Each is how many of them are of one replica.
	Ahead, Each int
}

// Result is how an update went.
type Result struct {
	Seconds float64
	Busy    []float64 // by stage: seconds that it computed
}

// Idle is the share of its time that the average stage stands still.
func (r Result) Idle() float64 {
	if r.Seconds <= 0 || len(r.Busy) == 0 {
		return 0
	}
	sum := 0.0
	for _, b := range r.Busy {
		sum += b
	}
	return max(0, 1-sum/(r.Seconds*float64(len(r.Busy))))
}

// Update walks one update over micro-batches of the given rows. Stage s of P starts a
// forward pass as long as fewer than P-s micro-batches wait for their backward pass, and
// sends when a pass is over; a link carries one message after the other.
func (p Pipeline) Update(rows []int) Result {
	return p.walk(rows, order.Pace{Stages: len(p.Stages), Group: max(1, len(rows)), Each: 1})
}

// Round walks a round of replicas that take turns, so many batches in parts. Their updates
// overlap as far as Ahead lets them; what an update costs comes with each batch.
func (p Pipeline) Round(batches, batch, parts int) Result {
	q := p
	q.Stages = append([]Stage(nil), p.Stages...)
	for i := range q.Stages {
		q.Stages[i].EachBackward += q.Stages[i].Update / float64(parts)
		q.Stages[i].Update = 0
	}
	rows := Split(batches, batch, parts)
	pace := order.Pace{Stages: len(p.Stages), Group: max(1, len(rows)), Each: 1}
	if p.Ahead > 0 {
		parts, each := len(rows)/batches, max(1, p.Each)
		pace.Group, pace.Each, pace.More = p.Ahead*parts, each*parts, max(0, p.Ahead-each*len(p.Stages))*parts
	}
	return q.walk(rows, pace)
}

// walk is Update at a pace.
func (p Pipeline) walk(rows []int, pace order.Pace) Result {
	n, m := len(p.Stages), len(rows)
	res := Result{Busy: make([]float64, n)}
	act, grad := make([][]float64, n), make([][]float64, n) // by stage: when the tensors of micro-batch i are there
	free := make([]float64, n)
	forwards, backwards := make([]int, n), make([]int, n)
	linkOut, linkBack := make([]float64, n), make([]float64, n)
	for s := range n {
		act[s], grad[s] = make([]float64, 0, m), make([]float64, 0, m)
	}
	for range m {
		act[0], grad[n-1] = append(act[0], 0), append(grad[n-1], 0)
	}
	// work lets stage s compute, from when its input is there.
	work := func(s int, from, seconds float64) {
		free[s] = max(free[s], from) + seconds
		res.Busy[s] += seconds
	}
	send := func(s int, l Link, line *float64, bytes float64) (arrival float64) {
		work(s, 0, bytes*l.Work)
		*line = max(*line, free[s]) + bytes*l.Seconds
		return *line + l.Latency
	}
	for done := 0; done < n; {
		done = 0
		for s := range n {
			st := p.Stages[s]
			for backwards[s] < m {
				i, k := forwards[s], backwards[s]
				if i < m && (i == k || i-k < pace.Depth(s) && pace.Place(i)-pace.Place(k) < pace.Ahead(s)) {
					if i >= len(act[s]) {
						break // still to come
					}
					r := float64(rows[i])
					cost := st.EachForward + r*st.Forward
					if s > 0 {
						cost += r * p.Links[s-1].Out * p.Links[s-1].Work
					}
					work(s, act[s][i], cost)
					forwards[s]++
					if s+1 < n {
						l := p.Links[s]
						act[s+1] = append(act[s+1], send(s, l, &linkOut[s], r*l.Out))
					}
					continue
				}
				if k >= len(grad[s]) {
					break
				}
				r := float64(rows[k])
				cost := st.EachBackward + r*st.Backward
				if s+1 < n {
					cost += r * p.Links[s].Back * p.Links[s].Work
				}
				work(s, grad[s][k], cost)
				backwards[s]++
				if s > 0 {
					l := p.Links[s-1]
					grad[s-1] = append(grad[s-1], send(s, l, &linkBack[s], r*l.Back))
				}
				if backwards[s] == m {
					work(s, 0, st.Update)
				}
			}
			if backwards[s] == m {
				done++
			}
		}
	}
	for _, t := range free {
		res.Seconds = max(res.Seconds, t)
	}
	return res
}

// Split is the rows of the micro-batches of an update of several batches, each in parts of
// equal size but the last.
func Split(batches, batch, micro int) []int {
	var rows []int
	each := (batch + micro - 1) / micro
	for range batches {
		for left := batch; left > 0; left -= each {
			rows = append(rows, min(each, left))
		}
	}
	return rows
}

// enough is how much faster more micro-batches must be to be worth it: costs are estimates.
const enough = 0.01

// MicroBatches chooses into how many parts, at most most, a batch is split so that an
// update of so many batches, or a round where Ahead bounds what is in flight, is over
// soonest. Of numbers that are as good within a percent it takes the smallest. fits says which
// numbers may be chosen; 0 is returned if none may.
func (p Pipeline) MicroBatches(batches, batch, most int, fits func(n int) bool) (best int, r Result) {
	last := 0
	for n := 1; n <= min(batch, most); n++ {
		each := (batch + n - 1) / n
		if each == last {
			continue // the same parts as with one fewer
		}
		last = each
		if best > 0 && len(p.Stages) == 1 {
			break // nobody waits, so that more parts only cost more
		}
		var q Result
		if p.Ahead > 0 {
			q = p.Round(batches, batch, n)
		} else {
			q = p.Update(Split(batches, batch, n))
		}
		if (best == 0 || q.Seconds < r.Seconds*(1-enough)) && fits(n) {
			best, r = n, q
		}
	}
	return best, r
}
