// Command bench compares the engine's products and convolutions with OpenBLAS and oneDNN
// on this machine. Contestants take turns within each case; what counts is the median of
// the rounds' ratios, for times on a shared machine vary more than ratios do.
//
// One thread is measured by its own processor time, so that what else the machine does
// counts little.
//
// oneDNN's convolutions run in the layouts that it likes best, without the cost of
// bringing tensors there.
//
// The columns of bf16 are products and convolutions of operands in bfloat16 with results in
// float32: oneDNN's are stored in 16 bits, ours are float32 slices that were rounded before.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ravnest/ravnest/engine/kernel"
)

var (
	rounds = flag.Int("rounds", 5, "rounds of each case")
	least  = flag.Duration("time", 20*time.Millisecond, "least time of a contestant in a round")
	only   = flag.String("only", "", "cases that match this regular expression")
	thread = flag.Int("threads", 1, "threads of every contestant")
)

func main() {
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -only:", err)
		os.Exit(2)
	}
	runtime.LockOSThread() // whose clock is read, and which has its own threads of OpenMP
	if err := patient(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	peerThreads(*thread)
	team := kernel.NewTeam(*thread)
	defer team.Close()

	fmt.Printf("%d threads; ratios are ours to theirs, above 1 we are faster\n%s\n", *thread, roofline())
	t := table{match: match}
	fmt.Printf("%-34s %10s %10s %10s %10s %10s\n", "product M x K x N", "GFLOP/s", "/oneDNN", "/OpenBLAS", "bf16", "/oneDNN")
	for _, s := range products {
		for _, trans := range []string{"nn", "tn", "nt"} {
			t.product(team, s[0], s[1], s[2], trans)
		}
	}
	t.total("products")
	fmt.Printf("%-34s %10s %10s %10s %10s\n", "convolution", "GFLOP/s", "/oneDNN", "bf16", "/oneDNN")
	for _, c := range convolutions() {
		for d := range directions {
			t.convolution(team, c, d)
		}
	}
	t.total("convolutions")
}

// table collects the ratios with oneDNN.
type table struct {
	match        *regexp.Regexp
	ratios, bf16 []float64
}

func (t *table) total(what string) {
	for _, v := range []struct {
		name   string
		ratios []float64
	}{{what, t.ratios}, {what + " in bf16", t.bf16}} {
		if len(v.ratios) == 0 {
			continue
		}
		var sum float64
		for _, r := range v.ratios {
			sum += math.Log(r)
		}
		fmt.Printf("%-34s %10s %10.2f least %.2f\n", v.name+", geometric mean", "", math.Exp(sum/float64(len(v.ratios))), slices.Min(v.ratios))
	}
	fmt.Println()
	t.ratios, t.bf16 = nil, nil
}

// operands runs ours in bfloat16 against oneDNN, where oneDNN has that, and returns the two
// columns. It closes the peer.
func (t *table) operands(flops float64, ours func(), peer peer, ok bool) string {
	if !ok {
		return fmt.Sprintf("%10s %10s", "", "none")
	}
	defer peer.close()
	r := race(ours, peer.run)
	t.bf16 = append(t.bf16, r.ratio[0])
	return fmt.Sprintf("%10.1f %10.2f", r.rate(flops), r.ratio[0])
}

func (t *table) product(team *kernel.Team, m, k, n int, trans string) {
	name := fmt.Sprintf("%dx%dx%d %s", m, k, n, trans)
	if !t.match.MatchString(name) {
		return
	}
	ta, tb := trans[0] == 't', trans[1] == 't'
	a, b, c := fill(m*k), fill(k*n), fill(m*n)
	g := kernel.GemmArgs{M: m, N: n, K: k, A: a, RS: k, KS: 1, B: b, BK: n, BJ: 1, C: c, LDC: n}
	lda, ldb := k, n
	if ta {
		g.RS, g.KS, lda = 1, m, m
	}
	if tb {
		g.BK, g.BJ, ldb = 1, k, k
	}
	scratch := make([]float32, kernel.GemmScratchBF16(m, n, k))
	r := race(
		func() { kernel.Gemm(team, &g, scratch) },
		func() { onednn(ta, tb, m, n, k, a, lda, b, ldb, c) },
		func() { openblas(ta, tb, m, n, k, a, lda, b, ldb, c) },
	)
	t.ratios = append(t.ratios, r.ratio[0])
	flops := 2 * float64(m) * float64(n) * float64(k)
	g.BF16 = true
	p, ok := newPeerProduct(ta, tb, m, n, k)
	fmt.Printf("%-34s %10.1f %10.2f %10.2f %s\n", name, r.rate(flops), r.ratio[0], r.ratio[1],
		t.operands(flops, func() { kernel.Gemm(team, &g, scratch) }, p, ok))
}

