// Package stage runs one stage of a pipeline: root, stem or leaf. It walks the
// actions of its schedule, taking activations from the stages before it and gradients
// from those after it, and owns the weights of its piece of the model.
package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// ErrProtocol is wrapped by errors that say a neighbour sent something other than
// what the schedule makes it send.
var ErrProtocol = errors.New("unexpected message from a neighbour stage")

// Link is the connection to one other stage. Messages arrive whole and in order.
type Link interface {
	Send(ctx context.Context, h wire.Header, payload []byte) error
	Recv(ctx context.Context) (transport.Message, error)
}

// Rows is a table of samples, read by row number.
type Rows interface {
	Len() int
	Gather(dst []float32, rows []int32) // rows × elements
}

// Loss is the training loss of one batch.
type Loss struct {
	Epoch int
	Step  uint64
	Value float32
}

// Validation is the outcome of one validation pass.
type Validation struct {
	Epoch          int
	Step           uint64
	Correct, Total int // answers: one a row, or one for every position that has a class
	Loss           float32
}

// NewValidation is the outcome of a pass whose answers were scored as s.
func NewValidation(s loss.Score) Validation {
	return Validation{Correct: s.Correct, Total: s.Total, Loss: s.Mean()}
}

// Saved is a stage's state at a point that all stages share.
type Saved struct {
	Epoch    int
	Step     uint64
	Position order.Position // where the run goes on from this state
	Final    bool           // nothing comes after it
	State    state.Dict
}

// Observer is told what happens. Its methods are called from Run's goroutine and
// must not block for long.
type Observer interface {
	Loss(Loss)            // leaf only
	Validated(Validation) // leaf only
	Batch(rows int)       // a batch has been through this stage
	Keep(Saved) error     // the state is a copy
}

// Config is what a stage is made of.
type Config struct {
	Job    job.Spec
	Stage  *graph.Stage
	Output graph.Shape // of the model's answer, one row

	TrainRows, ValRows int
	// Inputs of the model (root) and targets (leaf): training and validation rows.
	TrainX, ValX, TrainY, ValY Rows
	// Order fills dst with the order of an epoch's training rows.
	Order func(dst []int32, seed uint64, epoch int)

	Links map[int]Link // by stage
	Team  *kernel.Team
	Now   func() time.Duration // a monotonic clock, for the busy share only
	// Between, if set, is called between the kernels of a pass. It may take its time.
	Between func()
}

// Stage is a compiled stage with its weights.
type Stage struct {
	cfg   Config
	sched order.Schedule
	train *exec.Exec
	eval  *exec.Exec
	plan  *exec.Plan
	ev    *exec.Plan
	loss  *loss.Func
	opt   *optim.Optimizer

	st       exec.State
	grads    []float32
	versions [][]float32 // st.Params is one of them
	slotVer  [][]float32 // by slot: the version of the micro-batch in it

	in, out     []edge
	due         []edge // gradients that come before a backward pass, in the senders' order
	first, last bool
	order       []int32
	orderOf     int
	rowIdx      []int32 // of a validation batch
	sum         float32 // of the batch's loss terms so far
	terms       int     // of the whole batch
	val         loss.Score

	enc   *codec.Encoder
	plain *codec.Encoder // for inputs of the model that go to later stages
	dec   *codec.Decoder
	buf   []byte
	raw   int64 // bytes that went out, had they been plain float32
	busy  time.Duration

	mark   func() order.Mark // asked on the root
	wanted bool              // a checkpoint, at the next place where one can be taken
	marked uint64            // item before which the last mark was set, plus one
}

// edge is a value that crosses the stage's border.
type edge struct {
	id     uint16 // in the whole graph
	local  int    // value in the stage's graph
	per    int
	from   int   // stage it comes from (in) or -1
	to     []int // out: stages it goes to
	before int   // in: stage that the gradient goes to next; -1: none
	after  int   // stage that the gradient comes from; -1: none
}

