// Package snapshot is the state of a run at a position, as data: the parts that the
// stages hold, and the manifest that makes them one checkpoint.
//
// A part is one safetensors file. Weights and running statistics stand in it under their
// state-dict names; the optimiser's state of a parameter under
// "optimizer.<slot>.<parameter>", where slots are called as in torch.optim (exp_avg,
// momentum_buffer); the position and the optimiser's scalars in the metadata. Names are
// those of the whole model, so a stage takes what it needs from parts of any cut.
package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/strict"
)

// Version of both JSON forms. History: 1, first form.
const Version = 1

// ErrFormat is wrapped by every error that says that a part or a manifest is not what it
// should be.
var ErrFormat = errors.New("invalid snapshot")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// metaKey is where the metadata of a part's file stands.
const metaKey = "ravnest"

const prefix = "optimizer."

// Optimizer is the state of an update rule over some parameters.
type Optimizer struct {
	Name    string  // as in a job
	Updates int     // done
	Mu      float64 // nadam: the product of its momentum terms, which may depend on the stage
	Slots   []Slot
}

// Slot is one vector of the rule's state, by parameter.
type Slot struct {
	Name    string     // exp_avg, exp_avg_sq, momentum_buffer; of other replicas, or the outer rule's
	Tensors state.Dict // under the parameters' names, with their shapes
}

// Part is the state of a piece of the model.
type Part struct {
	Position  order.Position
	State     state.Dict // weights and running statistics
	Optimizer Optimizer
}

// meta is the JSON in the metadata of a part's file.
type meta struct {
	Version   int            `json:"version"`
	Position  order.Position `json:"position"`
	Optimizer scalars        `json:"optimizer"`
}

type scalars struct {
	Name    string   `json:"name"`
	Updates int      `json:"updates"`
	Mu      float64  `json:"mu"`
	Slots   []string `json:"slots"`
}

// Limits of a part's optimiser state.
const (
	maxSlots = 2*order.MaxReplicas + 1 // of every replica, and an outer rule's
	maxName  = 64
)

func (s scalars) check() error {
	if s.Name == "" || len(s.Name) > maxName || s.Updates < 0 || len(s.Slots) > maxSlots {
		return bad("optimizer %.80q with %d updates and %d slots", s.Name, s.Updates, len(s.Slots))
	}
	if math.IsNaN(s.Mu) || math.IsInf(s.Mu, 0) {
		return bad("optimizer scalar %v is not a number", s.Mu)
	}
	for i, n := range s.Slots {
		if n == "" || len(n) > maxName || strings.Contains(n, ".") || slices.Contains(s.Slots[:i], n) {
			return bad("optimizer slot %.80q", n)
		}
	}
	return nil
}

// Name is what the tensor of an optimiser's slot for a parameter is called in a file.
func Name(slot, param string) string { return prefix + slot + "." + param }

// split is Name backwards, for the slots that there are.
func split(full string, slots []string) (slot int, param string, ok bool) {
	rest, ok := strings.CutPrefix(full, prefix)
	if !ok {
		return 0, "", false
	}
	for i, s := range slots {
		if param, ok := strings.CutPrefix(rest, s+"."); ok {
			return i, param, true
		}
	}
	return 0, "", false
}

