// Package csv reads tables of numbers as spreadsheets and data tools write them: a header of
// names, then a row a line, separated by commas, semicolons, tabs or bars.
package csv

import (
	"errors"
	"fmt"
	"io"
	"maps"
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

// Limits of a file.
const (
	maxColumns = 1 << 16
	maxWidth   = 1 << 22 // inputs of a row
)

// usual are names of a target column, for files whose target is not named.
var usual = []string{"target", "label", "class", "y"}

// Want says which columns count.
type Want struct {
	// Target names the targets; none: one called target, label, class or y.
	Target []string
	// Skip names columns that are neither inputs nor targets.
	Skip []string
	// Values are the texts of columns that hold texts: each is an input, 1 in the rows that hold it.
	Values map[string][]string
	// Inputs are the inputs in the order of a row. All other columns are left out, and there are no
	// targets.
	Inputs []data.Column
	// Rows tells that errors say the number of a row, from 1, rather than its line: the table was
	// made of something else.
	Rows bool
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
	Columns []data.Column // of the inputs
	Target  []string
	Kind    Kind
	Classes []string // of Texts, sorted
	Order   []int32  // of Texts: the number of the class for each Target.Cell
	// Index tells that the first column, which has no name, was left out: tools write the numbers of
	// the rows there.
	Index bool
}

// Each reads a file and calls give with the inputs and targets of each row, which it must not keep.
// Inputs are numbers, or true and false, which are 1 and 0. One target column may hold whole
// numbers (classes, counted from 0), other numbers, or texts, which become the numbers of classes in
// the order of their sorting. A cell that is empty or no number is an error that names line and
// column.
func Each(r io.Reader, want Want, give func(x []float32, t Target) error) (*Head, error) {
	c, names, err := open(r, false)
	if err != nil {
		return nil, err
	}
	if err := checkNames(names); err != nil {
		return nil, err
	}
	h := &Head{}
	cells, err := h.choose(names, want)
	if err != nil {
		return nil, err
	}
	width := 0
	for _, in := range h.Columns {
		if width += in.Width(); width > maxWidth {
			return nil, bad("rows of more than %d inputs", maxWidth)
		}
	}
	y, x := column{known: map[string]int32{}, many: len(h.Target) > 1}, make([]float32, width)
	rows := 0
	place := func(column int) string {
		if want.Rows {
			return fmt.Sprintf("row %d", rows+1)
		}
		line, _ := c.FieldPos(column)
		return fmt.Sprintf("line %d", line)
	}
	for ; ; rows++ {
		row, err := c.Read()
		if err == io.EOF {
			if rows == 0 || width == 0 {
				return nil, bad("%d rows of %d inputs", rows, width)
			}
			break
		}
		if err != nil {
			return nil, bad("%w", err)
		}
		y.now.Values = y.now.Values[:0]
		for i, cell := range row {
			err := error(nil)
			switch to := &cells[i]; to.role {
			case target:
				if err = y.add(strings.TrimSpace(cell)); y.odd != "" && y.at == "" {
					y.at = place(i)
				}
			case input:
				err = to.take(x, strings.TrimSpace(cell))
			}
			if err != nil {
				return nil, bad("%s, column %.60q: %w", place(i), names[i], err)
			}
		}
		if err := give(x, y.now); err != nil {
			return nil, err
		}
	}
	if y.odd != "" && !y.words {
		return nil, bad("%s, column %.60q: %.40q is not finite: the targets are numbers, remove the rows without one", y.at, h.Target[0], y.odd)
	}
	y.end(h)
	return h, nil
}

// role is what a column is for.
type role uint8

const (
	unused role = iota
	input
	target
)

// cell says what the cells of a column become.
type cell struct {
	role
	at     int            // of an input: its place in a row
	values map[string]int // of a column of texts
	name   string
}

// take puts an input into a row.
func (c *cell) take(x []float32, text string) error {
	if c.values == nil {
		v, err := number(text)
		switch {
		case text == "True" || text == "true" || text == "TRUE":
			v, err = 1, nil
		case text == "False" || text == "false" || text == "FALSE":
			v, err = 0, nil
		case Infinite(text):
			err = fmt.Errorf("%.40q is not finite, or too great for a float32: scale the column, remove the row, or leave the column out (--skip %s)", text, c.name)
		case errors.Is(err, errText):
			err = fmt.Errorf("%w: --one-hot %s makes an input of each of its texts, --skip %[2]s leaves the column out", err, c.name)
		}
		x[c.at] = v
		return err
	}
	k, ok := c.values[text]
	if !ok {
		return fmt.Errorf("%.40q is none of the %d texts that the data to learn from had", text, len(c.values))
	}
	clear(x[c.at:][:len(c.values)])
	x[c.at+k] = 1
	return nil
}

// choose says what the columns are for.
func (h *Head) choose(names []string, want Want) ([]cell, error) {
	cells := make([]cell, len(names))
	for i, n := range names {
		cells[i] = cell{role: input, name: n}
	}
	if want.Inputs != nil {
		for i := range cells {
			cells[i].role = unused
		}
		h.Columns = want.Inputs
	} else {
		if h.Index = names[0] == "" && len(names) > 1; h.Index {
			cells[0].role = unused
		}
		for _, n := range slices.Concat(want.Skip, slices.Collect(maps.Keys(want.Values))) {
			if !slices.Contains(names, n) {
				return nil, noColumn(n, names)
			}
		}
		is, order, err := targets(names, want)
		if err != nil {
			return nil, err
		}
		h.Target = order
		for i, n := range names {
			switch {
			case is[i]:
				cells[i].role = target
			case slices.Contains(want.Skip, n):
				cells[i].role = unused
			case cells[i].role == input:
				h.Columns = append(h.Columns, data.Column{Name: n, Values: want.Values[n]})
			}
		}
	}
	at := 0
	for _, in := range h.Columns {
		i := slices.Index(names, in.Name)
		if i < 0 {
			return nil, noColumn(in.Name, names)
		}
		c := &cells[i]
		if c.role, c.at = input, at; in.Values != nil {
			c.values = map[string]int{}
			for k, v := range in.Values {
				c.values[v] = k
			}
		}
		at += in.Width()
	}
	return cells, nil
}

// Inputs are the columns of a file that holds rows of n inputs, which may have targets beside
// them: those that Want.Target names or, where there are more than n, the one that Each would take.
func Inputs(r io.Reader, n int, target []string) ([]data.Column, error) {
	_, names, err := open(r, false)
	if err == nil {
		err = checkNames(names)
	}
	if err != nil {
		return nil, err
	}
	if names[0] == "" && len(names) > 1 {
		names = names[1:]
	}
	is := make([]bool, len(names))
	if len(names) != n || len(target) > 0 {
		if is, _, err = targets(names, Want{Target: target}); err != nil {
			return nil, err
		}
	}
	var cs []data.Column
	for i, n := range names {
		if !is[i] {
			cs = append(cs, data.Column{Name: n})
		}
	}
	return cs, nil
}

// maxValues bounds the different texts of a column.
const maxValues = 1 << 12

// Values lists the different texts of columns, sorted.
func Values(r io.Reader, columns []string) (map[string][]string, error) {
	c, names, err := open(r, false) // as Each reads them
	if err != nil {
		return nil, err
	}
	seen := make([]map[string]bool, len(columns))
	for i := range seen {
		seen[i] = map[string]bool{}
	}
	err = c.cells(names, columns, func(line int, cells []string) error {
		for i, c := range cells {
			if c = strings.TrimSpace(c); seen[i][c] {
				continue
			}
			if len(seen[i]) == maxValues || len(c) > 1<<12 {
				return bad("line %d, column %.60q: an input for each of more than %d texts, or of one of %d bytes: leave the column out", line, columns[i], maxValues, len(c))
			}
			seen[i][strings.Clone(c)] = true
		}
		return nil
	})
	m := map[string][]string{}
	for i, n := range columns {
		m[n] = slices.Sorted(maps.Keys(seen[i]))
	}
	return m, err
}

// separator is the one that the first line has most of outside of quotes.
func separator(head []byte) rune {
	var count [utf8.RuneSelf]int
	quoted := false
	for _, b := range head {
		if b == '"' {
			quoted = !quoted
		}
		if quoted || b >= utf8.RuneSelf {
			continue
		}
		if b == '\n' {
			break
		}
		count[b]++
	}
	best := ','
	for _, s := range ";\t|" {
		if count[s] > count[best] {
			best = s
		}
	}
	return best
}

// checkNames checks the names of columns.
func checkNames(names []string) error {
	if len(names) > maxColumns {
		return bad("%d columns, at most %d are read", len(names), maxColumns)
	}
	seen := map[string]bool{}
	for i, n := range names {
		switch {
		case !utf8.ValidString(n) || len(n) > 1024:
			return bad("the name of column %d is not UTF-8 or has more than 1024 bytes: save the file as UTF-8", i+1)
		case n == "" && i > 0:
			return bad("column %d has no name", i+1)
		case seen[n]:
			return twice(n)
		}
		seen[n] = true
	}
	return nil
}

func twice(name string) error { return bad("two columns are called %.60q", name) }

func noColumn(name string, names []string) error {
	return bad("there is no column %.60q; the columns are %s", name, list(names))
}

func list(names []string) string {
	s := strings.Join(names, ", ")
	if len(s) > 400 {
		s = s[:400] + "..."
	}
	return s
}

// targets finds the target columns among the names.
func targets(names []string, want Want) (is []bool, order []string, err error) {
	target := want.Target
	for _, u := range usual {
		for _, n := range names {
			if len(target) == 0 && strings.EqualFold(n, u) && !slices.Contains(want.Skip, n) {
				target = []string{n}
			}
		}
	}
	if len(target) == 0 {
		hint := ""
		if slices.ContainsFunc(names, func(n string) bool { _, err := number(n); return err == nil }) {
			hint = "; the first line should name the columns"
		}
		return nil, nil, bad("which column is the target? name one of %s%s", list(names), hint)
	}
	is = make([]bool, len(names))
	for _, n := range target {
		i := slices.Index(names, n)
		if i < 0 {
			return nil, nil, noColumn(n, names)
		}
		if is[i] || slices.Contains(want.Skip, n) {
			return nil, nil, bad("the target %.60q is named twice, or is left out", n)
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

var (
	errEmpty = errors.New("the cell is empty: fill it, or remove the row or the column")
	errText  = errors.New("is not a number that a float32 holds")
)

func number(cell string) (float32, error) {
	if cell == "" {
		return 0, errEmpty
	}
	v, err := strconv.ParseFloat(cell, 32)
	switch {
	case err == nil && v-v == 0:
		return float32(v), nil
	case decimal(cell):
		return 0, fmt.Errorf("%.40q has a comma: write numbers with a point and without marks of thousands, like 1234.5", cell)
	}
	return 0, fmt.Errorf("%.40q %w", cell, errText)
}

// Infinite tells whether a cell is a number, but none that a float32 holds: 1e40, inf, or NaN.
func Infinite(cell string) bool {
	v, err := strconv.ParseFloat(cell, 32)
	return v-v != 0 && (err == nil || errors.Is(err, strconv.ErrRange))
}

// decimal tells whether a cell would be a number but for its commas.
func decimal(cell string) bool {
	_, err := strconv.ParseFloat(strings.ReplaceAll(cell, ",", ""), 32)
	return err == nil && strings.Contains(cell, ",")
}

// maxDistinct bounds the distinct values of a target column that are remembered, since they may
// turn out to be classes.
const maxDistinct = 1 << 17

// exact is the greatest magnitude up to which every whole number is a float32. What is beyond is no
// number of a class.
const exact = 1 << 24

// column finds out what targets are.
type column struct {
	many      bool // several columns: they are numbers
	texts     bool // a value is no number that a float32 holds
	words     bool // a value is no number at all
	fractions bool // a value is not whole
	known     map[string]int32
	now       Target // of the current row
	odd       string // the first value that is infinite, too large, or NaN
	at        string // its place
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
		odd := Infinite(cell)
		if c.texts, c.words = true, c.words || !odd; odd && c.odd == "" {
			c.odd = strings.Clone(cell)
		}
	}
	n, werr := strconv.ParseInt(cell, 10, 32)
	c.fractions = c.fractions || err == nil && (werr != nil || n < -exact || n > exact)
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
