// How full a pipeline will be: the number of micro-batches and of units in flight is chosen
// where that changes no bit of the result, and where it would, people are told what the bubble costs.

package planner

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/forecast"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/ga"
)

// What the forecast takes for known where nobody measures it. Being off by a factor of two
// moves the choice little: the time is flat around its minimum.
const (
	unmeasured  = 20e9   // FLOP/s of a provider without a benchmark
	latency     = 1e-3   // seconds of a message on its way
	handling    = 8e-5   // of which both ends take so much to handle it, beside what they compute
	crowded     = 1.1    // of the passes of a micro-batch, that it is longer on its way where all cores compute:
	mostCrowded = 4e-3   // the network waits for one, at most so many seconds
	messageWork = 1e-5   // seconds that a message costs either end
	ringWork    = 12e-9  // seconds that an element of an average takes, beside its bytes
	memoryTime  = 4e-11  // seconds for each byte of weights read or written in an update
	weightTime  = 1e-11  // and in a pass, where they may be in a cache
	kernelTime  = 2.5e-7 // seconds to start the kernels of a node
	edgeRows    = 2      // rows of a matrix product that its overheads are worth
	mostMicro   = 64     // micro-batches of a batch
	idleWorth   = 0.2    // share of idle time that people are told about
	halvesWork  = 1.1    // of a backward pass in one piece, that one in two halves takes: 1.01 to 1.25
	halvesWorth = 1.05   // how much faster halves must be: they take more memory
	aloneWorth  = 1.1    // how much faster one provider alone must be for people to be told
	mostUpdate  = 1 << 5 // update_frequency that is advised
)

// wireWork is what either end of a link computes, in seconds, beside what a message costs.
type wireWork struct {
	byte    float64            // of a data channel
	element float64            // of a tensor that is coded for it
	width   map[string]float64 // bytes of an element that travel, as far as tensors of models compress
}

// Between processes of one machine packets are large, and planes get no Huffman code.
var (
	nearWork = wireWork{3.2e-9, 1.2e-9, map[string]float64{"fp16": 2, "bf16": 2, "int8": 0.9, "fp32": 4}}
	farWork  = wireWork{9.5e-9, 5e-9, map[string]float64{"fp16": 1.6, "bf16": 1.6, "int8": 0.65, "fp32": 3.4}}
)

// wide is the bytes of an element.
func (w wireWork) wide(wire string) float64 { return cmp.Or(w.width[wire], w.width["fp32"]) }

// fill is the choice of micro-batches for a job.
type fill struct {
	j      job.Spec
	g      *graph.Graph
	nodes  []ga.Node
	why    string // why a batch stays whole; "" if it may be split
	cache  *cache
	facts  *Facts
	placed map[int]float64 // threads of all clusters' stages by machine
	// What a cluster has of the job's replicas.
	own   int
	place stage.Placement
}

func newFill(j job.Spec, g *graph.Graph, known *cache, nodes []ga.Node) fill {
	f := fill{j: j, g: g, nodes: nodes, cache: known, own: j.Replica(), facts: &Facts{}}
	node, ok := exec.Splits(g)
	switch {
	case j.Schedule == job.Async: // full as it is, and its result depends on the cut
		f.why = "schedule"
	case compares(g):
		f.why = fmt.Sprintf("%q compares the samples of a batch with each other, so batches stay whole", node)
	case !ok:
		f.why = fmt.Sprintf("%q computes over whole micro-batches, so the number of them changes the result", node)
	case !loss.SplitsOf(j):
		f.why = "a mean squared error is summed over whole micro-batches, so the number of them changes the result"
	}
	return f
}

// compares tells whether a model compares the samples of a batch with each other.
func compares(g *graph.Graph) bool {
	_, ok := g.Compares()
	return ok
}

