// Package parquet reads Parquet files as rows of a data set: tables of numbers, lists of one
// length, and images with the numbers of classes, as Hugging Face's datasets keep them.
package parquet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/ravnest/ravnest/engine/format/images"
)

// ErrFormat is wrapped by every error about what a file holds.
var ErrFormat = errors.New("invalid Parquet file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits of a file.
const (
	maxRows    = 1 << 28
	maxColumns = 1 << 14
	maxElems   = 1 << 22 // numbers of a row
	maxChunk   = 1 << 30 // bytes of a column of a row group
	maxCell    = 64 << 20
)

// usual are names of a target column, for files whose target is not named.
var usual = []string{"target", "label", "labels", "fine_label", "class", "y"}

// Row is one row of a file.
type Row struct {
	// Image is the encoded image of the inputs, in files that hold some; X is nil then.
	Image []byte
	X     []float32
	// Y is the targets as numbers, Text the one that is a text.
	Y    []float64
	Text string
}

// File is an open file.
type File struct {
	f       *parquet.File
	columns []column
	image   int // of the leaf that holds images; -1: none
	want    Columns
	ordered [][]float64 // the values of a row by rank, of inputs and targets in turn; nil: as they come
	// Whole tells that all targets are of integer types.
	Whole bool
	// Texts tells that the target is a text.
	Texts bool
	// Names are those of the classes, where the file has them.
	Names []string
}

// column is a leaf of the schema.
type column struct {
	name   string // of the field at the top
	kind   parquet.Kind
	leaf   int
	half   bool // 16 bits of a float
	target bool
	skip   bool
	rank   int // among the inputs, or among the targets, where they are named
}

// safely turns a panic of the library over a file that is not one into an error.
func safely(err *error) {
	if p := recover(); p != nil {
		*err = bad("%v", p)
	}
}

// Columns are the columns of a file that count.
type Columns struct {
	// Target names the targets; none: one called target, label, class or y.
	Target []string
	// Inputs names the inputs in the order of a row; none: all that are no targets, in the order of
	// the file.
	Inputs []string
	// InputElems and TargetElems are the numbers that a row has of each of them; none: any.
	InputElems, TargetElems []int
}

// Open reads the schema and decides which columns are the inputs and which the targets.
func Open(r io.ReaderAt, size int64, want Columns) (f *File, err error) {
	defer safely(&err)
	if f, err = opened(r, size); err != nil {
		return nil, err
	}
	if err := f.choose(want); err != nil || len(want.Inputs)+len(want.TargetElems) == 0 {
		return f, err
	}
	return f, f.arrange(want)
}

// leaves lists the columns.
func (f *File) leaves() error {
	schema := f.f.Schema()
	paths := schema.Columns()
	if len(paths) == 0 || len(paths) > maxColumns {
		return bad("%d columns, at most %d are read", len(paths), maxColumns)
	}
	halves := map[int]bool{}
	n := 0
	for _, e := range f.f.Metadata().Schema {
		if e.NumChildren.Valid && e.NumChildren.V > 0 {
			continue
		}
		_, halves[n] = e.LogicalType.Value.(*format.Float16Type)
		n++
	}
	for _, path := range paths {
		leaf, ok := schema.Lookup(path...)
		if !ok {
			return bad("column %.60q has no type", strings.Join(path, "."))
		}
		c := column{name: path[0], kind: leaf.Node.Type().Kind(), leaf: leaf.ColumnIndex}
		c.half = halves[c.leaf]
		if leaf.MaxRepetitionLevel > 1 {
			return bad("column %.60q is lists of lists", c.name)
		}
		last := path[len(path)-1]
		switch {
		case c.kind == parquet.ByteArray && len(path) == 2 && last == "bytes":
			f.image = len(f.columns)
		case c.kind == parquet.ByteArray && len(path) == 2 && last == "path":
			c.skip = true
		}
		f.columns = append(f.columns, c)
	}
	return nil
}

// choose tells targets from inputs.
func (f *File) choose(want Columns) error {
	target := want.Target
	names := []string{}
	for _, c := range f.columns {
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	if len(target) == 0 {
		for _, u := range usual {
			if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, u) }); i >= 0 && target == nil {
				target = names[i : i+1]
			}
		}
		if target == nil {
			return bad("no column is called %s: name the target's, one of %.200q", strings.Join(usual, ", "), names)
		}
	}
	for _, t := range target {
		if !slices.Contains(names, t) {
			return bad("no column %.60q; there are %.200q", t, names)
		}
	}
	f.Whole = true
	inputs := 0
	for i := range f.columns {
		c := &f.columns[i]
		c.target = slices.Contains(target, c.name)
		text := c.kind == parquet.ByteArray
		switch {
		case c.skip || i == f.image:
		case c.kind == parquet.Int96 || c.kind == parquet.FixedLenByteArray && !c.half:
			return bad("column %.60q is of type %v, which is no number", c.name, c.kind)
		case f.image >= 0 && !c.target:
			c.skip = true // beside an image
		case !c.target && len(want.Inputs) > 0 && !slices.Contains(want.Inputs, c.name):
			c.skip = true
		case !c.target && text:
			return bad("column %.60q holds texts; inputs are numbers, lists of numbers or images", c.name)
		case c.target && text:
			if len(target) > 1 {
				return bad("column %.60q holds texts, beside other targets", c.name)
			}
			f.Texts = true
		case c.target:
			f.Whole = f.Whole && (c.kind == parquet.Int32 || c.kind == parquet.Int64 || c.kind == parquet.Boolean)
		default:
			inputs++
		}
	}
	if inputs == 0 && f.image < 0 {
		return bad("all columns are targets")
	}
	f.names(target[0])
	return nil
}

