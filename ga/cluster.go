// Grouping a pool into clusters: a genetic algorithm over partitions whose
// children are improved by local search before they compete.

package ga

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

const (
	population = 24
	tournament = 3
	patience   = 120 // children in a row that bring nothing, then the search stops

	// In large pools the operators look at random samples: of clusters that a node may move
	// to, of nodes that it may change places with, of pairs of clusters that may become one.
	// Up to these numbers they look at all.
	manyClusters = 48
	manyNodes    = 256
	someNodes    = 32
	manyPairs    = 2048
	startSizes   = 48 // numbers of clusters that the search starts from
)

// Cluster groups every node of the pool into clusters that can each hold the model,
// minimising Fitness (see there for what is weighed). It returns positions in nodes.
//
// The search is deterministic in its arguments and the generator's state. Nodes that
// are alike in every figure are interchangeable and handed out by position, so equal
// pools come out in blocks. Clusters are ordered by their first node in the pool.
// Inside a cluster nodes with more RAM come first, in notches of √2 around the median, since the root
// keeps the most batches in flight; nodes of one notch keep their order in the pool: three equal
// nodes are root, stem and leaf as they stand.
//
// The errors wrap ErrInvalid, ErrRAM or ErrStages.
//
// With Options.Spares nodes that would slow the others are in no cluster.
func Cluster(nodes []Node, need Need, opt Options, rng *rand.Rand) ([][]int, error) {
	p, err := newProblem(nodes, need, opt)
	if err != nil {
		return nil, err
	}
	if p.totalRAM < p.need {
		return nil, fail(ErrRAM, "pool has %s of RAM, the model needs %s: %s short; add providers or lower the batch size",
			bytesText(p.totalRAM), bytesText(p.need), bytesText(p.need-p.totalRAM))
	}
	if p.minK > p.maxK {
		return nil, p.tooMany(need, opt)
	}
	g := &search{problem: p, rng: rng, left: p.budget}
	clusters := p.clusters(g.run())
	if f := p.rate(clusters); f.Deficit > deficitSlack {
		return nil, p.unplaced(nodes, clusters)
	}
	rank := notches(p.ram)
	for _, c := range clusters {
		slices.SortStableFunc(c, func(a, b int) int {
			return cmp.Or(cmp.Compare(rank[b], rank[a]), cmp.Compare(a, b))
		})
	}
	return clusters, nil
}

// tooMany explains a pool whose nodes cannot all have a stage.
func (p *problem) tooMany(need Need, opt Options) error {
	if p.minK == opt.MinClusters {
		what := fmt.Sprintf("their %s of RAM hold the model (%s) %d times", bytesText(p.totalRAM), bytesText(p.need), int(p.totalRAM/max(p.need, 1)))
		if p.n < opt.MinClusters {
			what = "each needs at least one"
		}
		return fail(ErrRAM, "%d providers cannot form %d clusters: %s; use more providers or fewer clusters", p.n, opt.MinClusters, what)
	}
	why := fmt.Sprintf("the model %q has only %d cut points", need.Model, p.hi-1)
	if p.hi < need.Stages || need.Stages == 0 {
		why = fmt.Sprintf("a cluster has at most %d stages", p.hi)
	}
	if opt.MaxClusters > 0 && p.minK > opt.MaxClusters {
		return fail(ErrStages, "%d providers but %s: room for %d providers in %d cluster(s); use fewer providers or allow more clusters",
			p.n, why, p.hi*opt.MaxClusters, opt.MaxClusters)
	}
	return fail(ErrRAM, "%d providers need %d clusters since %s, but their %s of RAM hold the model (%s) only %d times; add RAM or use fewer providers",
		p.n, p.minK, why, bytesText(p.totalRAM), bytesText(p.need), p.maxK)
}

