package forecast_test

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/forecast"
)

func equal(n int) forecast.Pipeline {
	p := forecast.Pipeline{Links: make([]forecast.Link, n-1)}
	for range n {
		p.Stages = append(p.Stages, forecast.Stage{Forward: 1, Backward: 2})
	}
	return p
}

func always(int) bool { return true }

// Without links and overheads P equal stages and m micro-batches take (m+P-1)/m times what
// one stage computes: the bubble of the literature.
func TestBubble(t *testing.T) {
	for n := 1; n <= 6; n++ {
		for m := n; m <= 16; m++ {
			r := equal(n).Update(forecast.Split(1, 2*m, m))
			want, idle := 3*2*float64(m+n-1), float64(n-1)/float64(m+n-1)
			if math.Abs(r.Seconds-want) > 1e-9 || math.Abs(r.Idle()-idle) > 1e-9 {
				t.Errorf("%d stages, %d micro-batches: %v s, idle %v, want %v s, %v", n, m, r.Seconds, r.Idle(), want, idle)
			}
		}
	}
}

// A schedule small enough to walk by hand: two stages, two micro-batches of one row, a
// link of half a second each way.
func TestLink(t *testing.T) {
	p := equal(2)
	p.Links[0] = forecast.Link{Out: 1, Back: 1, Seconds: 0.25, Latency: 0.25}
	// Stage 0: F 0-1, F 1-2; stage 1: F 1.5-2.5, B 2.5-4.5, F 4.5-5.5, B 5.5-7.5;
	// stage 0: B 5-7, B 8-10.
	if r := p.Update([]int{1, 1}); r.Seconds != 10 || r.Busy[0] != 6 || r.Busy[1] != 6 {
		t.Errorf("%+v", r)
	}
	// Bytes cost both ends work too: a second for sending and, at the same time, one for receiving;
	// and so do messages.
	p.Links[0] = forecast.Link{Out: 1, Work: 0.5, Each: 0.5}
	// Stage 0: F 0-1, send -2; stage 1: receive and F 1-3, B 3-5, send -5.5; stage 0: receive and B 5-7.5.
	if r := p.Update([]int{1}); r.Seconds != 7.5 || r.Busy[0] != 4.5 || r.Busy[1] != 4.5 {
		t.Errorf("%+v", r)
	}
}

// TestWait: a micro-batch waits by its rows, up to a bound, and others use the link meanwhile.
func TestWait(t *testing.T) {
	p := equal(2)
	p.Links[0] = forecast.Link{Wait: 0.25, MostWait: 0.5}
	// Stage 0: F 0-1, F 1-2; stage 1: F 1.25-2.25, B 2.25-4.25, F 4.25-5.25, B 5.25-7.25; stage 0: B 4.5-6.5, B 7.5-9.5.
	if r := p.Update([]int{1, 1}); r.Seconds != 9.5 {
		t.Errorf("%+v", r)
	}
	if r := p.Update([]int{4}); r.Seconds != 4*6+2*0.5 {
		t.Errorf("longer than the bound: %+v", r)
	}
}

func TestMicroBatches(t *testing.T) {
	p := equal(2)
	n, r := p.MicroBatches(1, 64, 256, always)
	if n < 16 || r.Seconds > 64*3*(1+1.0/float64(n))+1e-9 {
		t.Errorf("without overheads: %d micro-batches, %v s", n, r.Seconds)
	}
	if n, _ := p.MicroBatches(1, 64, 8, always); n < 7 || n > 8 {
		t.Errorf("at most 8: %d", n)
	}
	if n, _ := p.MicroBatches(1, 64, 256, func(n int) bool { return n < 3 }); n != 2 {
		t.Errorf("only up to 2 fit: %d", n)
	}
	if n, _ := p.MicroBatches(1, 64, 256, func(int) bool { return false }); n != 0 {
		t.Errorf("none fits: %d", n)
	}
	if n, _ := equal(1).MicroBatches(1, 64, 256, always); n != 1 {
		t.Errorf("one stage: %d", n)
	}
	// The dearer a micro-batch is as such, the fewer there are.
	last := 64
	for _, each := range []float64{0.1, 1, 10, 100, 1000} {
		for s := range p.Stages {
			p.Stages[s].EachForward, p.Stages[s].EachBackward = each, each
		}
		n, r := p.MicroBatches(1, 64, 256, always)
		if n > last || n < 1 {
			t.Errorf("overhead %v: %d micro-batches, %d with less", each, n, last)
		}
		for m := 1; m <= 64; m++ {
			if q := p.Update(forecast.Split(1, 64, m)); q.Seconds < r.Seconds*0.95 {
				t.Errorf("overhead %v: %d take %v s, %d only %v", each, n, r.Seconds, m, q.Seconds)
			}
		}
		last = n
	}
	if last != 1 {
		t.Errorf("micro-batches that cost more than the batch: %d of them", last)
	}
}

