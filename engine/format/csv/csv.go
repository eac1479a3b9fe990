// Package csv reads tables of numbers as spreadsheets and data tools write them: a header of
// names, then a row a line, separated by commas, semicolons or tabs.
package csv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/data"
)

// ErrFormat is wrapped by every error about what a file holds.
var ErrFormat = errors.New("invalid CSV file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// maxColumns bounds the header.
const maxColumns = 1 << 16

// usual are names of a target column, for files whose target is not named.
var usual = []string{"target", "label", "class", "y"}

// Table is a file's content.
type Table struct {
	X, Y    *data.Table
	Columns []string // of X
	Target  []string // of Y
	// Classes are the values of a target that is no number, sorted: Y holds their indices.
	Classes []string
}

// Read reads a file. The columns named by target are the targets, all others the inputs, which
// must be numbers. One target column may hold whole numbers (classes, counted from 0), other
// numbers, or texts, which become the numbers of classes in the order of their sorting. Without
// names a column called target, label, class or y is taken. A cell that is empty or no number
// is an error that names line and column.
func Read(r io.Reader, target []string) (*Table, error) {
	return read(r, func(names []string) ([]bool, []string, error) { return targets(names, target) })
}

// ReadInputs reads the inputs of a file, whose rows have n of them, and skips its targets: the
// columns named by target or, where the file has more than n, the one that Read would take.
func ReadInputs(r io.Reader, n int, target []string) (*data.Table, error) {
	t, err := read(r, func(names []string) ([]bool, []string, error) {
		if len(names) == n && len(target) == 0 {
			_, _, err := targets(names, names[:1])
			return make([]bool, n), nil, err
		}
		return targets(names, target)
	})
	if err != nil {
		return nil, err
	}
	return t.X, nil
}

// read reads a file into memory whose target columns choose finds among its names.
func read(r io.Reader, choose func(names []string) (is []bool, target []string, err error)) (*Table, error) {
	x := &data.Table{Kind: data.Inputs, F32: []float32{}}
	y := &data.Table{Kind: data.Targets, Shape: []int{}}
	var values []float32
	var whole, cells []int32
	h, err := each(&bound{r: r, left: data.MaxBytes}, choose, func(row []float32, t Target) error {
		x.F32, values, whole, cells = append(x.F32, row...), append(values, t.Values...), append(whole, t.Whole), append(cells, t.Cell)
		x.Rows++
		if int64(len(x.F32))*4 > data.MaxBytes {
			return bad("more than %d bytes of numbers", data.MaxBytes)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	x.Shape, y.Rows = []int{len(h.Columns)}, x.Rows
	switch h.Kind {
	case Texts:
		for i, c := range cells {
			cells[i] = h.Order[c]
		}
		y.I32 = cells
	case Numbers:
		y.F32 = values
		if len(h.Target) > 1 {
			y.Shape = []int{len(h.Target)}
		}
	default:
		y.I32 = whole
	}
	return &Table{X: x, Y: y, Columns: h.Columns, Target: h.Target, Classes: h.Classes}, nil
}

// Kind says what the targets of a file are, which is known at its end.
type Kind uint8

// The kinds of targets.
const (
	Whole   Kind = iota // Target.Whole, the number of a class
	Numbers             // Target.Values
	Texts               // Head.Order of Target.Cell, the number of a class
)

// Target is what the target columns of a row hold, in every form that the file may turn out to
// have.
type Target struct {
	Values []float32
	Whole  int32
	Cell   int32
}

// Head is what a file holds besides its rows.
type Head struct {
	Columns []string // of the inputs
	Target  []string
	Kind    Kind
	Classes []string // of Texts, sorted
	Order   []int32  // of Texts: the number of the class for each Target.Cell
}

// Each reads a file as Read does, but calls row with the inputs and targets of each, which it must
// not keep.
func Each(r io.Reader, target []string, row func(x []float32, t Target) error) (*Head, error) {
	return each(r, func(names []string) ([]bool, []string, error) { return targets(names, target) }, row)
}

func each(r io.Reader, choose func(names []string) (is []bool, target []string, err error), give func(x []float32, t Target) error) (*Head, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	if lead, err := b.Peek(3); err == nil && bytes.Equal(lead, []byte("\xef\xbb\xbf")) {
		_, _ = b.Discard(3)
	}
	first, _ := b.Peek(1 << 12)
	c := csv.NewReader(b)
	c.Comma, c.ReuseRecord, c.TrimLeadingSpace = separator(first), true, true
	names, err := c.Read()
	if err != nil {
		return nil, bad("header: %w", err)
	}
	names = slices.Clone(names)
	isTarget, target, err := choose(names)
	if err != nil {
		return nil, err
	}
	h := &Head{Target: target}
	y := column{known: map[string]int32{}, many: len(target) > 1}
	for i, n := range names {
		if !isTarget[i] {
			h.Columns = append(h.Columns, n)
		}
	}
	var x []float32
	for rows := 0; ; rows++ {
		row, err := c.Read()
		if err == io.EOF {
			if rows == 0 || len(h.Columns) == 0 {
				return nil, bad("%d rows of %d inputs", rows, len(h.Columns))
			}
			break
		}
		if err != nil {
			return nil, bad("%w", err)
		}
		x, y.now.Values = x[:0], y.now.Values[:0]
		for i, cell := range row {
			line, _ := c.FieldPos(i)
			if isTarget[i] {
				err = y.add(strings.TrimSpace(cell))
			} else {
				var v float32
				if v, err = number(cell); err == nil {
					x = append(x, v)
				}
			}
			if err != nil {
				return nil, bad("line %d, column %.60q: %w", line, names[i], err)
			}
		}
		if err := give(x, y.now); err != nil {
			return nil, err
		}
	}
	y.end(h)
	return h, nil
}

// separator is the one that the first line has most of.
func separator(head []byte) rune {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	best, most := ',', 0
	for _, s := range ",;\t" {
		if n := bytes.Count(line, []byte(string(s))); n > most {
			best, most = s, n
		}
	}
	return best
}

// targets finds the target columns among the names.
func targets(names, target []string) ([]bool, []string, error) {
	if len(names) > maxColumns {
		return nil, nil, bad("%d columns, at most %d are read", len(names), maxColumns)
	}
	for i, n := range names {
		if names[i] = strings.TrimSpace(n); !utf8.ValidString(n) || len(n) > 1024 {
			return nil, nil, bad("the name of column %d is not UTF-8 or has more than 1024 bytes", i+1)
		}
		if slices.Contains(names[:i], names[i]) {
			return nil, nil, bad("two columns are called %.60q", names[i])
		}
	}
	if len(target) == 0 {
		for _, u := range usual {
			for _, n := range names {
				if len(target) == 0 && strings.EqualFold(n, u) {
					target = []string{n}
				}
			}
		}
	}
	list := strings.Join(names, ", ")
	if len(list) > 400 {
		list = list[:400] + "..."
	}
	if len(target) == 0 {
		return nil, nil, bad("which column is the target? name one of %s", list)
	}
	is := make([]bool, len(names))
	var order []string
	for _, want := range target {
		i := slices.Index(names, want)
		if i < 0 || is[i] {
			return nil, nil, bad("there is no column %.60q, or it is named twice; the columns are %s", want, list)
		}
		is[i] = true
	}
	for i, n := range names {
		if is[i] {
			order = append(order, n)
		}
	}
	return is, order, nil
}

var errEmpty = errors.New("the cell is empty")

func number(cell string) (float32, error) {
	cell = strings.TrimSpace(cell)
	if cell == "" {
		return 0, errEmpty
	}
	v, err := strconv.ParseFloat(cell, 32)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%.40q is not a number that a float32 holds", cell)
	}
	return float32(v), nil
}

// maxDistinct bounds the distinct values of a target column that are remembered, since they may
// turn out to be classes.
const maxDistinct = 1 << 17

// column finds out what targets are.
type column struct {
	many      bool // several columns: they are numbers
	texts     bool // a value is no number
	fractions bool // a value is not whole
	known     map[string]int32
	now       Target // of the current row
}

func (c *column) add(cell string) error {
	if cell == "" {
		return errEmpty
	}
	v, err := number(cell)
	c.now.Values = append(c.now.Values, v)
	if c.many {
		c.fractions = true
		return err
	}
	if err != nil {
		c.texts = true
	}
	n, werr := strconv.ParseInt(cell, 10, 32)
	c.fractions = c.fractions || err == nil && werr != nil
	c.now.Whole = int32(n) // 0 where it is none
	if werr != nil {
		c.now.Whole = 0
	}
	i, ok := c.known[cell]
	if !ok && c.known != nil {
		i = int32(len(c.known))
		c.known[strings.Clone(cell)] = i
		if len(c.known) > maxDistinct {
			c.known = nil
		}
	}
	if c.now.Cell = i; c.texts && c.known == nil {
		return bad("texts as targets, of which there are more than %d", maxDistinct)
	}
	return nil
}

// end says what they were.
func (c *column) end(h *Head) {
	switch {
	case c.texts:
		h.Kind, h.Classes, h.Order = Texts, slices.Sorted(maps.Keys(c.known)), make([]int32, len(c.known))
		for i, n := range h.Classes {
			h.Order[c.known[n]] = int32(i)
		}
	case c.fractions:
		h.Kind = Numbers
	}
}

// bound fails where a file is longer than what is read.
type bound struct {
	r    io.Reader
	left int64
}

func (b *bound) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes", data.MaxBytes)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
