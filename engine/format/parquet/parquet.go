// Package parquet reads Parquet files as rows of a data set: tables of numbers, lists of one
// length, and images with the numbers of classes, as Hugging Face's datasets keep them.
package parquet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"

	"github.com/ravnest/ravnest/engine/data"
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

// Usual are names of a target column, for files whose target is not named.
var Usual = []string{"target", "label", "labels", "fine_label", "class", "y"}

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
	r       io.ReaderAt
	asRuns  map[int]bool // columns of which some pages are truth values as runs
	// Whole tells that all targets are of integer types.
	Whole bool
	// Texts tells that the target is a text.
	Texts bool
	// Names are those of the classes, where the file has them.
	Names []string
	// Index tells that a column was left out in which pandas keeps the numbers of rows.
	Index bool
}

// column is a leaf of the schema.
type column struct {
	name   string // of the field at the top
	kind   parquet.Kind
	leaf   int
	list   bool // of several values in a row
	levels [2]int
	form   form
	scale  float64 // of a decimal: the power of ten that its whole number is divided by
	target bool
	values map[string]int // of an input that holds texts: which input each makes 1
	skip   bool
	rank   int // among the inputs, or among the targets, where they are named
}

// form is how a value is to be understood.
type form uint8

const (
	plain    form = iota
	half          // 16 bits of a float
	unsigned      // an integer without a sign
	decimal       // a whole number, to be divided by a power of ten
	moment        // a date or a time
)

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
	// Skip names columns that are neither inputs nor targets.
	Skip []string
	// Values are the texts of columns that hold texts: each is an input, 1 in the rows that hold it.
	Values map[string][]string
	// NoTarget tells that the rows are to be predicted: no column is a target.
	NoTarget bool
}

// pandasIndex is the name of the column in which pandas keeps the numbers of rows.
const pandasIndex = "__index_level_0__"

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
	elements := slices.DeleteFunc(slices.Clone(f.f.Metadata().Schema), func(e format.SchemaElement) bool { return e.NumChildren.Valid && e.NumChildren.V > 0 })
	for _, path := range paths {
		leaf, ok := schema.Lookup(path...)
		if !ok {
			return bad("column %.60q has no type", strings.Join(path, "."))
		}
		c := column{
			name: path[0], kind: leaf.Node.Type().Kind(), leaf: leaf.ColumnIndex, list: leaf.MaxRepetitionLevel > 0,
			levels: [2]int{int(leaf.MaxRepetitionLevel), int(leaf.MaxDefinitionLevel)},
		}
		if c.leaf >= 0 && c.leaf < len(elements) {
			c.understand(&elements[c.leaf])
		}
		if leaf.MaxRepetitionLevel > 1 {
			return bad("column %.60q is lists of lists: flatten them", c.name)
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

// understand finds out what the values of a column mean.
func (c *column) understand(e *format.SchemaElement) {
	switch t := e.LogicalType.Value.(type) {
	case *format.Float16Type:
		c.form = half
	case *format.DecimalType:
		c.form, c.scale = decimal, math.Pow10(int(t.Scale))
	case *format.DateType, *format.TimeType, *format.TimestampType:
		c.form = moment
	case *format.IntType:
		if !t.IsSigned {
			c.form = unsigned
		}
	case nil: // files of older writers
		if !e.ConvertedType.Valid {
			return
		}
		switch e.ConvertedType.V {
		case deprecated.Decimal:
			c.form, c.scale = decimal, math.Pow10(int(e.Scale.V))
		case deprecated.Date, deprecated.TimeMillis, deprecated.TimeMicros, deprecated.TimestampMillis, deprecated.TimestampMicros, deprecated.Interval:
			c.form = moment
		case deprecated.Uint8, deprecated.Uint16, deprecated.Uint32, deprecated.Uint64:
			c.form = unsigned
		}
	}
}

// text tells whether a column holds texts.
func (c *column) text() bool { return c.kind == parquet.ByteArray && c.form != decimal }

// topNames are those of the columns at the top.
func (f *File) topNames() (names []string) {
	for _, c := range f.columns {
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	return names
}

// targets are the names of the targets.
func (f *File) targets(want Columns) ([]string, error) {
	names, target := f.topNames(), want.Target
	if want.NoTarget {
		return nil, nil
	}
	for _, u := range Usual {
		if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, u) }); i >= 0 && len(target) == 0 && !slices.Contains(want.Skip, names[i]) {
			target = names[i : i+1]
		}
	}
	if len(target) == 0 {
		return nil, bad("no column is called %s: name the target's, one of %.200q", strings.Join(Usual, ", "), names)
	}
	for _, n := range slices.Concat(target, want.Skip, slices.Collect(maps.Keys(want.Values))) {
		if !slices.Contains(names, n) {
			return nil, bad("no column %.60q; there are %.200q", n, names)
		}
	}
	return target, nil
}

