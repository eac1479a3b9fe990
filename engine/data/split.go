// Making a data set of rows that come as one: a part of them is kept for validation.

package data

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/kernel"
)

// SplitRows chooses a share of n rows for validation by the seed, at least one unless share is 0.
// The others are for training. Both lists ascend; val is empty if share is 0.
func SplitRows(n int, share float64, seed uint64) (val, train []int32, err error) {
	if !(share >= 0 && share < 1) {
		return nil, nil, bad("a share of %v for validation, want 0 or more and less than 1", share)
	}
	k := int(math.Round(share * float64(n)))
	if share > 0 {
		k = min(max(k, 1), n-1)
	}
	if k <= 0 {
		return nil, nil, nil
	}
	rows := make([]int32, n)
	kernel.Perm(rows, kernel.NewStream(seed, kernel.DomainShuffle, 0, 1)) // epochs draw from stream 0
	val, train = rows[:k], rows[k:]
	slices.Sort(val)
	slices.Sort(train)
	return val, train, nil
}

// Split splits the rows of inputs and targets as SplitRows does. Both parts keep the order.
func Split(x, y *Table, share float64, seed uint64) ([4]*Table, error) {
	if x.Rows != y.Rows {
		return [4]*Table{}, bad("%d rows of inputs, but %d of targets", x.Rows, y.Rows)
	}
	val, train, err := SplitRows(x.Rows, share, seed)
	if err != nil || len(val) == 0 {
		return [4]*Table{x, y, nil, nil}, err
	}
	return [4]*Table{x.pick(train), y.pick(train), x.pick(val), y.pick(val)}, nil
}

// pick copies rows to a table of their own.
func (t *Table) pick(rows []int32) *Table {
	p := &Table{Kind: t.Kind, Rows: len(rows), Shape: t.Shape, Classes: t.Classes}
	n := t.stored()
	switch {
	case t.U8 != nil:
		p.U8 = picked(t.U8, rows, n)
	case t.U16 != nil:
		p.U16 = picked(t.U16, rows, n)
	case t.F32 != nil:
		p.F32 = picked(t.F32, rows, n)
	default:
		p.I32 = picked(t.I32, rows, n)
	}
	return p
}

func picked[T any](v []T, rows []int32, n int) []T {
	p := make([]T, 0, len(rows)*n)
	for _, r := range rows {
		p = append(p, v[int(r)*n:][:n]...)
	}
	return p
}

// WriteSafetensors writes the set in the form that ReadSafetensors reads with the same want. Rows
// keep the type in which they are held: bytes stay bytes. The numbers of classes are integers.
func (s *Set) WriteSafetensors(w io.Writer, want *Want) error {
	// The widest elements first, so that all lie aligned.
	xs := s.tensors(want)
	slices.SortStableFunc(xs, func(a, b tensor) int { return b.t.width() - a.t.width() })
	head, at := "{", 0
	for k, x := range xs {
		t, dtype := x.t, "U8"
		switch {
		case t.F32 != nil:
			dtype = "F32"
		case t.I32 != nil:
			dtype = "I32"
		case t.U16 != nil:
			dtype = "U16"
		}
		if k > 0 {
			head += ","
		}
		head += fmt.Sprintf(`%q:{"dtype":%q,"shape":[%d`, x.key, dtype, t.Rows)
		for _, d := range x.shape {
			head += fmt.Sprintf(",%d", d)
		}
		head += fmt.Sprintf(`],"data_offsets":[%d,%d]}`, at, at+x.bytes())
		at += x.bytes()
	}
	head += "}"
	for len(head)%8 != 0 {
		head += " "
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)); err != nil {
		return err
	}
	for _, x := range xs {
		if err := x.write(w); err != nil {
			return err
		}
	}
	return nil
}

// width is the bytes of an element.
func (t *Table) width() int {
	switch {
	case t.U8 != nil:
		return 1
	case t.U16 != nil:
		return 2
	}
	return 4
}

// write writes the elements in little-endian order.
func (t *Table) write(w io.Writer) error {
	if t.U8 != nil {
		_, err := w.Write(t.U8)
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for _, v := range t.U16 {
		if buf = binary.LittleEndian.AppendUint16(buf, v); len(buf) == cap(buf) {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	for i := range len(t.F32) + len(t.I32) {
		v := uint32(0)
		if t.F32 != nil {
			v = math.Float32bits(t.F32[i])
		} else {
			v = uint32(t.I32[i])
		}
		if buf = binary.LittleEndian.AppendUint32(buf, v); len(buf) == cap(buf) {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(buf)
	return err
}
