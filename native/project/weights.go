// Weights in and out of a job: initial weights from a checkpoint, and PyTorch's state dict of
// the trained model.

package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
)

// Rest is what PyTorch's state dict of a model has in addition to the graph's: tensors that the
// answer does not depend on, and further names of tied parameters.
type Rest struct {
	State state.Dict
	Tied  map[string]string // name -> the name that the graph or State has
}

// Begin is the initial state of a job.
type Begin struct {
	Weights state.Dict // the graph's state dict
	Rest    Rest
}

// BeginOf returns the initial state of an imported model.
func BeginOf(m *importer.Model) *Begin {
	return &Begin{Weights: m.Weights, Rest: Rest{State: m.Rest, Tied: m.Tied}}
}

// tiedKey is the key of Rest.Tied, as JSON, in the metadata of RestFile.
const tiedKey = "ravnest.tied"

// saveBegin writes InitialFile and RestFile.
func (p *Project) saveBegin(b *Begin) error {
	tied, err := json.Marshal(b.Rest.Tied)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		d    state.Dict
		meta map[string]string
	}{{InitialFile, b.Weights, nil}, {RestFile, b.Rest.State, map[string]string{tiedKey: string(tied)}}} {
		if f.name == RestFile && len(f.d) == 0 && len(b.Rest.Tied) == 0 {
			continue
		}
		if err := p.Inside(f.name); err != nil {
			return err
		}
		write := func(w io.Writer) error { return safetensors.Write(w, f.d, f.meta) }
		if err := native.Save(filepath.Join(p.Dir, f.name), 0o644, write); err != nil {
			return err
		}
	}
	return nil
}

// ReadRest reads RestFile. A job without it has no rest.
func (p *Project) ReadRest() (Rest, error) {
	at := filepath.Join(p.Dir, RestFile)
	f, size, err := OpenRegular(at, "rest of the state dict")
	if errors.Is(err, ErrMissing) {
		return Rest{}, nil
	}
	if err != nil {
		return Rest{}, err
	}
	defer f.Close()
	d, meta, err := safetensors.Read(f, size)
	if err != nil {
		return Rest{}, fmt.Errorf("%s: %w", at, err)
	}
	r := Rest{State: d}
	if s, ok := meta[tiedKey]; ok {
		if err := json.Unmarshal([]byte(s), &r.Tied); err != nil {
			return Rest{}, fmt.Errorf("%s: the metadata %s: %w", at, tiedKey, err)
		}
	}
	return r, nil
}

// Complete returns the state dict that PyTorch's model has: d, the graph's, with the rest.
func (r Rest) Complete(d state.Dict) (state.Dict, error) {
	all := slices.Clone(d)
	has := make(map[string]state.Tensor, len(d)+len(r.State))
	for _, t := range d {
		has[t.Name] = t
	}
	for _, t := range r.State {
		if _, ok := has[t.Name]; !ok {
			has[t.Name] = t
			all = append(all, t)
		}
	}
	for _, name := range sorted(r.Tied) {
		t, ok := has[r.Tied[name]]
		if _, twice := has[name]; ok && !twice {
			t.Name = name
			all = append(all, t)
		}
	}
	return all, all.Validate()
}

func sorted(m map[string]string) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// IsTorch reports whether a file's extension is one of torch.save's.
func IsTorch(file string) bool {
	return slices.Contains([]string{".pt", ".pth", ".bin", ".ckpt"}, strings.ToLower(filepath.Ext(file)))
}

// IsWeights reports whether a file's extension is a checkpoint's.
func IsWeights(file string) bool {
	return IsTorch(file) || strings.EqualFold(filepath.Ext(file), ".safetensors")
}

// WriteState writes a state dict in the format given by the file's extension.
func WriteState(file string, d state.Dict) error {
	if !IsWeights(file) {
		return fmt.Errorf("%s: the name of a state dict's file must end in .safetensors or .pt", file)
	}
	return native.Save(file, 0o644, func(w io.Writer) error {
		if IsTorch(file) {
			return torchpt.Write(w, d)
		}
		return safetensors.Write(w, d, map[string]string{"format": "pt"})
	})
}

// FitOptions say how a checkpoint may differ from the model.
type FitOptions struct {
	Strict bool     // no names may be missing or unused, except ignored ones
	Ignore []string // patterns of names that are not taken and may be missing
	Strip  string   // prefix of the file's names that the model's do not have
}

// Fit is the result of matching a checkpoint with the model.
type Fit struct {
	Begin
	Taken int      // number of the model's tensors taken from the file
	Kept  []string // the model's tensors that the file does not have
	Left  []string // the file's tensors that the model does not use
}

// ErrFit is wrapped by the error that lists what does not fit.
var ErrFit = errors.New("the checkpoint does not fit this model")

// fitting is the state while computing a Fit.
type fitting struct {
	o                FitOptions
	have             map[string]state.Tensor // the file's tensors not used yet
	missing, surplus []string
	wrong            []string // shapes, types, values
}