// arrange makes rows hold the inputs, and the targets, in the order in which they are named.
func (f *File) arrange(want Columns) error {
	if f.image >= 0 && len(want.Inputs) > 0 {
		return bad("it holds images, beside which there are no other inputs")
	}
	for _, n := range want.Inputs {
		if !slices.ContainsFunc(f.columns, func(c column) bool { return c.name == n && !c.target }) {
			var names []string
			for _, c := range f.columns {
				names = append(names, c.name)
			}
			return bad("no column %.60q for an input; there are %.200q", n, names)
		}
	}
	for i := range f.columns {
		c := &f.columns[i]
		list := want.Inputs
		if c.target {
			list = want.Target
		}
		c.rank = max(slices.Index(list, c.name), 0)
	}
	f.ordered, f.want = make([][]float64, 2*max(len(want.Inputs), len(want.Target), 1)), want
	return nil
}

// order puts the values of a row in the order of their ranks.
func (f *File) order(to *Row) error {
	for i, vs := range f.ordered {
		names, elems := f.want.Inputs, f.want.InputElems
		if i%2 == 1 {
			names, elems = f.want.Target, f.want.TargetElems
		}
		if k := i / 2; k < len(names) && k < len(elems) && elems[k] != len(vs) {
			return fmt.Errorf("column %.60q has %d numbers, the model takes %d: pad or cut the lists to one length", names[k], len(vs), elems[k])
		}
		for _, v := range vs {
			if i%2 == 0 {
				to.X = append(to.X, float32(v))
			} else {
				to.Y = append(to.Y, v)
			}
		}
		f.ordered[i] = vs[:0]
	}
	return nil
}

// names looks for the names of classes where Hugging Face's datasets keep them.
func (f *File) names(target string) {
	raw, ok := f.f.Lookup("huggingface")
	if !ok || len(raw) > 1<<22 {
		return
	}
	var v struct {
		Info struct {
			Features map[string]struct {
				Names []string `json:"names"`
			} `json:"features"`
		} `json:"info"`
	}
	if json.Unmarshal([]byte(raw), &v) == nil {
		f.Names = v.Info.Features[target].Names
	}
}

// Images tells whether the inputs are images.
func (f *File) Images() bool { return f.image >= 0 }

// Rows is their number.
func (f *File) Rows() int { return int(f.f.NumRows()) }

// Each gives the rows in their order. A row is the callee's until it returns.
func (f *File) Each(emit func(r *Row) error) (err error) {
	defer safely(&err)
	var row Row
	n := 0
	return f.each(func(r parquet.Row) error {
		if err := f.take(&row, r); err != nil {
			return bad("row %d: %w", n, err)
		}
		n++
		return emit(&row)
	})
}

