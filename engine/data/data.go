// Package data is data sets: rows of inputs and targets as content that is addressed by
// its hash, so that a host serves the inputs to the root of a pipeline and the targets
// to its leaf, and either keeps what it has.
//
// The order of the training rows is a function of (seed, epoch) alone: root and leaf
// agree on it without a word.
package data

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Limits on one table. They hold for files, blobs and tables built by hand.
const (
	MaxRows  = 1 << 28
	MaxElems = 1 << 28 // float32 values of one row, as Gather gives them
	MaxBytes = 1 << 30 // of a table in memory and before compression
	maxRank  = 6
)

// ErrInvalid is wrapped by every error about the contents of a data set.
var ErrInvalid = errors.New("invalid data set")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, a...)...)
}

// Kind says which half of a part a table is.
type Kind uint8

// The kinds of tables. The values are those of the blob.
const (
	Inputs Kind = iota
	Targets
)

func (k Kind) String() string {
	if k == Inputs {
		return "inputs"
	}
	return "targets"
}

// Table is one half of a part: the inputs or the targets of all rows. Rows stay in the
// type in which they are stored, and become float32 as they are gathered.
type Table struct {
	Kind  Kind
	Rows  int
	Shape []int // of one row: [1,8,8], or [] for one number
	// Classes makes every element the number of a class, which Gather expands to a
	// one-hot vector of this length, and NoClass to zeros. 0: elements are values.
	Classes int

	// Exactly one is not nil, unless there is an Index: [Rows, Shape...].
	U8  []uint8
	U16 []uint16
	F32 []float32
	I32 []int32

	// Index is set if the elements are stored in shards; then none of them are here.
	Index *Index

	oneHot struct {
		sync.Once
		yes bool
	}
}

// Len is the number of rows.
func (t *Table) Len() int { return t.Rows }

// RowShape is the shape of a row as Gather gives it: Shape, and where there are classes
// an axis of them at the end.
func (t *Table) RowShape() []int {
	s := slices.Clone(t.Shape)
	if t.Classes > 0 {
		s = append(s, t.Classes)
	}
	return s
}

// Elems is the number of float32 values of a row as Gather gives it.
func (t *Table) Elems() int { return t.stored() * max(t.Classes, 1) }

// stored is the number of elements of a row as it is stored.
func (t *Table) stored() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes is the size of the elements in memory.
func (t *Table) Bytes() int { return len(t.U8) + 2*len(t.U16) + 4*len(t.F32) + 4*len(t.I32) }

// count returns the number of elements that are here.
func (t *Table) count() int { return len(t.U8) + len(t.U16) + len(t.F32) + len(t.I32) }

// NoClass is a class that does not count: Gather makes it zeros, and no loss is taken.
const NoClass = kernel.IgnoreIndex

// exact is the greatest magnitude up to which every integer is a float32.
const exact = 1 << 24

// Check validates t. Errors wrap ErrInvalid.
func (t *Table) Check() error {
	if err := t.checkShape(); err != nil {
		return err
	}
	want := t.Rows * t.stored()
	held := 0
	for _, has := range []bool{t.U8 != nil, t.U16 != nil, t.F32 != nil, t.I32 != nil} {
		if has {
			held++
		}
	}
	if held != 1 || t.count() != want {
		return bad("%v of %d rows of %v hold %d elements of %d types", t.Kind, t.Rows, t.Shape, t.count(), held)
	}
	if t.Classes > 0 && t.F32 != nil {
		return bad("%v: the numbers of classes must be integers", t.Kind)
	}
	n := t.stored()
	for i, v := range t.U8 {
		if t.Classes > 0 && int(v) >= t.Classes {
			return bad("%v, row %d: class %d is not one of %d", t.Kind, i/n, v, t.Classes)
		}
	}
	for i, v := range t.U16 {
		if t.Classes > 0 && int(v) >= t.Classes {
			return bad("%v, row %d: class %d is not one of %d", t.Kind, i/n, v, t.Classes)
		}
	}
	for i, v := range t.I32 {
		switch {
		case t.Classes > 0 && v != NoClass && (v < 0 || int(v) >= t.Classes):
			return bad("%v, row %d: class %d is not one of %d", t.Kind, i/n, v, t.Classes)
		case v < -exact || v > exact:
			return bad("%v, row %d: %d is not exact in float32 (at most %d)", t.Kind, i/n, v, exact)
		}
	}
	for i, v := range t.F32 {
		if v-v != 0 { // infinite, or not a number
			return bad("%v, row %d: %v is not finite", t.Kind, i/n, v)
		}
	}
	return nil
}