// Plans compiles the training and evaluation plans of a stage: what it will cost is
// known from them before anything is allocated.
func Plans(j job.Spec, s *graph.Stage) (train, eval *exec.Plan, err error) {
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
		if e.To[len(e.To)-1] > s.Index && !e.Constant {
			seeds = append(seeds, k) // a later stage reads it too: its gradient comes first
		}
	}
	again, err := exec.ParseRecompute(j.Recompute)
	if err != nil {
		return nil, nil, err
	}
	precision, err := exec.ParsePrecision(j.Precision)
	if err != nil {
		return nil, nil, err
	}
	c := exec.Config{
		Recompute: again, Precision: precision, Rows: j.MicroRows(), Slots: s.Of - s.Index, Train: true, Outputs: outs, Seeds: seeds, InputGrad: s.Index > 0,
	}
	if train, err = exec.Compile(s.Graph, s.First, c); err != nil {
		return nil, nil, err
	}
	eval, err = exec.Compile(s.Graph, s.First, exec.Config{Rows: j.BatchSize, Outputs: outs, Precision: precision})
	return train, eval, err
}

// Bytes is the memory that a stage of job j promises to stay within, on one thread: plans,
// optimiser, stashed versions, the targets of a batch and the message that goes out. The
// data set, the messages under way and what they are compressed with come on top.
func Bytes(j job.Spec, s *graph.Stage) (int, error) {
	t, e, err := Plans(j, s)
	if err != nil {
		return 0, err
	}
	m, ev := t.Memory(), e.Memory()
	n := m.Total() + ev.Slots + ev.Temp + ev.Scratch + optim.Bytes(j.Optimizer, t.Layout.Trainable)
	if j.Schedule == job.Async {
		n += 4 * t.Layout.Trainable * (s.Of - s.Index - 1)
	}
	if s.Last {
		n += loss.Bytes(s.Graph.Shape(s.Graph.OutputValue()), j.BatchSize)
	}
	largest := 0
	for _, e := range s.Out {
		largest = max(largest, e.Shape.Elems())
	}
	if s.Index > 0 {
		for _, e := range s.In { // its gradient
			largest = max(largest, e.Shape.Elems())
		}
	}
	return n + 4*largest*j.BatchSize, nil
}

