// Rows of several fields: the inputs of a model that has several, or the targets of a job with
// several losses. A table holds them side by side, a row of each field one after the other.

package data

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/state"
)

// Field is a part of the rows of a table.
type Field struct {
	Name  string // "" where it is the only one
	Shape []int  // of a row
	// Classes is the number of classes that its elements name; 0: they are values. NoClass and
	// Ignore are no class and do not count.
	Classes int
	Ignore  int
}

// elems returns the number of elements of a row.
func (f Field) elems() int { return product(f.Shape) }

// FieldElems returns the number of elements of a row of all fields.
func FieldElems(fields []Field) int {
	n := 0
	for _, f := range fields {
		n += f.elems()
	}
	return n
}

// key is the name of a field's tensor in a file: train_x, or train_x.NAME.
func (f Field) key(half string) string {
	if f.Name == "" {
		return half
	}
	return half + "." + f.Name
}

func keysOf(fields []Field, half string) string {
	var ks []string
	for _, f := range fields {
		ks = append(ks, fmt.Sprintf("%s %v", f.key(half), f.Shape))
	}
	return strings.Join(ks, ", ")
}

// Join puts the tables of fields, which are in the same order, side by side.
func Join(kind Kind, fields []Field, ts []*Table) (*Table, error) {
	if len(ts) == 0 || len(ts) != len(fields) {
		return nil, bad("%d tables of %d fields", len(ts), len(fields))
	}
	j := &Table{Kind: kind, Rows: ts[0].Rows, Shape: []int{FieldElems(fields)}}
	if err := j.checkShape(); err != nil {
		return nil, err
	}
	wide := typeU8
	for i, t := range ts {
		if t.Rows != j.Rows {
			return nil, bad("%d rows of %q, but %d of %q", t.Rows, fields[i].Name, j.Rows, fields[0].Name)
		}
		if err := fields[i].check(t); err != nil {
			return nil, err
		}
		wide = wider(wide, t)
	}
	n := j.Rows * j.stored()
	if int64(n)*int64(width(byte(wide))) > MaxBytes {
		return nil, bad("%v of %d bytes, more than %d", kind, int64(n)*int64(width(byte(wide))), MaxBytes)
	}
	switch wide {
	case typeU8:
		j.U8 = interleave(ts, j.Rows, func(t *Table) []uint8 { return t.U8 })
	case typeU16:
		j.U16 = interleave(ts, j.Rows, func(t *Table) []uint16 { return as[uint16](t) })
	case typeI32:
		j.I32 = interleave(ts, j.Rows, func(t *Table) []int32 { return as[int32](t) })
	default:
		j.F32 = interleave(ts, j.Rows, func(t *Table) []float32 { return as[float32](t) })
	}
	return j, nil
}

// wider is the type that holds elements of a type and those of t.
func wider(than int, t *Table) int {
	order := []int{typeU8, typeU16, typeI32, typeF32}
	own := typeF32
	switch {
	case t.U8 != nil:
		own = typeU8
	case t.U16 != nil:
		own = typeU16
	case t.I32 != nil:
		own = typeI32
	}
	return order[max(slices.Index(order, than), slices.Index(order, own))]
}

// as returns the elements of t in a type that holds them.
func as[T uint16 | int32 | float32](t *Table) []T {
	v := make([]T, 0, t.count())
	for _, x := range t.U8 {
		v = append(v, T(x))
	}
	for _, x := range t.U16 {
		v = append(v, T(x))
	}
	for _, x := range t.I32 {
		v = append(v, T(x))
	}
	for _, x := range t.F32 {
		v = append(v, T(x))
	}
	return v
}

func interleave[T any](ts []*Table, rows int, of func(*Table) []T) []T {
	total := 0
	for _, t := range ts {
		total += t.stored()
	}
	out, at := make([]T, rows*total), 0
	for _, t := range ts {
		v, n := of(t), t.stored()
		for r := range rows {
			copy(out[r*total+at:][:n], v[r*n:])
		}
		at += n
	}
	return out
}

// check checks a table of the field, and takes rows of the same number of elements whose shape
// differs by axes of length 1.
func (f Field) check(t *Table) error {
	if !slices.Equal(squeeze(t.Shape), squeeze(f.Shape)) {
		return bad("a row of %q is %v, but the model takes %v", f.Name, t.Shape, f.Shape)
	}
	return t.CheckFields([]Field{f})
}