// CheckTokens tells whether every element of each row's elements from..to-1 is a whole number
// from 0 to n-1.
func (t *Table) CheckTokens(n, from, to int) error {
	token := func(i int, v float64) error {
		if at := i % t.stored(); at < from || at >= to {
			return nil
		}
		if v < 0 || v >= float64(n) || v != math.Trunc(v) {
			return bad("%v, row %d: %v is not a token from 0 to %d", t.Kind, i/t.stored(), v, n-1)
		}
		return nil
	}
	if t.Index != nil {
		return t.Index.checkTokens(n, from, to)
	}
	for i, v := range t.U8 {
		if err := token(i, float64(v)); err != nil {
			return err
		}
	}
	for i, v := range t.U16 {
		if err := token(i, float64(v)); err != nil {
			return err
		}
	}
	for i, v := range t.I32 {
		if err := token(i, float64(v)); err != nil {
			return err
		}
	}
	for i, v := range t.F32 {
		if err := token(i, float64(v)); err != nil {
			return err
		}
	}
	return nil
}

// checkShape validates everything but the elements, so that no product overflows.
func (t *Table) checkShape() error {
	if t.Kind > Targets || t.Rows < 0 || t.Rows > MaxRows || t.Classes < 0 || t.Classes > MaxElems || len(t.Shape) > maxRank {
		return bad("%v of %d rows (at most %d) of %d axes (at most %d) and %d classes", t.Kind, t.Rows, MaxRows, len(t.Shape), maxRank, t.Classes)
	}
	n := max(t.Classes, 1)
	for _, d := range t.Shape {
		if d < 1 || d > MaxElems/n {
			return bad("%v: a row of %v with %d classes is empty or has more than %d values", t.Kind, t.Shape, t.Classes, MaxElems)
		}
		n *= d
	}
	// At least one byte an element is stored; what it takes exactly, blobs check.
	if int64(t.Rows)*int64(t.stored()) > MaxBytes {
		return bad("%v: %d rows of %v are more than %d bytes", t.Kind, t.Rows, t.Shape, MaxBytes)
	}
	return nil
}

// Gather copies rows to dst, which has len(rows) * Elems() values: [len(rows),
// RowShape()...]. It allocates nothing, and panics where a row is not in the table.
func (t *Table) Gather(dst []float32, rows []int32) {
	if len(dst) != len(rows)*t.Elems() {
		panic(fmt.Sprintf("data: gathering %d rows of %d values into %d", len(rows), t.Elems(), len(dst)))
	}
	n := t.stored()
	if t.Classes > 0 {
		clear(dst)
		for i, r := range rows {
			for j := range n {
				if c := t.class(int(r)*n + j); c != NoClass {
					dst[(i*n+j)*t.Classes+c] = 1
				}
			}
		}
		return
	}
	for i, r := range rows {
		d, at := dst[i*n:][:n], int(r)*n
		switch {
		case t.U8 != nil:
			for j, v := range t.U8[at:][:n] {
				d[j] = float32(v)
			}
		case t.F32 != nil:
			copy(d, t.F32[at:][:n])
		case t.U16 != nil:
			for j, v := range t.U16[at:][:n] {
				d[j] = float32(v)
			}
		default:
			for j, v := range t.I32[at:][:n] {
				d[j] = float32(v)
			}
		}
	}
}

// class is the class of a stored element.
func (t *Table) class(i int) int {
	switch {
	case t.U8 != nil:
		return int(t.U8[i])
	case t.U16 != nil:
		return int(t.U16[i])
	}
	return int(t.I32[i])
}

// Most returns the largest integer element, or -1 if all are less.
func (t *Table) Most() int {
	most := -1
	for i := range len(t.U8) + len(t.U16) + len(t.I32) {
		most = max(most, t.class(i))
	}
	return most
}

// Labelled tells whether the elements are numbers of classes.
func (t *Table) Labelled() bool { return t.Classes > 0 }

// Labels copies the classes of rows to dst, one for each stored element of a row. It
// panics where Classes is 0: values have no classes.
func (t *Table) Labels(dst, rows []int32) {
	n := t.stored()
	if t.Classes == 0 || len(dst) != len(rows)*n {
		panic(fmt.Sprintf("data: %d labels of %d rows of %d elements with %d classes", len(dst), len(rows), n, t.Classes))
	}
	for i, r := range rows {
		for j := range n {
			dst[i*n+j] = int32(t.class(int(r)*n + j))
		}
	}
}

// Answers reports whether a model whose last axis has so many classes can be right or wrong
// about the elements: they are classes, or their last axis is as long and one-hot everywhere.
// Anything else is a regression. classes 0 is any number of them. The elements must not
// change after the first call.
func (t *Table) Answers(classes int) bool {
	if t.Classes > 0 {
		return t.Classes > 1
	}
	if n := len(t.Shape); classes > 0 && (n == 0 || t.Shape[n-1] != classes) {
		return false
	}
	t.oneHot.Do(func() { t.oneHot.yes = t.isOneHot() })
	return t.oneHot.yes
}

func (t *Table) isOneHot() bool {
	if len(t.Shape) == 0 || t.Shape[len(t.Shape)-1] < 2 || t.Rows == 0 {
		return false
	}
	last, ones := t.Shape[len(t.Shape)-1], 0
	for i := range t.count() {
		var v float32
		switch {
		case t.U8 != nil:
			v = float32(t.U8[i])
		case t.U16 != nil:
			v = float32(t.U16[i])
		case t.F32 != nil:
			v = t.F32[i]
		default:
			v = float32(t.I32[i])
		}
		if v == 1 {
			ones++
		} else if v != 0 {
			return false
		}
		if i%last == last-1 {
			if ones != 1 {
				return false
			}
			ones = 0
		}
	}
	return true
}

