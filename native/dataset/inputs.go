// Rows to predict, in the formats that Open reads, without targets.

package dataset

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/images"
	"github.com/ravnest/ravnest/engine/format/npy"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/engine/state"
)

// Take takes rows to predict and their names, nil if they have none. It must not keep them.
type Take func(x *data.Table, names []string) error

// batches gives rows on, so many at a time that they are not all in memory.
type batches struct {
	in    []int // the shape of a row of the model's
	n     int   // rows at a time
	take  Take
	given int // rows that take has had

	x     data.Table // those that are collected
	names []string
}

// add adds a row of a source whose end is not known yet.
func (b *batches) add(row *data.Table, name string) error {
	if b.x.Rows*product(b.x.Shape) >= b.n*product(b.in) && b.x.Rows > 0 {
		if err := b.flush(false); err != nil {
			return err
		}
	}
	if b.x.Rows > 0 && !slices.Equal(b.x.Shape, row.Shape) {
		return fmt.Errorf("%w: it is %v, the first row is %v", data.ErrInvalid, row.Shape, b.x.Shape)
	}
	if b.x.Rows++; b.given+b.x.Rows > data.MaxRows {
		return fmt.Errorf("%w: more than %d rows", data.ErrInvalid, data.MaxRows)
	}
	b.x.Shape = append(b.x.Shape[:0], row.Shape...)
	b.x.U8, b.x.F32, b.x.I32 = append(b.x.U8, row.U8...), append(b.x.F32, row.F32...), append(b.x.I32, row.I32...)
	if name != "" {
		b.names = append(b.names, name)
	}
	return nil
}

// flush gives what was collected. all tells that there is no more.
func (b *batches) flush(all bool) error {
	x := &data.Table{Rows: b.x.Rows, Shape: slices.Clone(b.x.Shape)}
	switch {
	case len(b.x.U8) > 0:
		x.U8 = b.x.U8
	case len(b.x.I32) > 0:
		x.I32 = b.x.I32
	default:
		x.F32 = b.x.F32
	}
	names := b.names
	if all && b.given == 0 && !slices.Equal(squeeze(x.Shape), squeeze(b.in)) && alone(x.Rows, x.Shape, b.in) {
		x.Rows, x.Shape = 1, slices.Clone(b.in)
	}
	err := b.give(x, names)
	b.x.Rows, b.names = 0, b.names[:0]
	b.x.U8, b.x.F32, b.x.I32 = b.x.U8[:0], b.x.F32[:0], b.x.I32[:0]
	return err
}

// give gives rows on.
func (b *batches) give(x *data.Table, names []string) error {
	x.Kind = data.Inputs
	if slices.Equal(squeeze(x.Shape), squeeze(b.in)) {
		x.Shape = slices.Clone(b.in)
	}
	b.given += x.Rows
	return b.take(x, names)
}

// alone tells whether rows of a shape are together one row of the shape in.
func alone(rows int, shape, in []int) bool {
	return slices.Equal(squeeze(append([]int{rows}, shape...)), squeeze(in))
}

// behind says of an error about rows how many come before those that it counts.
func behind(rows int, err error) error {
	if err == nil || rows == 0 {
		return err
	}
	return fmt.Errorf("behind the first %d rows: %w", rows, err)
}

// part reads rows from..to-1 of a file.
func part(r *data.Raw, from, to int) (*data.Table, error) {
	n := int64(product(r.Shape)) * int64(r.DType.Size())
	shape := append([]int{to - from}, r.Shape...)
	t, err := data.ReadTable(data.Inputs, r.DType, shape, io.NewSectionReader(r.R, r.Off+int64(from)*n, int64(to-from)*n))
	return t, behind(from, err)
}

// raw gives the rows of a file.
func (b *batches) raw(r *data.Raw) error {
	if !slices.Equal(squeeze(r.Shape), squeeze(b.in)) && alone(r.Rows, r.Shape, b.in) {
		r.Rows, r.Shape = 1, slices.Clone(b.in)
	}
	for from := 0; from < r.Rows; from += b.n {
		x, err := part(r, from, min(from+b.n, r.Rows))
		if err != nil {
			return err
		}
		if err := b.give(x, nil); err != nil {
			return err
		}
	}
	return nil
}

// end gives the last rows.
func (b *batches) end() error {
	if b.x.Rows > 0 {
		return b.flush(true)
	}
	if b.given == 0 {
		return fmt.Errorf("%w: it holds no rows", ErrKind)
	}
	return nil
}

