package stage

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/engine/zoo"
)

// pair is the ends of a ring of two clusters of one stage, each with one replica, in the middle
// of a round: messages are passed by hand.
type pair [2]*exchange

func newPair(t testing.TB, g *graph.Graph, change func(*job.Spec)) pair {
	t.Helper()
	j := job.Default()
	j.Replicas, j.ReduceFactor, j.BatchSize = 2, 1, 4
	change(&j)
	whole, err := g.Cut([]int{0})
	if err != nil {
		t.Fatal(err)
	}
	clusters := []Cluster{{Starts: []int{0}, Replicas: []int{0}}, {Starts: []int{0}, Replicas: []int{1}}}
	var ms pair
	for i := range ms {
		c, err := Compile(j, whole[0], Placement{Cluster: i, Clusters: clusters})
		if err != nil {
			t.Fatal(err)
		}
		r, err := newReplicas(j, c.Placement.run(j, 16, 0), &c.train.Layout, optim.Delay{}, c.shares, c.putsOff(), nil)
		if err != nil {
			t.Fatal(err)
		}
		seq, err := order.NewSequence(r.run, order.Position{})
		if err != nil {
			t.Fatal(err)
		}
		r.Open(seq.Next())
		h := r.lead()
		for k := range h.State.Params {
			if !j.Gradients() {
				h.State.Params[k] += float32(k%17-8) * float32(i+1) * 1e-3
			}
			for _, v := range h.Optimizer.State().Vectors {
				v[k] = float32(k%7+i) * 1e-4
			}
		}
		for k := range r.Grads(i) {
			r.Grads(i)[k] = float32(k%13-6) * float32(i+1) * 1e-3
		}
		for k := range h.State.Counters {
			h.State.Counters[k] += int64(1+i) << 23
		}
		w, err := r.weights()
		if err != nil {
			t.Fatal(err)
		}
		x := newRings(c, &wiring{}, &meter{}, nil, Hooks{})
		for k := range x.losses {
			x.losses[k] = silent
		}
		if len(x.losses) > 0 {
			x.losses[i] = float32(i) + 0.5
		}
		x.mark = [...]order.Mark{order.Hold, order.Checkpoint}[i]
		m := &exchange{rings: x, r: r, w: &w, ctx: t.Context(), out: map[Peer]chan outgoing{{1 - i, 0}: make(chan outgoing, 1000)}, left: len(x.shares)}
		for _, s := range x.shares {
			if err := m.begin(s); err != nil {
				t.Fatal(err)
			}
		}
		ms[i] = m
	}
	return ms
}

// next is the message that cluster i sends next, after the groups that it may begin.
func (ms pair) next(t testing.TB, i int) (o outgoing, ok bool) {
	t.Helper()
	m := ms[i]
	for {
		k := slices.IndexFunc(m.shares, (*ring).may)
		if k < 0 {
			break
		}
		if err := m.group(m.shares[k]); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case o = <-m.out[Peer{1 - i, 0}]:
		return o, true
	default:
		return o, false
	}
}

// pass gives messages to and fro until nobody has one; change may alter them. It returns the
// first error of a cluster.
func (ms pair) pass(t testing.TB, change func(n int, o *outgoing)) (int, error) {
	t.Helper()
	n := 0
	for moved := true; moved; {
		moved = false
		for i := range ms {
			o, ok := ms.next(t, i)
			if !ok {
				continue
			}
			moved = true
			if i == 0 && change != nil {
				change(n, &o)
			}
			n += 1 - i
			if err := ms[1-i].handle(Peer{i, 0}, o.h, o.b); err != nil {
				return n, err
			}
		}
	}
	if ms[0].left+ms[1].left > 0 {
		t.Fatalf("%d and %d rings are not through, and nobody sends", ms[0].left, ms[1].left)
	}
	return n, nil
}

// ringModels are a model with running statistics and one of several groups.
var ringModels = map[string]func() *graph.Graph{
	"cnn": zoo.CNN,
	"gpt": func() *graph.Graph { return zoo.GPT(zoo.GPTSorter) },
}

// TestPair: both ends have the same state after an average, counters that have gone up by what
// both counted, and the more urgent mark.
func TestPair(t *testing.T) {
	for name, g := range ringModels {
		for how, change := range map[string]func(*job.Spec){
			"parameters": func(*job.Spec) {},
			"4 bits":     func(j *job.Spec) { j.Average.Bits = 4 },
			"gradients":  func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 },
		} {
			ms := newPair(t, g(), change)
			if _, err := ms.pass(t, nil); err != nil {
				t.Fatal(err)
			}
			a, b := *ms[0].r.lead(), *ms[1].r.lead()
			if how == "gradients" {
				a.State.Params, b.State.Params = ms[0].r.Grads(0), ms[1].r.Grads(1)
			}
			for _, h := range []*Holding{&a, &b} {
				h.Replica, h.Extra = 0, nil
			}
			pa, err := a.Part(order.Position{})
			if err != nil {
				t.Fatal(err)
			}
			pb, err := b.Part(order.Position{})
			if err != nil {
				t.Fatal(err)
			}
			if pa.State.Hash() != pb.State.Hash() {
				t.Errorf("%s, %s: the ends differ", name, how)
			}
			for i, s := range pa.Optimizer.Slots {
				if how != "gradients" && s.Tensors.Hash() != pb.Optimizer.Slots[i].Tensors.Hash() {
					t.Errorf("%s, %s: the ends differ in %s", name, how, s.Name)
				}
			}
			want := int64(3) << 23
			if how == "gradients" {
				want = 2 << 23
				if !slices.Equal(ms[0].rings.losses, []float32{0.5, 1.5}) || !slices.Equal(ms[1].rings.losses, []float32{0.5, 1.5}) {
					t.Errorf("losses %v and %v", ms[0].rings.losses, ms[1].rings.losses)
				}
			}
			for _, n := range a.State.Counters {
				if n != want {
					t.Errorf("%s, %s: a counter is %d, want %d", name, how, n, want)
				}
			}
			if ms[0].mark != order.Checkpoint || ms[1].mark != order.Checkpoint {
				t.Errorf("%s, %s: the marks are %s and %s", name, how, ms[0].mark, ms[1].mark)
			}
		}
	}
}

