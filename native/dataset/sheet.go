// Tables with a header: their rows are written to a temporary file, since it is not known before the
// end how large they are and what their targets mean.

package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/csv"
	"github.com/ravnest/ravnest/engine/state"
)

// sheet is the rows of a table, with the targets in every form that they may turn out to have.
type sheet struct {
	x, values, whole, cells *spool
	rows                    int
	buf                     []byte
}

// newSheet begins files for rows like the first.
func (s *Source) newSheet(o Options, inputs, targets int) (h *sheet, err error) {
	h = &sheet{}
	for _, f := range []struct {
		to    **spool
		dtype state.DType
		shape []int
	}{{&h.x, state.F32, []int{inputs}}, {&h.values, state.F32, nil}, {&h.whole, state.I32, nil}, {&h.cells, state.I32, nil}} {
		if *f.to, err = s.spool(o, f.dtype, f.shape...); err != nil {
			return nil, err
		}
	}
	if targets > 1 {
		h.values.shape = []int{targets}
	}
	return h, nil
}

// write appends to a file.
func (h *sheet) write(sp *spool, add func(b []byte) []byte) error {
	h.buf = add(h.buf[:0])
	if _, err := sp.w.Write(h.buf); err != nil {
		return fmt.Errorf("writing what is read to a file: %w", err)
	}
	return nil
}

func appendFloats(b []byte, v []float32) []byte {
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return b
}

func (h *sheet) add(x []float32, t csv.Target) error {
	if h.rows++; h.rows > data.MaxRows {
		return fmt.Errorf("%w: more than %d rows", data.ErrInvalid, data.MaxRows)
	}
	return errors.Join(
		h.write(h.x, func(b []byte) []byte { return appendFloats(b, x) }),
		h.write(h.values, func(b []byte) []byte { return appendFloats(b, t.Values) }),
		h.write(h.whole, func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, uint32(t.Whole)) }),
		h.write(h.cells, func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, uint32(t.Cell)) }),
	)
}

// csv reads a table of numbers.
func (s *Source) csv(path string, o Options) error {
	want := csv.Want{Target: o.Target, Skip: o.Skip, Rows: s.made}
	if len(o.OneHot) > 0 {
		err := open(path, func(f *os.File, _ int64) (err error) { want.Values, err = csv.Values(f, o.OneHot); return err })
		if err != nil {
			return err
		}
	}
	var h *sheet
	var head *csv.Head
	err := open(path, func(f *os.File, _ int64) (err error) {
		head, err = csv.Each(f, want, func(x []float32, t csv.Target) (err error) {
			if h == nil {
				if h, err = s.newSheet(o, len(x), len(t.Values)); err != nil {
					return err
				}
			}
			return h.add(x, t)
		})
		return err
	})
	if err != nil {
		return err
	}
	if head.Index {
		s.Notes = append(s.Notes, "the first column, which has no name, is left out: it is where tools write the numbers of rows")
	}
	y := map[csv.Kind]*spool{csv.Whole: h.whole, csv.Numbers: h.values, csv.Texts: h.cells}[head.Kind]
	h.x.rows, y.rows, s.Classes, s.columns = h.rows, h.rows, head.Classes, head.Columns
	var raws [4]*data.Raw
	for i, sp := range []*spool{h.x, y} {
		if raws[i], err = sp.raw(); err != nil {
			return err
		}
	}
	if head.Kind == csv.Texts {
		if raws[1], err = s.renumbered(raws[1], head.Order, o); err != nil {
			return err
		}
	}
	return s.take(raws, size(raws), o.above())
}

// renumbered are numbers k as order[k].
func (s *Source) renumbered(r *data.Raw, order []int32, o Options) (*data.Raw, error) {
	sp, err := s.spool(o, state.I32)
	if err != nil {
		return nil, err
	}
	sp.rows = r.Rows
	in := io.NewSectionReader(r.R, 0, 4*int64(r.Rows))
	for buf := make([]byte, 1<<16); ; {
		n, err := in.Read(buf)
		for i := 0; i+4 <= n; i += 4 {
			binary.LittleEndian.PutUint32(buf[i:], uint32(order[binary.LittleEndian.Uint32(buf[i:])]))
		}
		if _, werr := sp.w.Write(buf[:n]); werr != nil {
			return nil, fmt.Errorf("writing what is read to a file: %w", werr)
		}
		if errors.Is(err, io.EOF) {
			return sp.raw()
		}
		if err != nil {
			return nil, err
		}
	}
}

// rowsOf reads the inputs of a table that is to be predicted: the columns that the model learned
// from or, where those are not known, as many as it takes.
func (s *Source) rowsOf(path string, b *batches, o Options) error {
	columns := o.Columns
	if columns == nil {
		err := open(path, func(f *os.File, _ int64) (err error) {
			columns, err = csv.Inputs(f, product(b.in), o.Target)
			return err
		})
		if err != nil {
			return err
		}
	}
	return open(path, func(f *os.File, _ int64) error {
		var x data.Table
		_, err := csv.Each(f, csv.Want{Inputs: columns, Rows: s.made}, func(row []float32, _ csv.Target) error {
			x.Shape, x.F32 = append(x.Shape[:0], len(row)), row
			return b.add(&x, "")
		})
		return err
	})
}
