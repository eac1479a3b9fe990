// Tables of texts.

package csv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds on texts and rows in bytes. A quote that is not closed makes a row of all that follows.
const (
	maxCell = 1 << 24
	maxRow  = 1 << 26
)

// reader reads rows.
type reader struct {
	*csv.Reader
	in   *bounded
	rows int // with that of the names
}

// Read reads a row, which is the reader's until the next.
func (r *reader) Read() ([]string, error) {
	r.in.left = maxRow
	row, err := r.Reader.Read()
	r.rows++
	var at *csv.ParseError
	switch {
	case errors.Is(err, errLong):
		err = fmt.Errorf("row %d has %w", r.rows-1, err)
	case errors.Is(err, csv.ErrFieldCount) && errors.As(err, &at):
		err = fmt.Errorf("line %d: the columns are %d, the cells %d: a cell that holds a separator needs quotes", at.StartLine, r.FieldsPerRecord, len(row))
	}
	return row, err
}

var errLong = fmt.Errorf("more than %d bytes: is a quote not closed?", maxRow)

// bounded reads so many bytes at most.
type bounded struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// Header is the names of the columns at the beginning of a file.
func Header(r io.Reader) ([]string, error) {
	_, names, err := open(r, true)
	return names, err
}

// open reads the header. Cells of texts are taken as they are written, those of numbers without
// spaces around them.
func open(r io.Reader, texts bool) (*reader, []string, error) {
	in := &bounded{r, maxRow}
	b := bufio.NewReaderSize(in, 1<<16)
	lead, _ := b.Peek(1 << 12)
	if bytes.HasPrefix(lead, []byte("\xef\xbb\xbf")) {
		_, _ = b.Discard(3)
		lead = lead[3:]
	}
	switch {
	case len(lead) == 0:
		return nil, nil, bad("it is empty")
	case bytes.HasPrefix(lead, []byte("\xff\xfe")) || bytes.HasPrefix(lead, []byte("\xfe\xff")) || bytes.IndexByte(lead, 0) >= 0:
		return nil, nil, bad("it is UTF-16, or no text: save it as UTF-8")
	case bytes.IndexByte(lead, '\n') < 0 && bytes.IndexByte(lead, '\r') >= 0:
		return nil, nil, bad("its lines end in CR alone: save it with LF or CRLF")
	}
	c := &reader{Reader: csv.NewReader(b), in: in}
	c.Comma, c.ReuseRecord, c.LazyQuotes = separator(lead), true, texts
	c.TrimLeadingSpace = !texts && c.Comma != '\t' // or empty cells would vanish
	row, err := c.Read()
	if err != nil {
		return nil, nil, bad("header: %w", err)
	}
	names := slices.Clone(row)
	if len(names) > maxColumns {
		return nil, nil, bad("%d columns, at most %d are read", len(names), maxColumns)
	}
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
	}
	return c, names, nil
}

// Cells gives the cells of the named columns, row by row, as they are written. line is where a
// row begins. The cells are the callee's until it returns.
func Cells(r io.Reader, columns []string, give func(line int, cells []string) error) error {
	c, names, err := open(r, true)
	if err != nil {
		return err
	}
	return c.cells(names, columns, give)
}

func (r *reader) cells(names, columns []string, give func(line int, cells []string) error) error {
	at, cells := make([]int, len(columns)), make([]string, len(columns))
	for i, n := range columns {
		if at[i] = slices.Index(names, n); at[i] < 0 {
			return noColumn(n, names)
		}
		if slices.Contains(names[at[i]+1:], n) {
			return twice(n)
		}
	}
	for {
		row, err := r.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return bad("%w", err)
		}
		line, _ := r.FieldPos(0)
		for i, k := range at {
			if cells[i] = row[k]; len(cells[i]) > maxCell {
				return bad("line %d, column %.60q: a text of %d bytes, at most %d are read", line, columns[i], len(cells[i]), maxCell)
			}
		}
		if err := give(line, cells); err != nil {
			return err
		}
	}
}
