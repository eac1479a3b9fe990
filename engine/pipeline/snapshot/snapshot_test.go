package snapshot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
)

func tensor(name string, v ...float32) state.Tensor {
	return state.Tensor{Name: name, Shape: []int{len(v)}, F32: v}
}

func part() *snapshot.Part {
	return &snapshot.Part{
		Position: order.Position{Epoch: 2, Batch: 3, Step: 13, Seq: 1 << 60},
		State: state.Dict{
			tensor("conv.weight", 1, 2, 3), tensor("bn.running_mean", 4), {Name: "bn.num_batches_tracked", Shape: []int{}, I64: []int64{13}},
		},
		Optimizer: snapshot.Optimizer{Name: "nadam", Updates: 13, Mu: 0.1 + 0.2, Slots: []snapshot.Slot{
			{Name: "exp_avg", Tensors: state.Dict{tensor("conv.weight", 5, 6, 7)}},
			{Name: "exp_avg_sq", Tensors: state.Dict{tensor("conv.weight", 8, 9, 10)}},
		}},
	}
}

func encode(t testing.TB, p *snapshot.Part) []byte {
	t.Helper()
	b, err := p.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPart(t *testing.T) {
	b := encode(t, part())
	p, err := snapshot.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, part()) {
		t.Errorf("got %+v", p)
	}
	if !bytes.Equal(encode(t, p), b) {
		t.Error("written again it has other bytes")
	}
}

// nothing are zeros without end.
type nothing struct{}

func (nothing) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestOutline: what a file says of itself is known without holding it, and only where all of it is
// there.
func TestOutline(t *testing.T) {
	b := encode(t, part())
	o, err := snapshot.ReadOutline(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	want, n := part(), 0
	for _, s := range want.Optimizer.Slots {
		n += len(s.Tensors)
	}
	if o.Position != want.Position || len(o.Tensors) != n+len(want.State) || o.Optimizer.Updates != want.Optimizer.Updates || len(o.Optimizer.Slots) != len(want.Optimizer.Slots) || o.Optimizer.Slots[0].Name != want.Optimizer.Slots[0].Name {
		t.Errorf("got %+v", o)
	}
	for k := range b {
		if _, err := snapshot.ReadOutline(bytes.NewReader(b[:k]), int64(len(b))); err == nil {
			t.Fatalf("the first %d of %d bytes are taken", k, len(b))
		}
	}
	if _, err := snapshot.ReadOutline(bytes.NewReader(append(b, 0)), int64(len(b))); !errors.Is(err, snapshot.ErrFormat) {
		t.Errorf("a byte too many: %v", err)
	}
	const size = 1 << 28
	head := fmt.Sprintf(`{"__metadata__":{"ravnest":%q},"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}`, `{"version":1,"position":{"epoch":0,"step":1},"optimizer":{"name":"sgd","updates":1,"mu":0,"slots":[]}}`, size/4, size)
	all := int64(8 + len(head) + size)
	file := io.LimitReader(io.MultiReader(bytes.NewReader(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))), strings.NewReader(head), nothing{}), all)
	var was, is runtime.MemStats
	runtime.ReadMemStats(&was)
	o, err = snapshot.ReadOutline(file, all)
	runtime.ReadMemStats(&is)
	if err != nil || len(o.Tensors) != 1 {
		t.Fatal(o, err)
	}
	if took := is.TotalAlloc - was.TotalAlloc; took > 1<<20 {
		t.Errorf("a file of %d bytes took %d", all, took)
	}
}