// unplaced explains the best clustering found when a cluster of it cannot hold the model.
func (p *problem) unplaced(nodes []Node, clusters [][]int) error {
	for _, c := range clusters {
		ram := 0.0
		var names []string
		for _, i := range c {
			ram += p.ram[i]
			names = append(names, nodes[i].label(i))
		}
		if ram < p.need {
			if len(names) > 4 {
				names = append(names[:3], "...")
			}
			return fail(ErrRAM, "no grouping found of %d nodes into clusters of %d to %d that each hold the model: the best leaves nodes %s with %s of RAM for %s: %s short; add RAM or use fewer providers",
				p.n, p.lo, p.hi, strings.Join(names, ", "), bytesText(ram), bytesText(p.need), bytesText(p.need-ram))
		}
	}
	return fail(ErrStages, "no grouping found of %d nodes into at most %d clusters of %d to %d nodes; use another number of providers", p.n, p.maxK, p.lo, p.hi)
}

// groups lists the nodes of each label, in order of the label.
func groups(label []int) [][]int {
	clusters := make([][]int, slices.Max(label)+1)
	for i, c := range label {
		clusters[c] = append(clusters[c], i)
	}
	return clusters
}

// search is one run of the genetic algorithm.
type search struct {
	*problem
	rng  *rand.Rand
	left int // evaluations; the budget is counted, not timed, so that a slow machine finds the same
}

// individual is a clustering in canonical form.
type individual struct {
	label []int
	score score
}

// clusters are the clusters of a labelling, without the spares.
func (p *problem) clusters(label []int) [][]int {
	return groups(label)[p.spare:]
}

func (g *search) run() []int {
	size := population
	if g.n > 2*manyNodes {
		size = population / 4
	}
	var pop []individual
	join := func(s *state) bool {
		ind := individual{label: g.canonical(s.label)}
		ind.score = newState(g.problem, ind.label).score
		for _, o := range pop {
			if slices.Equal(o.label, ind.label) {
				return false
			}
		}
		if len(pop) < size {
			pop = append(pop, ind)
			return len(pop) == 1
		}
		first := ind.score.better(pop[g.best(pop)].score)
		if worst := g.worst(pop); ind.score.better(pop[worst].score) {
			pop[worst] = ind
		}
		return first
	}
	starts := g.starts(size)
	for _, label := range starts {
		s := newState(g.problem, label)
		g.improve(s, g.budget/(3*len(starts)))
		join(s)
	}
	if g.n <= 2 || len(pop) < 2 {
		return pop[g.best(pop)].label
	}
	for stale := 0; stale < patience && g.left > 0; stale++ {
		s := newState(g.problem, g.cross(g.pick(pop).label, g.pick(pop).label))
		g.mutate(s)
		g.improve(s, g.left)
		if join(s) {
			stale = 0
		}
	}
	return pop[g.best(pop)].label
}

func (g *search) best(pop []individual) int {
	b := 0
	for i := range pop {
		if pop[i].score.better(pop[b].score) {
			b = i
		}
	}
	return b
}

func (g *search) worst(pop []individual) int {
	w := 0
	for i := range pop {
		if pop[w].score.better(pop[i].score) {
			w = i
		}
	}
	return w
}

func (g *search) pick(pop []individual) individual {
	b := g.rng.IntN(len(pop))
	for range tournament - 1 {
		if i := g.rng.IntN(len(pop)); pop[i].score.better(pop[b].score) {
			b = i
		}
	}
	return pop[b]
}

// starts are the first clusterings: for each number of clusters the nodes dealt out
// by speed in a snake, and cut into runs by bandwidth; the best of those, and random deals.
func (g *search) starts(size int) [][]int {
	by := func(key []float64) []int {
		order := make([]int, g.n)
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(key[b], key[a]) })
		return order
	}
	speed, band := by(g.speed), by(g.logb)
	snake := func(order []int, k int) []int {
		label := make([]int, g.n)
		for pos, i := range order {
			if label[i] = pos % (2 * k); label[i] >= k {
				label[i] = 2*k - 1 - label[i]
			}
			label[i] += g.spare
		}
		return label
	}
	runs := func(order []int, k int) []int {
		label := make([]int, g.n)
		for pos, i := range order {
			label[i] = pos*k/g.n + g.spare
		}
		return label
	}
	var all []individual
	for _, k := range spread(g.minK, g.maxK, startSizes) {
		for _, label := range [][]int{snake(speed, k), runs(band, k)} {
			all = append(all, individual{label, newState(g.problem, label).score})
		}
	}
	slices.SortStableFunc(all, func(a, b individual) int {
		return cmp.Or(cmp.Compare(a.score.deficit, b.score.deficit), cmp.Compare(a.score.cost, b.score.cost))
	})
	var starts [][]int
	for _, ind := range all[:min(len(all), size/2)] {
		starts = append(starts, ind.label)
	}
	for len(starts) < size {
		starts = append(starts, snake(g.rng.Perm(g.n), g.minK+g.rng.IntN(g.maxK-g.minK+1)))
	}
	return starts
}