// start is the job with the number of micro-batches that memory is planned by at first:
// enough for a short pipeline, so that a choice is there when the cuts are known.
func (f fill) start() job.Spec {
	j := f.j
	if j.MicroBatches == 0 {
		j.MicroBatches = 1
		if f.why == "" && len(f.nodes) > 1 {
			j.MicroBatches = min(j.BatchSize, 4*min(len(f.nodes), 8))
		}
	}
	if turns(j) && j.InFlight == 0 {
		j.InFlight = 1 // more where they fit
	}
	return j
}

// cluster sets what a cluster's pipeline does and what its stages then take.
func (f fill) cluster(cl *Cluster) error {
	stages, err := f.cache.cut(cl.Starts())
	if err != nil {
		return err
	}
	pl := f.pipeline(stages, cl)
	f.flow(pl, cl, stages)
	if turns(f.j) {
		f.j.InFlight = cl.InFlight
	}
	var r forecast.Result
	var samples int // in it
	most := min(f.own, len(stages))
	switch j := f.j; {
	case turns(j):
		r, samples = f.ahead(pl, cl).Round(f.round(), j.BatchSize, cl.MicroBatches), f.round()*j.BatchSize
		cl.Idle = r.Idle()
		if cl.InFlight < most {
			cl.Note = fmt.Sprintf("stages stand still %.0f %% of the time: %d units are in flight, more of its %d replicas do not fit into the memory that is lent", 100*cl.Idle, cl.InFlight, f.own)
		} else if f.own < len(stages) && cl.Idle > idleWorth {
			who := fmt.Sprintf("%d replicas do", f.own)
			if f.own == 1 {
				who = "one replica does"
			}
			cl.Note = fmt.Sprintf("stages stand still %.0f %% of the time: %s not fill %d stages", 100*cl.Idle, who, len(stages))
			if would := f.filled(pl, cl); would != "" && f.own == f.j.Replica() {
				cl.Note += "; " + would
			}
		}
	case j.Schedule == job.Async: // one batch follows the other, and updates wait for nothing
		pl.Ahead, pl.Each = 0, 0
		n := 16 * len(stages)
		r, samples = pl.Round(n, j.BatchSize, max(1, cl.MicroBatches)), n*j.BatchSize
	default:
		r, samples = f.update(pl, cl, stages), j.UpdateFrequency*j.BatchSize*f.own/j.Replica()
		cl.Idle = r.Idle()
		if j.Schedule == job.Sync {
			cl.Note = f.note(pl, cl)
		}
	}
	if cl.Rate = f.facts.adjusted(f.j, f.rate(samples, r.Seconds), f.facts.pass(pl, f.j)); cl.Rate > 0 {
		for k := range cl.Stages {
			cl.Stages[k].Seconds = r.Busy[k] / float64(samples)
		}
	}
	cl.Note = join(cl.Note, f.alone(cl))
	if cl.Halves {
		f.j.Schedule = job.ZB
	}
	m, err := f.memory(stages, cl.MicroBatches)
	if err != nil {
		return err
	}
	for k := range cl.Stages {
		cl.Stages[k].Memory = m[k]
	}
	f.threads(cl, stages)
	return nil
}

// update walks an update of one replica, or of split batches. It has backward passes in two halves if
// the job asks for that, and where that is faster with the same result: stages of one cluster that
// stand still otherwise.
func (f fill) update(pl forecast.Pipeline, cl *Cluster, stages []*graph.Stage) forecast.Result {
	halves := pl
	halves.Halves, halves.Stages = true, slices.Clone(pl.Stages)
	for k := range halves.Stages {
		s := &halves.Stages[k]
		s.Weight += (halvesWork - 1) * s.Backward
		s.Backward *= halvesWork
	}
	rows := f.rows(cl.MicroBatches)
	if f.j.Schedule == job.ZB {
		return halves.Update(rows)
	}
	r := pl.Update(rows)
	if len(stages) == 1 || f.j.Replica() > 1 {
		return r
	}
	f.j.Schedule = job.ZB
	if h := halves.Update(rows); h.Seconds*halvesWorth < r.Seconds && f.fits(cl, stages, cl.MicroBatches) {
		cl.Halves, cl.Gain = true, r.Seconds/h.Seconds
		return h
	}
	return r
}