// TestPartsThatAreNone: what is not a part is refused with a reason.
func TestPartsThatAreNone(t *testing.T) {
	raw := func(d state.Dict, meta string) []byte {
		var b bytes.Buffer
		if err := safetensors.Write(&b, d, map[string]string{"format": "pt", "ravnest": meta}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	w := tensor("w", 1, 2)
	for want, b := range map[string][]byte{
		"version 2":          raw(state.Dict{w}, `{"version":2,"position":{},"optimizer":{"name":"sgd"}}`),
		"unknown field":      raw(state.Dict{w}, `{"version":1,"position":{},"optimizer":{"name":"sgd"},"more":1}`),
		"follows the end":    raw(state.Dict{w}, `{"version":1,"position":{},"optimizer":{"name":"sgd"}} 1`),
		"-1 updates":         raw(state.Dict{w}, `{"version":1,"position":{},"optimizer":{"name":"sgd","updates":-1}}`),
		`slot "a.b"`:         raw(state.Dict{w}, `{"version":1,"position":{},"optimizer":{"name":"sgd","slots":["a.b"]}}`),
		"optimizer.m.w is [": raw(state.Dict{w, tensor("optimizer.m.w", 1)}, `{"version":1,"position":{},"optimizer":{"name":"sgd","slots":["m"]}}`),
		"optimizer.m.x is [": raw(state.Dict{w, tensor("optimizer.m.x", 1)}, `{"version":1,"position":{},"optimizer":{"name":"sgd","slots":["m"]}}`),
		"weights only": func() []byte {
			var b bytes.Buffer
			if err := safetensors.Write(&b, state.Dict{w}, nil); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}(),
	} {
		if _, err := snapshot.Parse(b); !errors.Is(err, snapshot.ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	p := part()
	p.State[0].Name = "optimizer.exp_avg.x"
	if _, err := p.Bytes(); !errors.Is(err, snapshot.ErrFormat) {
		t.Errorf("a weight named as the optimizer's tensors: %v", err)
	}
}

func TestJoin(t *testing.T) {
	a, b := part(), part()
	for i := range b.State {
		b.State[i].Name = "later." + b.State[i].Name
	}
	for _, s := range b.Optimizer.Slots {
		s.Tensors[0].Name = "later." + s.Tensors[0].Name
	}
	p, err := snapshot.Join(a, b)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.State) != 6 || len(p.Optimizer.Slots) != 2 || len(p.Optimizer.Slots[1].Tensors) != 2 || p.Position != a.Position || p.Optimizer.Mu != a.Optimizer.Mu {
		t.Errorf("got %+v", p)
	}
	// Tied weights are in several parts, with the same bits.
	if p, err := snapshot.Join(a, a); err != nil || len(p.State) != len(a.State) || len(p.Optimizer.Slots[0].Tensors) != len(a.Optimizer.Slots[0].Tensors) {
		t.Errorf("the same twice: %+v, %v", p, err)
	}
	other := part()
	other.State[0].F32[0]++
	if _, err := snapshot.Join(a, other); !errors.Is(err, snapshot.ErrFormat) || !strings.Contains(err.Error(), "not what an earlier part has") {
		t.Errorf("one tensor with two values: %v", err)
	}
	// The parts of another cluster have the same state, and slots of other replicas.
	c := part()
	for i, s := range c.Optimizer.Slots {
		c.Optimizer.Slots[i].Name = s.Name + "_replica1"
	}
	if p, err = snapshot.Join(a, b, c); err != nil || len(p.State) != 6 || len(p.Optimizer.Slots) != 4 || len(p.Optimizer.Slots[2].Tensors) != 1 {
		t.Errorf("with another cluster's: %+v, %v", p, err)
	}
	for _, x := range [][]float32{c.State[0].F32, a.Optimizer.Slots[0].Tensors[0].F32} {
		d := part()
		old := x[0]
		x[0] = math.Nextafter32(x[0], 9)
		if _, err := snapshot.Join(a, b, c, d); !errors.Is(err, snapshot.ErrFormat) || !strings.Contains(err.Error(), "not what an earlier part has") {
			t.Errorf("the same tensor with other bits: %v", err)
		}
		x[0] = old
	}
	b.Position.Step++
	if _, err := snapshot.Join(a, b); !errors.Is(err, snapshot.ErrFormat) || !strings.Contains(err.Error(), "of step 14") {
		t.Errorf("parts of different steps: %v", err)
	}
}

func manifest(b []byte) *snapshot.Manifest {
	e := func(cluster, stage, from, to int) snapshot.Entry {
		return snapshot.Entry{
			Cluster: cluster, Stage: stage, Segment: snapshot.Segment{From: from, To: to}, Object: "parts/x", SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Size: int64(len(b)),
			Holds: []string{snapshot.Weights, snapshot.Optimiser}, Provider: "a laptop",
		}
	}
	return &snapshot.Manifest{
		Version: snapshot.Version, Run: "r1", Generation: 2, Position: part().Position,
		Parts: []snapshot.Entry{e(0, 0, 0, 4), e(0, 1, 4, 9), e(1, 0, 0, 9)},
	}
}

func TestManifest(t *testing.T) {
	b := encode(t, part())
	m := manifest(b)
	j, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := snapshot.ParseManifest(j)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v", got)
	}
	if es := got.Overlapping(0, snapshot.Segment{From: 3, To: 4}); len(es) != 1 || es[0].Stage != 0 {
		t.Errorf("overlapping: %+v", es)
	}
	if es := got.Overlapping(0, snapshot.Segment{From: 3, To: 5}); len(es) != 2 {
		t.Errorf("overlapping: %+v", es)
	}
	p, err := got.Open(got.Parts[0], bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(p, part()) {
		t.Errorf("%v, %+v", err, p)
	}
	for name, data := range map[string][]byte{"shorter": b[:len(b)-1], "longer": append(bytes.Clone(b), 0), "changed": append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]^1)} {
		if _, err := got.Open(got.Parts[0], bytes.NewReader(data)); !errors.Is(err, snapshot.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.Position.Step++
	if _, err := m.Open(m.Parts[0], bytes.NewReader(b)); !errors.Is(err, snapshot.ErrFormat) {
		t.Errorf("a part of another step: %v", err)
	}
}

func TestManifestsThatAreNone(t *testing.T) {
	for name, change := range map[string]func(*snapshot.Manifest){
		"version":          func(m *snapshot.Manifest) { m.Version = 2 },
		"no run":           func(m *snapshot.Manifest) { m.Run = "" },
		"control letters":  func(m *snapshot.Manifest) { m.Parts[0].Provider = "a\nb" },
		"bidi":             func(m *snapshot.Manifest) { m.Parts[0].Provider = "a\u202eb" },
		"no parts":         func(m *snapshot.Manifest) { m.Parts = nil },
		"a gap":            func(m *snapshot.Manifest) { m.Parts[1].Segment.From = 5 },
		"an overlap":       func(m *snapshot.Manifest) { m.Parts[1].Segment.From = 3 },
		"twice":            func(m *snapshot.Manifest) { m.Parts[1] = m.Parts[0] },
		"a missing end":    func(m *snapshot.Manifest) { m.Parts[1].Segment.To = 8 },
		"a missing stage":  func(m *snapshot.Manifest) { m.Parts = m.Parts[1:] },
		"order":            func(m *snapshot.Manifest) { m.Parts[0].Cluster = 2; m.Parts[1].Cluster = 2 },
		"digest":           func(m *snapshot.Manifest) { m.Parts[0].SHA256 = strings.ToUpper(m.Parts[0].SHA256) },
		"size":             func(m *snapshot.Manifest) { m.Parts[0].Size = 0 },
		"holds nothing":    func(m *snapshot.Manifest) { m.Parts[0].Holds = nil },
		"holds what":       func(m *snapshot.Manifest) { m.Parts[0].Holds = []string{"weights", "gold"} },
		"negative cluster": func(m *snapshot.Manifest) { m.Parts[0].Cluster = -1 },
	} {
		m := manifest([]byte("x"))
		change(m)
		if _, err := m.JSON(); !errors.Is(err, snapshot.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.ParseManifest(b); !errors.Is(err, snapshot.ErrFormat) {
			t.Errorf("%s, parsed: %v", name, err)
		}
	}
	if err := manifest([]byte("x")).Check(10); !errors.Is(err, snapshot.ErrFormat) {
		t.Errorf("another model's: %v", err)
	}
}

// FuzzPart: whatever the bytes, a part that is read can be written and read again.
func FuzzPart(f *testing.F) {
	f.Add(encode(f, part()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := snapshot.Parse(b)
		if err != nil {
			if !errors.Is(err, snapshot.ErrFormat) {
				t.Fatalf("an error without its kind: %v", err)
			}
			return
		}
		c := encode(t, p)
		q, err := snapshot.Parse(c)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encode(t, q), c) {
			t.Error("written twice it differs")
		}
	})
}

func FuzzManifest(f *testing.F) {
	j, err := manifest([]byte("x")).JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(j)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := snapshot.ParseManifest(b)
		if err != nil {
			if !errors.Is(err, snapshot.ErrFormat) {
				t.Fatalf("an error without its kind: %v", err)
			}
			return
		}
		j, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := snapshot.ParseManifest(j); err != nil || !reflect.DeepEqual(m, n) {
			t.Errorf("%v: %+v becomes %+v", err, m, n)
		}
	})
}
