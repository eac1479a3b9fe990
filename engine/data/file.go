// A requester's own data: a safetensors file.

package data

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// fileKeys are the tensors of a file, the last two of which may be missing.
var fileKeys = [...]string{"train_x", "train_y", "val_x", "val_y"}

// FromSafetensors reads a data set from a file in the safetensors format with the tensors
// train_x, train_y and, for validation, val_x and val_y; their first axis is the row.
//
// Inputs may have any type. Targets of an integer type are the numbers of classes, from
// 0 (NoClass: none): they are gathered as one-hot vectors. Targets of a floating type are taken as they
// are, one-hot or values to be regressed; [n] of them is [n,1]. Float64 is rounded to
// float32. Errors name the set and the tensor.
func FromSafetensors(name string, raw []byte) (*Set, error) {
	s, err := fromFile(name, raw)
	if err != nil {
		return nil, fmt.Errorf("data set %s: %w", name, err)
	}
	return s, nil
}

func fromFile(name string, raw []byte) (*Set, error) {
	f, err := safetensors.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, err
	}
	var t [4]*Table
	for _, e := range f.Entries {
		i := slices.Index(fileKeys[:], e.Name)
		if i < 0 {
			return nil, bad("tensor %q; a data set has %v", e.Name, fileKeys)
		}
		if t[i], err = table(f, e, Kind(i%2)); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
	}
	if t[0] == nil || t[1] == nil || t[0].Rows == 0 {
		return nil, bad("train_x and train_y with at least one row are needed")
	}
	if (t[2] == nil) != (t[3] == nil) {
		return nil, bad("val_x and val_y belong together, one of them is missing")
	}
	if t[2] == nil {
		for i := range 2 {
			t[i+2] = &Table{Kind: Kind(i), Shape: t[i].Shape, Classes: min(t[i].Classes, 1), U8: []uint8{}}
		}
	}
	// Both parts have the classes that occur in either.
	classes := max(t[1].Classes, t[3].Classes)
	if (t[1].Classes == 0) != (t[3].Classes == 0) {
		return nil, bad("train_y holds classes and val_y does not, or the reverse")
	}
	t[1].Classes, t[3].Classes = classes, classes
	for _, x := range t {
		x.narrow()
	}
	train, err := NewPart(t[0], t[1])
	if err != nil {
		return nil, err
	}
	val, err := NewPart(t[2], t[3])
	if err != nil {
		return nil, err
	}
	return NewSet(name, train, val)
}

// table reads one tensor. Where its targets are classes, Classes is one more than the
// greatest of them.
func table(f *safetensors.File, e safetensors.Entry, kind Kind) (*Table, error) {
	if len(e.Shape) == 0 {
		return nil, bad("a scalar has no rows")
	}
	t := &Table{Kind: kind, Rows: e.Shape[0], Shape: e.Shape[1:]}
	classes := kind == Targets && !e.DType.Float()
	if len(t.Shape) == 0 && !classes {
		t.Shape = []int{1}
	}
	if err := t.checkShape(); err != nil {
		return nil, err
	}
	size := 4
	if e.DType == state.U8 {
		size = 1
	}
	if int64(e.Elems)*int64(size) > MaxBytes {
		return nil, bad("more than %d bytes", MaxBytes)
	}
	if e.DType == state.U8 {
		t.U8 = make([]uint8, e.Elems)
		if _, err := io.ReadFull(f.Raw(e), t.U8); err != nil {
			return nil, err
		}
	} else {
		x, err := f.Tensor(e)
		if err != nil {
			return nil, err
		}
		if t.F32 = x.F32; !e.DType.Float() {
			t.I32 = make([]int32, e.Elems)
			for i, v := range x.I64 {
				if t.I32[i] = int32(v); v < -exact || v > exact {
					return nil, bad("row %d holds %d, integers must lie in -%d..%d", i/t.stored(), v, exact, exact)
				}
			}
		}
	}
	if classes {
		for i := range max(len(t.U8), len(t.I32)) {
			c := t.class(i)
			if c < 0 && c != NoClass {
				return nil, bad("row %d holds class %d; classes count from 0", i/t.stored(), c)
			}
			t.Classes = max(t.Classes, c+1)
		}
		t.Classes = max(t.Classes, 1) // of no rows
	}
	return t, nil
}
