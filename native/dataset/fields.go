// Data of named fields, for models with several inputs and jobs with several losses: arrays of an
// .npz, tensors of a safetensors file, .npy files of a folder, columns of Parquet files.

package dataset

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/npy"
	"github.com/ravnest/ravnest/engine/format/safetensors"
)

// Fields are what a model takes by name.
type Fields struct {
	Inputs  []data.Field // of a model with several inputs; nil: it has one
	Targets []data.Field // of a job with several losses; nil: it has one
	// From is what the data call a field, where that is another name.
	From map[string]string
}

// On tells whether there are any.
func (f *Fields) On() bool {
	return len(f.Inputs) > 0 || slices.ContainsFunc(f.Targets, func(t data.Field) bool { return t.Name != "" })
}

// target are the usual names of the only targets.
var target = []string{"y", "labels", "label", "targets", "target"}

// names lists what the data may call a field of a half: train_x, train_y, val_x, val_y.
func (o *Options) names(half int, f data.Field) []string {
	own := []string{f.Name}
	switch from := o.Fields.From[f.Name]; {
	case from != "":
		own = []string{from}
	case f.Name == "" && len(o.Target) > 0:
		own = o.Target
	case f.Name == "":
		own = target
	}
	var all []string
	if f.Name == "" && len(o.Target) == 0 {
		all = append(all, keys[half]...)
	}
	for _, n := range own {
		switch half {
		case 0, 1:
			all = append(all, []string{"train_x.", "train_y."}[half]+n, "train_"+n, n)
		default:
			all = append(all, []string{"val_x.", "val_y."}[half-2]+n, "val_"+n, "validation_"+n, "test_"+n)
		}
	}
	return all
}

// halves are the fields of each half: where there is one, it is called "".
func (f *Fields) halves() [4][]data.Field {
	one := []data.Field{{}}
	h := [4][]data.Field{f.Inputs, f.Targets, f.Inputs, f.Targets}
	for i := range h {
		if len(h[i]) == 0 {
			h[i] = one
		}
	}
	return h
}

// arrange picks the fields of each half among tables by name. An only one is as it is, several
// are joined.
func arrange[T any](o *Options, m map[string]*T, join func(data.Kind, []data.Field, []*T) (*T, error)) (t [4]*T, err error) {
	for half, fields := range o.Fields.halves() {
		var own []*T
		missing := ""
		for _, f := range fields {
			var x *T
			for _, n := range o.names(half, f) {
				if x == nil {
					x = m[n]
				}
			}
			if x == nil && missing == "" {
				if missing = f.Name; f.Name == "" {
					missing = []string{"inputs", "targets"}[half%2]
				}
			}
			own = append(own, x)
		}
		switch {
		case half < 2 && missing != "" || half >= 2 && missing != "" && slices.ContainsFunc(own, func(x *T) bool { return x != nil }):
			flag := []string{"--input", "--target"}[half%2]
			return t, fmt.Errorf("%w: %s has no %q; there are %q: name it by %s %s=FIELD", ErrKind, []string{"the training part", "the training part", "the validation part", "the validation part"}[half], missing, slices.Sorted(maps.Keys(m)), flag, missing)
		case missing != "":
			continue
		case len(own) == 1 && fields[0].Name == "":
			t[half] = own[0]
		default:
			if t[half], err = join(data.Kind(half%2), fields, own); err != nil {
				return t, err
			}
		}
	}
	if (t[2] == nil) != (t[3] == nil) {
		return t, fmt.Errorf("%w: inputs and targets for validation belong together, one of them is missing", ErrKind)
	}
	return t, nil
}

// fields reads data of named fields.
func (s *Source) fields(path string, o Options) error {
	ext := strings.ToLower(filepath.Ext(path))
	if lists := parts(path, ".parquet"); len(lists[0]) > 0 {
		return s.parquets(lists, o)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if ext == ".safetensors" && info.Size() > o.above() {
		f, size, err := s.keep(path)
		if err != nil {
			return err
		}
		st, err := safetensors.Open(f, size)
		if err != nil {
			return err
		}
		m := map[string]*data.Raw{}
		for _, e := range st.Entries {
			if len(e.Shape) > 0 {
				m[e.Name] = &data.Raw{Rows: e.Shape[0], Shape: e.Shape[1:], DType: e.DType, R: st.Raw(e)}
			}
		}
		s.raws, err = arrange(&o, m, data.JoinRaw)
		return err
	}
	m, err := arrays(path)
	if err != nil {
		return err
	}
	s.tables, err = arrange(&o, m, data.Join)
	return err
}

// arrays reads the arrays of a file, or of the .npy files of a folder.
func arrays(path string) (m map[string]*data.Table, err error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		m = map[string]*data.Table{}
		files, _ := filepath.Glob(filepath.Join(path, "*.npy")) //nolint:errcheck // the pattern is ours
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".npy")
			if err := open(f, func(f *os.File, _ int64) (err error) { m[name], err = npy.Read(f); return err }); err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
			}
		}
		if len(m) == 0 {
			return nil, fmt.Errorf("%w: a folder with named fields has .npy or .parquet files", ErrKind)
		}
		return m, nil
	}
	err = open(path, func(f *os.File, size int64) error {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".npz":
			m, err = npy.ReadZip(f, size)
		case ".safetensors":
			m, err = tensors(f, size)
		default:
			err = fmt.Errorf("%w: named fields come from .npz, .safetensors or .parquet files, or a folder of .npy files", ErrKind)
		}
		return err
	})
	return m, err
}

