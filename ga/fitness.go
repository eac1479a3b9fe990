// The objective of clustering, in two forms: Rate is its specification, from scratch
// and one term after the other; problem is the same by running sums, for the search.

package ga

import (
	"math"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"
)

// Need is what one cluster must hold: each has the whole model.
type Need struct {
	Model  string  // its name, for errors
	RAM    float64 // bytes of the whole model in training
	Stages int     // into how many stages it can be cut (its units); 0: no limit known

	// With FLOPs, and where every node has measured its compute, clusterings compete by the
	// time of a round (Fitness.Round).
	FLOPs   float64 // of one batch, forward and backward
	Cut     float64 // bytes of one batch that cross a typical cut, both directions together
	Average float64 // bytes of parameters that clusters average, for each batch of a replica
}

// Options tune the planner. The zero value is the default of each.
type Options struct {
	MaxClusters  int     // 0: no limit
	MinClusters  int     // as many as somebody asked for; 0: as many as pay
	MinSize      int     // least nodes of a cluster; 0: 1 where the time of a round counts, else 2, a root and a leaf
	Replicas     int     // units of a round, which clusters take as they finish; 0: as many as pay
	Batches      int     // that a replica trains between two averagings; 0: 64
	Spares       bool    // nodes that would slow the others may be left out
	MicroBatches int     // in flight per update, for the pipeline's bubble; 0: 8
	Balance      float64 // weight of Fitness.Balance; 0: 1; negative: off
	Likeness     float64 // weight of Fitness.Likeness; 0: 0.25; negative: off
	Effort       int     // objective evaluations per node; 0: 20000
	ByShare      bool    // Partition: cut by parameter share even where compute is measured
	ByteWork     float64 // Partition: seconds that a node computes for each byte through its cuts
}

func (o Options) withDefaults() Options {
	weight := func(v, def float64) float64 {
		switch {
		case v < 0:
			return 0
		case v == 0:
			return def
		}
		return v
	}
	count := func(v, def int) int {
		if v == 0 {
			return def
		}
		return v
	}
	o.MicroBatches, o.Effort = count(o.MicroBatches, 8), count(o.Effort, 20000)
	o.Balance, o.Likeness = weight(o.Balance, 1), weight(o.Likeness, 0.25)
	return o
}

func (o Options) check() error {
	for _, v := range []struct {
		name  string
		value int
		max   int
	}{
		{"MaxClusters", o.MaxClusters, MaxNodes},
		{"MinClusters", o.MinClusters, MaxNodes},
		{"MinSize", o.MinSize, MaxNodes},
		{"MicroBatches", o.MicroBatches, 1 << 20},
		{"Effort", o.Effort, 1 << 24},
		{"Replicas", o.Replicas, 1 << 20},
		{"Batches", o.Batches, 1 << 30},
	} {
		if v.value < 0 || v.value > v.max {
			return fail(ErrInvalid, "option %s is %d, it must be 0 (default) to %d", v.name, v.value, v.max)
		}
	}
	for _, v := range []struct {
		name  string
		value float64
	}{{"Balance", o.Balance}, {"Likeness", o.Likeness}, {"ByteWork", o.ByteWork}} {
		if math.IsNaN(v.value) || v.value > 1e6 {
			return fail(ErrInvalid, "option %s is %v, it must be a weight up to 1e6", v.name, v.value)
		}
	}
	return nil
}

// averagingLoss is the exponent of what K clusters lose against one that does all their
// updates in sequence. Averaging K independent workers lowers the noise of a step by √K
// and moves no further than one of them: K clusters are worth √K, not K.
const averagingLoss = 0.5

