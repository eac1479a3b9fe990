// Package exec compiles a graph and its backward pass to a plan: an order of kernel
// calls over buffers whose offsets are fixed beforehand by liveness. Running a plan
// allocates nothing, and what it needs is known before it runs.
//
// A plan has two kinds of memory. A slot holds what one micro-batch must keep between
// its forward and its backward pass; a pipeline stage has a slot for each micro-batch
// in flight. The temp arena holds everything else and is shared by all of them.
package exec

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/autodiff"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
)

// ErrConfig is wrapped by errors about a configuration that cannot be compiled.
var ErrConfig = errors.New("cannot plan")

// Config says what a plan is for.
type Config struct {
	Rows  int  // the most rows of one micro-batch
	Slots int  // micro-batches between their forward and backward; 0 in evaluation
	Train bool // training, with a backward pass, or evaluation

	Outputs   []int // values that are read after Forward
	Seeds     []int // values whose gradients come from outside
	InputGrad bool  // whether the gradients of the graph's inputs are wanted
	Split     bool  // GradInput and GradParams run as two passes
	Recompute Recompute
	Precision Precision
}

// Memory is what a plan needs, in bytes.
type Memory struct {
	Params  int // trainable, buffers and counters
	Grads   int
	Slot    int // of one slot
	Slots   int // of all slots
	Temp    int
	Scratch int
	Held    int // what operations share beside
	// Constants are those of the graph, which all of its plans share.
	Constants int
}

// Total of everything.
func (m Memory) Total() int { return m.Params + m.Grads + m.Constants + m.Run() }

// Run is what another plan of the same graph and weights adds.
func (m Memory) Run() int { return m.Slots + m.Temp + m.Scratch + m.Held }

// place is where a buffer of float32 lives.
type place struct {
	off  int // floats from the start of its arena, or words of the slot
	per  int // elements per row
	slot bool
	half bool // kept as operands of products, in the slot's words
	once bool // of the whole batch: it has no rows
}

// Plan is a compiled graph. One Exec at a time runs it, since operations keep the arguments of kernels.
type Plan struct {
	Layout  Layout
	cfg     Config
	g       *graph.Graph
	ops     []op
	offs    map[string]int // of the entries of the layout
	vals    []place        // of every value
	kept    []place        // of every value in the backward pass, where it is kept or computed again
	grads   []place        // of every value that has a gradient; per is 0 otherwise
	back    []step
	steps   [][]int     // by node: those of back
	params  int         // index in back where the GradParams of a split plan begin
	sum     int         // temp offset of the buffer that later addends go through
	slotF   int         // floats of a slot
	slotW   int         // 32-bit words of a slot: dropout bits, pooling positions
	temp    int         // floats
	scr     int         // floats of kernel scratch
	shared  sizes       // of what operations share
	keeps   [][]keeping // by node, after the inputs': what is done to its output once it is there
	rounded []bool      // by value: it is rounded in place

	once     []bool        // by node: it is computed of the whole batch
	compares bool          // samples are compared: the plan is for batches of cfg.Rows, not for smaller ones
	smaller  map[int]*Plan // for those

	adds   []bool        // by node: it shares a parameter, so it adds to gradients that begin at 0
	moved  []map[int]int // by node: where its gradients lie that are not where the parameters do
	zeroed [][2]int      // ranges of the gradients of those nodes, and of those that no gradient reaches
}

// step is one backward instruction with its resolved gradients, or a forward one that is
// run again.
type step struct {
	autodiff.Instr
	dy    int  // value whose gradient it reads
	dst   int  // GradInput: value whose gradient it writes; again: the value
	again bool // compute the node's output again

	rounding rounding
	roundOut bool // the gradient that it writes is rounded, as only products read it
}

// life is a buffer while it is being placed.
type life struct {
	size       int // floats
	born, dies int // first and last moment of use
	slot       bool
	off        int
}

