// Running a plan.

package exec

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// slot is the memory of one micro-batch between its forward and backward pass.
type slot struct {
	f      []float32
	w      []uint32
	batch  Batch  // of the last forward pass
	summed []bool // by node: batchnorm's backward sums are there
}

// frame is what an op sees while it runs.
type frame struct {
	e       *Exec
	team    *kernel.Team
	slot    *slot
	params  []float32
	grads   []float32
	state   *State
	scratch []float32
	vals    []place // of the values: those of the forward or of the backward pass
	again   bool    // a forward step runs again in the backward pass

	rounding rounding // of the gradient that a backward step reads
	roundOut bool     // a backward step rounds the gradient that it writes
	from     int      // first row of the slot that this frame is about
	rows     int
	row0     int
	step     uint64
	seed     uint64
	train    bool
	acc      bool
}

// use makes b the batch that the frame is about, in the given slot.
func (f *frame) use(s *slot, b Batch) {
	f.slot, f.rows, f.row0, f.step, f.seed = s, b.Rows, b.Row0, b.Step, b.Seed
}

// pass copies the gradient of a node's output to that of an input.
func (f *frame) pass(node int, dst []float32) {
	if dy := f.dy(node); &dst[0] != &dy[0] {
		copy(dst, dy)
	}
}

func (f *frame) at(p place) []float32 {
	if p.half {
		panic("exec: what is kept as operands is read as float32")
	}
	a := f.e.temp
	if p.slot {
		a = f.slot.f
	}
	if p.once {
		return a[p.off:][:p.per]
	}
	return a[p.off+f.from*p.per:][:p.per*f.rows]
}

// of makes node i the one that the frame is about: what is computed of a whole batch is one row.
func (f *frame) of(i int) {
	if f.rows = f.slot.batch.Rows; f.e.p.once[i] {
		f.rows = 1
	}
}

func (f *frame) x(node, arg int) []float32 { return f.at(f.vals[f.e.p.g.Args(node)[arg]]) }
func (f *frame) y(node int) []float32      { return f.at(f.vals[f.e.p.g.Result(node)]) }
func (f *frame) dy(node int) []float32     { return f.at(f.e.p.grads[f.e.p.g.Result(node)]) }

// grad is the gradient of node i's parameter of n elements that lies at off.
func (f *frame) grad(i, off, n int) []float32 {
	if at, ok := f.e.p.moved[i][off]; ok {
		off = at
	}
	return f.grads[off:][:n]
}

func (f *frame) words(off, n int) []uint32 { return f.slot.w[off:][:n] }

func (f *frame) ints(off, n int) []int32 {
	w := f.slot.w[off:][:n]
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(w))), n)
}

// Exec runs one plan. It is not safe for concurrent use: a stage does one thing at a
// time and its team of threads works inside that.
type Exec struct {
	all   *Plan
	p     *Plan // for batches of the size at hand
	slots []slot
	temp  []float32
	f     frame

	shared shared
	spread spread
	parts  []frame // of the team's threads

	// Between is called before every instruction, if set: where a browser's event loop
	// gets its turn.
	Between func()
}

// floats allocates n zeroed floats that begin at a cache line.
func floats(n int) []float32 {
	s := make([]float32, n+align)
	o := int(-uintptr(unsafe.Pointer(unsafe.SliceData(s)))&63) / 4
	return s[o : o+n : o+n]
}

// leastStep is the floating point operations of a step, forward and backward, from which
// threads pay: a step of half a millisecond loses more by its data going from core to core
// than it gains.
var leastStep = 1 << 26

func alone(c graph.Cost, rows int) bool { return c.Total()*float64(rows) < float64(leastStep) }

// Few is the number of rows below which a step of a model is too little work for several threads.
func Few(g *graph.Graph) int {
	c := g.Cost(0, len(g.Nodes)).Total()
	return int(math.Ceil(min(float64(leastStep)/max(c, 1), math.MaxInt32)))
}

// Alone tells whether a step of a model with so many rows is too little work for several threads.
func Alone(g *graph.Graph, rows int) bool { return rows < Few(g) }

// New allocates everything that running the plan needs. A plan of little work runs on the
// caller alone.
func (p *Plan) New(team *kernel.Team) *Exec {
	cost := p.g.Cost(0, len(p.g.Nodes))
	if !p.cfg.Train {
		cost = graph.Cost{Forward: cost.Forward}
	}
	if alone(cost, p.cfg.Rows) {
		team = nil
	}
	temp, slotF, slotW, scr, shared := p.temp, p.slotF, p.slotW, p.scr, p.shared
	for _, q := range p.smaller { // they take less
		temp, slotF, slotW, scr, shared = max(temp, q.temp), max(slotF, q.slotF), max(slotW, q.slotW), max(scr, q.scr), shared.most(q.shared)
	}
	e := &Exec{all: p, p: p, temp: floats(temp), shared: shared.make(), slots: make([]slot, max(p.cfg.Slots, 1))}
	for i := range e.slots {
		e.slots[i] = slot{f: floats(slotF), w: make([]uint32, slotW), summed: make([]bool, len(p.ops))}
	}
	team.Reserve(scr)
	e.parts = make([]frame, team.Threads())
	e.f = frame{e: e, team: team, scratch: floats(scr), train: p.cfg.Train}
	return e
}

