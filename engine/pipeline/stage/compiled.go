// What a stage will cost, before anything of it is allocated: its plans, its messages and
// what it holds.

package stage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// ErrMessage is wrapped by errors that say that a tensor between two stages is larger than
// the largest message.
var ErrMessage = errors.New("a tensor between stages is too large")

// Compiled is a stage of a job with its plans. It is immutable: any number of stages can be made
// from it.
type Compiled struct {
	Job         job.Spec
	Stage       *graph.Stage
	Placement   Placement
	kind        codec.Kind
	train, eval *exec.Plan
	edges       edges
	shares      []share // that are averaged with other clusters
	ties        []tie
	slots       int // of the first stage
	targets     int // bytes that the loss takes
}

// schedule makes the schedule that a job asks for.
func schedule(name string, seq *order.Sequence, stage, stages int) (order.Schedule, error) {
	switch name {
	case job.Sync:
		return order.NewSync(seq, stage, stages), nil
	case job.Async:
		return order.NewAsync(seq, stage, stages), nil
	case job.ZB:
		return order.NewZeroBubble(seq, stage, stages), nil
	}
	return nil, fmt.Errorf("no schedule is called %q", name)
}

// Compile plans a stage of job j in the cluster that p says. Errors about p wrap ErrPlacement.
func Compile(j job.Spec, s *graph.Stage, p Placement) (*Compiled, error) {
	if err := p.Check(j, 0); err != nil {
		return nil, err
	}
	kind, err := codec.ParseKind(j.Wire)
	if err != nil {
		return nil, err
	}
	c := &Compiled{Job: j, Stage: s, Placement: p, kind: kind, edges: edgesOf(s)}
	segments, err := p.segments(s)
	if err != nil {
		return nil, err
	}
	if err := c.messages(); err != nil {
		return nil, err
	}
	var outs, seeds []int
	for _, e := range s.Out {
		outs = append(outs, s.Local(e))
		if !e.Constant {
			seeds = append(seeds, s.Local(e))
		}
	}
	if s.Last {
		outs, seeds = append(outs, s.Graph.OutputValue()), append(seeds, s.Graph.OutputValue())
	}
	for k, e := range s.In {
		if !e.Constant && e.Back[len(e.Back)-1] > s.Index {
			seeds = append(seeds, k) // a later stage reads it too: its gradient comes first
		}
	}
	again, err := exec.ParseRecompute(j.Recompute)
	if err != nil {
		return nil, err
	}
	precision, err := exec.ParsePrecision(j.Precision)
	if err != nil {
		return nil, err
	}
	run := p.run(j, 1, 0) // the number of rows is for New
	run.Periods = nil
	seq, err := order.NewSequence(run, order.Position{})
	if err != nil {
		return nil, err
	}
	sched, err := schedule(j.Schedule, seq, s.Index, s.Of)
	if err != nil {
		return nil, err
	}
	root, err := schedule(j.Schedule, seq, 0, s.Of)
	if err != nil {
		return nil, err
	}
	c.slots = root.Slots()
	cfg := exec.Config{Recompute: again, Precision: precision, Rows: j.MicroRows(), Slots: sched.Slots(), Train: true, Split: j.Schedule == job.ZB, Outputs: outs, Seeds: seeds, InputGrad: s.Index > 0}
	if c.train, err = exec.Compile(s.Graph, s.First, cfg); err != nil {
		return nil, err
	}
	if c.eval, err = exec.Compile(s.Graph, s.First, exec.Config{Rows: j.MicroRows(), Outputs: outs, Precision: precision}); err != nil {
		return nil, err
	}
	if s.Last {
		l, err := loss.NewSum(j, s.Graph.AnswerShapes(), 0)
		if err != nil {
			return nil, err
		}
		c.targets = l.Bytes(s.Graph.Shape(s.Graph.OutputValue()), j.BatchSize)
	}
	if c.ties, err = tiesOf(j, s, &c.train.Layout); err != nil {
		return nil, err
	}
	var elsewhere map[string]bool
	if p.several() { // one cluster averages each copy for itself
		elsewhere = later(c.ties)
	}
	c.shares = sharesOf(j, &c.train.Layout, s.First, segments, len(p.Clusters), elsewhere)
	return c, c.checkRings()
}