// Compile plans g, whose first node is node first of the whole model.
func Compile(g *graph.Graph, first int, cfg Config) (*Plan, error) {
	if cfg.Rows < 1 {
		return nil, fmt.Errorf("%w: %d rows", ErrConfig, cfg.Rows)
	}
	if cfg.Train && cfg.Slots < 1 {
		return nil, fmt.Errorf("%w: training needs at least one slot", ErrConfig)
	}
	g, err := g.At(cfg.Rows)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	p := &Plan{Layout: NewLayout(g, first), cfg: cfg, g: g, offs: map[string]int{}, once: make([]bool, len(g.Nodes))}
	_, p.compares = g.Compares()
	for i := range g.Nodes {
		p.once[i] = g.Once(i)
	}
	for _, e := range p.Layout.Entries {
		p.offs[e.Full] = e.Off
	}
	var bw autodiff.Backward
	if cfg.Train {
		bw = autodiff.Derive(g, cfg.Seeds, cfg.InputGrad)
	} else {
		bw.Needs = make([]bool, g.Values())
	}
	p.ops = make([]op, len(g.Nodes))
	for i := range g.Nodes {
		o, err := newOp(p, i)
		if err != nil {
			return nil, fmt.Errorf("%w: node %q: %w", ErrConfig, g.Nodes[i].Name, err)
		}
		p.ops[i] = o
	}
	p.findZeroed(bw)
	for _, in := range bw.Instrs {
		s := step{Instr: in, dy: g.Result(in.Node), dst: -1}
		if in.Kind == autodiff.GradInput {
			s.dst = g.Args(in.Node)[in.Arg]
		}
		p.back = append(p.back, s)
	}
	for k := 1; k < len(p.back); k++ {
		a, b := &p.back[k-1], &p.back[k]
		if a.Kind == autodiff.GradParams && b.Kind == autodiff.GradInput && a.Node == b.Node && p.ops[a.Node].inputFirst() {
			*a, *b = *b, *a
		}
	}
	p.params = len(p.back)
	if cfg.Split {
		slices.SortStableFunc(p.back, func(a, b step) int { return int(a.Kind) - int(b.Kind) })
		p.params = slices.IndexFunc(p.back, func(s step) bool { return s.Kind == autodiff.GradParams })
		if p.params < 0 {
			p.params = len(p.back)
		}
	}
	p.fuse()
	p.placeBuffers(bw)
	// Each part is far from overflow by the limits of package graph, and their product with the slots
	// may not be.
	m := p.Memory()
	if slots := float64(max(cfg.Slots, 1)) * float64(m.Slot); slots+float64(m.Temp)+float64(m.Scratch) > mostMemory {
		return nil, fmt.Errorf("%w: %d rows in each of %d slots take %.0f TB", ErrConfig, cfg.Rows, cfg.Slots, (slots+float64(m.Temp)+float64(m.Scratch))/1e12)
	}
	return p, nil
}

// Sizes prepares for smaller batches, of so many rows, too. Only where samples are compared with each
// other is there something to be prepared; other plans are for all of them.
func (p *Plan) Sizes(rows ...int) error {
	for _, n := range rows {
		if !p.compares || n == p.cfg.Rows || p.smaller[n] != nil {
			continue
		}
		cfg := p.cfg
		cfg.Rows = n
		q, err := Compile(p.g, p.Layout.first, cfg)
		if err != nil {
			return err
		}
		if p.smaller == nil {
			p.smaller = map[int]*Plan{}
		}
		p.smaller[n] = q
	}
	return nil
}

