// Tables that are too large for memory, before they are packed into shards.

package data

import (
	"bytes"
	"io"
	"math"

	"github.com/ravnest/ravnest/engine/state"
)

// Raw is a table whose elements are in a file, little-endian and of the file's type.
type Raw struct {
	Rows   int
	Shape  []int // of a row
	DType  state.DType
	R      io.ReaderAt
	Off    int64   // of the first row
	Stride int64   // from a row to the next; 0: rows are contiguous
	Pick   []int32 // the rows of R that belong to the table; nil: all, in order
}

// Raw is t, with its elements as a file would have them.
func (t *Table) Raw() *Raw {
	var b bytes.Buffer
	_ = t.write(&b) // memory takes all
	r := &Raw{Rows: t.Rows, Shape: t.Shape, R: bytes.NewReader(b.Bytes()), DType: state.F32}
	switch {
	case t.U8 != nil:
		r.DType = state.U8
	case t.U16 != nil:
		r.DType = state.U16
	case t.I32 != nil:
		r.DType = state.I32
	}
	return r
}

// elems returns the number of elements of a row.
func (r *Raw) elems() int { return product(r.Shape) }

// rowBytes returns the size of a row in R.
func (r *Raw) rowBytes() int { return r.elems() * r.DType.Size() }

// at returns the offset of row i.
func (r *Raw) at(i int) int64 {
	if r.Pick != nil {
		i = int(r.Pick[i])
	}
	stride := r.Stride
	if stride == 0 {
		stride = int64(r.rowBytes())
	}
	return r.Off + int64(i)*stride
}

// Check validates the shape, so that no product overflows.
func (r *Raw) Check(k Kind) error {
	t := &Table{Kind: k, Rows: min(r.Rows, 1), Shape: r.Shape}
	if err := t.checkShape(); err != nil {
		return err
	}
	if r.Rows < 0 || r.Rows > MaxRows || r.rowBytes() > MaxShard {
		return bad("%v: %d rows (at most %d) of %v, which are %d bytes each (at most %d)", k, r.Rows, MaxRows, r.Shape, r.rowBytes(), MaxShard)
	}
	return nil
}

// read fills dst with rows, which ascend. Contiguous rows are read at once.
func (r *Raw) read(dst []byte, rows []int32) error {
	n := r.rowBytes()
	for i := 0; i < len(rows); {
		from, k := r.at(int(rows[i])), 1
		for i+k < len(rows) && r.at(int(rows[i+k])) == from+int64(k*n) {
			k++
		}
		if _, err := r.R.ReadAt(dst[i*n:][:k*n], from); err != nil {
			return bad("row %d: %w", rows[i], err)
		}
		i += k
	}
	return nil
}

// Stats is what a pass over a table finds, for the checks that concern every element.
type Stats struct {
	Float bool `json:"float,omitempty"` // the file's type is a floating one
	// Least and Most of the elements. Integers that are NoClass are left out and counted in None.
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
	None   bool    `json:"none,omitempty"`
	Bytes  bool    `json:"bytes,omitempty"`  // all are integers of 0..255, none is -0
	Whole  bool    `json:"whole,omitempty"`  // all are integers
	OneHot bool    `json:"onehot,omitempty"` // the last axis is one-hot everywhere
	// From and To are the minima and maxima of each element of a row, if there are few enough of
	// them; From is -1 for those that are not always whole numbers.
	From []float64 `json:"from,omitempty"`
	To   []float64 `json:"to,omitempty"`
}

// maxColumns is the largest number of elements in a row for which Stats has From and To.
const maxColumns = 1 << 14

// Survey reads all of r once. done, unless nil, is called with the number of rows read so far and
// stops it by returning an error.
func (r *Raw) Survey(k Kind, done func(rows int) error) (*Stats, error) {
	if err := r.Check(k); err != nil {
		return nil, err
	}
	n := r.elems()
	s := &Stats{Float: r.DType.Float(), Least: math.Inf(1), Most: math.Inf(-1), Bytes: true, Whole: true, OneHot: len(r.Shape) > 0 && r.Shape[len(r.Shape)-1] > 1}
	if n <= maxColumns {
		s.From, s.To = make([]float64, n), make([]float64, n)
		for i := range n {
			s.From[i], s.To[i] = math.Inf(1), math.Inf(-1)
		}
	}
	hot := &oneHot{last: 1}
	if len(r.Shape) > 0 {
		hot.last = r.Shape[len(r.Shape)-1]
	}
	per := max(1, min(1<<20/max(r.rowBytes(), 1), r.Rows))
	buf, rows := make([]byte, per*r.rowBytes()), make([]int32, per)
	var piece state.Tensor
	for row := 0; row < r.Rows; row += per {
		m := min(per, r.Rows-row)
		for i := range m {
			rows[i] = int32(row + i)
		}
		b := buf[:m*r.rowBytes()]
		if err := r.read(b, rows[:m]); err != nil {
			return nil, err
		}
		if r.DType == state.U8 && n > 1 {
			s.takeBytes(b, n, hot)
			if done != nil {
				if err := done(row + m); err != nil {
					return nil, err
				}
			}
			continue
		}
		piece.F32, piece.I64 = piece.F32[:0], piece.I64[:0]
		if err := piece.DecodeChecked(r.DType, b); err != nil {
			return nil, bad("row %d: %w", row, err)
		}
		if err := s.take(&piece, row, n, hot); err != nil {
			return nil, err
		}
		if done != nil {
			if err := done(row + m); err != nil {
				return nil, err
			}
		}
	}
	if s.OneHot = s.OneHot && hot.yes(); r.Rows == 0 || math.IsInf(s.Least, 0) {
		s.Least, s.Most, s.From, s.To, s.OneHot = 0, 0, nil, nil, false
	}
	for i, v := range s.From {
		if math.IsInf(v, 0) { // NoClass only
			s.From[i], s.To[i] = 0, 0
		}
	}
	return s, nil
}