// spread lists at most about n whole numbers from lo to hi, all if there are not more,
// and else each by the same factor above the last.
func spread(lo, hi, n int) []int {
	var v []int
	for k := lo; k <= hi; {
		v = append(v, k)
		next := k + 1
		if hi-lo >= n {
			next = max(next, int(math.Ceil(float64(lo)*math.Pow(float64(hi)/float64(lo), float64(len(v))/float64(n-1)))))
		}
		if k < hi && next > hi {
			next = hi
		}
		k = next
	}
	return v
}

// cross gives the child whole clusters: half of one parent's, then those of the other
// that are still mostly free; what is left over joins the slowest clusters.
func (g *search) cross(a, b []int) []int {
	child := make([]int, g.n)
	for i := range child {
		child[i] = -1
	}
	ga, gb := groups(a)[g.spare:], groups(b)[g.spare:]
	speed := make([]float64, g.spare) // of the child's clusters
	take := func(c []int) {
		sum := 0.0
		for _, i := range c {
			if child[i] < 0 {
				child[i] = len(speed)
				sum += g.speed[i]
			}
		}
		speed = append(speed, sum)
	}
	order := g.rng.Perm(len(ga))
	for _, k := range order[:(len(ga)+1)/2] {
		take(ga[k])
	}
	for _, k := range g.rng.Perm(len(gb)) {
		free := 0
		for _, i := range gb[k] {
			if child[i] < 0 {
				free++
			}
		}
		if free > 0 && 2*free >= len(gb[k]) && len(speed)-g.spare < g.maxK {
			take(gb[k])
		}
	}
	for _, i := range g.rng.Perm(g.n) {
		if child[i] < 0 {
			k := 0 // the spares, where there are any
			for j := range speed {
				if g.spare == 0 && speed[j] < speed[k] {
					k = j
				}
			}
			child[i] = k
			speed[k] += g.speed[i]
		}
	}
	return child
}

// mutate does one of: split a cluster, merge two, move some nodes anywhere.
func (g *search) mutate(s *state) {
	switch k := len(s.sum); g.rng.IntN(4) {
	case 0:
		if k-g.spare < g.maxK {
			c := g.rng.IntN(k)
			s.grow()
			for _, i := range g.rng.Perm(g.n) {
				if s.label[i] == c && s.sum[c].size > 1 && s.sum[k].size < s.sum[c].size {
					s.move(i, k)
				}
			}
			s.drop(k)
		}
	case 1:
		if k > 1 {
			a := g.rng.IntN(k)
			b := (a + 1 + g.rng.IntN(k-1)) % k
			s.merge(a, b)
		}
	default:
		for range 1 + g.rng.IntN(1+g.n/25) {
			i := g.rng.IntN(g.n)
			from := s.label[i]
			s.move(i, g.rng.IntN(len(s.sum)))
			s.drop(from)
		}
	}
}

// improve makes the best move, swap or merge of each node in turn until none
// helps or the budget is spent.
func (g *search) improve(s *state, budget int) {
	limit := max(0, g.left-budget)
	order := g.rng.Perm(g.n)
	for again := true; again && g.left > limit; {
		again = false
		for _, i := range order {
			if g.left <= limit {
				break
			}
			if g.moveBest(s, i) || g.swapBest(s, i) {
				again = true
			}
		}
		if g.mergeBest(s) {
			again = true
		}
	}
}