// Fit matches a checkpoint with the job's model. Tensors that the file does not have keep the
// job's current initial values. The error lists everything that does not fit at once.
func (p *Project) Fit(d state.Dict, o FitOptions) (*Fit, error) {
	for _, pattern := range o.Ignore {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("the pattern %q of --ignore: %w", pattern, err)
		}
	}
	rest, err := p.ReadRest()
	if err != nil {
		return nil, err
	}
	base := p.Weights
	if base == nil {
		l := exec.NewLayout(p.Base, 0)
		s := l.NewState()
		l.Init(s, p.Job.Seed)
		base = l.Export(s)
	}
	was := map[string]state.Tensor{}
	for _, t := range base {
		was[t.Name] = t
	}
	h := &fitting{o: o, have: make(map[string]state.Tensor, len(d))}
	for _, t := range d {
		t.Name = strings.TrimPrefix(t.Name, o.Strip)
		if _, twice := h.have[t.Name]; twice {
			return nil, fmt.Errorf("%w: two of its tensors are called %q without %q", ErrFit, t.Name, o.Strip)
		}
		h.have[t.Name] = t
	}
	f := &Fit{Begin: Begin{Rest: Rest{Tied: rest.Tied}}}
	names := map[string][]string{} // further names of tied tensors
	for _, other := range sorted(rest.Tied) {
		names[rest.Tied[other]] = append(names[rest.Tied[other]], other)
	}
	for _, q := range p.Base.Params() {
		t, ok := h.take(q.Full, names[q.Full], was[q.Full], q.Role == graph.Counter)
		if f.Weights = append(f.Weights, t); ok {
			f.Taken++
		} else {
			f.Kept = append(f.Kept, q.Full)
		}
	}
	for _, w := range rest.State { // optional: the answer does not depend on it
		t, _ := h.take(w.Name, names[w.Name], w, true)
		f.Rest.State = append(f.Rest.State, t)
	}
	for _, t := range d {
		if n := strings.TrimPrefix(t.Name, o.Strip); h.left(n) {
			f.Left = append(f.Left, n)
			if !h.ignored(n) {
				h.surplus = append(h.surplus, n)
			}
		}
	}
	return f, h.err(f)
}

func (h *fitting) left(name string) bool { _, ok := h.have[name]; return ok }

func (h *fitting) ignored(name string) bool {
	return slices.ContainsFunc(h.o.Ignore, func(pattern string) bool {
		ok, _ := path.Match(pattern, name) //nolint:errcheck // Fit has checked the pattern
		return ok
	})
}

// take returns the file's tensor called name or one of others if it has the shape and type of
// was, and otherwise was itself. An optional one may be missing.
func (h *fitting) take(name string, others []string, was state.Tensor, optional bool) (state.Tensor, bool) {
	got, found := state.Tensor{}, ""
	for _, n := range append([]string{name}, others...) {
		t, ok := h.have[n]
		if !ok || h.ignored(n) {
			continue
		}
		delete(h.have, n)
		if found != "" {
			t.Name = got.Name
			if !(state.Dict{t}).Equal(state.Dict{got}) {
				h.wrong = append(h.wrong, fmt.Sprintf("%s and %s are one tensor of the model and differ in the file", found, n))
			}
			continue
		}
		found = n
		t.Name = name
		got = t
	}
	switch {
	case found == "":
		if !optional && !h.ignored(name) {
			h.missing = append(h.missing, name)
		}
		return was, false
	case !slices.Equal(got.Shape, was.Shape) && (len(got.Shape) > 0 || len(was.Shape) > 0):
		h.wrong = append(h.wrong, fmt.Sprintf("%s is %v, the model's is %v", found, got.Shape, was.Shape))
		return was, false
	case (got.I64 == nil) != (was.I64 == nil):
		h.wrong = append(h.wrong, fmt.Sprintf("%s holds integers where the model has floats, or the reverse", found))
		return was, false
	}
	for i, v := range got.F32 {
		if v-v != 0 {
			h.wrong = append(h.wrong, fmt.Sprintf("element %d of %s is %v", i, found, v))
			break
		}
	}
	return got, true
}

// err lists what does not fit.
func (h *fitting) err(f *Fit) error {
	if !h.o.Strict {
		h.missing, h.surplus = nil, nil
	}
	if f.Taken == 0 && len(h.missing)+len(h.wrong) == 0 {
		return fmt.Errorf("%w: the model has none of its %d tensors", ErrFit, len(f.Left))
	}
	if len(h.missing)+len(h.surplus)+len(h.wrong) == 0 {
		return nil
	}
	var b strings.Builder
	for _, g := range []struct {
		what  string
		names []string
	}{{"missing", h.missing}, {"surplus", h.surplus}, {"wrong", h.wrong}} {
		if len(g.names) > 0 {
			fmt.Fprintf(&b, "\n%d %s:", len(g.names), g.what)
			for _, n := range g.names {
				fmt.Fprintf(&b, "\n  %s", n)
			}
		}
	}
	if prefix := h.prefix(); prefix != "" {
		fmt.Fprintf(&b, "\nhint: the file's names begin with %q: --strip %s", prefix, prefix)
	} else {
		b.WriteString("\nhint: --ignore 'PATTERN' leaves out names that match, such as 'fc.*'; --strict=false takes what fits")
	}
	return fmt.Errorf("%w:%s", ErrFit, b.String())
}

// prefix returns the prefix that the file's names have before the missing ones, or "" if that
// does not explain them.
func (h *fitting) prefix() string {
	if len(h.missing) == 0 {
		return ""
	}
	for _, s := range h.surplus {
		p, ok := strings.CutSuffix(s, h.missing[0])
		if ok && p != "" && !slices.ContainsFunc(h.missing, func(m string) bool { return !slices.Contains(h.surplus, p+m) }) {
			return p
		}
	}
	return ""
}

// BeginWith sets the job's initial state to b.
func (p *Project) BeginWith(b *Begin) error {
	if err := p.saveBegin(b); err != nil {
		return err
	}
	p.Weights = b.Weights
	if p.Job.Weights == InitialFile {
		return nil
	}
	p.Job.Weights = InitialFile
	return p.write(JobFile, p.Job.JSON())
}