// oneHot checks whether each vector of last elements has one 1 and otherwise zeros.
type oneHot struct {
	last, at, ones int
	no             bool
}

func (o *oneHot) add(v float64) {
	if v == 1 {
		o.ones++
	} else if v != 0 {
		o.no = true
	}
	if o.at++; o.at == o.last {
		o.no = o.no || o.ones != 1
		o.at, o.ones = 0, 0
	}
}

func (o *oneHot) yes() bool { return !o.no && o.at == 0 }

// takeBytes is take for bytes, the most common type.
func (s *Stats) takeBytes(b []byte, n int, hot *oneHot) {
	if s.From == nil {
		for _, v := range b {
			s.Least, s.Most = min(s.Least, float64(v)), max(s.Most, float64(v))
		}
	}
	for i := range s.From {
		lo, hi := uint8(255), uint8(0)
		for at := i; at < len(b); at += n {
			lo, hi = min(lo, b[at]), max(hi, b[at])
		}
		s.From[i], s.To[i] = min(s.From[i], float64(lo)), max(s.To[i], float64(hi))
		s.Least, s.Most = min(s.Least, s.From[i]), max(s.Most, s.To[i])
	}
	if s.OneHot {
		for _, v := range b {
			if hot.no {
				return
			}
			hot.add(float64(v))
		}
	}
}

// take adds decoded elements, the first of which begins a row.
func (s *Stats) take(p *state.Tensor, row, n int, hot *oneHot) error {
	add := func(i int, v float64) {
		s.Least, s.Most = min(s.Least, v), max(s.Most, v)
		whole := v == math.Trunc(v)
		s.Whole = s.Whole && whole
		if s.From != nil {
			c := i % n
			if s.From[c], s.To[c] = min(s.From[c], v), max(s.To[c], v); !whole {
				s.From[c] = -1
			}
		}
		if s.OneHot && !hot.no {
			hot.add(v)
		}
	}
	for i, v := range p.F32 {
		if v-v != 0 {
			return bad("row %d: %v is not finite", row+i/n, v)
		}
		if s.Bytes && (v < 0 || v > 255 || math.Float32bits(float32(uint8(v))) != math.Float32bits(v)) {
			s.Bytes = false
		}
		add(i, float64(v))
	}
	for i, v := range p.I64 {
		if v < -exact || v > exact {
			return bad("row %d holds %d, integers must lie in -%d..%d", row+i/n, v, exact, exact)
		}
		s.Bytes = s.Bytes && v >= 0 && v <= 255
		if v == NoClass {
			s.None = true
			if s.OneHot {
				hot.no = true
			}
			continue
		}
		add(i, float64(v))
	}
	return nil
}

// dtype is the smallest type that holds the elements so that Gather gives the same bits.
func (s *Stats) dtype() byte {
	switch {
	case s.Bytes:
		return typeU8
	case s.Float:
		return typeF32
	case s.Least >= 0 && s.Most <= math.MaxUint16 && !s.None:
		return typeU16
	}
	return typeI32
}

// table returns rows of r, which ascend, as a table of a type that can hold them.
func (r *Raw) table(k Kind, dtype byte, rows []int32, buf []byte) (*Table, error) {
	if err := r.read(buf, rows); err != nil {
		return nil, err
	}
	t := &Table{Kind: k, Rows: len(rows), Shape: r.Shape}
	if dtype == typeU8 && r.DType == state.U8 {
		t.U8 = buf
		return t, nil
	}
	var piece state.Tensor
	if err := piece.DecodeChecked(r.DType, buf); err != nil {
		return nil, bad("row %d: %w", rows[0], err)
	}
	switch n := len(piece.F32) + len(piece.I64); dtype {
	case typeU8:
		t.U8 = make([]uint8, 0, n)
		for _, v := range piece.F32 {
			t.U8 = append(t.U8, uint8(v))
		}
		for _, v := range piece.I64 {
			t.U8 = append(t.U8, uint8(v))
		}
	case typeU16:
		t.U16 = make([]uint16, 0, n)
		for _, v := range piece.I64 {
			t.U16 = append(t.U16, uint16(v))
		}
	case typeI32:
		t.I32 = make([]int32, 0, n)
		for _, v := range piece.I64 {
			t.I32 = append(t.I32, int32(v))
		}
	default:
		t.F32 = piece.F32
	}
	return t, nil
}

// checkTokens is Table.CheckTokens, by the statistics from packing.
func (ix *Index) checkTokens(n, from, to int) error {
	s := ix.stats
	if s == nil || ix.Layout.Rows == 0 {
		return nil
	}
	if s.From == nil {
		if s.None || !s.Whole || s.Least < 0 || s.Most >= float64(n) {
			return bad("%v: numbers from %v to %v, but tokens are 0 to %d", ix.Kind, s.Least, s.Most, n-1)
		}
		return nil
	}
	for c := from; c < min(to, len(s.From)); c++ {
		if s.From[c] < 0 || s.To[c] >= float64(n) || s.None {
			return bad("%v: element %d of a row is up to %v, or not a whole number, but tokens are 0 to %d", ix.Kind, c, s.To[c], n-1)
		}
	}
	return nil
}