// TestRound: replicas that take turns fill the pipeline as the schedule of package order does:
// as many as stages leave its first and last steps, one alone leaves it mostly empty.
func TestRound(t *testing.T) {
	for n := 1; n <= 6; n++ {
		p := forecast.Pipeline{Links: make([]forecast.Link, n-1)}
		for range n {
			p.Stages = append(p.Stages, forecast.Stage{Forward: 1, Backward: 1.5, Update: 0.5})
		}
		for ahead, want := range map[int]float64{n: 60*3 + 3*float64(n-1), 1: 60 * 3 * float64(n)} {
			p.Ahead = ahead
			if got := p.Round(60, 1, 1).Seconds; got < want-1e-9 || got > want+1e-9 {
				t.Errorf("%d stages, %d units in flight: %v s, want %v", n, ahead, got, want)
			}
		}
	}
}

// TestDelay: the delay of links leaves stages idle that have as many units in flight as stages,
// and twice as many hide it.
func TestDelay(t *testing.T) {
	p := forecast.Pipeline{Each: 1}
	for range 4 {
		p.Stages = append(p.Stages, forecast.Stage{Forward: 20e-3, Backward: 40e-3})
	}
	for range 3 {
		p.Links = append(p.Links, forecast.Link{Latency: 20e-3})
	}
	p.Ahead = 4
	few := p.Round(400, 1, 1).Idle()
	p.Ahead = 8
	if many := p.Round(400, 1, 1).Idle(); few < 0.3 || many > 0.05 {
		t.Errorf("idle %.0f %% with four in flight, %.0f %% with eight", 100*few, 100*many)
	}
}

// TestSharedMachine: stages that share processors take turns. Against schedules walked by hand,
// and against what the processors can do at most.
func TestSharedMachine(t *testing.T) {
	p := equal(2)
	p.Machine, p.Cores = []int{0, 0}, []float64{1}
	// One processor does everything: 4 micro-batches of 3 s in each of two stages.
	if r := p.Update(forecast.Split(1, 4, 4)); r.Seconds != 24 {
		t.Errorf("two stages on one processor: %v s, want 24", r.Seconds)
	}
	p.Cores = []float64{2} // enough for both
	own := equal(2).Update(forecast.Split(1, 4, 4))
	if r := p.Update(forecast.Split(1, 4, 4)); r.Seconds != own.Seconds {
		t.Errorf("two stages on two processors: %v s, %v s on machines of their own", r.Seconds, own.Seconds)
	}
	p.Cores = []float64{0.5} // another cluster has as much of it
	if r := p.Update(forecast.Split(1, 4, 4)); r.Seconds != 48 {
		t.Errorf("two stages on half a processor: %v s, want 48", r.Seconds)
	}
	// A batch that is whole leaves all but one stage idle: nobody waits for a processor.
	for n := 2; n <= 5; n++ {
		p = equal(n)
		p.Machine, p.Cores = make([]int, n), []float64{1}
		if got, want := p.Update([]int{1}).Seconds, equal(n).Update([]int{1}).Seconds; got != want {
			t.Errorf("%d stages, one batch: %v s, want %v", n, got, want)
		}
		for c := 1; c <= n; c++ {
			p.Cores = []float64{float64(c)}
			rows := forecast.Split(1, 24, 24)
			r, alone := p.Update(rows), equal(n).Update(rows)
			least := max(alone.Seconds, 3*24*float64(n)/float64(c))
			if r.Seconds < least-1e-9 || r.Seconds > least*1.4 {
				t.Errorf("%d stages on %d processors: %v s, at least %v", n, c, r.Seconds, least)
			}
		}
	}
}