// TestHostileRings: whatever a neighbour sends instead of its step is refused with its name.
func TestHostileRings(t *testing.T) {
	first := func(v float32) func(*outgoing) {
		return func(o *outgoing) { binary.LittleEndian.PutUint32(o.b, math.Float32bits(v)) }
	}
	last := func(v float32) func(*outgoing) {
		return func(o *outgoing) { binary.LittleEndian.PutUint32(o.b[len(o.b)-4:], math.Float32bits(v)) }
	}
	// Of what cluster 0 sends, messages 0 and 1 are its agreement, the first scales and the mark
	// among them, and from 2 on come sums.
	for name, c := range map[string]struct {
		n      int
		change func(*outgoing)
	}{
		"another kind":        {0, func(o *outgoing) { o.h.Kind = wire.Activation }},
		"another segment":     {0, func(o *outgoing) { o.h.Edge++ }},
		"another round":       {0, func(o *outgoing) { o.h.Seq++ }},
		"another step":        {0, func(o *outgoing) { o.h.Rows++ }},
		"scales of a group":   {0, func(o *outgoing) { o.h.Rows += 1 << 8 }},
		"fewer scales":        {0, func(o *outgoing) { o.b = o.b[4:] }},
		"fewer elements":      {0, func(o *outgoing) { o.h.Elems-- }},
		"sums too early":      {0, func(o *outgoing) { o.h.Kind = wire.Sum }},
		"a scale that is NaN": {0, first(float32(math.NaN()))},
		"an infinite scale":   {0, first(float32(math.Inf(1)))},
		"a negative scale":    {0, first(-1)},
		"a smaller scale":     {1, first(0)},
		"no such mark":        {1, last(4)},
		"half a mark":         {1, last(1.5)},
		"scales again":        {2, func(o *outgoing) { o.h.Kind, o.h.Rows = wire.Scale, 1 }},
		"a group not begun":   {2, func(o *outgoing) { o.h.Rows += 200 << 8 }},
		"a later step":        {2, func(o *outgoing) { o.h.Rows++ }},
		"a step that is none": {2, func(o *outgoing) { o.h.Rows += 200 }},
		"fewer sums":          {2, func(o *outgoing) { o.b = o.b[1:] }},
		"no sums":             {2, func(o *outgoing) { o.b = nil }},
		"fewer of them":       {2, func(o *outgoing) { o.h.Elems-- }},
		"a sum out of range":  {2, func(o *outgoing) { o.b[0], o.b[1], o.b[2], o.b[3] = 255, 255, 255, 255 }},
	} {
		ms := newPair(t, zoo.GPT(zoo.GPTSorter), func(*job.Spec) {})
		n, err := ms.pass(t, func(n int, o *outgoing) {
			if n == c.n {
				c.change(o)
			}
		})
		if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "stage 0 of cluster 0") {
			t.Errorf("%s: %v", name, err)
		}
		if n != c.n+1 && name != "no such mark" && name != "half a mark" {
			t.Errorf("%s: refused after %d messages", name, n)
		}
	}
}

// FuzzRing: no message that a neighbour may send makes a ring panic, take memory that is not
// its own, or lose count.
func FuzzRing(f *testing.F) {
	f.Add(uint8(4), uint16(0), uint32(0), uint32(3), []byte{1, 2, 3}, uint8(1))
	f.Add(uint8(6), uint16(0), uint32(1), uint32(3), []byte{1, 2, 3}, uint8(3))
	f.Fuzz(func(t *testing.T, kind uint8, edge uint16, rows, elems uint32, payload []byte, at uint8) {
		ms := newPair(t, zoo.CNN(), func(j *job.Spec) { j.Average.Bits = 8 })
		_, err := ms.pass(t, func(n int, o *outgoing) {
			if n == int(at) {
				o.h.Kind, o.h.Edge, o.h.Rows, o.h.Elems, o.b = wire.Kind(kind), edge, rows, elems, payload
			}
		})
		if err != nil && !errors.Is(err, ErrProtocol) && !strings.Contains(err.Error(), "above the block's scale") {
			t.Error(err)
		}
		for _, m := range ms {
			for _, r := range m.shares {
				if r.finished > r.started || r.started-r.finished > len(r.under) || r.step > len(r.steps) || len(r.steps) != len(average.Ring(2, 0)) {
					t.Errorf("%d groups begun, %d finished", r.started, r.finished)
				}
			}
		}
	})
}
