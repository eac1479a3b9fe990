// Where the parameters of a graph live: one flat vector of trainable elements, one of
// buffers, one of counters. A flat vector makes an optimiser step one kernel call, a
// stashed version one copy, and an average across clusters one range.

package exec

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/state"
)

// align is the number of floats (64 bytes) that entries begin at a multiple of.
const align = 16

// Entry is one state-dict entry and its place in the vector of its role.
type Entry struct {
	graph.Param
	Off int
}

// Layout places every state-dict entry of a graph.
type Layout struct {
	Entries   []Entry // in state-dict order
	Trainable int     // floats of the trainable vector, padding included
	Params    int     // floats of it with the frozen parameters behind it
	Buffers   int     // floats
	Counters  int
	// Grads is the floats of a vector of gradients: the trainable vector's, and behind them
	// those of tied parameters' further groups.
	Grads int
	Ties  []Tie
	first int // the graph's first node in the whole model

	frozen map[string]int // where frozen parameters are
	unused int            // where room for gradients begins that nobody looks at
}

// Tie is a tied parameter of a layout.
type Tie struct {
	graph.Tie
	Off, Elems int
	// At is where the gradients of the groups that are here lie in a vector of gradients, from
	// the last group to the first. The last one's place is the parameter's own.
	At []int
}

// NewLayout places the parameters of g, whose first node is node first of the whole
// model (its random streams are named by that number, so that a cut changes nothing).
func NewLayout(g *graph.Graph, first int) Layout {
	l := Layout{first: first, frozen: map[string]int{}}
	for _, p := range g.Params() {
		e := Entry{Param: p}
		n := (p.Elems() + align - 1) / align * align
		switch p.Role {
		case graph.Trainable:
			e.Off, l.Trainable = l.Trainable, l.Trainable+n
		case graph.Frozen:
			e.Off, l.Params = l.Params, l.Params+n
		case graph.Buffer:
			e.Off, l.Buffers = l.Buffers, l.Buffers+n
		case graph.Counter:
			e.Off, l.Counters = l.Counters, l.Counters+1
		}
		l.Entries = append(l.Entries, e)
	}
	for i := range l.Entries {
		if e := &l.Entries[i]; e.Role == graph.Frozen {
			e.Off += l.Trainable
			l.frozen[e.Full] = e.Off
		}
	}
	l.Params += l.Trainable
	l.Grads = l.Trainable
	byName := map[string]int{}
	if len(g.Ties()) > 0 {
		for i := range l.Entries {
			byName[l.Entries[i].Full] = i
		}
	}
	for _, t := range g.Ties() {
		e := &l.Entries[byName[t.Name]]
		if e.Role == graph.Frozen {
			continue // no gradient is added up
		}
		tie := Tie{Tie: t, Off: e.Off, Elems: e.Elems()}
		for k := len(t.Groups) - 1; k >= 0; k-- {
			switch {
			case len(t.Groups[k]) == 0:
			case len(tie.At) == 0:
				tie.At = append(tie.At, e.Off)
			default:
				tie.At = append(tie.At, l.Grads)
				l.Grads += pad(e.Elems())
			}
		}
		l.Ties = append(l.Ties, tie)
	}
	l.unused = l.Grads
	for i := range g.Nodes {
		l.spare(g, i)
	}
	return l
}

// Fold adds up the gradients of each tied parameter's groups that are here, from the last to
// the first, in the parameter's own place.
func (l *Layout) Fold(grads []float32) {
	for _, t := range l.Ties {
		t.Fold(grads)
	}
}

// Fold is Layout.Fold for one parameter.
func (t *Tie) Fold(grads []float32) {
	sum := grads[t.Off:][:t.Elems]
	for _, at := range t.At[1:] {
		kernel.AddTo(sum, grads[at:][:t.Elems])
	}
}

// spare makes room at the end of a vector of gradients for those of frozen parameters whose
// nodes have others that train: they are computed with them and not looked at. It returns where
// each of node i's lies.
func (l *Layout) spare(g *graph.Graph, i int) map[int]int {
	if len(l.frozen) == 0 || g.ParamCount(i, i+1) == 0 {
		return nil
	}
	at := map[int]int{}
	end := l.unused
	for _, s := range g.Nodes[i].Op.Params() {
		if off, ok := l.frozen[g.Nodes[i].Full(s.Name)]; ok {
			at[off] = end
			end += pad(s.Elems())
		}
	}
	l.Grads = max(l.Grads, end)
	return at
}

// State is the contents of a Layout's vectors.
type State struct {
	Params   []float32
	Buffers  []float32
	Counters []int64
}

// NewState allocates zeroed vectors.
func (l *Layout) NewState() State {
	s := l.NewStatistics()
	s.Params = floats(l.Params)
	return s
}

// NewStatistics is NewState without parameters.
func (l *Layout) NewStatistics() State {
	return State{Buffers: floats(l.Buffers), Counters: make([]int64, l.Counters)}
}