// trial is what becomes of the totals where the time of a round counts, if cluster c has other
// nodes: so many, with so much RAM, speed and slowness in sum.
func (g *search) trial(t *totals, c *sums, size int, ram, speed, slow float64) {
	if c.spare {
		return
	}
	if c.size > 0 {
		t.k--
		t.deficit -= c.deficit
		t.rate -= c.rate
	}
	if size > 0 {
		t.k++
		t.deficit += g.deficit(size, ram)
		t.rate += g.rateOf(size, speed, slow/float64(size))
	}
}

// moveBest moves node i to the cluster, possibly a new one, where it helps most.
func (g *search) moveBest(s *state, i int) bool {
	from := s.label[i]
	alone := s.sum[from].size == 1 && !s.sum[from].spare
	base, rest := s.total, s.sum[from]
	base.add(&rest, -1)
	g.add(&rest, i, -1)
	g.settle(&rest)
	base.add(&rest, 1)
	var empty sums
	best, to := s.score, -1
	tries := len(s.sum) + 1
	for try := range min(tries, manyClusters+1) {
		c := try
		if tries > manyClusters+1 && try < manyClusters {
			c = g.rng.IntN(len(s.sum))
		} else if try == manyClusters {
			c = len(s.sum) // a cluster of its own
		}
		into := &empty
		if c < len(s.sum) {
			into = &s.sum[c]
		} else if alone || c-g.spare >= g.maxK {
			continue
		}
		if c == from {
			continue
		}
		t := base
		if g.round {
			g.trial(&t, into, into.size+1, into.ram+g.ram[i], into.speed+g.speed[i], into.slow+g.slow[i])
		} else {
			grown := *into
			t.add(&grown, -1)
			g.add(&grown, i, 1)
			g.settle(&grown)
			t.add(&grown, 1)
		}
		g.left--
		if sc := g.score(&t); sc.better(best) {
			best, to = sc, c
		}
	}
	if to < 0 {
		return false
	}
	if to == len(s.sum) {
		s.grow()
	}
	s.move(i, to)
	s.drop(from)
	return true
}

// swapBest exchanges node i with the node of another cluster where it helps most.
func (g *search) swapBest(s *state, i int) bool {
	a := s.label[i]
	base, without := s.total, s.sum[a]
	base.add(&without, -1)
	g.add(&without, i, -1)
	away := sums{spare: without.spare} // its totals are not in base
	best, with := s.score, -1
	tries := g.n
	if g.n > manyNodes {
		tries = someNodes
	}
	for try := range tries {
		j := try
		if g.n > manyNodes {
			j = g.rng.IntN(g.n)
		}
		b := s.label[j]
		if b == a || g.class[i] == g.class[j] {
			continue
		}
		t := base
		if g.round {
			other := &s.sum[b]
			g.trial(&t, &away, without.size+1, without.ram+g.ram[j], without.speed+g.speed[j], without.slow+g.slow[j])
			g.trial(&t, other, other.size, other.ram-g.ram[j]+g.ram[i], other.speed-g.speed[j]+g.speed[i], other.slow-g.slow[j]+g.slow[i])
		} else {
			sa, sb := without, s.sum[b]
			t.add(&sb, -1)
			g.add(&sa, j, 1)
			g.add(&sb, j, -1)
			g.add(&sb, i, 1)
			g.settle(&sa)
			g.settle(&sb)
			t.add(&sa, 1)
			t.add(&sb, 1)
		}
		g.left--
		if sc := g.score(&t); sc.better(best) {
			best, with = sc, j
		}
	}
	if with < 0 {
		return false
	}
	b := s.label[with]
	s.move(i, b)
	s.move(with, a)
	return true
}