// alone says that one provider of a cluster would train faster without the others, which happens
// where a batch is so small that computing it takes less time than sending it around.
func (f fill) alone(cl *Cluster) string {
	if len(cl.Stages) < 2 || cl.Rate <= 0 {
		return ""
	}
	whole, err := f.cache.cut([]int{0})
	if err != nil {
		return ""
	}
	j, best, name := f.j, 0.0, ""
	j.MicroBatches, j.InFlight = 1, min(1, j.InFlight)
	need, err := f.bytes(j, whole[0], f.place)
	if err != nil {
		return ""
	}
	for _, s := range cl.Stages {
		if float64(need) > f.nodes[s.Node].RAM {
			continue
		}
		one := Cluster{Stages: []Stage{{Node: s.Node}}}
		pl := f.pipeline(whole, &one)
		n := 1
		if f.why == "" {
			n, _ = pl.MicroBatches(j.UpdateFrequency, j.BatchSize, mostMicro, func(int) bool { return true })
		}
		r := pl.Update(forecast.Split(j.UpdateFrequency, j.BatchSize, n))
		rate := f.facts.adjusted(j, f.rate(j.UpdateFrequency*j.BatchSize, r.Seconds), f.facts.pass(pl, j))
		if rate > best {
			best, name = rate, s.Name
		}
	}
	if best < aloneWorth*cl.Rate {
		return ""
	}
	what := fmt.Sprintf("%s alone would train %s instead of %s: batches of %d rows of this model are computed sooner than they are sent around", name, Speed(best), Speed(cl.Rate), j.BatchSize)
	if j.Replica() == 1 && j.Schedule != job.Async && !strings.Contains(cl.Note, "replicas") {
		what += fmt.Sprintf("; replicas %d would give each provider its own batches, or take a larger batch_size", len(cl.Stages))
	}
	return what
}

// join puts what is to be said of a cluster into one line.
func join(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}

// rate is samples a second, where the nodes were measured.
func (f fill) rate(samples int, seconds float64) float64 {
	for _, n := range f.nodes {
		if n.Compute < 1 {
			return 0
		}
	}
	if seconds <= 0 {
		return 0
	}
	return float64(samples) / seconds
}

// rows are those of the micro-batches of an update of one replica, or of a cluster's share of
// the split batches.
func (f fill) rows(micro int) []int {
	n := parts(f.j)
	own := 1
	if n > 1 {
		own = f.own
	}
	return forecast.Split(f.j.UpdateFrequency*own, max(1, f.j.BatchSize/n), micro)
}

// flow chooses the numbers of units in flight and of micro-batches.
func (f fill) flow(pl forecast.Pipeline, cl *Cluster, stages []*graph.Stage) {
	switch {
	case !turns(f.j):
		cl.InFlight = 0
		f.micro(pl, cl, stages)
	case f.j.InFlight > 0:
		cl.InFlight = min(f.j.InFlight, f.own)
		f.micro(f.ahead(pl, cl), cl, stages)
	default:
		for cl.InFlight = min(f.own, len(stages)); ; cl.InFlight-- {
			f.j.InFlight = cl.InFlight
			f.micro(f.ahead(pl, cl), cl, stages)
			if cl.InFlight == 1 || f.fits(cl, stages, cl.MicroBatches) {
				break
			}
		}
		if cl.InFlight == len(stages) {
			f.further(pl, cl, stages)
		}
	}
}

// further takes more units in flight than stages where links are so slow that it pays.
func (f fill) further(pl forecast.Pipeline, cl *Cluster, stages []*graph.Stage) {
	const times, enough = 3, 0.97 // more units take more memory
	seconds := func(c *Cluster) float64 {
		return f.ahead(pl, c).Round(f.round(), f.j.BatchSize, c.MicroBatches).Seconds
	}
	best := seconds(cl)
	for n := cl.InFlight + 1; n <= min(f.own, times*len(stages)); n++ {
		more := *cl
		more.InFlight, f.j.InFlight = n, n
		if s := seconds(&more); s < best*enough && f.fits(&more, stages, more.MicroBatches) {
			best, cl.InFlight = s, n
		}
	}
}