// Fitness is how good a clustering is. Deficit is compared first and must be 0; among
// clusterings without a deficit the least Cost wins. All terms are free of scale:
// twice the RAM, bandwidth or compute everywhere changes none of them, and all soft terms are in
// nats of lost training speed: 0.1 is about 10 % slower.
//
// How many clusters there should be follows from two of the terms. A pipeline of
// s stages needs 1+(s-1)/m of the ideal time (its bubble with m micro-batches, and
// uneven cuts that grow with s), which speaks for many short pipelines; K clusters are only worth
// K^½ of their summed speed, which speaks for few. Together they favour pipelines of
// about m-1 nodes whatever the pool's size: a second cluster must pay for itself.
// With the defaults and equal nodes: up to 9 nodes one cluster, 10 nodes two of 5, 50 nodes ten of 5.
// RAM overrules both: each cluster must hold the model.
type Fitness struct {
	// Deficit is the hard term: for each cluster the share of the model's memory that it
	// lacks, the nodes it has too few (Options.MinSize) or too many (Need.Stages), and
	// the clusters beyond Options.MaxClusters or short of Options.MinClusters.
	Deficit float64 `json:"deficit"`
	// Pipeline is -ln(Σ v_C/(1+(s_C-1)/m) / Σ v): the speed lost to depth; v is compute, or 1 per
	// node where the pool has no benchmark, s the nodes of the cluster, m Options.MicroBatches.
	Pipeline float64 `json:"pipeline"`
	// Averaging is ½ ln K for K clusters.
	Averaging float64 `json:"averaging"`
	// Balance is the coefficient of variation of the clusters' speeds, since the
	// fastest waits for the slowest at every averaging. Speed is the sum of compute; where
	// the pool has no benchmark, of Ravnest's proxy RAM/bandwidth, without its floor division.
	Balance float64 `json:"balance"`
	// Likeness is the standard deviation of ln(bandwidth) within clusters, averaged over nodes:
	// a pipeline is as fast as its slowest link.
	Likeness float64 `json:"likeness"`
	// Round is the time of a round, in nats above that of a single machine with the compute of
	// the whole pool: clusters take units as they finish them, so they need not be alike. Where
	// it is known (Need.FLOPs) it is the whole Cost, and the other terms are 0. A cluster's rate
	// is that of computing, which its bubble lowers, or of its links, which carry both of a
	// stage's cuts; the time of a byte is the mean of power 4 of its nodes', so that it is near
	// the slowest's, but a node counts as at most 32 times slower than the median. With R units and K clusters, half a unit a cluster is lost at the
	// round's end: (R+(K-1)/2)/Σ rates. Then K clusters average: 2(K-1)/K of the parameters go
	// through each node's link, at the pool's median bandwidth.
	Round float64 `json:"round"`
	// Cost is Round, or Pipeline + Averaging + Options.Balance·Balance + Options.Likeness·Likeness.
	Cost float64 `json:"cost"`
}

// Rate scores a clustering. It is the specification of what Cluster minimises.
// Every node must be in exactly one cluster, or with Options.Spares in at most one.
func Rate(nodes []Node, clusters [][]int, need Need, opt Options) (Fitness, error) {
	p, err := newProblem(nodes, need, opt)
	if err != nil {
		return Fitness{}, err
	}
	label := make([]int, len(nodes))
	seen := 0
	for k, c := range clusters {
		if len(c) == 0 {
			return Fitness{}, fail(ErrInvalid, "cluster %d is empty", k)
		}
		for _, i := range c {
			if i < 0 || i >= len(nodes) || label[i] != 0 {
				return Fitness{}, fail(ErrInvalid, "cluster %d: node %d is unknown or in two clusters", k, i)
			}
			label[i] = k + 1
			seen++
		}
	}
	if seen != len(nodes) && !opt.Spares || seen == 0 {
		return Fitness{}, fail(ErrInvalid, "the clusters hold %d of %d nodes", seen, len(nodes))
	}
	return p.rate(clusters), nil
}

func (p *problem) rate(clusters [][]int) Fitness {
	pick := func(all []float64, c []int) []float64 {
		v := make([]float64, len(c))
		for k, i := range c {
			v[k] = all[i]
		}
		return v
	}
	var f Fitness
	k := len(clusters)
	speeds := make([]float64, k)
	kept := 0.0
	for j, c := range clusters {
		f.Deficit += p.deficit(len(c), floats.Sum(pick(p.ram, c)))
		kept += float64(floats.Sum(pick(p.gain, c)) * p.eff[len(c)])
		speeds[j] = floats.Sum(pick(p.speed, c))
		_, variance := stat.PopMeanVariance(pick(p.logb, c), nil)
		f.Likeness += float64(math.Sqrt(variance)*float64(len(c))) / float64(p.n)
	}
	f.Deficit += float64(max(0, k-p.maxK, p.least-k))
	if p.round {
		rates := 0.0
		for j, c := range clusters {
			rates += p.rateOf(len(c), speeds[j], stat.Mean(pick(p.slow, c), nil))
		}
		f = Fitness{Deficit: f.Deficit, Round: math.Log(p.roundTime(k, rates))}
		f.Cost = f.Round
		return f
	}
	f.Pipeline = -math.Log(kept)
	f.Averaging = averagingLoss * math.Log(float64(k))
	mean, variance := stat.PopMeanVariance(speeds, nil)
	f.Balance = math.Sqrt(variance) / mean
	f.Cost = f.Pipeline + f.Averaging + float64(p.balance*f.Balance) + float64(p.likeness*f.Likeness)
	return f
}

