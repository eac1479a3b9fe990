// Package pt2 reads the archives of torch.export.save: the program that torch.export
// made of a model, and its weights.
//
// An archive is data. It is a zip of stored entries:
//
//	NAME/models/model.json                         the program: nodes of ATen operators
//	NAME/data/weights/model_weights_config.json    state-dict name -> file and metadata
//	NAME/data/weights/weight_N                     the elements of a storage
//	NAME/data/constants/model_constants_config.json, tensor_N     the same for constants
//	NAME/data/sample_inputs/model.pt               a pickle, which is never read
//	NAME/byteorder                                 "little"
//
// PyTorch 2.6 and 2.7 write another one: serialized_exported_program.json beside
// serialized_state_dict.pt and serialized_constants.pt, which are read as package torchpt
// reads them, without running any code.
//
// The package knows the file and not the operators: what a node means is for the importer.
package pt2

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/state"
)

// ErrFormat is wrapped by every error that says a file is not an archive of
// torch.export.save.
var ErrFormat = errors.New("invalid torch.export archive")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits on an archive. A program of a thousand nodes is about 1 MB of JSON.
const (
	MaxEntries = 1 << 18
	MaxProgram = 64 << 20 // bytes of JSON
	maxConfig  = 32 << 20
	maxDepth   = 48 // of nested JSON values
)

// Archive is an opened file.
type Archive struct {
	Program *Program

	files map[string]*zip.File
	size  int64 // of the file
	taken int64 // bytes of entries read so far
	dir   string

	weights, constants map[string]payload
	old                map[string]state.Tensor // of PyTorch 2.6 and 2.7
}

// payload is an entry of a weights config.
type payload struct {
	Path   string    `json:"path_name"`
	Pickle bool      `json:"use_pickle"`
	Meta   *jsonMeta `json:"tensor_meta"`
	folder string    // within the archive
}

// Open reads the program and the directory of weights of a file of size bytes. r is kept
// for Load.
func Open(r io.ReaderAt, size int64) (*Archive, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, bad("not a zip archive (%w); save the model by torch.export.save(torch.export.export(model, (example,)), path)", err)
	}
	if len(z.File) > MaxEntries {
		return nil, bad("%d zip entries, at most %d are read", len(z.File), MaxEntries)
	}
	a := &Archive{files: make(map[string]*zip.File, len(z.File)), size: size}
	const program, oldProgram = "models/model.json", "serialized_exported_program.json"
	name := ""
	for _, f := range z.File {
		if a.files[f.Name] != nil {
			return nil, bad("zip entry %q occurs twice", f.Name)
		}
		a.files[f.Name] = f
		dir, found := strings.CutSuffix(f.Name, program)
		if !found || strings.Count(dir, "/") > 1 || (dir != "" && !strings.HasSuffix(dir, "/")) {
			if f.Name != oldProgram {
				continue
			}
			dir = ""
		}
		if name != "" {
			return nil, bad("it holds two programs, %s and %s", name, f.Name)
		}
		name, a.dir = f.Name, dir
	}
	if name == "" {
		return nil, a.noProgram()
	}
	if a.files[a.dir+"byteorder"] != nil {
		b, err := a.read(a.dir+"byteorder", 16)
		if err != nil {
			return nil, err
		}
		if string(b) != "little" {
			return nil, bad("byte order %q; only little-endian archives are read", b)
		}
	}
	b, err := a.read(name, MaxProgram)
	if err != nil {
		return nil, err
	}
	if a.Program, err = parseProgram(b); err != nil {
		return nil, err
	}
	if name == oldProgram {
		return a, a.readOld()
	}
	if a.weights, err = a.config("data/weights/", "weights"); err != nil {
		return nil, err
	}
	a.constants, err = a.config("data/constants/", "constants")
	return a, err
}

// Parse is Open from memory.
func Parse(b []byte) (*Archive, error) { return Open(bytes.NewReader(b), int64(len(b))) }

// noProgram says what the file is instead.
func (a *Archive) noProgram() error {
	for name := range a.files {
		switch {
		case strings.HasSuffix(name, "/data.pkl"):
			return bad("it is a file of torch.save, not of torch.export.save: it has weights, but not the model")
		case strings.HasSuffix(name, ".so"), strings.HasSuffix(name, ".wrapper.so"):
			return bad("it is a compiled AOTInductor package; use torch.export.save")
		}
	}
	return bad("it holds no models/model.json")
}

