// What a stage has to do with the others: which tensors cross its border, over which links,
// and how they are coded. Links can be replaced between two runs of a stage.

package stage

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
)

// Link is the connection to one other stage. Messages arrive whole and in order.
type Link interface {
	Send(ctx context.Context, h wire.Header, payload []byte) error
	Recv(ctx context.Context) (transport.Message, error)
}

// edge is a value that crosses the stage's border.
type edge struct {
	id     uint16 // in the whole graph
	name   string // of the value
	local  int    // value in the stage's graph
	per    int    // elements of a row
	from   int    // stage it comes from (in) or -1
	to     []int  // out: stages it goes to
	before int    // in: stage that the gradient goes to next; -1: none
	after  int    // stage that the gradient comes from; -1: none

	// In a job in bfloat16: the value, and the gradient that goes back to where it came from, are
	// operands of products, so they lose nothing as bfloat16.
	operand, gradOperand bool

	// No gradient goes back through the value, as through a mask, so it may be infinite. An exact one
	// may be token numbers or positions, which no lossy wire keeps.
	constant, exact bool
}

// crosses tells whether the value goes over a link in any direction.
func (d edge) crosses() bool { return d.from >= 0 || len(d.to) > 0 || d.before >= 0 || d.after >= 0 }

// edges are the values that cross a stage's border.
type edges struct {
	in, out []edge
	due     []edge // gradients that come before a backward pass, in the senders' order
}

func edgesOf(gs *graph.Stage) edges {
	var es edges
	for k, e := range gs.In {
		d := edge{id: uint16(e.Value), exact: e.Exact || e.Value < gs.ModelInputs, name: gs.Graph.ValueName(k), local: k, per: e.Shape.Elems(), from: e.From, before: e.From, after: -1, operand: e.Operand, constant: e.Constant}
		for i, t := range e.Back {
			if t == gs.Index {
				if i > 0 {
					d.before = e.Back[i-1]
				}
				if i+1 < len(e.Back) {
					d.after = e.Back[i+1]
				}
			}
		}
		if e.Constant {
			d.before, d.after = -1, -1
		}
		d.gradOperand = e.GradOperand && d.before == e.From
		es.in = append(es.in, d)
	}
	for _, e := range gs.Out {
		l := gs.Local(e)
		d := edge{id: uint16(e.Value), exact: e.Exact || e.Value < gs.ModelInputs, name: gs.Graph.ValueName(l), local: l, per: e.Shape.Elems(), from: -1, to: e.To, before: -1, after: -1, operand: e.Operand, gradOperand: e.GradOperand, constant: e.Constant}
		if !e.Constant {
			d.after = e.Back[0]
		}
		es.out = append(es.out, d)
	}
	for _, d := range slices.Concat(es.out, es.in) {
		if d.after >= 0 {
			es.due = append(es.due, d)
		}
	}
	slices.SortFunc(es.due, func(a, b edge) int { return cmp.Compare(a.id, b.id) })
	return es
}

// wiring is a stage's end of its links.
type wiring struct {
	edges
	cluster, stage int

	kind  codec.Kind
	links map[int]Link
	early map[int][]transport.Message // by stage: what has come before its turn

	halves bool // the job is in bfloat16 and its wire lossless
	half   *codec.Encoder

	enc   *codec.Encoder
	plain *codec.Encoder // for exact values, and gradients of tied parameters
	dec   *codec.Decoder
	buf   []byte
	part  []float32 // a piece of a tied gradient
	raw   int64     // bytes that went out, had they been plain float32
	busy  *meter
	tally *tally // nil: no digests are computed
	spoil func(step uint64, x []float32)

	norms    bool // gradients are clipped by the norm over all stages
	ties     []tie
	couriers *couriers // nil: the holders of tied parameters meet

	marked uint64 // item before which the last mark stood, plus one
	told   []byte // what goes with a mark before a round of several clusters; see share.go
}

func newWiring(c *Compiled, busy *meter) *wiring {
	return &wiring{
		edges: c.edges, cluster: c.Placement.Cluster, stage: c.Stage.Index, kind: c.kind,
		enc: codec.NewEncoder(c.kind), dec: codec.NewDecoder(), buf: make([]byte, 0, c.Memory().Out), busy: busy,
		part: make([]float32, c.part()), halves: c.halves(), norms: c.clips(), ties: c.ties,
	}
}

// connect takes the links to use from now on.
func (w *wiring) connect(peers []int, links map[int]Link) error {
	for _, p := range peers {
		if links[p] == nil {
			return fmt.Errorf("stage %d has no link to stage %d", w.stage, p)
		}
	}
	w.links, w.early = links, map[int][]transport.Message{}
	return nil
}

// turn is what keeps its order: the norms, the gradients of one tied parameter, or all other messages.
// They may overtake each other.
type turn struct {
	kind wire.Kind
	tie  uint16
}

// passes are all messages but those that complete gradients.
var passes = turn{}