// rateOf is how many batches a second a cluster of so many nodes finishes. speed is the
// sum of theirs, slow the mean of problem.slow.
func (p *problem) rateOf(size int, speed, slow float64) float64 {
	rate := speed * p.perSpeed[size]
	if size == 1 {
		return rate
	}
	links := p.links[min(size, 3)]
	// A root and a division only where links hold the cluster up: this is the search's inner loop.
	if x := rate * links; float64(x*x)*float64(x*x)*slow > 1 {
		return 1 / (links * math.Sqrt(math.Sqrt(slow)))
	}
	return rate
}

// roundTime is the time of a round of k clusters that together finish so many batches a
// second, by that of one machine with the compute of the whole pool.
func (p *problem) roundTime(k int, rates float64) float64 {
	units := p.replicas
	t := float64(p.n) / (p.batch * rates)
	if units > 0 {
		t *= 1 + float64(k-1)/(2*units)
	} else {
		units = float64(k)
	}
	if k > 1 {
		// Every unit is a batch here; Need.Average is what averaging adds for each.
		t *= 1 + p.average*2*float64(k-1)/float64(k)*rates/units
	}
	return t
}

// problem is one clustering task with its figures made ready for the search.
type problem struct {
	n         int
	need      float64 // bytes
	lo, hi    int     // nodes of a cluster
	minK      int     // clusters
	maxK      int
	least     int // Options.MinClusters
	budget    int
	ram       []float64 // whole bytes, so that running sums of them are exact
	speed     []float64 // what Balance adds up; mean 1
	gain      []float64 // what Pipeline adds up; sum 1
	logb      []float64 // ln(bandwidth/median): exactly 0 for equal pools
	class     []int     // nodes of one class are interchangeable; numbered by first appearance
	eff       []float64 // by size
	logK      []float64 // averagingLoss·ln k
	balance   float64
	likeness  float64
	totalRAM  float64
	benchmark bool

	// Where the time of a round counts:
	round    bool
	spare    int // 1: label 0 is of the nodes that are in no cluster
	replicas float64
	batch    float64    // seconds of a batch on a node of mean speed
	slow     []float64  // (median bandwidth / bandwidth)⁴
	link     float64    // seconds of a cut's bytes at the median bandwidth
	perSpeed []float64  // by size: batches a second of a node of speed 1
	links    [4]float64 // by size, at most 3: seconds of the bytes of a node's cuts at the median bandwidth
	average  float64    // seconds of the parameters to average, for each batch, at the median bandwidth
}