// CheckFields checks the classes among the fields of a table's rows. Those of a table in shards
// have been checked by what packing found.
func (t *Table) CheckFields(fields []Field) error {
	if t.Index != nil {
		return nil
	}
	row, at := t.stored(), 0
	for _, f := range fields {
		n := f.elems()
		for i := 0; f.Classes > 0 && i < t.Rows*n; i++ {
			k, c := i/n*row+at+i%n, 0
			if t.F32 == nil {
				c = t.class(k)
			} else if c = int(t.F32[k]); float32(c) != t.F32[k] {
				return bad("%v %q, row %d: %v is not the number of a class", t.Kind, f.Name, i/n, t.F32[k])
			}
			if (c < 0 || c >= f.Classes) && c != NoClass && c != f.Ignore {
				return bad("%v %q, row %d: class %d is not one of %d", t.Kind, f.Name, i/n, c, f.Classes)
			}
		}
		at += n
	}
	return nil
}

// fieldsOf are those of a half of a data set: of want, or the only one.
func (w *Want) fieldsOf(kind Kind) []Field {
	switch {
	case w == nil:
	case kind == Inputs && len(w.Inputs) > 0:
		return w.Inputs
	case kind == Targets && len(w.Targets) > 0:
		return w.Targets
	}
	return nil
}

// keys lists the tensors of a half of the training rows.
func (w *Want) keys(kind Kind) string {
	if f := w.fieldsOf(kind); f != nil {
		return keysOf(f, fileKeys[kind])
	}
	return fileKeys[kind]
}

// named is the tables of a file by the field, for each of fileKeys.
type named[T any] [4]map[string]*T

// place tells which of fileKeys, and which field of it, a tensor's name says.
func place(name string, want *Want) (half int, field string, err error) {
	head, field, _ := strings.Cut(name, ".")
	half = slices.Index(fileKeys[:], head)
	if half < 0 {
		return 0, "", bad("tensor %q; a data set has %v", name, fileKeys)
	}
	fields := want.fieldsOf(Kind(half % 2))
	if fields == nil && field == "" || slices.ContainsFunc(fields, func(f Field) bool { return f.Name == field }) {
		return half, field, nil
	}
	if fields == nil {
		return 0, "", bad("tensor %q; the model has one of %s", name, head)
	}
	return 0, "", bad("tensor %q; the job wants %s", name, keysOf(fields, head))
}

// joined makes one table of each half.
func (m *named[T]) joined(want *Want, join func(Kind, []Field, []*T) (*T, error)) (t [4]*T, err error) {
	for half, tables := range m {
		fields := want.fieldsOf(Kind(half % 2))
		switch {
		case len(tables) == 0:
			continue
		case fields == nil:
			t[half] = tables[""]
			continue
		}
		var own []*T
		for _, f := range fields {
			x := tables[f.Name]
			if x == nil {
				return t, bad("%s is missing; the job wants %s", f.key(fileKeys[half]), keysOf(fields, fileKeys[half]))
			}
			own = append(own, x)
		}
		if t[half], err = join(Kind(half%2), fields, own); err != nil {
			return t, fmt.Errorf("%s: %w", fileKeys[half], err)
		}
	}
	return t, nil
}

// JoinRaws makes one table of each half of a file, in the order of fileKeys; those that the file
// does not have are nil.
func JoinRaws(tensors map[string]*Raw, want *Want) (t [4]*Raw, err error) {
	var m named[Raw]
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		half, field, err := place(name, want)
		if err != nil {
			return t, err
		}
		if m[half] == nil {
			m[half] = map[string]*Raw{}
		}
		m[half][field] = tensors[name]
	}
	return m.joined(want, JoinRaw)
}

// JoinRaw is Join for tables that are not in memory.
func JoinRaw(kind Kind, fields []Field, rs []*Raw) (*Raw, error) {
	if len(rs) == 0 || len(rs) != len(fields) {
		return nil, bad("%d tables of %d fields", len(rs), len(fields))
	}
	j := &joinedRaw{parts: rs, dtype: rs[0].DType}
	for i, r := range rs {
		if err := r.Check(kind); err != nil {
			return nil, fmt.Errorf("%q: %w", fields[i].Name, err)
		}
		if !slices.Equal(squeeze(r.Shape), squeeze(fields[i].Shape)) {
			return nil, bad("a row of %q is %v, but the model takes %v", fields[i].Name, r.Shape, fields[i].Shape)
		}
		if r.Rows != rs[0].Rows {
			return nil, bad("%d rows of %q, but %d of %q", r.Rows, fields[i].Name, rs[0].Rows, fields[0].Name)
		}
		j.row += r.elems()
		switch {
		case r.DType == j.dtype:
		case r.DType.Float() || j.dtype.Float():
			j.dtype = state.F32
		default:
			j.dtype = state.I64
		}
	}
	for _, r := range rs { // a floating type later than an integer one
		if r.DType.Float() && j.dtype != r.DType {
			j.dtype = state.F32
		}
	}
	return &Raw{Rows: rs[0].Rows, Shape: []int{j.row}, DType: j.dtype, R: j}, nil
}

