// Package state is the state dict as data: named tensors in a fixed order.
//
// It is the form in which weights leave the executor and enter a file, a wire or
// another model. Names and order are PyTorch's: the order in which a module registers
// its parameters and buffers.
package state

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// Limits on a state dict. They hold for every reader and writer of this module, so a
// product of dimensions never overflows and a directory of names stays small.
const (
	MaxTensors = 65536
	MaxName    = 1024    // bytes of UTF-8
	MaxRank    = 8       // axes
	MaxElems   = 1 << 40 // of one tensor, and of all of them together
)

// ErrInvalid is wrapped by every error that says a state dict is not well formed.
var ErrInvalid = errors.New("invalid state dict")

// Tensor is one entry: a dense array in row-major order.
type Tensor struct {
	Name  string
	Shape []int // empty for a scalar, which has one element

	// Exactly one of the two is not nil. A tensor without elements has an empty
	// slice that is not nil.
	F32 []float32
	I64 []int64
}

// Dict is a state dict. Its order is part of it.
type Dict []Tensor

// Elems is the number of elements of an array of this shape. It fails where the shape
// breaks a limit, and never overflows.
func Elems(shape []int) (int, error) {
	if len(shape) > MaxRank {
		return 0, fmt.Errorf("%w: a shape of %d axes, at most %d are supported", ErrInvalid, len(shape), MaxRank)
	}
	n, room := 1, int64(MaxElems)
	for _, d := range shape {
		// An axis of size 0 empties the tensor but must not hide what the
		// others multiply to: strides are computed from them.
		if d < 0 || int64(max(d, 1)) > room {
			return 0, fmt.Errorf("%w: shape %v is negative or has more than %d elements", ErrInvalid, shape, int64(MaxElems))
		}
		room /= int64(max(d, 1))
		n *= d
	}
	return n, nil
}

// Len is the number of elements that t holds.
func (t Tensor) Len() int { return len(t.F32) + len(t.I64) }

// Validate checks one tensor; its errors name it and wrap ErrInvalid.
func (t Tensor) Validate() error {
	if err := CheckName(t.Name); err != nil {
		return err
	}
	n, err := Elems(t.Shape)
	switch {
	case err != nil:
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	case (t.F32 == nil) == (t.I64 == nil):
		return fmt.Errorf("%w: tensor %q must hold either float32 or int64 elements", ErrInvalid, t.Name)
	case n != t.Len():
		return fmt.Errorf("%w: tensor %q holds %d elements, its shape %v has %d", ErrInvalid, t.Name, t.Len(), t.Shape, n)
	}
	return nil
}

// CheckName says what is wrong with the name of a tensor.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: a tensor without a name", ErrInvalid)
	case len(name) > MaxName:
		return fmt.Errorf("%w: a name of %d bytes, at most %d are supported (it begins %.40q)", ErrInvalid, len(name), MaxName, name)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: the name %q is not UTF-8", ErrInvalid, name)
	}
	return nil
}

// Validate checks the limits, every tensor, and that no name occurs twice.
func (d Dict) Validate() error {
	if len(d) > MaxTensors {
		return fmt.Errorf("%w: %d tensors, at most %d are supported", ErrInvalid, len(d), MaxTensors)
	}
	seen := make(map[string]bool, len(d))
	var total int64
	for _, t := range d {
		if err := t.Validate(); err != nil {
			return err
		}
		if seen[t.Name] {
			return fmt.Errorf("%w: tensor %q occurs twice", ErrInvalid, t.Name)
		}
		seen[t.Name] = true
		if total += int64(t.Len()); total > MaxElems {
			return fmt.Errorf("%w: more than %d elements", ErrInvalid, int64(MaxElems))
		}
	}
	return nil
}

// Get finds a tensor by name. It walks the dict: use a map of your own for many.
func (d Dict) Get(name string) (Tensor, bool) {
	for _, t := range d {
		if t.Name == name {
			return t, true
		}
	}
	return Tensor{}, false
}

// Names lists the names in order.
func (d Dict) Names() []string {
	names := make([]string, len(d))
	for i, t := range d {
		names[i] = t.Name
	}
	return names
}

// Clone copies d and everything it holds.
func (d Dict) Clone() Dict {
	c := slices.Clone(d)
	for i, t := range c {
		c[i].Shape, c[i].F32, c[i].I64 = slices.Clone(t.Shape), slices.Clone(t.F32), slices.Clone(t.I64)
	}
	return c
}

// Equal compares names, order, shapes, types and the bits of every element: a NaN
// equals itself, and 0 is not -0.
func (d Dict) Equal(o Dict) bool { return slices.EqualFunc(d, o, Tensor.Equal) }

// Equal is Dict.Equal for one tensor.
func (t Tensor) Equal(o Tensor) bool {
	return t.Name == o.Name && slices.Equal(t.Shape, o.Shape) &&
		(t.F32 == nil) == (o.F32 == nil) && slices.Equal(t.I64, o.I64) &&
		slices.EqualFunc(t.F32, o.F32, func(x, y float32) bool {
			return math.Float32bits(x) == math.Float32bits(y)
		})
}

// Hash is the SHA-256 of the canonical form of d: equal for two dicts exactly where
// Equal says so.
//
// The canonical form, little-endian: the 16 bytes "ravnest state 1\n", the number of
// tensors (u32), and for each the length of its name (u32), the name, its type (u8: 0
// float32, 1 int64), its rank (u8), its axes (u64 each) and its elements.
func (d Dict) Hash() [sha256.Size]byte {
	h := sha256.New()
	le := binary.LittleEndian
	buf := make([]byte, 0, 1<<15)
	room := func(n int) {
		if len(buf)+n > cap(buf) {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	buf = append(buf, "ravnest state 1\n"...)
	buf = le.AppendUint32(buf, uint32(len(d)))
	for _, t := range d {
		room(4)
		buf = le.AppendUint32(buf, uint32(len(t.Name)))
		room(cap(buf)) // names may be long: straight through
		h.Write([]byte(t.Name))
		kind := byte(0)
		if t.F32 == nil {
			kind = 1
		}
		buf = append(buf, kind, byte(len(t.Shape)))
		for _, n := range t.Shape {
			room(8)
			buf = le.AppendUint64(buf, uint64(n))
		}
		for _, v := range t.F32 {
			room(4)
			buf = le.AppendUint32(buf, math.Float32bits(v))
		}
		for _, v := range t.I64 {
			room(8)
			buf = le.AppendUint64(buf, uint64(v))
		}
	}
	h.Write(buf)
	return [sha256.Size]byte(h.Sum(nil))
}