// Write writes the part's file. The same part gives the same bytes.
func (p *Part) Write(w io.Writer) error {
	m := meta{Version: Version, Position: p.Position, Optimizer: scalars{Name: p.Optimizer.Name, Updates: p.Optimizer.Updates, Mu: p.Optimizer.Mu, Slots: []string{}}}
	d := slices.Clone(p.State)
	for _, s := range p.Optimizer.Slots {
		m.Optimizer.Slots = append(m.Optimizer.Slots, s.Name)
		for _, t := range s.Tensors {
			t.Name = Name(s.Name, t.Name)
			d = append(d, t)
		}
	}
	if err := m.Optimizer.check(); err != nil {
		return err
	}
	for _, t := range p.State {
		if _, _, ok := split(t.Name, m.Optimizer.Slots); ok {
			return bad("the model's tensor %q is named as the optimizer's are", t.Name)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return safetensors.Write(w, d, map[string]string{"format": "pt", metaKey: string(b)})
}

// Overhead is the most that a tensor of some axes takes in a file beside its elements.
func Overhead(name string, axes int) int { return 6*len(name) + 24*axes + 128 }

// HeadBytes is the most that a file takes beside its tensors.
const HeadBytes = 2048

// Size is the most that the file takes, in bytes.
func (p *Part) Size() int {
	n := HeadBytes
	add := func(slot string, d state.Dict) {
		for _, t := range d {
			n += 4*len(t.F32) + 8*len(t.I64) + Overhead(slot+t.Name, len(t.Shape))
		}
	}
	add("", p.State)
	for _, s := range p.Optimizer.Slots {
		add(Name(s.Name, ""), s.Tensors)
	}
	return n
}

// Bytes is the part's file.
func (p *Part) Bytes() ([]byte, error) {
	var b bytes.Buffer
	b.Grow(p.Size())
	if err := p.Write(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// metaOf is the metadata of a part's file.
func metaOf(md map[string]string) (m meta, err error) {
	text, ok := md[metaKey]
	if !ok {
		return m, bad("the file has no position: it holds weights only")
	}
	if err := decode([]byte(text), &m); err != nil {
		return m, err
	}
	if m.Version != Version {
		return m, bad("version %d, this program reads version %d", m.Version, Version)
	}
	return m, m.Optimizer.check()
}

// Outline is what a part's file holds, without the elements.
type Outline struct {
	Position  order.Position
	Optimizer Optimizer // its slots have names and no tensors
	// Tensors are those of the file, by the names that they have there: Name tells those of slots.
	Tensors []safetensors.Entry
}

// ReadOutline reads a part's file of size bytes to its end and keeps what it says of itself, which is
// little, however large the file is. Read may still refuse the file for the shapes of its slots.
func ReadOutline(r io.Reader, size int64) (*Outline, error) {
	f, err := safetensors.Head(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	m, err := metaOf(f.Meta)
	if err != nil {
		return nil, err
	}
	o := &Outline{Position: m.Position, Tensors: f.Entries, Optimizer: Optimizer{Name: m.Optimizer.Name, Updates: m.Optimizer.Updates, Mu: m.Optimizer.Mu}}
	for _, n := range m.Optimizer.Slots {
		o.Optimizer.Slots = append(o.Optimizer.Slots, Slot{Name: n})
	}
	want := f.Elements()
	switch n, err := io.Copy(io.Discard, io.LimitReader(r, want+1)); {
	case err != nil:
		return nil, fmt.Errorf("reading the elements: %w", err)
	case n != want:
		return nil, bad("%d bytes of elements or more, its header says %d", n, want)
	}
	return o, nil
}

// Read reads a part's file of size bytes and checks that it is whole in itself: every
// slot has float32 tensors with the shapes of weights that are in the part.
func Read(r io.ReaderAt, size int64) (*Part, error) {
	d, md, err := safetensors.Read(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	m, err := metaOf(md)
	if err != nil {
		return nil, err
	}
	p := &Part{Position: m.Position, Optimizer: Optimizer{Name: m.Optimizer.Name, Updates: m.Optimizer.Updates, Mu: m.Optimizer.Mu}}
	for _, n := range m.Optimizer.Slots {
		p.Optimizer.Slots = append(p.Optimizer.Slots, Slot{Name: n})
	}
	shapes := map[string][]int{}
	for _, t := range d {
		if k, param, ok := split(t.Name, m.Optimizer.Slots); ok {
			t.Name = param
			s := &p.Optimizer.Slots[k]
			s.Tensors = append(s.Tensors, t)
			continue
		}
		p.State = append(p.State, t)
		if t.F32 != nil {
			shapes[t.Name] = t.Shape
		}
	}
	for _, s := range p.Optimizer.Slots {
		for _, t := range s.Tensors {
			if shape, ok := shapes[t.Name]; !ok || t.F32 == nil || !slices.Equal(shape, t.Shape) {
				return nil, bad("%s is %v, the part's %q is %v", Name(s.Name, t.Name), t.Shape, t.Name, shape)
			}
		}
	}
	return p, nil
}

// Parse is Read from memory.
func Parse(b []byte) (*Part, error) { return Read(bytes.NewReader(b), int64(len(b))) }

// Join puts parts of one position and one number of updates together. The tensors are not
// copied; Mu is that of the first part. A tensor may be in several parts if it has the same bits
// everywhere: tied weights are, and the state of clusters, of which each has the optimizer's slots
// of its own replicas.
func Join(parts ...*Part) (*Part, error) {
	if len(parts) == 0 {
		return nil, bad("no parts")
	}
	first := parts[0]
	p := &Part{Position: first.Position, Optimizer: Optimizer{Name: first.Optimizer.Name, Updates: first.Optimizer.Updates, Mu: first.Optimizer.Mu}}
	state, slots := newUnion(), map[string]*union{}
	for i, q := range parts {
		o := q.Optimizer
		switch {
		case q.Position != p.Position:
			return nil, bad("part %d is of step %d, part 0 of step %d", i, q.Position.Step, p.Position.Step)
		case o.Name != p.Optimizer.Name || o.Updates != p.Optimizer.Updates:
			return nil, bad("part %d is of %s after %d updates, part 0 of %s after %d", i, o.Name, o.Updates, p.Optimizer.Name, p.Optimizer.Updates)
		}
		if err := state.add(q.State); err != nil {
			return nil, fmt.Errorf("part %d: %w", i, err)
		}
		for _, s := range o.Slots {
			u := slots[s.Name]
			if u == nil {
				u = newUnion()
				slots[s.Name] = u
				p.Optimizer.Slots = append(p.Optimizer.Slots, Slot{Name: s.Name})
			}
			if err := u.add(s.Tensors); err != nil {
				return nil, fmt.Errorf("part %d: the optimizer's %s: %w", i, s.Name, err)
			}
		}
	}
	p.State = state.all
	for i, s := range p.Optimizer.Slots {
		p.Optimizer.Slots[i].Tensors = slots[s.Name].all
	}
	if err := p.State.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return p, nil
}

// union is tensors without those that came before.
type union struct {
	all   state.Dict
	index map[string]int
}

func newUnion() *union { return &union{index: map[string]int{}} }

func (u *union) add(d state.Dict) error {
	for _, t := range d {
		i, ok := u.index[t.Name]
		if !ok {
			u.index[t.Name] = len(u.all)
			u.all = append(u.all, t)
			continue
		}
		if !t.Equal(u.all[i]) {
			return bad("%q is not what an earlier part has", t.Name)
		}
	}
	return nil
}

// decode reads one JSON value, without unknown or doubled fields and with nothing behind it.
func decode(b []byte, v any) error {
	if _, err := strict.Decode(b, v); err != nil {
		return bad("%w", err)
	}
	return nil
}
