// What compares the samples of a batch with each other. A node that works on each sample by itself is
// lowered to rows; where that fails, it is lowered once more over values of the whole batch
// (graph.Batch), in which the batch is an axis as others are. Its size is a prime number there, which
// no other size is a multiple of: what is a multiple becomes one of the number of samples. All is
// lowered with two primes, and is refused unless both give the same graph.

package importer

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

// primes returns two numbers that divide no size in the program, 0 where all small ones do.
func primes(p *pt2.Program) [2]int {
	sizes := map[int64]bool{}
	var walk func(g *pt2.Graph)
	walk = func(g *pt2.Graph) {
		for _, t := range g.Tensors {
			for _, s := range t.Sizes {
				if k, _, ok := s.Linear(); ok && k != 0 {
					sizes[k] = true
				}
			}
		}
		for i := range g.Nodes {
			for _, a := range g.Nodes[i].Args {
				if a.Graph != nil {
					walk(a.Graph)
				}
			}
		}
	}
	walk(&p.Graph)
	const most = 2000
	var found []int
	for n := 101; len(found) < 2; n += 2 {
		if n > most {
			return [2]int{}
		}
		composite := false
		for d := 3; d*d <= n; d += 2 {
			composite = composite || n%d == 0
		}
		for k := range sizes {
			composite = composite || k%int64(n) == 0
		}
		if !composite {
			found = append(found, n)
		}
	}
	return [2]int(found)
}

// contains tells whether a node has a graph of its own, whose nodes are lowered one by one.
func contains(n *pt2.Node) bool {
	return slices.ContainsFunc(n.Args, func(a pt2.Named) bool { return a.Kind == pt2.Subgraph })
}

// agree checks that lowering with either prime gives the same model.
func agree(a, b *Model) error {
	x, err := a.Graph.JSON()
	if err != nil {
		return err
	}
	y, err := b.Graph.JSON()
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%w: it compares the samples of a batch with each other in a way that depends on how many there are; only sizes that are multiples of the number of samples are supported", ErrUnsupported)
	}
	return nil
}

// concrete is a number of the program: the batch has a size where it is lowered as a whole.
func (l *lowering) concrete(m number) number {
	if l.entire && m.batched {
		return number{n: m.n * l.samples}
	}
	return m
}

// ofBatch tells whether v is a graph's value of the whole batch.
func (l *lowering) ofBatch(v *value) bool { return v != nil && v.name != "" && l.wholes[v.name] }