// taken are errors of Take, which say nothing about the input.
type taken struct{ error }

func (t taken) Unwrap() error { return t.error }

// of are batches of the input at path, read by read.
func of(path string, in []int, n int, take Take, read func(b *batches) error) error {
	b := &batches{in: in, n: max(n, 1), take: func(x *data.Table, names []string) error {
		if err := take(x, names); err != nil {
			return taken{err}
		}
		return nil
	}}
	err := read(b)
	if err == nil {
		err = b.end()
	}
	var t taken
	if errors.As(err, &t) {
		return t.error
	}
	if err != nil {
		return fmt.Errorf("the input %s: %w", path, err)
	}
	return nil
}

// Inputs gives the rows at path for a model with inputs of the shape in, in order and about n at a
// time, so that they need not fit in memory. A mistake in the input is told when it is reached.
func Inputs(path string, in []int, n int, o Options, take Take) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the input: %w", err)
	}
	o.kept = new(int64)
	return of(path, in, n, take, func(b *batches) (err error) {
		s := &Source{} // of what has to be unpacked first, and temporary files
		defer func() { err = errors.Join(err, s.Close()) }()
		switch {
		case len(o.Texts) > 0:
			if o.Block = 0; len(in) == 1 {
				o.Block = in[0]
			}
			raws, err := s.textInputs(path, o)
			if err != nil {
				return err
			}
			return b.raw(raws[tokenIDs])
		case info.IsDir():
			return b.images(os.DirFS(path), ".")
		}
		plain, err := s.plain(path, false, o)
		if err != nil {
			return err
		}
		return s.inputs(plain, b, o)
	})
}

// Pixels returns the options to read an image for a model with inputs of the shape in.
func Pixels(in []int) images.Options {
	if len(in) != 3 || in[0] != 1 && in[0] != 3 {
		return images.Options{}
	}
	return images.Options{Channels: in[0], Height: in[1], Width: in[2]}
}

// images gives the images of a folder, or the one called name.
func (b *batches) images(dir fs.FS, name string) error {
	var row data.Table
	return images.EachRow(dir, name, Pixels(b.in), func(name string, shape []int, pixels []uint8) error {
		row.Shape, row.U8 = shape, pixels
		return b.add(&row, name)
	})
}

func (s *Source) inputs(path string, b *batches, o Options) error {
	if images.Is(path) {
		return b.images(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	}
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".csv", ".tsv":
		return s.rowsOf(path, b, o)
	case ".parquet":
		return b.parquet(path, o)
	case ".npy", ".npz", ".safetensors":
		raws, err := s.files(path, func(names []string) ([]string, error) {
			name, err := pick(names)
			return []string{name}, err
		})
		if err != nil {
			return err
		}
		for _, r := range raws {
			return b.raw(r) // the only one
		}
		return nil
	case ".txt", ".text", ".md", ".bin":
		return s.tokens(path, ext, b, o)
	}
	return fmt.Errorf("%w: rows to predict come from an image, a folder of images, or a file that ends in .csv, .tsv, .jsonl, .parquet, .npy, .npz, .safetensors, .txt or .bin, or one of them in .gz", ErrKind)
}

// inputKeys lists the usual names of inputs, those for validation first.
var inputKeys = append(slices.Clone(keys[2]), keys[0]...)