// messages returns an error if a tensor is larger than the largest message that links carry.
func (c *Compiled) messages() error {
	for _, d := range slices.Concat(c.edges.in, c.edges.out) {
		if d.per == 0 || !d.crosses() {
			continue
		}
		rows := c.Job.MicroRows()
		if c.size(d, rows) <= wire.MaxTransfer && d.per*rows <= codec.MaxElems {
			continue
		}
		most := rows // that fit
		for most > 0 && (c.size(d, most) > wire.MaxTransfer || d.per*most > codec.MaxElems) {
			most--
		}
		if most == 0 {
			return fmt.Errorf("%w: one row of %q is %.0f MB, a message has at most %.0f: cut the model elsewhere",
				ErrMessage, d.name, float64(c.size(d, 1))/1e6, float64(wire.MaxTransfer)/1e6)
		}
		return fmt.Errorf("%w: %d rows of %q are %.0f MB, a message has at most %.0f: set micro_batches to at least %d",
			ErrMessage, rows, d.name, float64(c.size(d, rows))/1e6, float64(wire.MaxTransfer)/1e6, (c.Job.BatchSize+most-1)/most)
	}
	return nil
}

// size returns the bytes of the largest message that rows of a tensor, or of its gradient, can
// make.
func (c *Compiled) size(d edge, rows int) int {
	return max(c.message(d, false, rows), c.message(d, true, rows))
}

// message returns the bytes of the largest message that rows of a tensor, or of its gradient, can
// make.
func (c *Compiled) message(d edge, gradient bool, rows int) int {
	kind := c.kind
	switch {
	case d.exact:
		kind = codec.FP32
	case c.halves() && (gradient && d.gradOperand || !gradient && d.operand):
		kind = codec.BF16
	}
	return wire.MessageHeader + codec.MaxSize(kind, d.per*rows)
}

// halves reports whether operands of products are sent as bfloat16: in a job of that precision
// they lose nothing by it. A lossy wire rounds everything, as it is told to.
func (c *Compiled) halves() bool { return c.Job.Precision == "bf16" && c.kind == codec.FP32 }

// Peers returns the stages that this one needs links to, ascending.
func (c *Compiled) Peers() []int {
	var ps []int
	for _, d := range c.edges.in {
		ps = append(ps, d.from, d.before, d.after)
	}
	for _, d := range c.edges.out {
		ps = append(append(ps, d.to...), d.after)
	}
	ps = append(ps, c.tiedPeers()...)
	if c.clips() {
		ps = append(ps, c.Stage.Index-1)
		if !c.Stage.Last {
			ps = append(ps, c.Stage.Index+1)
		}
	}
	slices.Sort(ps)
	return slices.DeleteFunc(slices.Compact(ps), func(p int) bool { return p < 0 })
}

// Link returns what this side of the link to another stage must be able to receive: the largest
// message, and a window for as many as the schedule lets the other side send ahead.
func (c *Compiled) Link(peer int) transport.Options {
	largest, ahead := c.passing(peer)
	n := c.gathered(peer)
	o := transport.Options{MaxTransfer: max(largest, n)}
	switch {
	case c.flows() && slices.Contains(c.tiedPeers(), peer):
		o.Credit = c.flowing(peer)
	case n > 0:
		// Whoever waits for what completes gradients takes in what else comes, so there must be room for
		// all of it.
		o.Credit = (c.Stage.Of+1)*ahead + 2*n
	default:
		// As many as may be in flight, and validation runs ahead by one more.
		o.Credit = min(transport.DefaultCredit, (c.Stage.Of+1)*ahead)
	}
	return o
}

// passing returns the size of the largest message of a pass that another stage sends, and what those
// of one micro-batch take.
func (c *Compiled) passing(peer int) (largest, ahead int) {
	largest = wire.MessageHeader
	if c.Placement.moves() { // a mark names the cluster of each replica
		largest += c.Job.Replica()
		ahead += largest + wire.MessageCost
	}
	take := func(d edge, gradient bool) {
		n := c.message(d, gradient, c.Job.MicroRows())
		largest = max(largest, n)
		ahead += n + wire.MessageCost
	}
	for _, d := range c.edges.in {
		if d.from == peer {
			take(d, false)
		}
		if d.after == peer {
			take(d, true)
		}
	}
	for _, d := range c.edges.out {
		if d.after == peer {
			take(d, true)
		}
	}
	return largest, ahead
}