// tensors reads all tensors of a file that have rows.
func tensors(r io.ReaderAt, size int64) (map[string]*data.Table, error) {
	f, err := safetensors.Open(r, size)
	if err != nil {
		return nil, err
	}
	m := map[string]*data.Table{}
	for _, e := range f.Entries {
		if len(e.Shape) == 0 {
			continue
		}
		if m[e.Name], err = data.ReadTable(data.Inputs, e.DType, e.Shape, f.Raw(e)); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
	}
	return m, nil
}

// InputFields gives the rows of several inputs at path, to be predicted, as Inputs does.
func InputFields(path string, n int, o Options, take Take) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("the input: %w", err)
	}
	o.kept = new(int64)
	return of(path, []int{data.FieldElems(o.Fields.Inputs)}, n, take, func(b *batches) (err error) {
		if len(o.Texts) == 0 && strings.EqualFold(filepath.Ext(path), ".parquet") {
			return b.parquetFields(path, o)
		}
		s := &Source{}
		defer func() { err = errors.Join(err, s.Close()) }()
		var m map[string]*data.Raw
		if len(o.Texts) > 0 {
			o.Block = product(o.Fields.Inputs[0].Shape)
			m, err = s.textInputs(path, o)
		} else {
			m, err = s.inputFields(path, o)
		}
		if err != nil {
			return err
		}
		return b.fields(m, o)
	})
}

// inputFields finds the arrays of a file, or of the .npy files of a folder, which may be fields.
func (s *Source) inputFields(path string, o Options) (map[string]*data.Raw, error) {
	wanted := func(name string) bool {
		return slices.ContainsFunc(o.Fields.Inputs, func(f data.Field) bool {
			return slices.Contains(o.names(2, f), name) || slices.Contains(o.names(0, f), name)
		})
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		m := map[string]*data.Raw{}
		files, _ := filepath.Glob(filepath.Join(path, "*.npy")) //nolint:errcheck // the pattern is ours
		if len(files) == 0 {
			return nil, fmt.Errorf("%w: a folder with named fields has .npy or .parquet files", ErrKind)
		}
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".npy")
			if m[name] = nil; !wanted(name) {
				continue
			}
			if m[name], err = s.npy(f); err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
			}
		}
		return m, nil
	}
	if ext := strings.ToLower(filepath.Ext(path)); ext != ".npz" && ext != ".safetensors" {
		return nil, fmt.Errorf("%w: named fields come from .npz, .safetensors or .parquet files, or a folder of .npy files", ErrKind)
	}
	var others []string
	m, err := s.files(path, func(names []string) (own []string, _ error) {
		for _, name := range names {
			if wanted(name) {
				own = append(own, name)
			} else {
				others = append(others, name)
			}
		}
		return own, nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range others {
		m[name] = nil // to be named where a field is missing
	}
	return m, nil
}

// fields gives the rows of the fields among m, side by side.
func (b *batches) fields(m map[string]*data.Raw, o Options) error {
	var own []*data.Raw
	for _, f := range o.Fields.Inputs {
		var x *data.Raw
		for _, n := range slices.Concat(o.names(2, f), o.names(0, f)) {
			if x == nil {
				x = m[n]
			}
		}
		if x == nil {
			return fmt.Errorf("%w: there is no %q among %q: name it by --input %s=FIELD", ErrKind, f.Name, slices.Sorted(maps.Keys(m)), f.Name)
		}
		if slices.Equal(append([]int{x.Rows}, x.Shape...), f.Shape) {
			x.Rows, x.Shape = 1, slices.Clone(f.Shape) // a single row
		}
		if own = append(own, x); x.Rows != own[0].Rows {
			return fmt.Errorf("%w: %d rows of %q, but %d of %q", data.ErrInvalid, x.Rows, f.Name, own[0].Rows, o.Fields.Inputs[0].Name)
		}
	}
	for from := 0; from < own[0].Rows; from += b.n {
		var ts []*data.Table
		for i, r := range own {
			t, err := part(r, from, min(from+b.n, r.Rows))
			if err != nil {
				return fmt.Errorf("%q: %w", o.Fields.Inputs[i].Name, err)
			}
			ts = append(ts, t)
		}
		x, err := data.Join(data.Inputs, o.Fields.Inputs, ts)
		if err != nil {
			return behind(from, err)
		}
		if err := b.give(x, nil); err != nil {
			return err
		}
	}
	return nil
}