// each gives the values of the rows.
func (f *File) each(emit func(r parquet.Row) error) error {
	buf := make([]parquet.Row, 64)
	n := 0
	for _, g := range f.f.RowGroups() {
		rows := g.Rows()
		for {
			k, err := rows.ReadRows(buf)
			for _, r := range buf[:k] {
				if n++; n > maxRows {
					_ = rows.Close()
					return bad("more than %d rows", maxRows)
				}
				if err := emit(r); err != nil {
					_ = rows.Close()
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				_ = rows.Close()
				return bad("row %d: %w", n, err)
			}
			if k == 0 {
				_ = rows.Close()
				return bad("it ends at row %d", n)
			}
		}
		if err := rows.Close(); err != nil {
			return bad("%w", err)
		}
	}
	if n != f.Rows() {
		return bad("%d rows are there, it says %d", n, f.Rows())
	}
	return nil
}

// take makes the values of a row.
func (f *File) take(to *Row, r parquet.Row) error {
	to.Image, to.X, to.Y, to.Text = nil, to.X[:0], to.Y[:0], ""
	n := 0
	for _, v := range r {
		i := v.Column()
		if i < 0 || i >= len(f.columns) {
			return fmt.Errorf("a value of column %d", i)
		}
		c := f.columns[i]
		if c.skip {
			continue
		}
		if v.IsNull() {
			return fmt.Errorf("column %.60q holds nothing", c.name)
		}
		switch {
		case i == f.image:
			if to.Image = v.ByteArray(); len(to.Image) > maxCell {
				return fmt.Errorf("column %.60q: an image of %d bytes, at most %d are read", c.name, len(to.Image), maxCell)
			}
			continue
		case c.kind == parquet.ByteArray:
			if to.Text = string(v.ByteArray()); len(to.Text) > 1<<12 {
				return fmt.Errorf("column %.60q: a text of %d bytes as a class", c.name, len(to.Text))
			}
			continue
		}
		x, err := number(c, v)
		if err != nil {
			return fmt.Errorf("column %.60q: %w", c.name, err)
		}
		switch {
		case f.ordered != nil && c.target:
			f.ordered[2*c.rank+1] = append(f.ordered[2*c.rank+1], x)
		case f.ordered != nil:
			f.ordered[2*c.rank] = append(f.ordered[2*c.rank], x)
		case c.target:
			to.Y = append(to.Y, x)
		default:
			to.X = append(to.X, float32(x))
		}
		n++
		if n > maxElems {
			return fmt.Errorf("more than %d numbers", maxElems)
		}
	}
	if f.image >= 0 && to.Image == nil {
		return errors.New("no image")
	}
	return f.order(to)
}

func number(c column, v parquet.Value) (float64, error) {
	x := 0.0
	switch c.kind {
	case parquet.Boolean:
		if v.Boolean() {
			x = 1
		}
	case parquet.Int32:
		x = float64(v.Int32())
	case parquet.Int64:
		x = float64(v.Int64())
	case parquet.Float:
		x = float64(v.Float())
	case parquet.Double:
		x = v.Double()
	case parquet.FixedLenByteArray:
		b := v.ByteArray()
		if len(b) != 2 {
			return 0, fmt.Errorf("a half of %d bytes", len(b))
		}
		x = half(uint16(b[0]) | uint16(b[1])<<8)
	default:
		return 0, fmt.Errorf("a value of type %v, which is no number", c.kind)
	}
	if w := float32(x); w-w != 0 {
		return 0, fmt.Errorf("%v is not finite as a float32", x)
	}
	return x, nil
}

// half is a float of 16 bits.
func half(h uint16) float64 {
	sign, exp, frac := float64(1), int(h>>10&31), float64(h&1023)
	if h>>15 == 1 {
		sign = -1
	}
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		return math.NaN()
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// Picture decodes a row's image to pixels as o says.
func (r *Row) Picture(o *images.Options) (shape []int, pixels []uint8, err error) {
	img, err := images.Decode(bytes.NewReader(r.Image))
	if err != nil {
		return nil, nil, bad("an image: %w", err)
	}
	shape, pixels = o.Row(img)
	return shape, pixels, nil
}