// New compiles the stage and initialises its weights from the job's seed.
func New(cfg Config) (*Stage, error) {
	gs, j := cfg.Stage, cfg.Job
	s := &Stage{cfg: cfg, first: gs.Index == 0, last: gs.Last, orderOf: -1, mark: func() order.Mark { return order.Continue }}
	var err error
	if s.plan, s.ev, err = Plans(j, gs); err != nil {
		return nil, err
	}
	if s.last {
		if s.loss, err = loss.New(j.Loss, cfg.Output, j.BatchSize); err != nil {
			return nil, err
		}
	}
	delay := optim.Delay{}
	if j.Schedule == job.Async {
		delay = optim.Delay{Stage: gs.Index, Stages: gs.Of}
	}
	if s.opt, err = optim.New(j.Optimizer, s.plan.Layout.Trainable, delay); err != nil {
		return nil, err
	}
	kind, err := codec.ParseKind(j.Wire)
	if err != nil {
		return nil, err
	}
	s.enc, s.dec = codec.NewEncoder(kind), codec.NewDecoder()
	seq, err := order.NewSequence(j.Order(cfg.TrainRows, cfg.ValRows), order.Position{})
	if err != nil {
		return nil, err
	}
	switch j.Schedule {
	case job.Sync:
		s.sched = order.NewSync(seq, gs.Index, gs.Of)
	case job.Async:
		s.sched = order.NewAsync(seq, gs.Index, gs.Of)
	default:
		return nil, fmt.Errorf("no schedule is called %q", j.Schedule)
	}
	s.train, s.eval = s.plan.New(cfg.Team), s.ev.New(cfg.Team)
	s.train.Between, s.eval.Between = cfg.Between, cfg.Between
	s.st = s.plan.Layout.NewState()
	s.plan.Layout.Init(s.st, j.Seed)
	s.grads = make([]float32, s.plan.Layout.Trainable)
	s.versions = [][]float32{s.st.Params}
	s.slotVer = make([][]float32, s.sched.Slots())
	s.order = make([]int32, cfg.TrainRows)
	s.rowIdx = make([]int32, j.BatchSize)
	if err := s.edges(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stage) edges() error {
	gs := s.cfg.Stage
	if s.first && (s.cfg.TrainX == nil || s.cfg.ValX == nil) || s.last && (s.cfg.TrainY == nil || s.cfg.ValY == nil) {
		return errors.New("the root needs the inputs and the leaf the targets of the data set")
	}
	need := func(stage int) error {
		if s.cfg.Links[stage] == nil {
			return fmt.Errorf("stage %d has no link to stage %d", gs.Index, stage)
		}
		return nil
	}
	for k, e := range gs.In {
		d := edge{id: uint16(e.Value), local: k, per: e.Shape.Elems(), from: e.From, before: e.From, after: -1}
		for i, t := range e.To {
			if t == gs.Index {
				if i > 0 {
					d.before = e.To[i-1]
				}
				if i+1 < len(e.To) {
					d.after = e.To[i+1]
				}
			}
		}
		if e.Constant {
			d.before, d.after = -1, -1
		}
		for _, t := range []int{d.from, d.before, d.after} {
			if t >= 0 {
				if err := need(t); err != nil {
					return err
				}
			}
		}
		s.in = append(s.in, d)
	}
	for _, e := range gs.Out {
		d := edge{id: uint16(e.Value), local: gs.Local(e), per: e.Shape.Elems(), from: -1, to: e.To, before: -1, after: e.To[0]}
		if e.Constant {
			d.after = -1
		}
		for _, t := range e.To {
			if err := need(t); err != nil {
				return err
			}
		}
		s.out = append(s.out, d)
	}
	for _, d := range append(slices.Clone(s.out), s.in...) {
		if d.after >= 0 {
			s.due = append(s.due, d)
		}
	}
	slices.SortFunc(s.due, func(a, b edge) int { return int(a.id) - int(b.id) })
	return nil
}

// Memory that was promised for this stage, in bytes.
func (s *Stage) Memory() int {
	n, _ := Bytes(s.cfg.Job, s.cfg.Stage)
	return n
}

// State is a copy of the weights.
func (s *Stage) State() state.Dict { return s.plan.Layout.Export(s.st) }

// Raw is how many bytes of plain float32 the tensors sent so far are. Like Busy, it is
// for the Observer's calls.
func (s *Stage) Raw() int64 { return s.raw }

// Busy is the time spent computing, by Config.Now.
func (s *Stage) Busy() time.Duration { return s.busy }

// Run walks the whole run. On the root, mark is asked before every update; the other
// stages learn the answer from their neighbours. At order.Stop what is in flight is
// finished, the state is kept and the run ends. At order.Checkpoint the state is kept and
// the run goes on: where updates overlap (async), at the next place where the pipeline is
// drained anyway, so that a checkpoint never changes the result.
func (s *Stage) Run(ctx context.Context, mark func() order.Mark, obs Observer) error {
	if mark != nil {
		s.mark = mark
	}
	for {
		a, err := s.sched.Next()
		if err != nil {
			return err
		}
		if err := s.do(ctx, a, obs); err != nil {
			return fmt.Errorf("%s of step %d: %w", a.Kind, a.Item.Step, err)
		}
		if a.Kind == order.Done {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
}

func (s *Stage) do(ctx context.Context, a order.Action, obs Observer) error {
	switch a.Kind {
	case order.Forward:
		m, err := s.forward(ctx, a, obs)
		if err == nil && m != order.Continue {
			err = s.sched.Mark(a, m)
		}
		return err
	case order.Backward:
		return s.backward(ctx, a)
	case order.Update:
		s.update(a.Item)
	case order.Evaluate:
		return s.evaluate(ctx, a.Item)
	case order.Report:
		if s.last {
			v := NewValidation(s.val)
			v.Epoch, v.Step = a.Item.Epoch, a.Item.Step
			obs.Validated(v)
			s.val = loss.Score{}
		}
	case order.Keep:
		return obs.Keep(Saved{Epoch: a.Item.Epoch, Step: a.Item.Step, Position: a.At, Final: a.Final, State: s.State()})
	case order.Done:
	default:
		return fmt.Errorf("a stage cannot do %s", a.Kind)
	}
	return nil
}

// rows are the rows of the data set that an item is about.
func (s *Stage) rows(it order.Item) []int32 {
	if it.Kind == order.Eval {
		idx := s.rowIdx[:it.Rows]
		for i := range idx {
			idx[i] = int32(it.Batch*s.cfg.Job.BatchSize + i)
		}
		return idx
	}
	return s.batch(it)[it.Row0:][:it.Rows]
}

// batch is the rows of the whole batch that a Train item is a part of.
func (s *Stage) batch(it order.Item) []int32 {
	if s.orderOf != it.Epoch {
		s.cfg.Order(s.order, s.cfg.Job.Seed, it.Epoch)
		s.orderOf = it.Epoch
	}
	return s.order[it.Batch*s.cfg.Job.BatchSize:][:it.Total]
}

// working counts the time until the returned function is called as busy.
func (s *Stage) working() func() {
	if s.cfg.Now == nil {
		return func() {}
	}
	t := s.cfg.Now()
	return func() { s.busy += s.cfg.Now() - t }
}

// ask is the mark before an update, on the root.
func (s *Stage) ask(a order.Action) order.Mark {
	m := s.mark()
	if m == order.Checkpoint || s.wanted {
		s.wanted = true
		if m != order.Stop {
			m = order.Continue
			if a.Drained {
				m, s.wanted = order.Checkpoint, false
			}
		}
	}
	return m
}

// marks tells whether a mark may stand before item it, and whether none stood there yet.
func (s *Stage) marks(it order.Item) bool {
	return it.Kind == order.Train && it.First && s.marked != it.Seq+1
}

// feed fills the inputs of a forward pass, unless a mark stands before it.
func (s *Stage) feed(ctx context.Context, e *exec.Exec, a order.Action, x Rows) (order.Mark, error) {
	it := a.Item
	if s.first {
		if s.marks(it) {
			if m := s.ask(a); m != order.Continue {
				s.marked = it.Seq + 1
				return m, s.sendMark(ctx, it, m)
			}
		}
		for _, d := range s.in {
			x.Gather(e.Value(a.Slot, d.local, it.Rows), s.rows(it))
		}
		return order.Continue, nil
	}
	for k, d := range s.in {
		m, err := s.receive(ctx, d.from, wire.Activation, d, it, e.Value(a.Slot, d.local, it.Rows), k == 0)
		if err != nil {
			return m, err
		}
		if m != order.Continue {
			s.marked = it.Seq + 1
			if err := s.sendMark(ctx, it, m); err != nil {
				return m, err
			}
			return m, s.sameMark(ctx, it, m)
		}
	}
	return order.Continue, nil
}

// sameMark takes a mark, which the first stage that this one listens to has sent, from the
// others too.
func (s *Stage) sameMark(ctx context.Context, it order.Item, want order.Mark) error {
	heard := map[int]bool{s.in[0].from: true}
	for _, d := range s.in {
		if heard[d.from] {
			continue
		}
		heard[d.from] = true
		m, err := s.cfg.Links[d.from].Recv(ctx)
		if err != nil {
			return fmt.Errorf("waiting for stage %d: %w", d.from, err)
		}
		h := m.Header
		m.Release()
		if h.Kind != wire.Control || h.Seq != it.Seq || order.Mark(h.Rows) != want {
			return fmt.Errorf("%w: stage %d sent kind %d for item %d; stage %d sent a %s before item %d", ErrProtocol, d.from, h.Kind, h.Seq, s.in[0].from, want, it.Seq)
		}
	}
	return nil
}

func (s *Stage) emit(ctx context.Context, e *exec.Exec, slot int, it order.Item) error {
	for _, d := range s.out {
		if err := s.send(ctx, d.to, wire.Activation, d, it, e.Value(slot, d.local, it.Rows)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stage) forward(ctx context.Context, a order.Action, obs Observer) (order.Mark, error) {
	it := a.Item
	if m, err := s.feed(ctx, s.train, a, s.cfg.TrainX); m != order.Continue || err != nil {
		return m, err
	}
	done := s.working()
	s.slotVer[a.Slot] = s.st.Params
	s.train.Forward(a.Slot, exec.Batch{Seed: s.cfg.Job.Seed, Step: it.Step, Row0: it.Row0, Rows: it.Rows}, s.st.Params, &s.st)
	if s.last {
		s.score(a, obs)
	}
	done()
	if it.Ends {
		obs.Batch(it.Total)
	}
	return order.Continue, s.emit(ctx, s.train, a.Slot, it)
}

// score computes the loss of a micro-batch and the gradient of the model's answer.
func (s *Stage) score(a order.Action, obs Observer) {
	it, out := a.Item, s.cfg.Stage.Graph.OutputValue()
	if it.Row0 == 0 {
		s.sum, s.terms = 0, s.loss.Terms(s.cfg.TrainY, s.batch(it))
	}
	s.sum = s.loss.Accumulate(s.sum, s.train.Grad(a.Slot, out, it.Rows), s.train.Value(a.Slot, out, it.Rows), s.cfg.TrainY, s.rows(it), s.terms)
	if it.Ends {
		obs.Loss(Loss{Epoch: it.Epoch, Step: it.Step, Value: loss.Mean(s.sum, s.terms)})
	}
}

func (s *Stage) backward(ctx context.Context, a order.Action) error {
	it := a.Item
	for _, d := range s.due {
		if _, err := s.receive(ctx, d.after, wire.Gradient, d, it, s.train.Grad(a.Slot, d.local, it.Rows), false); err != nil {
			return err
		}
	}
	done := s.working()
	s.train.Backward(a.Slot, s.slotVer[a.Slot], s.grads, !it.First)
	s.slotVer[a.Slot] = nil
	done()
	for _, d := range s.in {
		if d.before < 0 {
			continue // the model's input, or constant
		}
		if err := s.send(ctx, []int{d.before}, wire.Gradient, d, it, s.train.Grad(a.Slot, d.local, it.Rows)); err != nil {
			return err
		}
	}
	return nil
}

// update applies the gradients of a group of batches. A version that a micro-batch in
// flight still needs for its backward pass is left alone and a copy is updated.
func (s *Stage) update(it order.Item) {
	defer s.working()()
	if s.inUse(s.st.Params) {
		next := s.spare()
		copy(next, s.st.Params)
		s.st.Params = next
	}
	s.opt.Step(s.cfg.Team, s.st.Params, s.grads, optim.Rate(s.cfg.Job.LR, s.cfg.Job.Optimizer.LR, it.Epoch))
}

func same(a, b []float32) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (s *Stage) inUse(v []float32) bool {
	for _, u := range s.slotVer {
		if u != nil && same(u, v) {
			return true
		}
	}
	return false
}

// spare finds a buffer that no micro-batch in flight uses.
func (s *Stage) spare() []float32 {
	for _, v := range s.versions {
		if !same(v, s.st.Params) && !s.inUse(v) {
			return v
		}
	}
	v := make([]float32, len(s.st.Params))
	s.versions = append(s.versions, v)
	return v
}

func (s *Stage) evaluate(ctx context.Context, it order.Item) error {
	if _, err := s.feed(ctx, s.eval, order.Action{Item: it}, s.cfg.ValX); err != nil {
		return err
	}
	done := s.working()
	s.eval.Forward(0, exec.Batch{Rows: it.Rows}, s.st.Params, &s.st)
	if s.last {
		pred := s.eval.Value(0, s.cfg.Stage.Graph.OutputValue(), it.Rows)
		s.val.Add(s.loss.Score(pred, s.cfg.ValY, s.rows(it)))
	}
	done()
	return s.emit(ctx, s.eval, 0, it)
}

// send encodes a tensor once and sends it to the given stages.
func (s *Stage) send(ctx context.Context, to []int, kind wire.Kind, d edge, it order.Item, x []float32) error {
	done := s.working()
	var err error
	enc := s.enc
	if int(d.id) < s.cfg.Stage.ModelInputs {
		// A model's input may be token numbers, which no lossy wire keeps.
		if s.plain == nil {
			s.plain = codec.NewEncoder(codec.FP32)
		}
		enc = s.plain
	}
	s.buf, err = enc.Encode(s.buf[:0], x)
	done()
	if err != nil {
		return err
	}
	h := wire.Header{Kind: kind, Edge: d.id, Seq: it.Seq, Rows: uint32(it.Rows), Elems: uint32(len(x))}
	for _, t := range to {
		if err := s.cfg.Links[t].Send(ctx, h, s.buf); err != nil {
			return fmt.Errorf("sending to stage %d: %w", t, err)
		}
		s.raw += 4 * int64(len(x))
	}
	return nil
}

// sendMark tells the next stages that a mark stands before it.
func (s *Stage) sendMark(ctx context.Context, it order.Item, m order.Mark) error {
	told := map[int]bool{}
	for _, d := range s.out {
		for _, t := range d.to {
			if told[t] {
				continue
			}
			told[t] = true
			if err := s.cfg.Links[t].Send(ctx, wire.Header{Kind: wire.Control, Edge: d.id, Seq: it.Seq, Rows: uint32(m)}, nil); err != nil {
				return fmt.Errorf("sending to stage %d: %w", t, err)
			}
		}
	}
	return nil
}

// receive takes the next message of a stage, which the schedule says must be tensor d
// of item it, or a mark before it where one may come first.
func (s *Stage) receive(ctx context.Context, from int, kind wire.Kind, d edge, it order.Item, dst []float32, first bool) (order.Mark, error) {
	m, err := s.cfg.Links[from].Recv(ctx)
	if err != nil {
		return order.Continue, fmt.Errorf("waiting for stage %d: %w", from, err)
	}
	defer m.Release()
	h := m.Header
	if first && h.Kind == wire.Control && h.Seq == it.Seq && s.marks(it) {
		if k := order.Mark(h.Rows); k == order.Checkpoint || k == order.Stop {
			return k, nil
		}
		return order.Continue, fmt.Errorf("%w: stage %d sent mark %d, which there is not", ErrProtocol, from, h.Rows)
	}
	if h.Kind != kind || h.Edge != d.id || h.Seq != it.Seq || int(h.Rows) != it.Rows || int(h.Elems) != len(dst) {
		return order.Continue, fmt.Errorf("%w: stage %d sent kind %d, edge %d, item %d, %d rows, %d elements; expected kind %d, edge %d, item %d, %d rows, %d elements",
			ErrProtocol, from, h.Kind, h.Edge, h.Seq, h.Rows, h.Elems, kind, d.id, it.Seq, it.Rows, len(dst))
	}
	defer s.working()()
	if err := s.dec.Decode(dst, m.Payload); err != nil {
		return order.Continue, fmt.Errorf("from stage %d: %w", from, err)
	}
	return order.Continue, nil
}