func turnOf(h wire.Header) turn {
	switch h.Kind {
	case wire.Norm:
		return turn{kind: wire.Norm}
	case wire.Tied:
		return turn{wire.Tied, h.Edge}
	}
	return passes
}

// next is the next message of a stage of those that keep their order. What comes before its turn is
// no more than what the link's window lets the other stage send.
func (w *wiring) next(ctx context.Context, from int, of turn) (transport.Message, error) {
	for i, m := range w.early[from] {
		if turnOf(m.Header) == of {
			w.early[from] = slices.Delete(w.early[from], i, i+1)
			return m, nil
		}
	}
	for {
		m, err := w.links[from].Recv(ctx)
		if err != nil {
			return m, fmt.Errorf("waiting for stage %d: %w", from, err)
		}
		if turnOf(m.Header) == of {
			return m, nil
		}
		switch h := m.Header; {
		case h.Kind == wire.Tied && !w.shares(from, h.Edge):
			m.Release()
			return m, fmt.Errorf("%w: stage %d sent a gradient of tied parameter %d, which this stage does not share with it", ErrProtocol, from, h.Edge)
		case h.Kind == wire.Norm && !w.tellsNorm(from):
			m.Release()
			return m, fmt.Errorf("%w: stage %d sent a norm of gradients, which this job's stages do not tell each other or only to their neighbours", ErrProtocol, from)
		}
		w.early[from] = append(w.early[from], m)
	}
}

// shares reports whether a tied parameter's gradient goes to a stage or comes from it.
func (w *wiring) shares(with int, number uint16) bool {
	return slices.ContainsFunc(w.ties, func(t tie) bool { return t.Number == int(number) && (t.before == with || t.after == with) })
}

// tellsNorm reports whether a stage has parts of the gradients' norm to tell this one.
func (w *wiring) tellsNorm(from int) bool {
	return w.norms && (from == w.stage-1 || from == w.stage+1)
}

// send encodes a tensor once and sends it to the given stages.
func (w *wiring) send(ctx context.Context, to []int, kind wire.Kind, d edge, it order.Item, x []float32) error {
	done := w.busy.working()
	enc, k := w.enc, w.kind
	switch {
	case d.exact:
		enc, k = w.lossless(), codec.FP32
	case w.halves && (kind == wire.Activation && d.operand || kind == wire.Gradient && d.gradOperand):
		if w.half == nil {
			w.half = codec.NewEncoder(codec.BF16)
		}
		enc, k = w.half, codec.BF16
	}
	err := fits(k, x, d.constant)
	if err != nil {
		err = fmt.Errorf("the %s of %q, computed by stage %d: %w", kind, d.name, w.stage, err)
	} else {
		if w.spoil != nil && it.Kind == order.Train {
			w.spoil(it.Step, x)
		}
		enc.Plain(w.near(to...))
		w.buf, err = enc.Encode(w.buf[:0], x)
		if it.Kind == order.Train {
			w.tally.exchanged(kind, w.stage, to[0], true, x)
		}
	}
	done()
	if err != nil {
		return err
	}
	h := wire.Header{Kind: kind, Edge: d.id, Seq: it.Seq, Rows: uint32(it.Rows), Elems: uint32(len(x))}
	for _, t := range to {
		if err := w.links[t].Send(ctx, h, w.buf); err != nil {
			return fmt.Errorf("sending to stage %d: %w", t, err)
		}
		w.raw += 4 * int64(len(x))
	}
	return nil
}

// near reports whether all of these stages are on this machine.
func (w *wiring) near(stages ...int) bool {
	return !slices.ContainsFunc(stages, func(s int) bool { return !isNear(w.links[s]) })
}

// isNear reports whether a link says that its other end is on this machine.
func isNear(l Link) bool {
	n, ok := l.(transport.Near)
	return ok && n.Near()
}

// lossless is an encoder that every tensor survives.
func (w *wiring) lossless() *codec.Encoder {
	if w.plain == nil {
		w.plain = codec.NewEncoder(codec.FP32)
	}
	return w.plain
}

// most is the largest magnitude that a wire carries: beyond it a number becomes infinite.
func most(k codec.Kind) float32 {
	switch k {
	case codec.FP16:
		return math.Nextafter32(65520, 0) // binary16 rounds what is less to 65504
	case codec.BF16:
		return math.Float32frombits(0x7f7f7fff) // rounded down to bf16's largest
	}
	return math.MaxFloat32
}

// fits tells whether x is finite and stays so on a wire of kind k. With mask it may be infinite, but
// what is finite stays so.
func fits(k codec.Kind, x []float32, mask bool) error {
	a, finite := kernel.AbsMax(x)
	if !finite && mask {
		a, finite = largest(x)
	}
	switch {
	case !finite:
		return notFinite(x, mask)
	case a > most(k):
		return fmt.Errorf("%w: it reaches %g, and wire %s ends at %g", ErrDiverged, a, k, most(k))
	}
	return nil
}

// largest is the largest magnitude of the finite numbers of x; false: one is NaN.
func largest(x []float32) (a float32, ok bool) {
	for _, v := range x {
		switch v = max(v, -v); {
		case v != v:
			return 0, false
		case v <= math.MaxFloat32:
			a = max(a, v)
		}
	}
	return a, true
}

