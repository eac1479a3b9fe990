// A requester's own data: a safetensors file.

package data

import (
	"fmt"
	"io"
	"slices"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// fileKeys are the tensors of a file, the last two of which may be missing.
var fileKeys = [...]string{"train_x", "train_y", "val_x", "val_y"}

// Want is what a model and its loss ask of a data set's targets.
type Want struct {
	Output []int // the shape of the model's answer for one row; its last axis are the classes
	// Values takes integers as values where there are as many as the model answers: the
	// targets of a regression.
	Values bool
	// Ignore is a class that does not count, besides NoClass; nil: none. It need not be one of
	// the model's classes.
	Ignore *int
	// Inputs are those of a model that has several, Targets the fields that several losses look
	// at. None: there is one.
	Inputs, Targets []Field
}

// ReadSafetensors reads a data set from a file of size bytes in the safetensors format with
// the tensors train_x, train_y and, for validation, val_x and val_y; their first axis is the
// row.
//
// Inputs may have any type. Targets of an integer type are the numbers of classes, from
// 0 (NoClass: none): they are gathered as one-hot vectors, of as many classes as want says,
// or as there are where want is nil. Targets of a floating type are taken as they are, one-hot
// or values to be regressed; [n] of them is [n,1]. Float64 is rounded to float32. Where want has
// fields, each is a tensor of its own, called train_x.NAME and so on. Errors name the set, the
// tensor and the row.
func ReadSafetensors(name string, r io.ReaderAt, size int64, want *Want) (*Set, error) {
	s, err := fromFile(name, r, size, want)
	if err != nil {
		return nil, fmt.Errorf("data set %s: %w", name, err)
	}
	return s, nil
}

func fromFile(name string, r io.ReaderAt, size int64, want *Want) (*Set, error) {
	f, err := safetensors.Open(r, size)
	if err != nil {
		return nil, err
	}
	var m named[Table]
	for _, e := range f.Entries {
		i, field, err := place(e.Name, want)
		if err != nil {
			return nil, err
		}
		if m[i] == nil {
			m[i] = map[string]*Table{}
		}
		if m[i][field], err = table(f, e, Kind(i%2), want); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
	}
	t, err := m.joined(want, Join)
	if err != nil {
		return nil, err
	}
	if t[0] == nil || t[1] == nil || t[0].Rows == 0 {
		if want.fieldsOf(Inputs) != nil || want.fieldsOf(Targets) != nil {
			return nil, bad("%s and %s with at least one row are needed", want.keys(Inputs), want.keys(Targets))
		}
		return nil, bad("train_x and train_y with at least one row are needed")
	}
	if (t[2] == nil) != (t[3] == nil) {
		return nil, bad("val_x and val_y belong together, one of them is missing")
	}
	if t[2] == nil {
		for i := range 2 {
			t[i+2] = &Table{Kind: Kind(i), Shape: t[i].Shape, Classes: t[i].Classes, U8: []uint8{}}
		}
	}
	return assemble(name, t)
}

// Assemble joins tables of rows, the targets of which are resolved as ReadSafetensors does, to
// a set: train_x, train_y, and val_x, val_y, which may be nil. The tables become the set's.
func Assemble(name string, t [4]*Table, want *Want) (*Set, error) {
	if t[2] == nil && t[3] == nil && t[0] != nil && t[1] != nil {
		for i := range 2 {
			t[i+2] = &Table{Kind: Kind(i), Shape: t[i].Shape, U8: []uint8{}}
			if t[i].F32 != nil {
				t[i+2].U8, t[i+2].F32 = nil, []float32{}
			}
		}
	}
	for i, x := range t {
		if x == nil {
			return nil, bad("%s: %s is missing", name, fileKeys[i])
		}
		x.Kind = Kind(i % 2)
		if want.fieldsOf(x.Kind) != nil {
			continue // they are joined
		}
		if err := x.resolve(x.F32 != nil, want); err != nil {
			return nil, fmt.Errorf("data set %s: %s: %w", name, fileKeys[i], err)
		}
	}
	return assemble(name, t)
}

func assemble(name string, t [4]*Table) (*Set, error) {
	// Both parts have the classes that occur in either.
	classes := max(t[1].Classes, t[3].Classes)
	if (t[1].Classes == 0) != (t[3].Classes == 0) {
		return nil, bad("train_y holds classes and val_y does not, or the reverse")
	}
	t[1].Classes, t[3].Classes = classes, classes
	for _, x := range t {
		x.narrow()
	}
	train, err := NewPart(t[0], t[1])
	if err != nil {
		return nil, err
	}
	val, err := NewPart(t[2], t[3])
	if err != nil {
		return nil, err
	}
	return NewSet(name, train, val)
}

// labels says what integer targets of a row's shape are: values, or the numbers of so many
// classes (0: as many as there are).
func (w *Want) labels(shape []int) (values bool, classes int) {
	if w == nil || len(w.Output) == 0 {
		return false, 0
	}
	stored, out, last := product(shape), product(w.Output), w.Output[len(w.Output)-1]
	switch {
	case w.Values && stored == out:
		return true, 0
	case stored == out/last:
		return false, last
	}
	return false, 0
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// table reads one tensor. Where its targets are classes and want does not say how many,
// Classes is one more than the greatest of them.
func table(f *safetensors.File, e safetensors.Entry, kind Kind, want *Want) (*Table, error) {
	t, err := ReadTable(kind, e.DType, e.Shape, f.Raw(e))
	if err != nil {
		return nil, err
	}
	if want.fieldsOf(kind) != nil {
		return t, nil
	}
	return t, t.resolve(e.DType.Float(), want)
}

// resolve makes targets what want asks for: values, or the numbers of classes.
func (t *Table) resolve(float bool, want *Want) error {
	labelled, classes := t.Kind == Targets && !float, 0
	if labelled {
		var values bool
		values, classes = want.labels(t.Shape)
		labelled = !values
	}
	if labelled {
		t.ignore(want)
		return t.label(classes)
	}
	if len(t.Shape) == 0 {
		t.Shape = []int{1}
	}
	return nil
}

// Held returns the bytes that an element of a file's type takes in memory.
func Held(dtype state.DType) int {
	switch dtype {
	case state.U8, state.Bool:
		return 1
	case state.U16:
		return 2
	}
	return 4
}

// ReadTable reads a table whose first axis is the row from little-endian elements of a type,
// as they stand in a file. Integers stay integers, bytes stay bytes, of which there may be
// MaxBytes in memory.
func ReadTable(kind Kind, dtype state.DType, shape []int, r io.Reader) (*Table, error) {
	if len(shape) == 0 {
		return nil, bad("a scalar has no rows")
	}
	t := &Table{Kind: kind, Rows: shape[0], Shape: slices.Clone(shape[1:])}
	if err := t.checkShape(); err != nil {
		return nil, err
	}
	n, size := t.Rows*t.stored(), Held(dtype)
	if int64(n)*int64(size) > MaxBytes {
		return nil, bad("%d bytes, more than %d", int64(n)*int64(size), MaxBytes)
	}
	return t, t.read(dtype, n, r)
}

// read fills in n elements. What is not there is not allocated: memory grows as they come.
func (t *Table) read(dtype state.DType, n int, r io.Reader) error {
	const most = 1 << 20 // elements to make room for before they are seen
	switch room := min(n, most); {
	case dtype.Float():
		t.F32 = make([]float32, 0, room)
	case dtype == state.U8 || dtype == state.Bool:
		t.U8 = make([]uint8, 0, room)
	case dtype == state.U16:
		t.U16 = make([]uint16, 0, room)
	default:
		t.I32 = make([]int32, 0, room)
	}
	// By pieces: the numbers of a file are wider than those of a table.
	size := dtype.Size()
	buf := make([]byte, min(1<<16, max(n*size, 1)))
	var piece state.Tensor
	for done := 0; done < n; {
		k := min(len(buf)/size, n-done)
		if got, err := io.ReadFull(r, buf[:k*size]); err != nil {
			return bad("row %d of %d: %w", (done+got/size)/t.stored(), t.Rows, err)
		}
		if dtype == state.U8 {
			t.U8 = append(t.U8, buf[:k]...)
			done += k
			continue
		}
		piece.F32, piece.I64 = piece.F32[:0], piece.I64[:0]
		if err := piece.DecodeChecked(dtype, buf[:k*size]); err != nil {
			return bad("row %d: %w", done/t.stored(), err)
		}
		t.F32 = append(t.F32, piece.F32...)
		for i, v := range piece.I64 {
			switch {
			case dtype == state.Bool:
				t.U8 = append(t.U8, uint8(v))
			case dtype == state.U16:
				t.U16 = append(t.U16, uint16(v))
			case v < -exact || v > exact:
				return bad("row %d holds %d, integers must lie in -%d..%d", (done+i)/t.stored(), v, exact, exact)
			default:
				t.I32 = append(t.I32, int32(v))
			}
		}
		done += k
	}
	return nil
}

// ignore replaces the class that does not count by NoClass.
func (t *Table) ignore(want *Want) {
	if want == nil || want.Ignore == nil || *want.Ignore == NoClass {
		return
	}
	n := max(len(t.U8), len(t.U16), len(t.I32))
	found := false
	for i := 0; i < n && !found; i++ {
		found = t.class(i) == *want.Ignore
	}
	if !found {
		return
	}
	classes := make([]int32, n) // small integers have no room for NoClass
	for i := range classes {
		if classes[i] = int32(t.class(i)); t.class(i) == *want.Ignore {
			classes[i] = NoClass
		}
	}
	t.U8, t.U16, t.I32 = nil, nil, classes
}

// label makes the elements the numbers of classes, of as many as there are where classes
// is 0.
func (t *Table) label(classes int) error {
	most := 0
	for i := range t.count() {
		c := t.class(i)
		switch {
		case c < 0 && c != NoClass:
			return bad("row %d holds class %d; classes count from 0", i/t.stored(), c)
		case classes > 0 && c >= classes:
			return bad("row %d holds class %d; the model has %d outputs, classes are 0..%d", i/t.stored(), c, classes, classes-1)
		}
		most = max(most, c+1)
	}
	if t.Classes = classes; classes == 0 {
		t.Classes = max(most, 1) // of no rows
	}
	return nil
}