// read reads one entry of at most limit bytes.
func (a *Archive) read(name string, limit int64) ([]byte, error) {
	f := a.files[name]
	if f == nil {
		return nil, bad("zip entry %q is missing", name)
	}
	n := f.UncompressedSize64
	if f.Method != zip.Store || f.CompressedSize64 != n {
		return nil, bad("zip entry %q is compressed, which torch.export.save never does", name)
	}
	if n > uint64(limit) {
		return nil, bad("zip entry %q has %d bytes, at most %d are read", name, n, limit)
	}
	// Entries that do not overlap are together no longer than the file; every storage is
	// read once, or once more where tensors share it.
	if n > uint64(a.size) || n > uint64(16*a.size-a.taken) {
		return nil, bad("zip entry %q says it has %d bytes, more than fit", name, n)
	}
	a.taken += int64(n)
	r, err := f.Open()
	if err != nil {
		return nil, bad("zip entry %q: %w", name, err)
	}
	b := make([]byte, n)
	if _, err = io.ReadFull(r, b); err == nil {
		var more [1]byte // one more read, so that the checksum is compared
		if _, err = io.ReadFull(r, more[:]); err == io.EOF {
			err = nil
		} else if err == nil {
			err = errors.New("longer than it says")
		}
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, bad("zip entry %q: %w", name, err)
	}
	return b, nil
}

// config reads the directory of weights or constants. Entries that the program does not
// name are dropped at once: a hostile archive may have a hundred thousand.
func (a *Archive) config(folder, what string) (map[string]payload, error) {
	name := a.dir + folder + "model_" + what + "_config.json"
	if a.files[name] == nil {
		return nil, nil
	}
	b, err := a.read(name, maxConfig)
	if err != nil {
		return nil, err
	}
	if b, err = tame(b); err != nil {
		return nil, bad("%s: %w", name, err)
	}
	var c struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, bad("%s: %w", name, err)
	}
	out := map[string]payload{}
	for _, in := range a.Program.Inputs {
		raw, ok := c.Config[in.Name]
		if !ok || in.Kind == UserInput {
			continue
		}
		var p payload
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, bad("%s: %q: %w", name, in.Name, err)
		}
		if strings.Contains(p.Path, "/") || p.Path == "" {
			return nil, bad("%s: %q lies in %q, outside of its folder", name, in.Name, p.Path)
		}
		p.folder = folder
		out[in.Name] = p
	}
	return out, nil
}

// readOld reads the tensors of PyTorch 2.6 and 2.7.
func (a *Archive) readOld() error {
	a.old = map[string]state.Tensor{}
	for _, name := range []string{"serialized_state_dict.pt", "serialized_constants.pt"} {
		f := a.files[name]
		if f == nil || f.UncompressedSize64 == 0 {
			continue
		}
		b, err := a.read(name, a.size)
		if err != nil {
			return err
		}
		d, err := torchpt.Parse(b)
		if err != nil {
			return bad("%s: %w", name, err)
		}
		for _, t := range d {
			a.old[t.Name] = t
		}
	}
	return nil
}

// Has tells whether the archive has the tensor of an input of the program.
func (a *Archive) Has(name string) bool {
	_, w := a.weights[name]
	_, c := a.constants[name]
	_, o := a.old[name]
	return w || c || o
}

// Storage names the file that holds a tensor: tensors of one storage are tied.
func (a *Archive) Storage(name string) string {
	if p, ok := a.weights[name]; ok {
		return p.folder + p.Path
	}
	return name
}

// Load reads the parameter, buffer or constant with this state-dict name. Floating types
// become float32, integers and bool int64, complex64 [..., 2] of float32.
func (a *Archive) Load(name string) (state.Tensor, error) {
	if a.old != nil {
		t, ok := a.old[name]
		if !ok {
			return t, bad("the tensor %q is missing", name)
		}
		return t, nil
	}
	p, ok := a.weights[name]
	if !ok {
		if p, ok = a.constants[name]; !ok {
			return state.Tensor{}, bad("the tensor %q is missing", name)
		}
	}
	if p.Pickle {
		return state.Tensor{}, bad("the tensor %q is pickled, and pickles are not read; save a model of plain tensors", name)
	}
	t, err := a.tensor(name, p)
	if err != nil {
		return t, fmt.Errorf("tensor %q: %w", name, err)
	}
	return t, nil
}