// TestThreadsTakeCores: a pass on several threads takes as many cores, so that stages of one machine wait
// for one another where each takes all, and compute at once where each takes its part.
func TestThreadsTakeCores(t *testing.T) {
	p, rows := equal(2), forecast.Split(1, 4, 4)
	p.Machine, p.Cores = []int{0, 0}, []float64{2}
	wide := func(cores int, seconds float64) forecast.Result {
		for k := range p.Stages {
			p.Stages[k] = forecast.Stage{Forward: seconds, Backward: 2 * seconds, Cores: cores}
		}
		return p.Update(rows)
	}
	if r := wide(2, 1); r.Seconds != 24 {
		t.Errorf("both cores each: %v s, want 24", r.Seconds)
	}
	if r := wide(1, 1.5); r.Seconds != 1.5*3*5 {
		t.Errorf("a core each: %v s, want 22.5", r.Seconds)
	}
	p.Cores = []float64{1} // another cluster has the other one
	if r := wide(2, 1); r.Seconds != 48 {
		t.Errorf("two threads each on one core: %v s, want 48", r.Seconds)
	}
	// Steps that one thread computes leave a core to the other stage.
	p.Cores = []float64{2}
	wide(2, 1)
	for k := range p.Stages {
		p.Stages[k].Few, p.Stages[k].Slow = 2, 1.5
	}
	if r := p.Update(rows); r.Seconds != 22.5 {
		t.Errorf("steps of one thread: %v s, want 22.5", r.Seconds)
	}
	// A batch that is whole has all cores.
	if r := wide(2, 1); p.Update([]int{4}).Seconds != 24 || r.Seconds != 24 {
		t.Errorf("a whole batch: %v s, want 24", p.Update([]int{4}).Seconds)
	}
}

// TestHalves: with passes in two halves the walk idles as much as the schedule of package order, by
// the table of TestUnitsBesideZeroBubble, and a share of a stage's second halves costs what it does.
func TestHalves(t *testing.T) {
	for stages, want := range map[int][]float64{2: {40, 14, 8, 4, 2}, 3: {57, 33, 14, 8, 4}, 4: {67, 45, 20, 11, 6}} {
		p := equal(stages)
		for s := range p.Stages {
			p.Stages[s].Weight = 1
		}
		for k, idle := range want {
			m := 1 << k
			p.Halves = false
			whole := p.Update(forecast.Split(1, m, m))
			p.Halves = true
			r := p.Update(forecast.Split(1, m, m))
			if math.Abs(100*r.Idle()-idle) > 0.6 {
				t.Errorf("%d stages, %d micro-batches: %.1f %% idle, want %v", stages, m, 100*r.Idle(), idle)
			}
			if r.Busy[0] != whole.Busy[0] || r.Seconds >= whole.Seconds {
				t.Errorf("%d stages, %d micro-batches: %+v, whole passes %+v", stages, m, r, whole)
			}
		}
	}
	// On one processor halves gain nothing, and nothing is lost.
	p := equal(2)
	p.Halves, p.Machine, p.Cores = true, []int{0, 0}, []float64{1}
	p.Stages[0].Weight, p.Stages[1].Weight = 1, 1
	if r := p.Update([]int{1, 1}); r.Seconds != 12 {
		t.Errorf("one processor for both stages: %v s, want 12", r.Seconds)
	}
}

// TestTimesByRows: rows of small micro-batches take less where they fit into caches and more where they are
// too few for threads, and the number of micro-batches follows, for one stage too.
func TestTimesByRows(t *testing.T) {
	s := forecast.Stage{
		Forward: 1, Backward: 2, EachForward: 0.25, EachBackward: 0.5, Weight: 1,
		More: []forecast.Pass{{}, {}, {1, 2}}, Few: 2, Slow: 3,
	}
	for _, c := range []struct {
		rows              int
		forward, backward float64
	}{
		{1, 3 * 1.25, 3 * 2.5}, {2, 2.25, 4.5}, {4, 8.25, 16.5}, {100, 200.25, 400.5},
	} {
		if f, b := s.ForwardTime(c.rows), s.BackwardTime(c.rows); f != c.forward || b != c.backward {
			t.Errorf("%d rows take %v and %v, want %v and %v", c.rows, f, b, c.forward, c.backward)
		}
	}
	if f := s.ForwardTime(3); f <= 3.25 || f >= 6.25 {
		t.Errorf("3 rows take %v", f)
	}
	p := forecast.Pipeline{Stages: []forecast.Stage{s}}
	if n, r := p.MicroBatches(1, 16, 64, always); n != 8 || r.Seconds != 8*(2.25+4.5) {
		t.Errorf("%d micro-batches of 16 rows take %v, want 8", n, r.Seconds)
	}
	// Halves are the whole.
	p.Halves = true
	if r := p.Update([]int{1, 4}); r.Seconds != s.ForwardTime(1)+s.BackwardTime(1)+s.ForwardTime(4)+s.BackwardTime(4) {
		t.Errorf("in halves: %v", r.Seconds)
	}
}