// use makes the plan for batches of so many rows the one that runs, on the given slot.
func (e *Exec) use(slot, rows int) {
	e.p = e.all
	if q, ok := e.all.smaller[rows]; ok {
		e.p = q
	}
	most, exact := e.p.cfg.Rows, e.p.compares
	if rows < 1 || rows > most || exact && rows != most {
		panic(fmt.Sprintf("exec: %d rows in a plan for %d", rows, most))
	}
	e.f.slot, e.f.rows = &e.slots[slot], rows
}

// Batch says which rows of which batch a call is about.
type Batch struct {
	Seed uint64
	Step uint64 // number of the batch in the run: names its random streams
	Row0 int    // first row of the micro-batch in its batch
	Rows int
}

// Value is value v of the slot's micro-batch: rows × elements. Inputs are written
// there before Forward; Config.Outputs are read there after it, before the next pass.
func (e *Exec) Value(slot, v, rows int) []float32 {
	e.use(slot, rows)
	return e.f.at(e.p.vals[v])
}

// Grad is the gradient of value v: Config.Seeds are written there before Backward,
// and the gradients of inputs are read there after it. It is empty where no gradient
// is computed.
func (e *Exec) Grad(slot, v, rows int) []float32 {
	e.use(slot, rows)
	return e.f.at(e.p.grads[v])
}

// Forward runs the graph on the inputs in the slot, with the given version of the
// trainable parameters. In training it updates s.Buffers and s.Counters.
func (e *Exec) Forward(slot int, b Batch, params []float32, s *State) {
	e.use(slot, b.Rows)
	f := &e.f
	f.use(&e.slots[slot], b)
	f.params, f.state, f.slot.batch, f.vals = params, s, b, e.p.vals
	f.keep(0)
	for i, o := range e.p.ops {
		e.between()
		e.forward(o, i)
		f.keep(i + 1)
	}
}

func (e *Exec) between() {
	if e.Between != nil {
		e.Between()
	}
}

// Backward runs the whole backward pass of the slot's micro-batch with the parameters
// of its forward pass. grads has Layout.Grads elements, and is folded before an update. acc adds to the gradients of the parameters in place of
// storing them: the dot products over the rows simply go on.
func (e *Exec) Backward(slot int, params, grads []float32, acc bool) {
	e.backward(slot, params, grads, acc, func(p *Plan) []step { return p.back })
}

// BackwardInput is the first half of a split plan's backward pass: the gradients of
// the graph's inputs.
func (e *Exec) BackwardInput(slot int, params []float32) {
	e.backward(slot, params, nil, false, func(p *Plan) []step { return p.back[:p.params] })
}

// BackwardWeight is the second half: the gradients of the parameters.
func (e *Exec) BackwardWeight(slot int, params, grads []float32, acc bool) {
	e.backward(slot, params, grads, acc, func(p *Plan) []step { return p.back[p.params:] })
}

func (e *Exec) backward(slot int, params, grads []float32, acc bool, steps func(p *Plan) []step) {
	b := e.slots[slot].batch
	e.use(slot, b.Rows)
	f := &e.f
	f.use(&e.slots[slot], b)
	f.params, f.grads, f.acc, f.vals = params, grads, acc, e.p.kept
	if grads != nil && !acc {
		for _, r := range e.p.zeroed {
			clear(grads[r[0]:r[1]])
		}
	}
	todo := steps(e.p)
	for i := range todo {
		e.between()
		s := &todo[i]
		o := e.p.ops[s.Node]
		f.of(s.Node)
		if s.again {
			f.again = true
			e.forward(o, s.Node)
			f.keep(s.Node + 1)
			f.again = false
			continue
		}
		f.rounding, f.roundOut = s.rounding, s.roundOut
		if s.Kind == autodiff.GradParams {
			f.acc = acc || e.p.adds[s.Node]
			o.gradParams(f)
			continue
		}
		dst := f.at(e.p.grads[s.dst])
		switch {
		case s.First:
			e.gradInput(o, s.Arg, dst)
		case o.passes():
			e.addTo(dst, f.dy(s.Node))
		default:
			addend := e.temp[e.p.sum:][:len(dst)]
			e.gradInput(o, s.Arg, addend)
			e.addTo(dst, addend)
		}
	}
}
