// Truth values that are written as runs, as pyarrow does with data_page_version="2.0". The library
// reads runs whose length is no multiple of 8 as others than they are, so they are read here.

package parquet

import (
	"encoding/binary"
	"io"
	"math/bits"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// runs tells whether a page is of truth values as runs.
func runs(c *format.ColumnMetaData, h *format.PageHeader) bool {
	return c.Type == format.Boolean && (h.Type == format.DataPage && h.DataPageHeader.V.Encoding == format.RLE ||
		h.Type == format.DataPageV2 && h.DataPageHeaderV2.V.Encoding == format.RLE)
}

// truths are the values of a column in a group of rows that are there.
type truths struct {
	r       io.ReaderAt
	at, end int64
	codec   format.CompressionCodec
	levels  [2]int // the largest of repetitions and definitions

	buf    []byte
	thrift thrift.BytesReader
	header *thrift.Decoder

	page   []byte // what is left of it
	plain  bool   // it is bits only
	values int    // that are left in it
	count  int    // values that are left of a run
	packed bool   // of which each has a bit of its own
	bit    int    // of page[0], the next of those
	value  bool   // of the others
}

func newTruths(r io.ReaderAt, c *format.ColumnMetaData, levels [2]int) *truths {
	at, end := extent(c)
	var protocol thrift.CompactProtocol
	p := protocol.NewReaderFromBytes(nil)
	return &truths{r: r, at: at, end: end, codec: c.Codec, levels: levels, buf: make([]byte, 1<<12), thrift: p, header: thrift.NewDecoder(p)}
}

// extent is where the pages of a column begin and end.
func extent(c *format.ColumnMetaData) (at, end int64) {
	at = c.DataPageOffset
	if o := c.DictionaryPageOffset; o > 0 && o < at {
		at = o
	}
	return at, at + c.TotalCompressedSize
}

// truths are those of the columns of a group of rows that have some as runs.
func (f *File) truths(group int) map[int]*truths {
	columns := f.f.Metadata().RowGroups[group].Columns
	m := map[int]*truths{}
	for i := range f.columns {
		if c := &f.columns[i]; f.asRuns[c.leaf] && c.leaf < len(columns) {
			m[c.leaf] = newTruths(f.r, &columns[c.leaf].MetaData, c.levels)
		}
	}
	return m
}

// mend gives a row the values that its columns have.
func mend(r parquet.Row, of map[int]*truths) error {
	for i, v := range r {
		t := of[v.Column()]
		if t == nil || v.IsNull() {
			continue
		}
		x, err := t.next()
		if err != nil {
			return err
		}
		r[i] = parquet.BooleanValue(x).Level(v.RepetitionLevel(), v.DefinitionLevel(), v.Column())
	}
	return nil
}

// next is the next value.
func (t *truths) next() (bool, error) {
	for t.values == 0 {
		if err := t.open(); err != nil {
			return false, err
		}
	}
	for t.count == 0 {
		if err := t.run(); err != nil {
			return false, err
		}
	}
	t.values--
	t.count--
	if !t.packed {
		return t.value, nil
	}
	if len(t.page) == 0 {
		return false, errShort
	}
	v := t.page[0]>>t.bit&1 == 1
	if t.bit++; t.bit == 8 {
		t.page, t.bit = t.page[1:], 0
	}
	return v, nil
}

// run begins the next run.
func (t *truths) run() error {
	if t.plain {
		t.packed, t.count = true, t.values
		return nil
	}
	n, used := binary.Uvarint(t.page)
	if used <= 0 || n>>1 > maxValues || len(t.page) <= used {
		return errShort
	}
	t.page, t.count, t.packed, t.bit = t.page[used:], int(n>>1), n&1 == 1, 0
	if t.packed {
		t.count *= 8
		return nil
	}
	t.value, t.page = t.page[0]&1 == 1, t.page[1:]
	return nil
}

// open begins the next page.
func (t *truths) open() error {
	if t.at >= t.end {
		return errShort
	}
	h, used, err := header(t.r, t.at, t.end, &t.buf, t.header, t.thrift)
	if err != nil {
		return err
	}
	if int64(h.CompressedPageSize) > t.end-t.at-int64(used) {
		return errShort
	}
	page := make([]byte, h.CompressedPageSize) // as pages allows
	if _, err := t.r.ReadAt(page, t.at+int64(used)); err != nil {
		return err
	}
	t.at += int64(used) + int64(len(page))
	t.count, t.bit = 0, 0
	switch h.Type {
	case format.DataPage:
		v := h.DataPageHeader.V
		if page, err = t.unpack(page, int(h.UncompressedPageSize)); err != nil {
			return err
		}
		if t.levels[0] > 0 {
			if _, page, err = prefixed(page); err != nil {
				return err
			}
		}
		t.values = int(v.NumValues)
		if t.levels[1] > 0 {
			var defs []byte
			if defs, page, err = prefixed(page); err == nil {
				t.values, err = t.there(defs, t.values)
			}
		}
		t.plain = v.Encoding == format.Plain
	case format.DataPageV2:
		v := h.DataPageHeaderV2.V
		reps, defs := int(v.RepetitionLevelsByteLength), int(v.DefinitionLevelsByteLength)
		if reps < 0 || defs < 0 || reps+defs > len(page) {
			return errShort
		}
		if t.values, err = t.there(page[reps:reps+defs], int(v.NumValues)); err != nil {
			return err
		}
		if page = page[reps+defs:]; !v.IsCompressed.Valid || v.IsCompressed.V {
			page, err = t.unpack(page, int(h.UncompressedPageSize)-reps-defs)
		}
		t.plain = v.Encoding == format.Plain
	default:
		return nil // no values
	}
	if err == nil && !t.plain && t.values > 0 {
		page, _, err = prefixed(page)
	}
	t.page = page
	return err
}

// unpack makes the bytes that a page has been compressed from.
func (t *truths) unpack(b []byte, size int) ([]byte, error) {
	if t.codec == format.Uncompressed || size <= 0 {
		return b, nil
	}
	return parquet.LookupCompressionCodec(t.codec).Decode(make([]byte, size), b)
}

// there is how many of n values are there, by their levels of definition.
func (t *truths) there(b []byte, n int) (int, error) {
	if t.levels[1] == 0 {
		return n, nil
	}
	e := rle.Encoding{BitWidth: bits.Len(uint(t.levels[1]))}
	defs, err := e.DecodeLevels(nil, b)
	if err != nil || len(defs) < n {
		return 0, errShort
	}
	k := 0
	for _, d := range defs[:n] {
		if int(d) == t.levels[1] {
			k++
		}
	}
	return k, nil
}

// prefixed are the bytes that follow their number, and what is behind them.
func prefixed(b []byte) (part, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errShort
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if b = b[4:]; n > uint64(len(b)) {
		return nil, nil, errShort
	}
	return b[:n], b[n:], nil
}
