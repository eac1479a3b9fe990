// Parquet files: one, or those of a folder for training and for validation.

package dataset

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/parquet"
	"github.com/ravnest/ravnest/engine/state"
)

// columns are the columns of a Parquet file that are inputs and targets.
func (o *Options) columns() parquet.Columns {
	c := parquet.Columns{Target: o.Target, Skip: o.Skip}
	name := func(f data.Field) string {
		if from := o.Fields.From[f.Name]; from != "" {
			return from
		}
		return f.Name
	}
	for _, f := range o.Fields.Inputs {
		c.Inputs, c.InputElems = append(c.Inputs, name(f)), append(c.InputElems, product(f.Shape))
	}
	for _, f := range o.Fields.Targets {
		if f.Name != "" {
			c.Target, c.TargetElems = append(c.Target, name(f)), append(c.TargetElems, product(f.Shape))
		}
	}
	return c
}

// maxValues bounds the different texts of a column that becomes an input for each.
const maxValues = 1 << 12

// values are the texts of the columns that become an input for each, in all files.
func (o *Options) values(files []string) (map[string][]string, error) {
	if len(o.OneHot) == 0 {
		return nil, nil
	}
	all := map[string][]string{}
	for _, name := range files {
		err := open(name, func(f *os.File, size int64) error {
			m, err := parquet.Values(f, size, o.OneHot, maxValues)
			for n, vs := range m {
				all[n] = append(all[n], vs...)
				slices.Sort(all[n])
				all[n] = slices.Compact(all[n])
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
	}
	return all, nil
}

// parquets reads Parquet files.
func (s *Source) parquets(lists [2][]string, o Options) error {
	want := o.columns()
	var err error
	if want.Values, err = o.values(slices.Concat(lists[0], lists[1])); err != nil {
		return err
	}
	p := &spooler{s: s, o: &o}
	t := &rowTable{s: s, o: &o, known: map[string]int32{}}
	pixels := o.Images
	var shape []int // of the first image
	for k, files := range lists {
		for _, name := range files {
			err := open(name, func(f *os.File, size int64) error {
				q, err := parquet.Open(f, size, want)
				if err != nil {
					return err
				}
				if q.Index && len(s.Notes) == 0 {
					s.Notes = append(s.Notes, "the column in which pandas keeps the numbers of rows is left out")
				}
				if s.columns == nil && !q.Images() {
					s.columns = q.Inputs()
				}
				if q.Names != nil {
					s.Classes = q.Names
				}
				return q.Each(func(r *parquet.Row) error {
					if !q.Images() {
						return t.add(k, r, q)
					}
					if q.Texts || len(r.Y) != 1 || !q.Whole {
						return fmt.Errorf("%w: beside images, the target must be the number of a class", parquet.ErrFormat)
					}
					sh, b, err := r.Picture(&pixels)
					if err != nil {
						return err
					}
					if shape == nil {
						shape = sh
					}
					if !slices.Equal(shape, sh) {
						return fmt.Errorf("%w: an image is %dx%d, the first is %dx%d: give a size to scale all to (--size)", parquet.ErrFormat, sh[2], sh[1], shape[2], shape[1])
					}
					return p.emit(k == 1, sh, b, int(r.Y[0]))
				})
			})
			if err != nil {
				return fmt.Errorf("%s: %w", filepath.Base(name), err)
			}
		}
	}
	if shape != nil {
		return p.done(o.above())
	}
	return t.done(o.above())
}

// rowTable takes rows of numbers.
type rowTable struct {
	s     *Source
	o     *Options
	parts [2]*pairs
	buf   []byte
	whole bool
	great bool // whole numbers that are too great for those of classes
	// Texts as targets are numbered as they come, and by their sorting at the end.
	texts bool
	known map[string]int32
	names []string
}

func (t *rowTable) add(k int, r *parquet.Row, f *parquet.File) error {
	ints := f.Whole || f.Texts
	if t.parts[0] == nil && t.parts[1] == nil {
		t.whole, t.texts = ints, f.Texts
	}
	if t.whole != ints || t.texts != f.Texts {
		return fmt.Errorf("%w: its targets are of another type than those of the files before it", parquet.ErrFormat)
	}
	if t.parts[k] == nil {
		x, err := newSpool(t.o, state.F32)
		if err != nil {
			return err
		}
		t.s.closers = append(t.s.closers, x)
		y, err := newSpool(t.o, state.F32)
		if err != nil {
			return err
		}
		t.s.closers = append(t.s.closers, y)
		if ints {
			y.dtype = state.I64
		}
		x.shape, y.shape = []int{len(r.X)}, []int{}
		if len(r.Y) > 1 {
			y.shape = []int{len(r.Y)}
		}
		t.parts[k] = &pairs{x, y}
	}
	q := t.parts[k]
	n := len(r.Y)
	if f.Texts {
		n = 1
	}
	if len(r.X) != q.x.shape[0] || n != max(1, product(q.y.shape)) {
		return fmt.Errorf("%w: %d inputs and %d targets, the first row has %d and %d: lists must have one length", parquet.ErrFormat, len(r.X), n, q.x.shape[0], max(1, product(q.y.shape)))
	}
	t.buf = t.buf[:0]
	for _, v := range r.X {
		t.buf = binary.LittleEndian.AppendUint32(t.buf, math.Float32bits(v))
	}
	if _, err := q.x.w.Write(t.buf); err != nil {
		return fmt.Errorf("writing what is read to a file: %w", err)
	}
	t.buf = t.buf[:0]
	switch {
	case f.Texts:
		id, ok := t.known[r.Text]
		if !ok {
			if id = int32(len(t.names)); len(t.names) >= 1<<16 {
				return fmt.Errorf("%w: more than %d texts as classes", parquet.ErrFormat, 1<<16)
			}
			t.known[r.Text], t.names = id, append(t.names, r.Text)
		}
		t.buf = binary.LittleEndian.AppendUint64(t.buf, uint64(id))
	case ints:
		for _, v := range r.Y {
			t.great = t.great || v < -exact || v > exact
			t.buf = binary.LittleEndian.AppendUint64(t.buf, uint64(int64(v)))
		}
	default:
		for _, v := range r.Y {
			t.buf = binary.LittleEndian.AppendUint32(t.buf, math.Float32bits(float32(v)))
		}
	}
	q.x.rows, q.y.rows = q.x.rows+1, q.y.rows+1
	_, err := q.y.w.Write(t.buf)
	return err
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

func (t *rowTable) done(above int64) error {
	if t.parts[0] == nil {
		return fmt.Errorf("%w: it holds no rows for training", ErrKind)
	}
	var raws [4]*data.Raw
	size := int64(0)
	for k, q := range t.parts {
		if q == nil {
			continue
		}
		for i, sp := range []*spool{q.x, q.y} {
			r, err := sp.raw()
			if err != nil {
				return err
			}
			raws[2*k+i] = r
		}
		if t.texts {
			if err := t.sorted(q.y); err != nil {
				return err
			}
		}
		if t.great {
			if err := rounded(q.y); err != nil {
				return err
			}
			raws[2*k+1].DType = state.F32
		}
		size += int64(q.x.rows) * int64(product(q.x.shape)) * 4
	}
	return t.s.take(raws, size, above)
}

// sorted numbers the texts of a part by their sorting.
func (t *rowTable) sorted(y *spool) error {
	names := slices.Sorted(slices.Values(t.names))
	t.s.Classes = names
	b := make([]byte, 1<<16)
	for at, end := int64(0), int64(y.rows)*8; at < end; {
		n := min(int64(len(b)), end-at)
		if _, err := y.f.ReadAt(b[:n], at); err != nil {
			return err
		}
		for i := int64(0); i < n; i += 8 {
			id, _ := slices.BinarySearch(names, t.names[binary.LittleEndian.Uint64(b[i:])])
			binary.LittleEndian.PutUint64(b[i:], uint64(id))
		}
		if _, err := y.f.WriteAt(b[:n], at); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// rounded makes the whole numbers of a file values.
func rounded(y *spool) error {
	b := make([]byte, 1<<16)
	for at, end := int64(0), int64(y.rows)*int64(product(y.shape)); at < end; {
		n := min(int64(len(b)/8), end-at)
		if _, err := y.f.ReadAt(b[:8*n], 8*at); err != nil {
			return err
		}
		for i := range n {
			v := int64(binary.LittleEndian.Uint64(b[8*i:]))
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(v)))
		}
		if _, err := y.f.WriteAt(b[:4*n], 4*at); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// parquetFields reads the inputs of a model that has several from a Parquet file that is to be
// predicted.
func (b *batches) parquetFields(path string, o Options) error {
	want := o.columns()
	want.Target, want.TargetElems, want.NoTarget = nil, nil, true
	return b.wanted(path, want)
}

// parquet reads the inputs of a Parquet file that is to be predicted.
func (b *batches) parquet(path string, o Options) error {
	want := parquet.Columns{NoTarget: true, Skip: o.Target, Values: map[string][]string{}}
	for _, c := range o.Columns {
		if want.Inputs = append(want.Inputs, c.Name); c.Values != nil {
			want.Values[c.Name] = c.Values
		}
	}
	if len(want.Inputs)+len(want.Skip) == 0 {
		want.Skip = parquet.Usual
	}
	return b.wanted(path, want)
}

// wanted reads the wanted columns of a Parquet file.
func (b *batches) wanted(path string, want parquet.Columns) error {
	return open(path, func(f *os.File, size int64) error {
		q, err := parquet.Open(f, size, want)
		if err != nil {
			return err
		}
		pixels := Pixels(b.in)
		var x data.Table
		return q.Each(func(r *parquet.Row) (err error) {
			if x.Shape, x.F32 = append(x.Shape[:0], len(r.X)), r.X; q.Images() {
				if x.Shape, x.U8, err = r.Picture(&pixels); err != nil {
					return err
				}
			}
			return b.add(&x, "")
		})
	})
}