// choose tells targets from inputs.
func (f *File) choose(want Columns) error {
	target, err := f.targets(want)
	if err != nil {
		return err
	}
	f.Whole = true
	inputs := 0
	for i := range f.columns {
		c := &f.columns[i]
		c.target = slices.Contains(target, c.name)
		if c.name == pandasIndex && !c.target && !slices.Contains(want.Inputs, c.name) {
			c.skip, f.Index = true, true
		}
		switch {
		case c.skip || i == f.image:
		case !c.target && (slices.Contains(want.Skip, c.name) || len(want.Inputs) > 0 && !slices.Contains(want.Inputs, c.name)):
			c.skip = true
		case f.image >= 0 && !c.target:
			c.skip = true // beside an image
		case c.form == moment:
			return bad("column %.60q holds dates or times: make numbers of them, or leave it out (--skip %[2]s)", c.name)
		case c.kind == parquet.Int96 || c.kind == parquet.FixedLenByteArray && c.form != half && c.form != decimal:
			return bad("column %.60q is of type %v, which is no number: leave it out (--skip %[2]s)", c.name, c.kind)
		case !c.target && (c.text() || want.Values[c.name] != nil):
			if c.values = indexOf(want.Values[c.name]); c.values == nil {
				return bad("column %.60q holds texts: --one-hot %[2]s makes an input of each of its texts, --skip %[2]s leaves it out", c.name)
			}
			inputs++
		case c.target && c.text():
			if len(target) > 1 {
				return bad("column %.60q holds texts, beside other targets", c.name)
			}
			if c.list {
				return bad("column %.60q holds lists of texts: a target is one text", c.name)
			}
			f.Texts = true
		case c.target:
			f.Whole = f.Whole && c.form != decimal && (c.kind == parquet.Int32 || c.kind == parquet.Int64 || c.kind == parquet.Boolean)
		default:
			inputs++
		}
	}
	if inputs == 0 && f.image < 0 {
		return bad("no column is an input")
	}
	if len(target) > 0 {
		f.names(target[0])
	}
	return nil
}

// indexOf numbers texts; nil where there are none.
func indexOf(values []string) map[string]int {
	if values == nil {
		return nil
	}
	m := map[string]int{}
	for i, v := range values {
		m[v] = i
	}
	return m
}