// finite tells whether x is.
func finite(x []float32) error {
	if _, ok := kernel.AbsMax(x); !ok {
		return notFinite(x, false)
	}
	return nil
}

// notFinite says which element of x is not, or is NaN where infinities may be.
func notFinite(x []float32, mask bool) error {
	for i, v := range x {
		if v != v || v-v != 0 && !mask {
			return fmt.Errorf("%w: element %d of %d is %v", ErrDiverged, i, len(x), v)
		}
	}
	return ErrDiverged
}

// sendMark tells the next stages that a mark stands before it.
func (w *wiring) sendMark(ctx context.Context, it order.Item, m order.Mark) error {
	told := map[int]bool{}
	for _, d := range w.out {
		for _, t := range d.to {
			if told[t] {
				continue
			}
			told[t] = true
			if err := w.links[t].Send(ctx, wire.Header{Kind: wire.Control, Edge: d.id, Seq: it.Seq, Rows: uint32(m)}, w.told); err != nil {
				return fmt.Errorf("sending to stage %d: %w", t, err)
			}
		}
	}
	return nil
}

// marks tells whether a mark may stand before item it, and whether none stood there yet.
func (w *wiring) marks(it order.Item) bool {
	return it.Kind == order.Train && it.Opens && w.marked != it.Seq+1
}

// firstMark takes the mark before item it from the first stage that this one listens to.
func (w *wiring) firstMark(ctx context.Context, it order.Item) (order.Mark, error) {
	from := w.in[0].from
	m, err := w.next(ctx, from, passes)
	if err != nil {
		return order.Continue, err
	}
	defer m.Release()
	if h := m.Header; h.Kind != wire.Control || h.Seq != it.Seq || h.Rows > uint32(order.Stop) {
		return order.Continue, w.sentBy(from, fmt.Errorf("%w: stage %d sent a %s for item %d with %d rows; expected the mark before item %d", ErrProtocol, from, h.Kind, h.Seq, h.Rows, it.Seq))
	}
	w.told = append(w.told[:0], m.Payload...)
	return order.Mark(m.Header.Rows), nil
}

// receiveMark takes mark want from the stages that this one listens to, but for the first,
// which has sent it already.
func (w *wiring) receiveMark(ctx context.Context, it order.Item, want order.Mark) error {
	heard := map[int]bool{w.in[0].from: true}
	for _, d := range w.in {
		if heard[d.from] {
			continue
		}
		heard[d.from] = true
		m, err := w.next(ctx, d.from, passes)
		if err != nil {
			return err
		}
		h := m.Header
		m.Release()
		if h.Kind != wire.Control || h.Seq != it.Seq || order.Mark(h.Rows) != want {
			return w.sentBy(d.from, fmt.Errorf("%w: stage %d sent a %s for item %d; stage %d sent mark %s before item %d", ErrProtocol, d.from, h.Kind, h.Seq, w.in[0].from, want, it.Seq))
		}
	}
	return nil
}

// receive takes the next message of a stage, which the schedule says must be tensor d
// of item it, or a mark before it where one may come first.
func (w *wiring) receive(ctx context.Context, from int, kind wire.Kind, d edge, it order.Item, dst []float32, first bool) (order.Mark, error) {
	m, err := w.next(ctx, from, passes)
	if err != nil {
		return order.Continue, err
	}
	defer m.Release()
	h := m.Header
	if first && h.Kind == wire.Control && h.Seq == it.Seq && w.marks(it) {
		if k := order.Mark(h.Rows); k > order.Continue && k <= order.Stop {
			return k, nil
		}
		return order.Continue, w.sentBy(from, fmt.Errorf("%w: stage %d sent mark %d, which does not exist", ErrProtocol, from, h.Rows))
	}
	if h.Kind != kind || h.Edge != d.id || h.Seq != it.Seq || int(h.Rows) != it.Rows || int(h.Elems) != len(dst) {
		return order.Continue, w.sentBy(from, fmt.Errorf("%w: stage %d sent kind %d, edge %d, item %d, %d rows, %d elements; expected kind %d, edge %d, item %d, %d rows, %d elements",
			ErrProtocol, from, h.Kind, h.Edge, h.Seq, h.Rows, h.Elems, kind, d.id, it.Seq, it.Rows, len(dst)))
	}
	defer w.busy.working()()
	if err := w.dec.Decode(dst, m.Payload); err != nil {
		return order.Continue, w.sentBy(from, fmt.Errorf("%w: from stage %d: %w", ErrProtocol, from, err))
	}
	if it.Kind == order.Train {
		w.tally.exchanged(kind, from, w.stage, false, dst)
	}
	if err := fits(codec.FP32, dst, d.constant); err != nil {
		return order.Continue, w.gotFrom(from, fmt.Errorf("the %s of %q, sent by stage %d: %w", kind, d.name, from, err))
	}
	return order.Continue, nil
}