// joinedRaw reads rows of several tables as rows of one.
type joinedRaw struct {
	parts []*Raw
	dtype state.DType
	row   int // elements
}

// ReadAt reads whole rows: whoever reads a Raw reads no other.
func (j *joinedRaw) ReadAt(p []byte, off int64) (int, error) {
	size := j.row * j.dtype.Size()
	if size == 0 || off%int64(size) != 0 || len(p)%size != 0 {
		return 0, bad("%d bytes at %d are not whole rows of %d", len(p), off, size)
	}
	rows := make([]int32, len(p)/size)
	for i := range rows {
		rows[i] = int32(off/int64(size)) + int32(i)
	}
	at := 0
	for _, r := range j.parts {
		n := r.rowBytes()
		buf := make([]byte, n*len(rows))
		if err := r.read(buf, rows); err != nil {
			return 0, err
		}
		if r.DType != j.dtype {
			var err error
			if buf, err = convert(buf, r.DType, j.dtype); err != nil {
				return 0, bad("row %d: %w", rows[0], err)
			}
			n = r.elems() * j.dtype.Size()
		}
		for i := range rows {
			copy(p[i*size+at:][:n], buf[i*n:])
		}
		at += n
	}
	return len(p), nil
}

// convert gives elements the type I64 or F32.
func convert(b []byte, from, to state.DType) ([]byte, error) {
	var t state.Tensor
	if err := t.DecodeChecked(from, b); err != nil {
		return nil, err
	}
	var out []byte
	for _, v := range t.F32 {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	for _, v := range t.I64 {
		if to == state.I64 {
			out = binary.LittleEndian.AppendUint64(out, uint64(v))
			continue
		}
		if v < -exact || v > exact {
			return nil, fmt.Errorf("it holds %d, integers must lie in -%d..%d", v, exact, exact)
		}
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v)))
	}
	return out, nil
}

// checkFields checks the classes of targets that have been packed, by what packing found.
func (p *Packed) checkFields(fields []Field) error {
	s, at := p.Y.Stats, 0
	for _, f := range fields {
		for c := at; c < at+f.elems() && c < len(s.From); c++ {
			if f.Classes > 0 && p.Y.Rows > 0 && (s.From[c] < 0 || int(s.To[c]) >= max(f.Classes, f.Ignore+1)) {
				return bad("%q: element %d of a row is up to %v, or not a class; classes are 0..%d", f.Name, c-at, s.To[c], f.Classes-1)
			}
		}
		at += f.elems()
	}
	return nil
}

// tensor is a tensor of a file: some columns of a table.
type tensor struct {
	key   string
	t     *Table
	from  int // of a row
	shape []int
}

func (x tensor) bytes() int { return x.t.Rows * product(x.shape) * x.t.width() }

// tensors are those of the set's file.
func (s *Set) tensors(want *Want) []tensor {
	var xs []tensor
	for i, t := range []*Table{s.Train.x, s.Train.y, s.Val.x, s.Val.y} {
		if i > 1 && s.Val.Len() == 0 {
			break
		}
		fields, at := want.fieldsOf(Kind(i%2)), 0
		if fields == nil {
			fields = []Field{{Shape: t.Shape}}
		}
		for _, f := range fields {
			xs = append(xs, tensor{f.key(fileKeys[i]), t, at, f.Shape})
			at += f.elems()
		}
	}
	return xs
}

// write writes the tensor's elements.
func (x tensor) write(w io.Writer) error {
	n, row := product(x.shape), x.t.stored()
	if n == row {
		return x.t.write(w)
	}
	for r := range x.t.Rows {
		p, at := &Table{Kind: x.t.Kind, Rows: 1}, r*row+x.from
		switch t := x.t; {
		case t.U8 != nil:
			p.U8 = t.U8[at:][:n]
		case t.U16 != nil:
			p.U16 = t.U16[at:][:n]
		case t.F32 != nil:
			p.F32 = t.F32[at:][:n]
		default:
			p.I32 = t.I32[at:][:n]
		}
		if err := p.write(w); err != nil {
			return err
		}
	}
	return nil
}
