// Columns of texts.

package parquet

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go"
)

// maxText is the bytes of a text at most.
const maxText = 1 << 24

// Names are those of the columns at the top.
func Names(r io.ReaderAt, size int64) (names []string, err error) {
	defer safely(&err)
	f, err := opened(r, size)
	if err != nil {
		return nil, err
	}
	return f.topNames(), nil
}

// opened reads the schema.
func opened(r io.ReaderAt, size int64) (*File, error) {
	if err := checkFooter(r, size); err != nil {
		return nil, err
	}
	p, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, bad("%w", err)
	}
	f := &File{f: p, r: r, image: -1}
	if n := p.NumRows(); n < 0 || n > maxRows {
		return nil, bad("%d rows, at most %d are read", n, maxRows)
	}
	for _, g := range p.Metadata().RowGroups {
		for _, c := range g.Columns {
			if c.MetaData.TotalUncompressedSize < 0 || c.MetaData.TotalUncompressedSize > maxChunk {
				return nil, bad("a column of %d bytes in a group of rows, at most %d are read", c.MetaData.TotalUncompressedSize, maxChunk)
			}
		}
	}
	if f.asRuns, err = pages(r, size, p.Metadata()); err != nil {
		return nil, err
	}
	return f, f.leaves()
}

// Texts gives what the named columns hold, texts as they are and numbers written out, row by
// row, counted from 0.
func Texts(r io.ReaderAt, size int64, columns []string, give func(row int, cells []string) error) (err error) {
	defer safely(&err)
	f, err := opened(r, size)
	if err != nil {
		return err
	}
	rank := make([]int, len(f.columns))
	for i, c := range f.columns {
		if rank[i] = slices.Index(columns, c.name); rank[i] >= 0 && c.list {
			return bad("column %.60q holds lists, not texts", c.name)
		}
	}
	for k, n := range columns {
		if own := count(rank, k); own != 1 {
			names, _ := Names(r, size)
			return bad("no column %.60q, or it is no text; there are %.400q", n, names)
		}
	}
	row, cells := 0, make([]string, len(columns))
	return f.each(func(values parquet.Row) error {
		for _, v := range values {
			i := v.Column()
			if i < 0 || i >= len(rank) || rank[i] < 0 {
				continue
			}
			text, err := f.columns[i].written(v)
			if err != nil {
				return bad("row %d, column %.60q: %w", row, f.columns[i].name, err)
			}
			cells[rank[i]] = text
		}
		row++
		return give(row-1, cells)
	})
}

func count(in []int, k int) (n int) {
	for _, v := range in {
		if v == k {
			n++
		}
	}
	return n
}

// written is a value as a text.
func (c *column) written(v parquet.Value) (string, error) {
	switch {
	case v.IsNull():
		return "", errors.New("it holds nothing")
	case c.form == moment:
		return "", errors.New("it holds dates or times, which are no texts")
	case c.text() && len(v.ByteArray()) > maxText:
		return "", bad("a text of %d bytes, at most %d are read", len(v.ByteArray()), maxText)
	case c.text():
		return string(v.ByteArray()), nil
	}
	x, err := number(c, v)
	if err != nil {
		return "", err
	}
	switch whole := c.form == plain; {
	case whole && c.kind == parquet.Int32:
		return strconv.FormatInt(int64(v.Int32()), 10), nil
	case whole && c.kind == parquet.Int64:
		return strconv.FormatInt(v.Int64(), 10), nil
	case c.form == unsigned && c.kind == parquet.Int32:
		return strconv.FormatUint(uint64(uint32(v.Int32())), 10), nil
	case c.form == unsigned && c.kind == parquet.Int64:
		return strconv.FormatUint(uint64(v.Int64()), 10), nil
	}
	return strconv.FormatFloat(x, 'g', -1, 64), nil
}

// Values lists the different texts of columns, sorted.
func Values(r io.ReaderAt, size int64, columns []string, most int) (map[string][]string, error) {
	seen := make([]map[string]bool, len(columns))
	for i := range seen {
		seen[i] = map[string]bool{}
	}
	err := Texts(r, size, columns, func(row int, cells []string) error {
		for i, c := range cells {
			if seen[i][c] = true; len(seen[i]) > most {
				return bad("row %d, column %.60q: more than %d different texts, each of which would be an input: leave the column out", row, columns[i], most)
			}
		}
		return nil
	})
	m := map[string][]string{}
	for i, n := range columns {
		m[n] = slices.Sorted(maps.Keys(seen[i]))
	}
	return m, err
}