// arrange makes rows hold the inputs, and the targets, in the order in which they are named.
func (f *File) arrange(want Columns) error {
	if f.image >= 0 && len(want.Inputs) > 0 {
		return bad("it holds images, beside which there are no other inputs")
	}
	for _, n := range want.Inputs {
		if !slices.ContainsFunc(f.columns, func(c column) bool { return c.name == n && !c.target }) {
			return bad("no column %.60q for an input; there are %.200q", n, f.topNames())
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

// Inputs are the columns that are inputs, in the order of a row.
func (f *File) Inputs() (cs []data.Column) {
	for _, c := range f.columns {
		if c.skip || c.target || slices.ContainsFunc(cs, func(o data.Column) bool { return o.Name == c.name }) {
			continue
		}
		in := data.Column{Name: c.name}
		if c.values != nil {
			in.Values = slices.Sorted(maps.Keys(c.values))
		}
		cs = append(cs, in)
	}
	return cs
}

// Images tells whether the inputs are images.
func (f *File) Images() bool { return f.image >= 0 }

// Rows is their number.
func (f *File) Rows() int { return int(f.f.NumRows()) }

// Each gives the rows in their order, counted from 0 in errors. A row is the callee's until it returns.
func (f *File) Each(emit func(r *Row) error) (err error) {
	defer safely(&err)
	var row Row
	n := 0
	return f.each(func(r parquet.Row) error {
		if err := f.take(&row, r); err != nil {
			return bad("row %d: %w", n, err)
		}
		if err := emit(&row); err != nil {
			return fmt.Errorf("row %d: %w", n, err)
		}
		n++
		return nil
	})
}

// each gives the values of the rows.
func (f *File) each(emit func(r parquet.Row) error) error {
	buf := make([]parquet.Row, 64)
	n := 0
	for k, g := range f.f.RowGroups() {
		truths := f.truths(k)
		rows := g.Rows()
		for {
			k, err := rows.ReadRows(buf)
			for _, r := range buf[:k] {
				if n++; n > maxRows {
					_ = rows.Close()
					return bad("more than %d rows", maxRows)
				}
				err := mend(r, truths)
				if err != nil {
					err = bad("row %d: %w", n, err)
				} else {
					err = emit(r)
				}
				if err != nil {
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
		c := &f.columns[i]
		if c.skip {
			continue
		}
		if v.IsNull() {
			return fmt.Errorf("column %.60q holds nothing: fill it, remove the row, or leave the column out (--skip %[1]s)", c.name)
		}
		switch {
		case i == f.image:
			if to.Image = v.ByteArray(); len(to.Image) > maxCell {
				return fmt.Errorf("column %.60q: an image of %d bytes, at most %d are read", c.name, len(to.Image), maxCell)
			}
			continue
		case c.values != nil:
			text, err := c.written(v)
			if err != nil {
				return fmt.Errorf("column %.60q: %w", c.name, err)
			}
			k, ok := c.values[text]
			if !ok {
				return fmt.Errorf("column %.60q: %.40q is none of the %d texts that the data to learn from had", c.name, text, len(c.values))
			}
			for i := range len(c.values) {
				f.put(to, c, map[bool]float64{true: 1}[i == k])
			}
			n += len(c.values)
		case c.text():
			if to.Text = string(v.ByteArray()); len(to.Text) > 1<<12 {
				return fmt.Errorf("column %.60q: a text of %d bytes as a class", c.name, len(to.Text))
			}
			continue
		default:
			x, err := number(c, v)
			if err != nil {
				return fmt.Errorf("column %.60q: %w", c.name, err)
			}
			f.put(to, c, x)
			n++
		}
		if n > maxElems {
			return fmt.Errorf("more than %d numbers", maxElems)
		}
	}
	if f.image >= 0 && to.Image == nil {
		return errors.New("no image")
	}
	return f.order(to)
}

// put adds a number to a row.
func (f *File) put(to *Row, c *column, x float64) {
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
}

func number(c *column, v parquet.Value) (float64, error) {
	x := 0.0
	switch c.kind {
	case parquet.Boolean:
		if v.Boolean() {
			x = 1
		}
	case parquet.Int32:
		if x = float64(v.Int32()); c.form == unsigned {
			x = float64(uint32(v.Int32()))
		}
	case parquet.Int64:
		if x = float64(v.Int64()); c.form == unsigned {
			x = float64(uint64(v.Int64()))
		}
	case parquet.Float:
		x = float64(v.Float())
	case parquet.Double:
		x = v.Double()
	case parquet.FixedLenByteArray, parquet.ByteArray:
		b := v.ByteArray()
		switch {
		case c.form == decimal && len(b) <= 32:
			x = bigEndian(b)
		case c.form == half && len(b) == 2:
			x = float16(uint16(b[0]) | uint16(b[1])<<8)
		default:
			return 0, fmt.Errorf("a number of %d bytes", len(b))
		}
	default:
		return 0, fmt.Errorf("a value of type %v, which is no number", c.kind)
	}
	if c.form == decimal {
		x /= c.scale
	}
	if w := float32(x); w-w != 0 {
		return 0, fmt.Errorf("%v is not finite as a float32", x)
	}
	return x, nil
}

// bigEndian is a whole number of any length, in two's complement.
func bigEndian(b []byte) float64 {
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	x, _ := new(big.Float).SetInt(n).Float64()
	return x
}

// float16 is a float of 16 bits.
func float16(h uint16) float64 {
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