// tensor takes the elements of a view out of its storage.
func (a *Archive) tensor(name string, p payload) (state.Tensor, error) {
	var t state.Tensor
	if p.Meta == nil {
		return t, bad("it has no metadata")
	}
	m, err := p.Meta.meta()
	if err != nil {
		return t, err
	}
	dtype := m.DType
	if dtype == 10 { // complex64: two numbers each
		dtype = Float32
		m.Sizes = append(slices.Clone(m.Sizes), Size{N: 2})
		m.Strides = slices.Clone(m.Strides)
		for i := range m.Strides {
			m.Strides[i].N *= 2
		}
		if m.Strides != nil {
			m.Strides = append(m.Strides, Size{N: 1})
		}
		m.Offset.N *= 2
	}
	dt, ok := dtype.state()
	if !ok {
		return t, bad("elements of type %s are not supported", m.DType)
	}
	t = state.Tensor{Name: name, Shape: make([]int, len(m.Sizes))}
	for i, s := range m.Sizes {
		if s.Expr != "" || s.N < 0 || s.N > state.MaxElems {
			return t, bad("axis %d has the size %s", i, s)
		}
		t.Shape[i] = int(s.N)
	}
	n, err := state.Elems(t.Shape)
	if err != nil {
		return t, err
	}
	raw, err := a.read(a.dir+p.folder+p.Path, a.size)
	if err != nil {
		return t, err
	}
	// A view may repeat elements, but not many times.
	if int64(n) > 2*a.size {
		return t, bad("it has %d elements, too many for a file of %d bytes", n, a.size)
	}
	t.Grow(dt, n)
	if n == 0 {
		return t, nil
	}
	stride, off, err := strides(m, t.Shape, len(raw)/dt.Size())
	if err != nil {
		return t, err
	}
	decode(&t, dt, raw, stride, off)
	return t, nil
}

// strides checks that a view lies within a storage of n elements.
func strides(m Meta, shape []int, n int) (stride []int, off int, err error) {
	if m.Strides == nil {
		m.Strides = make([]Size, len(shape))
		for i, s := len(shape)-1, 1; i >= 0; i-- {
			m.Strides[i], s = Size{N: int64(s)}, s*shape[i]
		}
	}
	if len(m.Strides) != len(shape) {
		return nil, 0, bad("it has %d axes, but %d strides", len(shape), len(m.Strides))
	}
	last := m.Offset.N
	if last < 0 || last >= int64(n) {
		return nil, 0, bad("it begins at element %d of %d", last, n)
	}
	for i, s := range m.Strides {
		if s.Expr != "" || s.N < 0 || s.N > int64(n) && shape[i] > 1 {
			return nil, 0, bad("axis %d has the stride %s in a storage of %d elements", i, s, n)
		}
		if shape[i] > 1 {
			last += s.N * int64(shape[i]-1)
		}
		if last >= int64(n) {
			return nil, 0, bad("it ends behind the %d elements of its storage", n)
		}
		stride = append(stride, int(s.N))
	}
	return stride, int(m.Offset.N), nil
}

func decode(t *state.Tensor, dt state.DType, raw []byte, stride []int, off int) {
	run, axes := 1, len(t.Shape) // trailing axes that lie densely are one run
	for axes > 0 && (t.Shape[axes-1] == 1 || stride[axes-1] == run) {
		axes--
		run *= t.Shape[axes]
	}
	at := make([]int, axes)
	for {
		t.Decode(dt, raw[off*dt.Size():(off+run)*dt.Size()])
		k := axes - 1
		for ; k >= 0; k-- {
			if at[k]++; at[k] < t.Shape[k] {
				off += stride[k]
				break
			}
			off -= (at[k] - 1) * stride[k]
			at[k] = 0
		}
		if k < 0 {
			return
		}
	}
}

// Tied lists the parameters that share a storage with an earlier one: name -> first name.
func (a *Archive) Tied() map[string]string {
	tied, first := map[string]string{}, map[string]string{}
	for _, in := range a.Program.Inputs {
		if in.Kind != Parameter {
			continue
		}
		s := a.Storage(in.Name)
		if f, ok := first[s]; ok {
			tied[in.Name] = f
		} else {
			first[s] = in.Name
		}
	}
	return tied
}

// UserInputs are the inputs that a caller gives.
func (p *Program) UserInputs() []Input {
	return slices.DeleteFunc(slices.Clone(p.Inputs), func(i Input) bool { return i.Kind != UserInput })
}