// pick returns the name of the inputs among names.
func pick(names []string) (string, error) {
	for _, k := range inputKeys {
		if slices.Contains(names, k) {
			return k, nil
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	return "", fmt.Errorf("%w: its arrays are called %q, one of them must be x", ErrKind, names)
}

// files finds arrays of a .npy, .npz or .safetensors file: those whose names choose chooses, of a .npy
// the only one. Their rows stay where they are until s is closed.
func (s *Source) files(path string, choose func(names []string) ([]string, error)) (map[string]*data.Raw, error) {
	if strings.EqualFold(filepath.Ext(path), ".npy") {
		r, err := s.npy(path)
		return map[string]*data.Raw{"": r}, err
	}
	f, size, err := s.keep(path)
	if err != nil {
		return nil, err
	}
	m := map[string]*data.Raw{}
	if strings.EqualFold(filepath.Ext(path), ".npz") {
		zipped, err := npy.Zip(f, size)
		if err != nil {
			return nil, err
		}
		names, err := choose(slices.Sorted(maps.Keys(zipped)))
		for _, name := range names {
			if err == nil {
				if m[name], err = s.entry(f, zipped[name]); err != nil {
					err = fmt.Errorf("array %.80q: %w", name, err)
				}
			}
		}
		return m, err
	}
	st, err := safetensors.Open(f, size)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range st.Entries {
		if len(e.Shape) > 0 {
			all = append(all, e.Name)
		}
	}
	names, err := choose(all)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		e, _ := st.Get(name)
		m[name] = &data.Raw{Rows: e.Shape[0], Shape: e.Shape[1:], DType: e.DType, R: st.Raw(e)}
	}
	return m, nil
}

// npy finds the rows of a .npy file, which is read into memory where they lie in another order.
func (s *Source) npy(path string) (*data.Raw, error) {
	r, err := s.array(path)
	if !errors.Is(err, npy.ErrOrder) {
		return r, err
	}
	err = open(path, func(f *os.File, _ int64) error {
		t, err := npy.Read(f)
		if err == nil {
			r = t.Raw()
		}
		return err
	})
	return r, err
}

// entry finds the rows of an array of a .npz file.
func (s *Source) entry(f *os.File, z *zip.File) (*data.Raw, error) {
	r, err := s.zipped(f, z, Options{})
	if !errors.Is(err, npy.ErrOrder) {
		return r, err
	}
	h, err := z.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", npy.ErrFormat, err)
	}
	defer h.Close()
	t, err := npy.Read(h)
	if err != nil {
		return nil, err
	}
	return t.Raw(), nil
}

// tokens gives rows of the length that the model takes.
func (s *Source) tokens(path, ext string, b *batches, o Options) error {
	kind := o.Tokens
	if kind == "" && o.Tokenizer != "" && ext != ".bin" && len(b.in) == 1 {
		return open(path, func(f *os.File, _ int64) error { return b.encoded(f, o.Tokenizer) })
	}
	switch {
	case kind == text.Characters:
		return fmt.Errorf("%w: it is not known which characters the model was trained on: give tokens as .npy or .bin", ErrKind)
	case kind == "" && ext == ".bin":
		kind = text.Uint16
	case kind == "":
		kind = text.Bytes
	}
	if len(b.in) != 1 {
		return fmt.Errorf("%w: the model takes rows of shape %v, but a text gives rows of tokens", ErrKind, b.in)
	}
	dtype, ok := map[string]state.DType{text.Bytes: state.U8, text.Uint16: state.U16, text.Uint32: state.U32}[kind]
	if !ok {
		return fmt.Errorf("%w: tokens of kind %.40q, want one of %v", text.ErrFormat, kind, text.Kinds)
	}
	f, size, err := s.keep(path)
	if err != nil {
		return err
	}
	lead := make([]byte, 2)
	n, _ := f.ReadAt(lead, 0) // where that fails the rest fails, too
	if err := text.Begins(lead[:n]); err != nil && dtype == state.U8 {
		return err
	}
	block, width := int64(b.in[0]), int64(dtype.Size())
	if size%width != 0 {
		return fmt.Errorf("%w: %d bytes, tokens of %s have %d each", text.ErrFormat, size, kind, width)
	}
	rows := size / width / block
	if rows == 0 || rows > data.MaxRows {
		return fmt.Errorf("%w: %d tokens are too few for a row of %d, or make more than %d", text.ErrFormat, size/width, block, data.MaxRows)
	}
	return b.raw(&data.Raw{Rows: int(rows), Shape: b.in, DType: dtype, R: f})
}

// encoded makes rows of so many tokens of a text; what fills no row is left out.
func (b *batches) encoded(r io.Reader, file string) error {
	t, _, err := ReadTokenizer(file)
	if err != nil {
		return err
	}
	block, total := b.in[0], 0
	var ids []int32
	row := data.Table{Shape: b.in}
	err = pieces(r, t, func(piece string, begins bool) (err error) {
		had := len(ids)
		if ids, err = t.Encode(ids, piece, begins); err != nil {
			return err
		}
		total += len(ids) - had
		rest := ids
		for ; len(rest) >= block; rest = rest[block:] {
			row.I32 = rest[:block]
			if err := b.add(&row, ""); err != nil {
				return err
			}
		}
		ids = append(ids[:0], rest...)
		return nil
	})
	if err == nil && total < block {
		err = fmt.Errorf("%w: %d tokens are too few for a row of %d", text.ErrFormat, total, block)
	}
	return err
}