// newProblem checks what is asked and turns it into the numbers that fitness is computed from.
func newProblem(nodes []Node, need Need, opt Options) (*problem, error) {
	if err := checkNodes(nodes); err != nil {
		return nil, err
	}
	if err := opt.check(); err != nil {
		return nil, err
	}
	if err := need.check(); err != nil {
		return nil, err
	}
	opt = opt.withDefaults()
	n := len(nodes)
	p := &problem{
		n: n, need: math.Ceil(need.RAM), least: opt.MinClusters, budget: effort(opt.Effort, n),
		balance: opt.Balance, likeness: opt.Likeness, benchmark: benchmarked(nodes),
	}
	p.ram = column(nodes, func(n Node) float64 { return math.Floor(n.RAM) })
	p.totalRAM = floats.Sum(p.ram)
	// Measured figures are taken on the grid of notches; declared ones as they are.
	bandwidth := column(nodes, func(n Node) float64 { return n.Bandwidth })
	p.gain = make([]float64, n)
	if p.benchmark {
		bandwidth = quantise(bandwidth)
		p.speed = quantise(column(nodes, func(n Node) float64 { return n.Compute }))
		copy(p.gain, p.speed)
	} else {
		p.speed = column(nodes, func(n Node) float64 { return n.RAM / n.Bandwidth })
		for i := range p.gain {
			p.gain[i] = 1
		}
	}
	p.round = p.benchmark && need.FLOPs >= 1 && !opt.ByShare
	if opt.MinSize == 0 {
		opt.MinSize = 2
		if p.round {
			opt.MinSize = 1
		}
	}
	p.batch = need.FLOPs * float64(n) / floats.Sum(p.speed)
	p.replicas = float64(opt.Replicas)
	floats.Scale(float64(n)/floats.Sum(p.speed), p.speed)
	floats.Scale(1/floats.Sum(p.gain), p.gain)
	mid := median(bandwidth)
	p.link, p.average = 8*need.Cut/mid, 8*need.Average/mid
	p.logb = make([]float64, n)
	for i, b := range bandwidth {
		p.logb[i] = math.Log(b / mid)
	}
	p.slow = make([]float64, n)
	for i, b := range bandwidth {
		x := min(mid/b, 32)
		p.slow[i] = float64(x*x) * float64(x*x)
	}
	p.classify()
	p.eff, p.logK = make([]float64, n+1), make([]float64, n+1)
	for s := 1; s <= n; s++ {
		p.eff[s] = 1 / (1 + float64(s-1)/float64(opt.MicroBatches))
		p.logK[s] = averagingLoss * math.Log(float64(s))
	}
	p.perSpeed = make([]float64, n+1)
	for s := 1; s <= n; s++ {
		p.perSpeed[s] = p.eff[s] / max(p.batch, math.SmallestNonzeroFloat64)
	}
	p.links = [4]float64{2: p.link, 3: 2 * p.link}
	p.sizes(need, opt)
	if opt.Spares && p.round {
		p.spare, p.minK = 1, 1
		p.maxK = max(p.maxK, 1)
	}
	p.minK = max(p.minK, p.least)
	return p, nil
}

// check refuses what no model needs.
func (need Need) check() error {
	if !(need.RAM >= 0 && need.RAM <= maxRAM) {
		return fail(ErrInvalid, "the model %q needs %v bytes of RAM, it must be 0 to %g", need.Model, need.RAM, maxRAM)
	}
	if need.Stages < 0 {
		return fail(ErrInvalid, "the model %q has %d stages, it must be 0 (no limit) or more", need.Model, need.Stages)
	}
	for _, v := range []struct {
		what  string
		value float64
	}{{"FLOPs", need.FLOPs}, {"bytes across a cut", need.Cut}, {"bytes to average", need.Average}} {
		if !(v.value >= 0 && v.value <= MaxUnits*maxFLOPs) {
			return fail(ErrInvalid, "the model %q has %v %s, it must be 0 to %g", need.Model, v.value, v.what, MaxUnits*maxFLOPs)
		}
	}
	return nil
}

// classify numbers the kinds of nodes: those of one kind are alike in all that counts.
func (p *problem) classify() {
	type kind struct{ ram, speed, gain, logb float64 }
	kinds := map[kind]int{}
	p.class = make([]int, p.n)
	for i := range p.n {
		k := kind{p.ram[i], p.speed[i], p.gain[i], p.logb[i]}
		if _, ok := kinds[k]; !ok {
			kinds[k] = len(kinds)
		}
		p.class[i] = kinds[k]
	}
}

// sizes sets the bounds on the size and number of clusters. Where the least size
// leaves no way to place every node (3 nodes, 2 stages), smaller clusters are
// better than none, but no more clusters than it takes.
func (p *problem) sizes(need Need, opt Options) {
	p.hi = p.n
	if need.Stages > 0 {
		p.hi = min(p.hi, need.Stages)
	}
	p.hi = min(p.hi, MaxStages)
	limit := p.n
	if opt.MaxClusters > 0 {
		limit = min(limit, opt.MaxClusters)
	}
	if opt.Replicas > 0 && p.round {
		limit = min(limit, opt.Replicas) // more have nothing to do
	}
	p.minK = (p.n + p.hi - 1) / p.hi
	p.lo = min(opt.MinSize, p.hi)
	if opt.MinClusters*p.lo > p.n {
		p.lo = 1
	}
	p.maxK = min(limit, p.n/p.lo)
	if p.minK*p.lo > p.n {
		p.lo, p.maxK = 1, min(limit, p.minK)
	}
	if p.need > 0 {
		p.maxK = min(p.maxK, max(1, int(min(float64(p.n), math.Floor(p.totalRAM/p.need)))))
	}
}