func (t *table) convolution(team *kernel.Team, c kernel.Conv, direction int) {
	name := fmt.Sprintf("%dx%dx%dx%d>%d %dx%d", c.N, c.C, c.H, c.W, c.O, c.KH, c.KW)
	if c.SH > 1 {
		name += fmt.Sprintf("/%d", c.SH)
	}
	if c.Groups > 1 {
		name += fmt.Sprintf(" g%d", c.Groups)
	}
	name += " " + directions[direction]
	if !t.match.MatchString(name) {
		return
	}
	x, y, w := fill(c.N*c.C*c.H*c.W), fill(c.N*c.O*c.OH()*c.OW()), fill(c.O*c.C/c.Groups*c.KH*c.KW)
	scratch := make([]float32, kernel.ConvScratchBF16(&c))
	ours := []func(){
		func() { kernel.ConvForward(team, &c, y, x, w, nil, false, scratch) },
		func() { kernel.ConvBackwardData(team, &c, x, y, w, scratch) },
		func() { kernel.ConvBackwardWeight(team, &c, w, y, x, false, scratch) },
	}[direction]
	p, ok := newPeerConv(&c, direction, false)
	if !ok {
		fmt.Printf("%-34s oneDNN has none\n", name)
		return
	}
	defer p.close()
	flops := 2 * float64(len(y)) * float64(len(w)/c.O)
	r := race(ours, p.run)
	t.ratios = append(t.ratios, r.ratio[0])
	c.BF16 = true
	half, ok := newPeerConv(&c, direction, true)
	fmt.Printf("%-34s %10.1f %10.2f %s\n", name, r.rate(flops), r.ratio[0], t.operands(flops, ours, half, ok))
}

func fill(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i%31)/16 - 1
	}
	return v
}

// result of a race: our best time of a call, and the median ratio with each peer.
type result struct {
	best  time.Duration
	ratio []float64
}

func (r result) rate(flops float64) float64 { return flops / float64(r.best) }

// race runs ours and the peers by turns.
func race(ours func(), peers ...func()) result {
	all := append([]func(){ours}, peers...)
	calls := make([]int, len(all))
	for i, f := range all {
		f()
		start := now()
		f()
		calls[i] = 1 + int(*least/max(now()-start, 1))
	}
	r := result{best: math.MaxInt64, ratio: make([]float64, len(peers))}
	ratios := make([][]float64, len(peers))
	for range *rounds {
		var first time.Duration
		for i, f := range all {
			rest(f)
			start := now()
			for range calls[i] {
				f()
			}
			each := (now() - start) / time.Duration(calls[i])
			if i == 0 {
				first, r.best = each, min(r.best, each)
				continue
			}
			ratios[i-1] = append(ratios[i-1], float64(each)/float64(first))
		}
	}
	for i, v := range ratios {
		slices.Sort(v)
		r.ratio[i] = v[len(v)/2]
	}
	return r
}

// patient starts this program again with an OpenBLAS whose threads give up after a
// millisecond: they spin for 100 otherwise, on the core that the next one wants. They read
// this when they are loaded.
func patient() error {
	const name = "OPENBLAS_THREAD_TIMEOUT" // the power of two of cycles
	if *thread == 1 || os.Getenv(name) != "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, append(os.Environ(), name+"=22"))
}

// rest lets the threads of who was last fall asleep, OpenMP's too, and wakes the next one's
// up: Linux may leave two of them on one core for some milliseconds.
func rest(next func()) {
	if *thread == 1 {
		return
	}
	const pause = 20 * time.Millisecond
	time.Sleep(pause)
	for start := now(); now()-start < pause; {
		next()
	}
}

// now is this thread's processor time if it works alone, else the time of day.
func now() time.Duration {
	clock := int32(unix.CLOCK_MONOTONIC)
	if *thread == 1 {
		clock = unix.CLOCK_THREAD_CPUTIME_ID
	}
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