// Part is the training or the validation half of a set. Its tables have equally many
// rows, and row i of one belongs to row i of the other.
type Part struct{ x, y *Table }

// NewPart joins inputs and targets.
func NewPart(x, y *Table) (Part, error) {
	if err := errors.Join(x.Check(), y.Check()); err != nil {
		return Part{}, err
	}
	if x.Kind != Inputs || y.Kind != Targets || x.Rows != y.Rows {
		return Part{}, bad("%d rows of %v, but %d rows of %v", x.Rows, x.Kind, y.Rows, y.Kind)
	}
	return Part{x, y}, nil
}

// X is the inputs.
func (p Part) X() *Table { return p.x }

// Y is the targets.
func (p Part) Y() *Table { return p.y }

// Len is the number of rows.
func (p Part) Len() int { return p.x.Rows }

// InputShape is the shape of one row of the inputs, as gathered.
func (p Part) InputShape() []int { return p.x.RowShape() }

// TargetShape is the shape of one row of the targets, as gathered: classes are one-hot.
func (p Part) TargetShape() []int { return p.y.RowShape() }

// Set is a data set. The rows of both parts have the same shapes; Val may have none.
type Set struct {
	Name       string
	Train, Val Part
}

// NewSet joins two parts.
func NewSet(name string, train, val Part) (*Set, error) {
	for _, t := range [][2]*Table{{train.x, val.x}, {train.y, val.y}} {
		if !slices.Equal(t[0].Shape, t[1].Shape) || t[0].Classes != t[1].Classes {
			return nil, bad("%s: %v of %v for training and of %v for validation", name, t[0].Kind, t[0].RowShape(), t[1].RowShape())
		}
	}
	return &Set{name, train, val}, nil
}

// For is the set as want asks for it: with as many classes as a model has outputs. Labels
// that are not among them are an error. The set itself stays as it is.
func (s *Set) For(want *Want) (*Set, error) {
	y := s.Train.y
	if y.Classes == 0 {
		return s, nil
	}
	if want.fieldsOf(Targets) != nil { // whose losses know the classes by themselves
		var parts [2]Part
		for i, p := range []Part{s.Train, s.Val} {
			parts[i] = Part{p.x, &Table{Kind: Targets, Rows: p.y.Rows, Shape: p.y.Shape, U8: p.y.U8, U16: p.y.U16, I32: p.y.I32}}
		}
		return &Set{s.Name, parts[0], parts[1]}, nil
	}
	values, classes := want.labels(y.Shape)
	if values || classes == 0 || classes == y.Classes && (want == nil || want.Ignore == nil) {
		return s, nil
	}
	var parts [2]Part
	for i, p := range []Part{s.Train, s.Val} {
		y := &Table{Kind: Targets, Rows: p.y.Rows, Shape: p.y.Shape, U8: p.y.U8, U16: p.y.U16, I32: p.y.I32}
		y.ignore(want)
		if err := y.label(classes); err != nil {
			return nil, fmt.Errorf("data set %s: %w", s.Name, err)
		}
		parts[i] = Part{p.x, y}
	}
	return &Set{s.Name, parts[0], parts[1]}, nil
}

// Order fills dst with the order in which an epoch visits its len(dst) training rows: a
// permutation that (seed, epoch) determine on every machine.
func Order(dst []int32, seed uint64, epoch int) {
	kernel.Perm(dst, kernel.NewStream(seed, kernel.DomainShuffle, uint64(epoch), 0))
}

// narrow stores values that are all integers of 0..255 as bytes, and integers of 0..65535 in
// two bytes: less memory, and Gather gives the same bits.
func (t *Table) narrow() {
	switch {
	case t.F32 != nil:
		b := make([]uint8, 0, len(t.F32))
		for _, v := range t.F32 {
			u := uint8(max(0, min(v, 255)))
			if math.Float32bits(float32(u)) != math.Float32bits(v) { // -0 too
				return
			}
			b = append(b, u)
		}
		t.U8, t.F32 = b, nil
	case t.I32 != nil:
		if b, ok := narrowed[uint8](t.I32); ok {
			t.U8, t.I32 = b, nil
		} else if b, ok := narrowed[uint16](t.I32); ok {
			t.U16, t.I32 = b, nil
		}
	case t.U16 != nil:
		if b, ok := narrowed[uint8](t.U16); ok {
			t.U8, t.U16 = b, nil
		}
	}
}

// narrowed returns v in a smaller type if all elements fit.
func narrowed[T uint8 | uint16, F uint16 | int32](v []F) ([]T, bool) {
	for _, x := range v {
		if x < 0 || x > F(^T(0)) {
			return nil, false
		}
	}
	b := make([]T, len(v))
	for i, x := range v {
		b[i] = T(x)
	}
	return b, true
}