// effort is the number of evaluations for n nodes at so many a node. In large pools clusters
// are many and hardly depend on one another, so a node gets fewer: in all as many as for 40
// nodes times the root of n/40.
func effort(each, n int) int {
	return int(float64(each) * min(float64(n), math.Sqrt(40*float64(n))))
}

func (p *problem) deficit(size int, ram float64) float64 {
	d := 0.0
	if ram < p.need {
		d = (p.need - ram) / p.need
	}
	return d + float64(max(0, p.lo-size)+max(0, size-p.hi))
}

// score orders clusterings: the deficit first, then the cost, which is the time of a round
// itself where that counts: its logarithm would have the same order.
type score struct{ deficit, cost float64 }

// Running sums drift by rounding; differences below these are none.
const (
	deficitSlack = 1e-9
	costSlack    = 1e-9
)

func (a score) better(b score) bool {
	if d := a.deficit - b.deficit; d < -deficitSlack || d > deficitSlack {
		return d < 0
	}
	return a.cost < b.cost-costSlack
}

// sums are a cluster's running sums.
type sums struct {
	size                 int
	ram, speed, gain     float64
	logb, logb2          float64
	deficit, like, worth float64 // terms that follow from them, by settle
	slow, rate           float64
	spare                bool // not a cluster but the nodes that are in none
}

func (p *problem) add(c *sums, i int, sign float64) {
	c.size += int(sign)
	c.ram += sign * p.ram[i]
	c.speed += float64(sign * p.speed[i])
	c.gain += float64(sign * p.gain[i])
	if p.round {
		c.slow += float64(sign * p.slow[i])
		return
	}
	c.logb += float64(sign * p.logb[i])
	c.logb2 += float64(sign * float64(p.logb[i]*p.logb[i]))
}

func (p *problem) settle(c *sums) {
	if c.size == 0 {
		*c = sums{spare: c.spare}
	}
	if c.size == 0 || c.spare {
		return
	}
	c.deficit = p.deficit(c.size, c.ram)
	if p.round {
		c.rate = p.rateOf(c.size, c.speed, c.slow/float64(c.size))
		return
	}
	c.worth = c.gain * p.eff[c.size]
	// size·σ = √(size·Σx² - (Σx)²); what rounding leaves of nothing is nothing.
	q := float64(float64(c.size) * c.logb2)
	if v := q - float64(c.logb*c.logb); v > q*1e-12 {
		c.like = math.Sqrt(v)
	} else {
		c.like = 0
	}
}

// totals are the sums over clusters that the score is a function of.
type totals struct {
	k                           int
	deficit, like, worth, speed float64 // speed: of squares
	rate                        float64
}

func (t *totals) add(c *sums, sign float64) {
	if c.size == 0 || c.spare {
		return
	}
	t.k += int(sign)
	t.deficit += sign * c.deficit
	t.like += sign * c.like
	t.worth += sign * c.worth
	t.rate += sign * c.rate
	t.speed += float64(sign * float64(c.speed*c.speed))
}

func (p *problem) score(t *totals) score {
	if p.round {
		if t.k == 0 {
			return score{deficit: float64(p.n), cost: math.Inf(1)}
		}
		return score{deficit: t.deficit + float64(max(0, t.k-p.maxK, p.least-t.k)), cost: p.roundTime(t.k, t.rate)}
	}
	// Speeds sum to n, so the square of their variation is K·Σv²/n² - 1.
	n := float64(p.n)
	cv := math.Sqrt(max(0, float64(float64(t.k)*t.speed)/(n*n)-1))
	return score{
		deficit: t.deficit + float64(max(0, t.k-p.maxK, p.least-t.k)),
		cost: -math.Log(t.worth) + p.logK[t.k] +
			float64(p.balance*cv) + float64(p.likeness*t.like)/n,
	}
}
