// Package forecast tells how long an update of a pipeline will take, and how much of that
// each stage stands still, by walking the synchronous schedule (one forward, one backward)
// over stages, links and micro-batches with the costs of each. It is pure arithmetic: what
// the costs are is for others to measure.
package forecast

import (
	"math"
	"slices"
	"sort"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// Stage is what one stage costs. Times are in seconds.
type Stage struct {
	Forward, Backward float64 // for each row
	// EachForward and EachBackward come with every micro-batch, however few its rows:
	// weights are read and kernels started.
	EachForward, EachBackward float64
	Weight                    float64 // of Backward, what nobody waits for: the gradients of weights
	Update                    float64 // for each update
	// More is what a row of a micro-batch of 1, 2, 4 and more rows takes beside that, since what so many
	// take does not fit into caches: between them it is interpolated.
	More []Pass
	// Few is the rows below which a micro-batch is computed on one thread, and Slow by how much longer
	// that takes.
	Few  int
	Slow float64
	// Cores is how many of its machine's cores a pass takes that threads share; 0 and everything else: one.
	Cores int
}

// Pass is what a row takes forward and backward.
type Pass struct{ Forward, Backward float64 }

// more is More for a micro-batch.
func (s Stage) more(rows int) Pass {
	if len(s.More) == 0 {
		return Pass{}
	}
	at := min(math.Log2(float64(max(rows, 1))), float64(len(s.More)-1))
	i := int(at)
	a, b, f := s.More[i], s.More[min(i+1, len(s.More)-1)], at-math.Floor(at)
	return Pass{a.Forward + f*(b.Forward-a.Forward), a.Backward + f*(b.Backward-a.Backward)}
}

// slow is by how much longer a micro-batch takes.
func (s Stage) slow(rows int) float64 {
	if rows < s.Few && s.Slow > 1 {
		return s.Slow
	}
	return 1
}

// cores is how many of its machine's a micro-batch takes.
func (s Stage) cores(rows int) int {
	if rows < s.Few {
		return 1
	}
	return max(s.Cores, 1)
}

// ForwardTime is what a micro-batch takes forward.
func (s Stage) ForwardTime(rows int) float64 {
	return s.slow(rows) * (s.EachForward + float64(rows)*(s.Forward+s.more(rows).Forward))
}

// BackwardTime is what a micro-batch takes backward.
func (s Stage) BackwardTime(rows int) float64 {
	return s.slow(rows) * (s.EachBackward + float64(rows)*(s.Backward+s.more(rows).Backward))
}

// weightTime is what of that nobody waits for.
func (s Stage) weightTime(rows int) float64 { return s.slow(rows) * float64(rows) * s.Weight }

// Link is the connection of a stage with the next. Both directions work at once.
type Link struct {
	Out, Back float64 // bytes for each row: activations forwards, gradients backwards
	Seconds   float64 // for each byte
	Latency   float64 // seconds
	Wait      float64 // and seconds for each row, at most MostWait, in which the link is free for others
	MostWait  float64
	Work      float64 // seconds of computing for each byte, at both ends
	Each      float64 // and for the messages of a micro-batch, either way
}

// work is what each end computes for so many bytes of a micro-batch.
func (l Link) work(bytes float64) float64 { return l.Each + bytes*l.Work }

// Pipeline is stages and the links between them, one fewer.
type Pipeline struct {
	Stages []Stage
	Links  []Link
	// Ahead bounds the batches that wait for their backward passes: where replicas take turns,
	// those of the units in flight. 0: no bound. Each is how many of them are of one replica.
	Ahead, Each int
	// Halves: backward passes are in two halves, and gradients of weights fill idle time at the end of
	// an update, in the order of [order.NewZeroBubble].
	Halves bool
	// Machine numbers the machine of each stage, and Cores tells how many cores of each machine
	// the stages have, parts of one where others use it too. nil: each stage has a machine of its own.
	Machine []int
	Cores   []float64
}

// shared tells whether stages have to wait for a processor.
func (p Pipeline) shared() bool {
	on := make([]int, len(p.Cores))
	for k, m := range p.Machine {
		if on[m] += max(p.Stages[k].Cores, 1); float64(on[m]) > p.Cores[m] {
			return true
		}
	}
	return false
}

// processors are those of one machine: when each is free.
type processors struct {
	free  []float64
	cores float64 // that there are of them; less where others use them too
}

func (p Pipeline) processors() []processors {
	all := make([]processors, len(p.Cores))
	for m, c := range p.Cores {
		all[m].cores = max(c, 1e-3)
	}
	wide := make([]int, len(p.Cores))
	for k, m := range p.Machine {
		wide[m] += max(p.Stages[k].Cores, 1)
	}
	for m := range all {
		all[m].free = make([]float64, int(min(math.Ceil(all[m].cores), float64(wide[m]))))
	}
	return all
}

// at is when so many processors are free from a time on, or as soon after as any.
func (p *processors) at(from float64, cores int) float64 {
	slices.Sort(p.free)
	return max(from, p.free[min(cores, len(p.free))-1])
}

// take has so many processors work from a time on or as soon after as they are free, and returns when they
// are done. Those that have been free for the shortest time leave the others to those who come earlier.
func (p *processors) take(from, seconds float64, cores int) float64 {
	at := p.at(from, cores)
	last := sort.Search(len(p.free), func(i int) bool { return p.free[i] > at })
	end := at + seconds*max(1, float64(max(cores, len(p.free)))/p.cores)
	for i := max(last-cores, 0); i < last; i++ {
		p.free[i] = end
	}
	return end
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
	w := newWalk(p, rows, pace)
	if p.shared() {
		w.inTime()
	} else {
		w.inTurn()
	}
	for _, t := range w.free {
		w.res.Seconds = max(w.res.Seconds, t)
	}
	return w.res
}

// walk is a pipeline on its way through micro-batches.
type walk struct {
	Pipeline
	rows                []int
	pace                order.Pace
	act, grad           [][]float64 // by stage: when the tensors of micro-batch i are there
	free                []float64   // by stage
	forwards, backwards []int
	weights             []int  // second halves done
	turn                []bool // a first half was just done
	linkOut, linkBack   []float64
	machines            []processors // nil: nobody waits for one
	res                 Result
}

func newWalk(p Pipeline, rows []int, pace order.Pace) *walk {
	n, m := len(p.Stages), len(rows)
	w := &walk{
		Pipeline: p, rows: rows, pace: pace, res: Result{Busy: make([]float64, n)},
		act: make([][]float64, n), grad: make([][]float64, n), free: make([]float64, n),
		forwards: make([]int, n), backwards: make([]int, n), weights: make([]int, n), turn: make([]bool, n), linkOut: make([]float64, n), linkBack: make([]float64, n),
	}
	for s := range n {
		w.act[s], w.grad[s] = make([]float64, 0, m), make([]float64, 0, m)
	}
	for range m {
		w.act[0], w.grad[n-1] = append(w.act[0], 0), append(w.grad[n-1], 0)
	}
	return w
}

// inTurn lets each stage do all that it can before the next: times follow from what each waits
// for, in any order.
func (w *walk) inTurn() {
	for over := 0; over < len(w.Stages); {
		over = 0
		for s := range w.Stages {
			for {
				what, _, ok := w.next(s)
				if !ok {
					break
				}
				w.do(s, what)
			}
			if w.over(s) {
				over++
			}
		}
	}
}

// inTime does what begins first, since stages compete for processors.
func (w *walk) inTime() {
	w.machines = w.processors()
	for {
		first, at, what := -1, math.Inf(1), forward
		for s := range w.Stages {
			a, from, ok := w.next(s)
			if !ok {
				continue
			}
			if t := w.machines[w.Machine[s]].at(from, w.cores(s, a)); t < at {
				first, at, what = s, t, a
			}
		}
		if first < 0 {
			return
		}
		w.do(first, what)
	}
}

// pass is what a stage does for a micro-batch.
type pass int

const (
	forward pass = iota
	backward
	weight // the second half of a backward pass
)

// over tells whether a stage has done everything.
func (w *walk) over(s int) bool {
	return w.backwards[s] == len(w.rows) && (!w.Halves || w.weights[s] == len(w.rows))
}

// next is what a stage does next, and from when on it can; false: its input is still to come,
// or it has done everything.
func (w *walk) next(s int) (what pass, from float64, ok bool) {
	if w.over(s) {
		return forward, 0, false
	}
	i, k := w.forwards[s], w.backwards[s]
	ahead := i < len(w.rows)
	if w.Halves {
		due := k - w.weights[s]
		if due > 0 && (w.turn[s] && (due > s || !ahead) || !ahead && i == k) {
			return weight, w.free[s], true
		}
		slots := min(len(w.Stages), len(w.rows))
		ahead = ahead && i-k < len(w.Stages)-s && i-k+due < slots
	} else {
		ahead = ahead && (i == k || i-k < w.pace.Depth(s) && w.pace.Place(i)-w.pace.Place(k) < w.pace.Ahead(s))
	}
	if ahead {
		if i >= len(w.act[s]) {
			return forward, 0, false
		}
		return forward, max(w.free[s], w.act[s][i]), true
	}
	if i == k { // only second halves make room
		return weight, w.free[s], true
	}
	if k >= len(w.grad[s]) {
		return backward, 0, false
	}
	return backward, max(w.free[s], w.grad[s][k]), true
}

// do walks a stage's next pass with the receiving and sending that belong to it.
func (w *walk) do(s int, what pass) {
	w.turn[s] = what == backward
	switch what {
	case forward:
		w.forward(s)
	case backward:
		w.backward(s)
	case weight:
		w.work(s, 0, w.Stages[s].weightTime(w.rows[w.weights[s]]), w.cores(s, weight))
		w.weights[s]++
	}
	if what != forward && w.over(s) {
		w.work(s, 0, w.Stages[s].Update, 1)
	}
}

func (w *walk) forward(s int) {
	st, i := w.Stages[s], w.forwards[s]
	r := float64(w.rows[i])
	cost := st.ForwardTime(w.rows[i])
	if s > 0 {
		l := w.Links[s-1]
		cost += l.work(r * l.Out)
	}
	cores := w.cores(s, forward)
	w.forwards[s]++
	w.work(s, w.act[s][i], cost, cores)
	if s+1 < len(w.Stages) {
		w.act[s+1] = append(w.act[s+1], w.send(s, w.Links[s], &w.linkOut[s], r, r*w.Links[s].Out))
	}
}

func (w *walk) backward(s int) {
	st, k := w.Stages[s], w.backwards[s]
	r := float64(w.rows[k])
	cost := st.BackwardTime(w.rows[k])
	if w.Halves {
		cost -= st.weightTime(w.rows[k])
	}
	if s+1 < len(w.Stages) {
		l := w.Links[s]
		cost += l.work(r * l.Back)
	}
	cores := w.cores(s, backward)
	w.backwards[s]++
	w.work(s, w.grad[s][k], cost, cores)
	if s > 0 {
		l := w.Links[s-1]
		w.grad[s-1] = append(w.grad[s-1], w.send(s, l, &w.linkBack[s], r, r*l.Back))
	}
}

// cores is how many of its machine's stage s takes for its next pass.
func (w *walk) cores(s int, what pass) int {
	next := w.forwards[s]
	switch what {
	case backward:
		next = w.backwards[s]
	case weight:
		next = w.weights[s]
	}
	return w.Stages[s].cores(w.rows[next])
}

// work lets stage s compute on so many cores, from when its input is there.
func (w *walk) work(s int, from, seconds float64, cores int) {
	from = max(w.free[s], from)
	if w.machines != nil {
		w.free[s] = w.machines[w.Machine[s]].take(from, seconds, cores)
	} else {
		w.free[s] = from + seconds
	}
	w.res.Busy[s] += seconds
}

// send begins to send what stage s has just computed. The other end takes the first bytes while
// this one is busy with the next.
func (w *walk) send(s int, l Link, line *float64, rows, bytes float64) (arrival float64) {
	*line = max(*line, w.free[s]) + bytes*l.Seconds
	w.work(s, 0, l.work(bytes), 1)
	return *line + l.Latency + min(rows*l.Wait, l.MostWait)
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

// worse is how much slower more micro-batches of one stage must be for even more not to be tried.
const worse = 1.05

// MicroBatches chooses into how many parts, at most most, a batch is split so that an
// update of so many batches, or a round where Ahead bounds what is in flight, is over
// soonest. Of numbers that are as good within a percent it takes the smallest. fits says which
// numbers may be chosen; 0 is returned if none may.
func (p Pipeline) MicroBatches(batches, batch, most int, fits func(n int) bool) (best int, r Result) {
	// Asking what fits is dear. Where the best of all numbers does, it is the best of those
	// that fit.
	if best, r = p.microBatches(batches, batch, most, func(int) bool { return true }); fits(best) {
		return best, r
	}
	return p.microBatches(batches, batch, most, fits)
}

func (p Pipeline) microBatches(batches, batch, most int, fits func(n int) bool) (best int, r Result) {
	last := 0
	for n := 1; n <= min(batch, most); n++ {
		each := (batch + n - 1) / n
		if each == last {
			continue // the same parts as with one fewer
		}
		last = each
		var q Result
		if p.Ahead > 0 {
			q = p.Round(batches, batch, n)
		} else {
			q = p.Update(Split(batches, batch, n))
		}
		if best > 0 && len(p.Stages) == 1 && q.Seconds > r.Seconds*worse {
			break // nobody waits, so that even more parts only cost more
		}
		if (best == 0 || q.Seconds < r.Seconds*(1-enough)) && fits(n) {
			best, r = n, q
		}
	}
	return best, r
}