// turns tells whether replicas of whole batches take turns in a pipeline.
func turns(j job.Spec) bool { return j.Replica() > 1 && !j.Gradients() }

// parts is the number of replicas that a batch is split over.
func parts(j job.Spec) int {
	if j.Gradients() {
		return j.Replica()
	}
	return 1
}

// round is the batches of a round, as far as the forecast walks them.
func (f fill) round() int {
	return f.j.UpdateFrequency * f.own * min(f.facts.updates(f.j), max(1, 32/f.j.Replica()))
}

// ahead is a pipeline that has the cluster's units in flight.
func (f fill) ahead(pl forecast.Pipeline, cl *Cluster) forecast.Pipeline {
	pl.Ahead, pl.Each = cl.InFlight*f.j.UpdateFrequency, f.j.UpdateFrequency
	return pl
}

// fits tells whether the stages have the memory for n micro-batches.
func (f fill) fits(cl *Cluster, stages []*graph.Stage, n int) bool {
	m, err := f.memory(stages, n)
	for k, s := range cl.Stages {
		if err != nil || float64(m[k]) > f.nodes[s.Node].RAM {
			return false
		}
	}
	return true
}

// micro sets the number of micro-batches of a cluster.
func (f fill) micro(pl forecast.Pipeline, cl *Cluster, stages []*graph.Stage) {
	j := f.j
	batches := len(f.rows(1))
	if turns(j) {
		batches = f.round()
	}
	switch {
	case j.MicroBatches > 0:
		cl.MicroBatches = j.MicroBatches
	case f.why != "":
		cl.MicroBatches = 1
	default:
		cl.MicroBatches, _ = pl.MicroBatches(batches, max(1, j.BatchSize/parts(j)), mostMicro, func(n int) bool { return f.fits(cl, stages, n) })
		if cl.MicroBatches == 0 { // what memory was planned by fits
			cl.MicroBatches = f.start().MicroBatches
		}
	}
}

// bytes is what a stage takes in memory, with the data that it holds.
func (f fill) bytes(j job.Spec, s *graph.Stage, p stage.Placement) (int, error) {
	n, err := f.cache.memory(j, s, p)
	return n + f.facts.held(s), err
}

