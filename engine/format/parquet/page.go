// What the pages of a file say of themselves. The library makes room for as much as they say, so
// it is looked at before.

package parquet

import (
	"io"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// Limits of a page.
const (
	maxPage   = 1 << 28 // bytes, compressed and not
	maxValues = 1 << 25
	maxPages  = 1 << 20 // of a file
)

// pages checks the headers of all pages, and finds the columns in which some are of runs of truth values.
func pages(r io.ReaderAt, size int64, m *format.FileMetaData) (asRuns map[int]bool, err error) {
	asRuns = map[int]bool{}
	var protocol thrift.CompactProtocol
	p := protocol.NewReaderFromBytes(nil)
	d := thrift.NewDecoder(p)
	buf := make([]byte, 1<<16)
	n := 0
	for _, g := range m.RowGroups {
		for k, c := range g.Columns {
			at, end := extent(&c.MetaData)
			if at < 0 || c.MetaData.TotalCompressedSize < 0 || at > size || c.MetaData.TotalCompressedSize > size-at {
				return nil, bad("a column of %d bytes at %d, the file has %d", c.MetaData.TotalCompressedSize, at, size)
			}
			values := int64(0)
			for ; at < end; n++ {
				if n > maxPages {
					return nil, bad("more than %d pages", maxPages)
				}
				h, used, err := header(r, at, end, &buf, d, p)
				if err != nil {
					return nil, bad("page %d: %w", n, err)
				}
				asRuns[k] = asRuns[k] || runs(&c.MetaData, &h)
				count := int64(max(h.DataPageHeader.V.NumValues, h.DataPageHeaderV2.V.NumValues, h.DictionaryPageHeader.V.NumValues))
				if h.CompressedPageSize < 0 || h.CompressedPageSize > maxPage || h.UncompressedPageSize < 0 || h.UncompressedPageSize > maxPage || count > maxValues {
					return nil, bad("page %d has %d bytes, %d uncompressed, and %d values; at most %d bytes and %d values are read", n, h.CompressedPageSize, h.UncompressedPageSize, count, maxPage, maxValues)
				}
				if values += count; values > 2*maxRows {
					return nil, bad("a column of more than %d values", 2*maxRows)
				}
				at += int64(used) + int64(h.CompressedPageSize)
			}
		}
	}
	return asRuns, nil
}

// header reads the header of the page at a place. Statistics may make it large.
func header(r io.ReaderAt, at, end int64, buf *[]byte, d *thrift.Decoder, p thrift.BytesReader) (h format.PageHeader, used int, err error) {
	for try := 0; ; try++ {
		b := (*buf)[:min(int64(len(*buf)), end-at)]
		if _, err := r.ReadAt(b, at); err != nil {
			return h, 0, err
		}
		if err = checkThrift(b); err == nil {
			p.ResetBytes(b)
			h = format.PageHeader{}
			if err = d.Decode(&h); err == nil {
				return h, p.BytesRead(), nil
			}
		}
		if try > 0 || int64(len(b)) == end-at {
			return h, 0, err
		}
		*buf = make([]byte, 1<<24)
	}
}