// findZeroed finds the nodes whose gradients add to those of others, and those that get none:
// what lies before a gradient's end.
func (p *Plan) findZeroed(bw autodiff.Backward) {
	reached := make([]bool, len(p.g.Nodes))
	for _, in := range bw.Instrs {
		if in.Kind == autodiff.GradParams {
			reached[in.Node] = true
		}
	}
	p.adds, p.moved = make([]bool, len(p.g.Nodes)), make([]map[int]int, len(p.g.Nodes))
	move := func(i, off, at int) {
		if p.moved[i] == nil {
			p.moved[i] = map[int]int{}
		}
		p.moved[i][off] = at
	}
	for _, t := range p.Layout.Ties {
		here := 0
		for _, nodes := range slices.Backward(t.Groups) {
			if len(nodes) == 0 {
				continue // another stage has them
			}
			for _, i := range nodes {
				p.adds[i] = p.adds[i] || len(nodes) > 1
				if at := t.At[here]; at != t.Off {
					move(i, t.Off, at)
				}
			}
			here++
		}
	}
	for i := range p.g.Nodes {
		for off, at := range p.Layout.spare(p.g, i) {
			move(i, off, at)
		}
	}
	for i, adds := range p.adds {
		n := &p.g.Nodes[i]
		for _, s := range n.Op.Params() {
			if _, frozen := p.Layout.frozen[n.Full(s.Name)]; !adds && reached[i] || s.Role != graph.Trainable || frozen {
				continue
			}
			off := p.offs[n.Full(s.Name)]
			if at, ok := p.moved[i][off]; ok {
				off = at
			}
			p.zeroed = append(p.zeroed, [2]int{off, off + s.Elems()})
		}
	}
}

// fuser is an op that can apply the ReLU that alone reads it.
type fuser interface {
	// fuseReLU tells whether the op is also the one to apply the gradient of the ReLU. It does
	// so without reading the output, in place.
	fuseReLU() (gradient bool)
}

// fuse gives a ReLU to the op before it, where that can.
func (p *Plan) fuse() {
	read := make([]int, p.g.Values())
	for i := range p.g.Nodes {
		for _, v := range p.g.Args(i) {
			read[v]++
		}
	}
	for _, v := range append(slices.Clone(p.cfg.Outputs), p.cfg.Seeds...) {
		read[v]++
	}
	for i := range p.ops {
		r, ok := p.ops[i].(*relu)
		if !ok {
			continue
		}
		x := p.g.Args(i)[0]
		if x < len(p.g.Inputs) || read[x] != 1 {
			continue
		}
		if f, ok := p.ops[x-len(p.g.Inputs)].(fuser); ok {
			r.fused, r.gradFused = true, f.fuseReLU()
		}
	}
}

func (p *Plan) floats(v int) int {
	if p.g.Whole(v) {
		return p.g.Shape(v).Elems()
	}
	return p.g.Shape(v).Elems() * p.cfg.Rows
}

// rows are the most that node i computes.
func (p *Plan) rows(i int) int {
	if p.once[i] {
		return 1
	}
	return p.cfg.Rows
}

func pad(n int) int { return (n + align - 1) / align * align }

// mostMemory is the most bytes of a plan: more than any machine has, and far from overflow.
const mostMemory = 1 << 50

// shared is memory beside the arena that operations share, since one of them runs at a time.
type shared struct {
	ones, zeros []float32 // weights and biases of norms that have none
	picked      []float32 // elements of a parameter by index
	order       []int32
	sums        []float64
}

// sizes are the elements of each.
type sizes struct{ norm, picked, order, sums int }

func (s sizes) bytes() int { return 4*(2*s.norm+s.picked+s.order) + 8*s.sums }

func (s sizes) most(t sizes) sizes {
	return sizes{max(s.norm, t.norm), max(s.picked, t.picked), max(s.order, t.order), max(s.sums, t.sums)}
}

func (s sizes) make() shared {
	m := shared{floats(s.norm), floats(s.norm), floats(s.picked), make([]int32, s.order), make([]float64, s.sums)}
	kernel.Fill(m.ones, 1)
	return m
}

// Memory of the plan in bytes.
func (p *Plan) Memory() Memory {
	m := Memory{
		Params: 4*(p.Layout.Params+p.Layout.Buffers) + 8*p.Layout.Counters,
		Slot:   4 * (p.slotF + p.slotW),
		Temp:   4 * p.temp, Scratch: 4 * p.scr, Held: p.shared.bytes(), Constants: p.g.PackedBytes(),
	}
	m.Slots = max(p.cfg.Slots, 1) * m.Slot
	if p.cfg.Train {
		m.Grads = 4 * p.Layout.Grads
	}
	return m
}