// Rings returns the stages of other clusters that this one needs links to: its neighbours in the
// rings of its segments, each once, by cluster and stage. One cluster has none.
func (c *Compiled) Rings() []Peer {
	var ps []Peer
	for _, r := range c.ringShares() {
		ps = append(ps, r.next, r.before)
	}
	return sorted(ps)
}

// sorted sorts stages by cluster, each once.
func sorted(ps []Peer) []Peer {
	slices.SortFunc(ps, func(a, b Peer) int { return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Stage, b.Stage)) })
	return slices.Compact(ps)
}

// RingLink is as Link, for a stage of another cluster.
func (c *Compiled) RingLink(p Peer) transport.Options { return c.ringLink(p) }

// Memory is what a stage takes, in bytes.
type Memory struct {
	Train, Eval exec.Memory // plans; weights and gradients are Train's
	Optimizer   int
	Replicas    int // what replicas beside the first have, and what averaging them takes, messages to other clusters included
	Versions    int // weights that micro-batches in flight were computed with
	Targets     int // of the rows that are compared with them
	Data        int // shards of the data set, where it is kept in some, and what changes a row
	Out         int // the message that is encoded
	In          int // messages that have arrived or are about to
	Save        int // the file of a state that is kept
}

// Total is the sum of all of it.
func (m Memory) Total() int {
	return m.Train.Total() + m.Eval.Run() + m.Optimizer + m.Replicas + m.Versions + m.Targets + m.Data + m.Out + m.In + m.Save
}

// Memory is what the stage promises to stay within, on one thread. The data set and what
// messages are compressed with come on top.
func (c *Compiled) Memory() Memory {
	s, trainable := c.Stage, c.train.Layout.Trainable
	m := Memory{Train: c.train.Memory(), Eval: c.eval.Memory(), Optimizer: optim.Bytes(c.Job.Optimizer, trainable), Replicas: replicaBytes(c.Job, &c.train.Layout, c.Placement, c.shares, c.putsOff()) + c.ringBytes()}
	if c.Job.Schedule == job.Async {
		m.Versions = 4 * c.train.Layout.Params * (s.Of - s.Index - 1)
	}
	rows := c.Job.MicroRows()
	if s.Index == 0 {
		m.Data += c.Job.Shards.Inputs
		if c.Job.Augment.On() {
			m.Data += 4 * s.Graph.InputElems()
		}
		m.Data += InputBytes(s.Graph, rows)
	}
	if s.Last {
		m.Data += c.Job.Shards.Targets
		m.Targets = c.targets
	}
	for _, d := range c.edges.out {
		m.Out = max(m.Out, c.message(d, false, rows))
	}
	for _, d := range c.edges.in {
		if d.before >= 0 {
			m.Out = max(m.Out, c.message(d, true, rows))
		}
	}
	for _, p := range c.Peers() {
		m.Out = max(m.Out, c.gathered(p))
		m.In += wire.Bytes(c.Link(p).Credit, c.Link(p).MaxTransfer)
	}
	if c.flows() {
		for _, p := range c.tiedPeers() {
			m.Out += c.tiedSize(p) // each courier's
		}
	}
	m.In += 4 * c.part()
	for _, p := range c.Rings() {
		m.In += wire.Bytes(c.RingLink(p).Credit, c.RingLink(p).MaxTransfer)
	}
	m.Save = snapshot.HeadBytes
	for _, t := range tensors(&c.train.Layout, c.Job, c.Placement) {
		m.Save += t.bytes()
	}
	return m
}

// part returns the number of elements of the largest piece of a tied gradient that arrives to be
// added.
func (c *Compiled) part() int {
	n := 0
	for _, t := range c.ties {
		if t.after >= 0 {
			n = max(n, min(t.Elems, pieceElems))
		}
	}
	return n
}

// Bytes returns the memory within which a stage of job j, in the cluster of p, promises to stay.
func Bytes(j job.Spec, s *graph.Stage, p Placement) (int, error) {
	c, err := Compile(j, s, p)
	if err != nil {
		return 0, err
	}
	return c.Memory().Total(), nil
}

// Has tells whether the stage has a tensor of the model's state dict.
func (c *Compiled) Has(name string) bool {
	return slices.ContainsFunc(c.train.Layout.Entries, func(e exec.Entry) bool { return e.Full == name })
}