// mergeBest joins the two clusters whose union helps most.
func (g *search) mergeBest(s *state) bool {
	best, x, y := s.score, -1, -1
	try := func(a, b int) {
		if s.sum[b].spare {
			a, b = b, a
		}
		t, u, v := s.total, s.sum[a], &s.sum[b]
		t.add(&u, -1)
		t.add(v, -1)
		u.join(v)
		g.settle(&u)
		t.add(&u, 1)
		g.left--
		if sc := g.score(&t); sc.better(best) {
			best, x, y = sc, a, b
		}
	}
	if k := len(s.sum); k*(k-1)/2 > manyPairs {
		for range manyPairs {
			if a, b := g.rng.IntN(k), g.rng.IntN(k); a != b {
				try(a, b)
			}
		}
	} else {
		for a := range k {
			for b := range a {
				try(a, b)
			}
		}
	}
	if x < 0 {
		return false
	}
	s.merge(x, y)
	return true
}

// state is a clustering with its running sums. Labels are dense: no cluster is empty
// between calls of the search's operators.
type state struct {
	*problem
	label []int
	sum   []sums
	total totals
	score score
}

func newState(p *problem, label []int) *state {
	s := &state{problem: p, label: make([]int, len(label))}
	dense := map[int]int{}
	if p.spare == 1 {
		dense[0], s.sum = 0, append(s.sum, sums{spare: true})
	}
	for i, c := range label {
		k, ok := dense[c]
		if !ok {
			k = len(s.sum)
			dense[c] = k
			s.sum = append(s.sum, sums{})
		}
		s.label[i] = k
		p.add(&s.sum[k], i, 1)
	}
	for k := range s.sum {
		p.settle(&s.sum[k])
		s.total.add(&s.sum[k], 1)
	}
	s.score = p.score(&s.total)
	return s
}

func (c *sums) join(o *sums) {
	c.size += o.size
	c.ram += o.ram
	c.speed += o.speed
	c.gain += o.gain
	c.logb += o.logb
	c.logb2 += o.logb2
	c.slow += o.slow
}

// grow adds an empty cluster at the end.
func (s *state) grow() { s.sum = append(s.sum, sums{}) }

// move puts node i into cluster to; the cluster it leaves may stay behind empty.
func (s *state) move(i, to int) {
	from := s.label[i]
	if from == to {
		return
	}
	a, b := &s.sum[from], &s.sum[to]
	s.total.add(a, -1)
	s.total.add(b, -1)
	s.add(a, i, -1)
	s.add(b, i, 1)
	s.settle(a)
	s.settle(b)
	s.total.add(a, 1)
	s.total.add(b, 1)
	s.label[i] = to
	s.score = s.problem.score(&s.total)
}

// drop removes cluster c if it is empty; the last cluster takes its label.
func (s *state) drop(c int) {
	if s.sum[c].size > 0 || s.sum[c].spare {
		return
	}
	last := len(s.sum) - 1
	s.sum[c] = s.sum[last]
	s.sum = s.sum[:last]
	for i, k := range s.label {
		if k == last {
			s.label[i] = c
		}
	}
}

func (s *state) merge(a, b int) {
	if s.sum[b].spare {
		a, b = b, a
	}
	for i, k := range s.label {
		if k == b {
			s.move(i, a)
		}
	}
	s.drop(b)
}

// canonical names equal clusterings equally: interchangeable nodes are handed out by
// position, clusters with the earliest kinds of nodes first, and clusters are
// numbered by their first node.
func (p *problem) canonical(label []int) []int {
	kinds := groups(label)
	for _, c := range kinds {
		for k, i := range c {
			c[k] = p.class[i]
		}
		slices.Sort(c)
	}
	slices.SortFunc(kinds[p.spare:], slices.Compare[[]int])
	byClass := make([][]int, slices.Max(p.class)+1)
	for i, k := range p.class {
		byClass[k] = append(byClass[k], i)
	}
	out := make([]int, p.n)
	for c, members := range kinds {
		for _, k := range members {
			out[byClass[k][0]] = c
			byClass[k] = byClass[k][1:]
		}
	}
	number := make([]int, len(kinds))
	for i := range number {
		number[i] = -1
	}
	next := p.spare
	if p.spare == 1 {
		number[0] = 0
	}
	for i, c := range out {
		if number[c] < 0 {
			number[c] = next
			next++
		}
		out[i] = number[c]
	}
	return out
}