// initPiece is how many elements are drawn at once: a few milliseconds in a browser.
const initPiece = 1 << 16

// Init fills s as PyTorch initialises the layers: the same distributions, not the same
// stream. The draws are a function of (seed, node, parameter, element) alone.
func (l *Layout) Init(s State, seed uint64) { l.InitBetween(s, seed, nil) }

// InitBetween is Init, and calls between now and then meanwhile, unless it is nil.
func (l *Layout) InitBetween(s State, seed uint64, between func()) {
	for _, e := range l.Entries {
		h := l.home(e)
		if e.Role == graph.Counter {
			s.Counters[e.Off] = 0
			continue
		}
		all := l.floats(s, e)
		draws := kernel.NewStream(seed, kernel.DomainInit, uint64(h.Index), uint32(h.Node))
		for at := 0; at < len(all); at += initPiece {
			v := all[at:min(at+initPiece, len(all))]
			switch {
			case h.Init.Bound != 0:
				kernel.UniformIn(v, draws, uint64(at), -h.Init.Bound, h.Init.Bound)
			case h.Init.Std != 0:
				kernel.NormalFrom(v, draws, uint64(at))
				kernel.Scale(v, v, h.Init.Std)
			default:
				kernel.Fill(v, h.Init.Value)
			}
			if between != nil {
				between()
			}
		}
	}
}

// Numbers are addresses of the entries in the whole model, in the order of Entries: below
// 1<<24, one for each, and the same however the model is cut.
func (l *Layout) Numbers() []uint32 {
	ns := make([]uint32, len(l.Entries))
	for i, e := range l.Entries {
		h := l.home(e)
		ns[i] = uint32(h.Node)<<10 | uint32(h.Index)
	}
	return ns
}

// home is where the whole model has an entry. Its Index begins at 0.
func (l *Layout) home(e Entry) graph.Home {
	h := graph.Home{Node: l.first + e.Node, Index: e.Index, Init: e.Init}
	if e.Home != nil {
		h = *e.Home
	}
	h.Index--
	return h
}

func (l *Layout) floats(s State, e Entry) []float32 {
	if e.Role == graph.Buffer {
		return s.Buffers[e.Off:][:e.Elems()]
	}
	return s.Params[e.Off:][:e.Elems()]
}

// Export copies the state into a state dict in PyTorch's order.
func (l *Layout) Export(s State) state.Dict { return l.View(s).Clone() }

// View is Export without copying: the state dict's tensors are s itself.
func (l *Layout) View(s State) state.Dict {
	d := make(state.Dict, 0, len(l.Entries))
	for _, e := range l.Entries {
		t := state.Tensor{Name: e.Full, Shape: e.Shape}
		if e.Role == graph.Counter {
			t.I64 = s.Counters[e.Off:][:1]
		} else {
			t.F32 = l.floats(s, e)
		}
		d = append(d, t)
	}
	return d
}

// Check tells whether Import takes a state dict: every entry of the layout must be there
// with its shape and type, and no other.
func (l *Layout) Check(d state.Dict) error {
	byName := make(map[string]state.Tensor, len(d))
	for _, t := range d {
		byName[t.Name] = t
	}
	for _, e := range l.Entries {
		t, ok := byName[e.Full]
		if !ok {
			return fmt.Errorf("the state dict has no %q", e.Full)
		}
		delete(byName, e.Full)
		if e.Role == graph.Counter {
			if len(t.I64) != 1 {
				return fmt.Errorf("%q is not an int64 scalar", e.Full)
			}
			continue
		}
		if len(t.F32) != e.Elems() || graph.Shape(t.Shape).String() != graph.Shape(e.Shape).String() {
			return fmt.Errorf("%q is %v with %d float32 elements, the model wants %v", e.Full, t.Shape, len(t.F32), e.Shape)
		}
	}
	for name := range byName {
		return fmt.Errorf("the model has no %q", name)
	}
	return nil
}

// Select is the part of d that the layout has: that of one stage, out of a whole model's.
func (l *Layout) Select(d state.Dict) state.Dict {
	byName := make(map[string]state.Tensor, len(d))
	for _, t := range d {
		byName[t.Name] = t
	}
	mine := make(state.Dict, 0, len(l.Entries))
	for _, e := range l.Entries {
		if t, ok := byName[e.Full]; ok {
			mine = append(mine, t)
		}
	}
	return mine
}

// Import copies a state dict that stands Check into s. After an error s is as it was.
func (l *Layout) Import(s State, d state.Dict) error {
	if err := l.Check(d); err != nil {
		return err
	}
	byName := make(map[string]state.Tensor, len(d))
	for _, t := range d {
		byName[t.Name] = t
	}
	for _, e := range l.Entries {
		if t := byName[e.Full]; e.Role == graph.Counter {
			s.Counters[e.Off] = t.I64[0]
		} else {
			copy(l.floats(s, e), t.F32)
		}
	}
	return nil
}