// memory is what the stages take with n micro-batches.
func (f fill) memory(stages []*graph.Stage, n int) ([]int, error) {
	j := f.j
	j.MicroBatches = n
	m := make([]int, len(stages))
	for k, s := range stages {
		var err error
		if m[k], err = f.bytes(j, s, f.place); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// pipeline puts a cut model on a cluster's nodes into the forecast's numbers.
func (f fill) pipeline(stages []*graph.Stage, cl *Cluster) forecast.Pipeline {
	var p forecast.Pipeline
	for k, s := range stages {
		at := cl.Stages[k]
		node := f.nodes[at.Node]
		speed := node.Compute
		if speed < 1 {
			speed = unmeasured
		}
		cores := f.facts.wide(at.Node, at.Threads)
		longer := f.facts.longer(at.Node, float64(cores))
		speed /= longer
		nodes := len(s.Graph.Nodes)
		trainable, cost := f.cache.trains(s)
		params := 4 * float64(trainable)
		p.Stages = append(p.Stages, forecast.Stage{
			Forward: cost.forward.operations() / speed, Backward: cost.backward.operations() / speed,
			EachForward:  kernelTime*float64(nodes) + params*weightTime + edgeRows*cost.edge.forward.operations()/speed,
			EachBackward: 2*kernelTime*float64(nodes) + 3*params*weightTime + edgeRows*cost.edge.backward.operations()/speed,
			Weight:       cost.weight.operations() / speed,
			More:         cost.far.times(1 / speed), Few: exec.Few(s.Graph), Slow: f.facts.slow(at.Node) / longer, Cores: cores,
			Update: float64(3+2*len(optim.Slots(f.j.Optimizer))) * params * memoryTime,
		})
		p.Stages[k].Update += f.tied(stages, cl, k)
		if k+1 == len(stages) {
			break
		}
		next := cl.Stages[k+1].Node
		work := f.facts.wire(at.Node, next)
		served := f.facts.served(at.Node, next)
		l := linkOf(f.j, s, work, served)
		l.Latency = f.facts.delay(at.Node, next)
		l.Seconds = max(8/min(node.Bandwidth, f.nodes[next].Bandwidth), work.byte)
		p.Links = append(p.Links, l)
	}
	for k := range p.Links {
		if f.overlaps() { // else a core is free whenever a message comes
			a, b := p.Stages[k], p.Stages[k+1]
			p.Links[k].Wait = f.facts.crowd(cl.Stages[k].Node, cl.Stages[k+1].Node) * (a.Forward + a.Backward + b.Forward + b.Backward) / 2
			p.Links[k].MostWait = mostCrowded
		}
	}
	f.facts.machines(&p, cl.Stages, f.placed)
	return p
}

// overlaps tells whether stages compute at once: not where batches of one replica stay whole.
func (f fill) overlaps() bool { return f.why == "" || turns(f.j) || f.j.Schedule == job.Async }

// tied is what an update of stage k takes, in seconds, because other stages hold parameters of it: their
// gradients go to the nearest of those and back. Where replicas take turns, others train meanwhile.
func (f fill) tied(stages []*graph.Stage, cl *Cluster, k int) (seconds float64) {
	g := stages[k].Graph
	for _, t := range g.Ties() {
		for _, other := range t.Stages {
			if other == k {
				continue
			}
			a, b := cl.Stages[k].Node, cl.Stages[other].Node
			work, elems := f.facts.wire(a, b), float64(elemsOf(g, t.Name))
			bytes := work.wide("fp32") * elems
			seconds += 2 * (work.element*elems + work.byte*(1-f.facts.served(a, b))*bytes)
			if !turns(f.j) {
				seconds += 2 * (bytes*8/min(f.nodes[a].Bandwidth, f.nodes[b].Bandwidth) + f.facts.delay(a, b))
			}
			break
		}
	}
	return seconds
}

func elemsOf(g *graph.Graph, name string) int {
	for _, p := range g.Params() {
		if p.Full == name {
			return p.Elems()
		}
	}
	return 0
}

// linkOf is what the tensors that a stage sends to the next, and their gradients, take on a link that
// is served by other cores than those that compute, so far. Tensors are coded by those that do.
func linkOf(j job.Spec, s *graph.Stage, work wireWork, served float64) forecast.Link {
	var l forecast.Link
	sent := 0.0 // elements
	for _, e := range s.Out {
		n := float64(e.Shape.Elems())
		bytes := func(operand bool) float64 {
			if sent += n; operand && operandsAsBF16(j) {
				return n * work.wide("bf16")
			}
			return n * work.wide(j.Wire)
		}
		l.Out += bytes(e.Operand)
		if !e.Constant {
			l.Back += bytes(e.GradOperand)
		}
		l.Each += messageWork * (1 - served)
	}
	l.Work = work.byte * (1 - served)
	if b := l.Out + l.Back; b > 0 {
		l.Work += work.element * sent / b
	}
	return l
}

// filled says what as many replicas as stages would bring.
func (f fill) filled(pl forecast.Pipeline, cl *Cluster) string {
	pl.Ahead, pl.Each = len(cl.Stages)*f.j.UpdateFrequency, f.j.UpdateFrequency
	i := pl.Round(8*pl.Ahead, f.j.BatchSize, cl.MicroBatches).Idle()
	if i >= cl.Idle-0.1 {
		return ""
	}
	return fmt.Sprintf("replicas %d, each on its own batches, would make it %.0f %%", len(cl.Stages), 100*i)
}

// note says what keeps the pipeline from being full.
func (f fill) note(pl forecast.Pipeline, cl *Cluster) string {
	if len(cl.Stages) < 2 || cl.Idle < idleWorth {
		return ""
	}
	j := f.j
	idle := func(updates, micro int) float64 {
		return pl.Update(forecast.Split(updates, j.BatchSize, micro)).Idle()
	}
	head := fmt.Sprintf("stages stand still %.0f %% of the time", 100*cl.Idle)
	if f.why == "" {
		if j.MicroBatches == 0 {
			return "" // as full as links and overheads allow
		}
		n, r := pl.MicroBatches(j.UpdateFrequency, j.BatchSize, mostMicro, func(int) bool { return true })
		if r.Idle() > cl.Idle-0.1 {
			return ""
		}
		return fmt.Sprintf("%s: without micro_batches in the job %d would be chosen, with %.0f %% and the same result", head, n, 100*r.Idle())
	}
	replicas := ""
	if j.Replica() == 1 {
		replicas = f.filled(pl, cl)
	}
	best := 0
	for u := 2 * j.UpdateFrequency; u <= mostUpdate && !compares(f.g); u *= 2 {
		if best == 0 || idle(u, cl.MicroBatches) < idle(best, cl.MicroBatches)-0.02 {
			best = u
		}
		if idle(u, cl.MicroBatches) < idleWorth {
			break
		}
	}
	var would []string
	if best > 0 && idle(best, cl.MicroBatches) < cl.Idle-0.1 {
		would = append(would, fmt.Sprintf("update_frequency %d, with batches as much smaller, would make it %.0f %%", best, 100*idle(best, cl.MicroBatches)))
	}
	if replicas != "" {
		would = append(would, replicas)
	}
	if would == nil {
		return ""
	}
	return fmt.Sprintf("%s: %s; %s", head, f.why, strings.Join(would, "; "))
}

// WriteTo prints the plan for people.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, p.String())
	return int64(n), err
}

func (p *Plan) String() string {
	var b strings.Builder
	if p.GA != nil {
		g := *p.GA
		if strings.Contains(p.Note, spareText) { // it names them
			g.Spares = nil
		}
		b.WriteString(g.String())
	}
	for i, c := range p.Clusters {
		if len(p.Clusters) > 1 && len(c.Replicas) > 0 {
			fmt.Fprintf(&b, "cluster %d: trains replicas %s", i, list(c.Replicas))
			if c.Rate > 0 {
				fmt.Fprintf(&b, ", %s", Speed(c.Rate))
			}
			b.WriteString("\n")
		}
		if c.MicroBatches > 1 {
			fmt.Fprintf(&b, "cluster %d: batches flow in %d micro-batches\n", i, c.MicroBatches)
		}
		for _, line := range c.threads() {
			fmt.Fprintf(&b, "cluster %d: %s\n", i, line)
		}
		if c.Halves {
			fmt.Fprintf(&b, "cluster %d: backward passes are in two halves, which fills idle time: forecast to be %.2f times as fast, with the same result\n", i, c.Gain)
		}
		if c.InFlight > 1 {
			fmt.Fprintf(&b, "cluster %d: units of %d replicas are in flight\n", i, c.InFlight)
		}
		if c.Note != "" {
			fmt.Fprintf(&b, "cluster %d: %s\n", i, c.Note)
		}
	}
	if p.Rate > 0 {
		fmt.Fprintf(&b, "forecast: %s", Speed(p.Rate))
		if p.Averaging > 0 {
			fmt.Fprintf(&b, ", %.2g %% of the time for averaging", 100*p.Averaging)
		}
		b.WriteString("\n")
	}
	if p.Note != "" {
		fmt.Fprintln(&b, p.Note)
	}
	return b.String()
}