// args are the names of the tensors that a node takes.
func args(n *pt2.Node) []string {
	var names []string
	for _, a := range n.Args {
		for _, name := range a.Names {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// readsBatch tells whether a node takes a value of the whole batch.
func (l *lowering) readsBatch(n *pt2.Node) bool {
	return slices.ContainsFunc(args(n), func(name string) bool { return l.ofBatch(l.vals[name]) })
}

// attempt is the reason why f failed, "" if it did not.
func attempt(f func()) (reason string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			reason = r.reason
		case runtime.Error:
			reason = fmt.Sprintf("its arguments are not those that the operator takes (%v)", r)
		default:
			panic(r)
		}
	}()
	f()
	return ""
}

// overBatch lowers a node over the whole batch.
func (l *lowering) overBatch(n *pt2.Node, op string) {
	before, given := map[string]*value{}, map[string]*value{}
	l.entire = true
	defer func() {
		l.entire = false
		for name, v := range given {
			if l.vals[name] == v { // else it was written to
				l.vals[name] = before[name]
			}
		}
	}()
	for _, name := range args(n) {
		if v := l.vals[name]; v != nil {
			before[name], given[name] = v, l.gathered(name, v)
			l.vals[name] = given[name]
		}
	}
	f, ok := operators[op]
	if !ok && writes(op) {
		g, known := operators[strings.TrimSuffix(op, "_")]
		f, ok = func(l *lowering, _ *pt2.Node) { l.inPlace(g) }, known
	}
	if !ok {
		fail("there is no such operation")
	}
	f(l, n)
	l.entire = false
	for _, name := range outputs(n) {
		v := l.vals[name]
		if v != nil && v.im != nil {
			fail("of complex numbers, over the whole batch")
		}
		if l.ofBatch(v) {
			l.vals[name] = l.apart(name, v)
		}
	}
}

// gathered is a tensor of the program as a value of the whole batch, or the same for all samples.
func (l *lowering) gathered(name string, v *value) *value {
	sizes, _ := l.meta(name)
	shape := make([]int, len(sizes))
	for i, s := range sizes {
		shape[i] = s.n
	}
	switch {
	case l.ofBatch(v) || v.param != "" || v.bad:
		return v
	case v.im != nil || v.spectral != nil || v.list != nil || v.sizes != nil:
		fail("over the whole batch it is not supported")
	case v.pooled != "":
		return l.viewAs(l.unpooled(v), sizes)
	case v.sample:
		return l.counted(v, shape)
	case v.isConst():
		if slices.Equal(v.shape, shape) {
			return v
		}
		w := l.value(v)
		name := l.once(w.name)
		return l.expand(&value{name: name, shape: v.shape, batch: -1, outer: 1, whole: v.whole}, sizes)
	case v.batch < 0:
		w := *v
		w.name = l.once(v.name)
		return l.expand(&w, sizes)
	}
	if p := l.producer(v.name); p != nil && slices.Equal(l.shapes[p.Name], v.row()) {
		if _, ok := p.Op.(*graph.Rows); ok && v.batch == 0 && v.alone() {
			return &value{name: p.Inputs[0], shape: shape, batch: -1, outer: 1, whole: v.whole}
		}
	}
	b, k := v.batch, v.shape[v.batch]
	joined, _ := l.reshape(l.join(v.name), graph.Shape{l.samples, elems(v.shape[:b]), v.outer, k / v.outer, elems(v.shape[b+1:])})
	joined, _ = l.permute(joined, []int{1, 2, 0, 3, 4})
	w := &value{shape: slices.Clone(v.shape), batch: -1, outer: 1, whole: v.whole}
	w.shape[b] = k * l.samples
	w.name, _ = l.reshape(joined, w.shape)
	if !slices.Equal(w.shape, shape) {
		fail("it is %v of a whole batch, the archive says %v", w.shape, shape)
	}
	return w
}

// unpooled is a mean or a sum over the batch, of all samples' parts.
func (l *lowering) unpooled(v *value) *value {
	all := &value{shape: append([]int{l.samples}, v.row()...), batch: -1, outer: 1, name: l.join(v.name)}
	return l.reduce(v.pooled, all, []int{0}, false)
}

// join makes one value of the rows of all samples.
func (l *lowering) join(name string) string {
	if y, ok := l.joined[name]; ok {
		return y
	}
	y := l.add(&graph.Batch{}, append(graph.Shape{l.samples}, l.shapes[name]...), nil, name)
	l.wholes[y], l.joined[name] = true, y
	return y
}

// once is a value that is the same for all samples, for the whole batch.
func (l *lowering) once(name string) string {
	if y, ok := l.singles[name]; ok {
		return y
	}
	row := l.shapes[name]
	y, _ := l.emit(&graph.Slice{Count: 1}, nil, l.join(name))
	y, _ = l.reshape(y, row)
	l.singles[name] = y
	return y
}

// counted are the numbers of the samples as a tensor of the given shape, in which one axis is not 1.
func (l *lowering) counted(v *value, shape []int) *value {
	n := elems(shape)
	if !slices.Contains(shape, n) {
		fail("the numbers of samples are %v", shape)
	}
	y := l.upTo(n)
	if v.step != 1 {
		y = l.unary("affine", y, float64(v.step), 0)
	}
	y = l.viewAs(y, plainNumbers(shape))
	y.whole = v.whole
	return y
}

// upTo are 0, 1, ... up to n of a whole batch.
func (l *lowering) upTo(n int) *value {
	r := &graph.Range{Count: n}
	if n%l.samples == 0 {
		r.Count = -n / l.samples
	}
	name := l.add(r, graph.Shape{n}, nil)
	l.wholes[name] = true
	return &value{name: name, shape: []int{n}, batch: -1, outer: 1, whole: true}
}

// onDiagonal is a matrix that tells where the column less the row compares so with k.
func (l *lowering) onDiagonal(f string, rows, cols, k int) *value {
	return l.unary(f, l.binary("sub", l.upTo(cols), l.with(l.upTo(rows), 1)), float64(k), 0)
}

// polynomial is a value that the program computes of the number of samples.
func (l *lowering) polynomial(coefficients []int64) *value {
	n := l.howMany(l.samples)
	y := l.unary("affine", n, 0, float64(coefficients[len(coefficients)-1]))
	for _, c := range slices.Backward(coefficients[:len(coefficients)-1]) {
		y = l.unary("affine", l.binary("mul", y, n), 1, float64(c))
	}
	return y
}

// howMany is a number that depends on how many samples the batch has, computed from that.
func (l *lowering) howMany(n int) *value {
	return l.unary("affine", l.reduce("amax", l.upTo(n), []int{0}, false), 1, 1)
}

// depends tells whether a size depends on the number of samples.
func (l *lowering) depends(n int) bool { return l.entire && n > 0 && n%l.samples == 0 }

// apart is a value of the whole batch as one of samples, if its first axis is the samples and no
// other depends on their number.
func (l *lowering) apart(name string, v *value) *value {
	sizes, _ := l.meta(name)
	for i, s := range sizes {
		if s.batched != (i == 0) || i == 0 && s.n != 1 {
			return v
		}
	}
	if len(sizes) == 0 {
		return v
	}
	w := &value{shape: slices.Clone(v.shape), batch: 0, outer: 1, whole: v.whole}
	w.shape[0] = 1
	w.name = l.spreadOut(v.name, w.row())
	return w
}

// spreadOut makes rows of samples of a value of the whole batch.
func (l *lowering) spreadOut(name string, row graph.Shape) string {
	return l.add(&graph.Rows{Shape: row}, row, nil, name)
}

// withSame is arithmetic of a value of the whole batch with what is the same for all samples.
func (l *lowering) withSame(f string, x, same *value, first bool) *value {
	shape := broadcastShape(x.shape, same.shape)
	if y, ok := l.byNumber(f, x, same, first, shape); ok {
		return y
	}
	o, names := l.operand(same, same.shape)
	y, s := l.emit(&graph.Binary{Function: f, Swap: !first, Operand: o}, names, x.name)
	return &value{name: y, shape: s, batch: -1, outer: 1}
}

// ofSamples is an operation with sizes that depend on the number of samples.
func (l *lowering) ofSamples(op graph.Op, in []graph.Shape) graph.Op {
	size := func(n int) int {
		if n > 0 && n%l.samples == 0 {
			return -n / l.samples
		}
		return n
	}
	each := func(s []int) []int {
		y := make([]int, len(s))
		for i, n := range s {
			y[i] = size(n)
		}
		return y
	}
	switch o := op.(type) {
	case *graph.Reshape:
		return &graph.Reshape{Shape: each(o.Shape)}
	case *graph.Expand:
		return &graph.Expand{Shape: each(o.Shape)}
	case *graph.Slice:
		if d := in[0][o.Axis]; d%l.samples == 0 && (o.Start%l.samples != 0 || o.Count%l.samples != 0 && o.Count != 1) {
			fail("it takes samples by their number, of which a smaller batch may have none")
		}
		return &graph.Slice{Axis: o.Axis, Start: size(o.Start), Count: size(o.Count), Step: o.Step}
	}
	return op
}

// emitOfBatch is emit where an input is a value of the whole batch: all are then.
func (l *lowering) emitOfBatch(op graph.Op, names map[string]string, inputs []string) (string, graph.Shape) {
	inputs = slices.Clone(inputs)
	var in []graph.Shape
	for i, n := range inputs {
		if !l.wholes[n] {
			inputs[i] = l.once(n)
		}
		in = append(in, l.shapes[inputs[i]])
	}
	out, err := op.Infer(in)
	if err != nil {
		fail("%v", err)
	}
	if !graph.OfBatch(op) {
		fail("%s is not computed of a whole batch", op.Kind())
	}
	y := l.add(l.ofSamples(op, in), out, names, inputs...)
	l.wholes[y] = true
	return y, out
}

// answer is a value of the whole batch that the program returns: a loss, of which every sample has the
// same part.
func (l *lowering) answer(v *value) *value {
	n := elems(v.shape)
	name, _ := l.reshape(v.name, graph.Shape{1, n})
	name, _ = l.emit(&graph.Expand{Shape: []int{l.samples, n}}, nil, name)
	return &value{name: l.spreadOut(name, graph.Shape{n}), shape: []int{n}, batch: -1, outer: 1, pooled: "mean"}
}
