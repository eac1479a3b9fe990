// The element types of files. A Dict holds float32 and int64 only; this is how the
// types that other programs write become one of the two.

package state

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// DType is the type of a file's elements.
type DType uint8

// The types that Decode reads, with what they become.
const (
	F32  DType = iota + 1 // float32
	I64                   // int64
	F16                   // IEEE 754 half precision: float32, exact
	BF16                  // the upper half of a float32: exact
	F64                   // float32, rounded to nearest even
	I32                   // int64, as all below
	I16
	I8
	U8
	Bool // 0 or 1; any other byte reads as 1
	U16
	U32
	U64      // int64; what is larger than that is an error of DecodeChecked
	F8E4M3   // float32, as all below: exact. 4 bits of exponent, no infinity (torch.float8_e4m3fn)
	F8E5M2   // 5 bits of exponent: the upper half of a half (torch.float8_e5m2)
	F8E4M3UZ // no infinity, no -0, bias 8 (torch.float8_e4m3fnuz)
	F8E8M0   // a power of two without a sign (torch.float8_e8m0fnu)
	F8E5M2UZ // no infinity, no -0, bias 16 (torch.float8_e5m2fnuz)
)

var dtypes = [...]struct {
	name string
	size int
}{F32: {"F32", 4}, I64: {"I64", 8}, F16: {"F16", 2}, BF16: {"BF16", 2}, F64: {"F64", 8}, I32: {"I32", 4}, I16: {"I16", 2}, I8: {"I8", 1}, U8: {"U8", 1}, Bool: {"BOOL", 1}, U16: {"U16", 2}, U32: {"U32", 4}, U64: {"U64", 8}, F8E4M3: {"F8_E4M3", 1}, F8E5M2: {"F8_E5M2", 1}, F8E4M3UZ: {"F8_E4M3FNUZ", 1}, F8E8M0: {"F8_E8M0", 1}, F8E5M2UZ: {"F8_E5M2FNUZ", 1}}

// String is the name that the safetensors format uses.
func (d DType) String() string { return dtypes[d].name }

// Size is the number of bytes of an element.
func (d DType) Size() int { return dtypes[d].size }

// Float says whether elements become float32 (otherwise int64).
func (d DType) Float() bool {
	switch d {
	case F32, F16, BF16, F64, F8E4M3, F8E5M2, F8E4M3UZ, F8E8M0, F8E5M2UZ:
		return true
	}
	return false
}

// ParseDType finds a type by its String.
func ParseDType(s string) (DType, bool) {
	for d, t := range dtypes {
		if t.name == s && s != "" {
			return DType(d), true
		}
	}
	return 0, false
}

// Decode appends the little-endian elements of raw, whose length is a multiple of the
// type's size, to t.F32 or t.I64.
func (t *Tensor) Decode(d DType, raw []byte) {
	le := binary.LittleEndian
	switch d {
	case F32:
		for ; len(raw) > 0; raw = raw[4:] {
			t.F32 = append(t.F32, math.Float32frombits(le.Uint32(raw)))
		}
	case F16:
		for ; len(raw) > 0; raw = raw[2:] {
			t.F32 = append(t.F32, half(le.Uint16(raw)))
		}
	case BF16:
		for ; len(raw) > 0; raw = raw[2:] {
			t.F32 = append(t.F32, math.Float32frombits(uint32(le.Uint16(raw))<<16))
		}
	case F64:
		for ; len(raw) > 0; raw = raw[8:] {
			t.F32 = append(t.F32, float32(math.Float64frombits(le.Uint64(raw))))
		}
	case I64:
		for ; len(raw) > 0; raw = raw[8:] {
			t.I64 = append(t.I64, int64(le.Uint64(raw)))
		}
	case I32:
		for ; len(raw) > 0; raw = raw[4:] {
			t.I64 = append(t.I64, int64(int32(le.Uint32(raw))))
		}
	case I16:
		for ; len(raw) > 0; raw = raw[2:] {
			t.I64 = append(t.I64, int64(int16(le.Uint16(raw))))
		}
	case I8:
		for _, b := range raw {
			t.I64 = append(t.I64, int64(int8(b)))
		}
	case U8:
		for _, b := range raw {
			t.I64 = append(t.I64, int64(b))
		}
	case Bool:
		for _, b := range raw {
			t.I64 = append(t.I64, int64(min(b, 1)))
		}
	case U16:
		for ; len(raw) > 0; raw = raw[2:] {
			t.I64 = append(t.I64, int64(le.Uint16(raw)))
		}
	case U32:
		for ; len(raw) > 0; raw = raw[4:] {
			t.I64 = append(t.I64, int64(le.Uint32(raw)))
		}
	case U64:
		for ; len(raw) > 0; raw = raw[8:] {
			t.I64 = append(t.I64, int64(le.Uint64(raw)))
		}
	case F8E4M3, F8E5M2, F8E4M3UZ, F8E8M0, F8E5M2UZ:
		for _, b := range raw {
			t.F32 = append(t.F32, float8(d, b))
		}
	default:
		panic("state: no such element type")
	}
}

// DecodeChecked is Decode that fails where an element is larger than an int64.
func (t *Tensor) DecodeChecked(d DType, raw []byte) error {
	if d == U64 {
		for r := raw; len(r) > 0; r = r[8:] {
			if v := binary.LittleEndian.Uint64(r); v > math.MaxInt64 {
				return fmt.Errorf("%w: element %d is %d, larger than an int64", ErrInvalid, (len(raw)-len(r))/8, v)
			}
		}
	}
	t.Decode(d, raw)
	return nil
}

// Grow makes t hold no elements, and room for n, of what d becomes.
func (t *Tensor) Grow(d DType, n int) {
	if t.F32, t.I64 = nil, nil; d.Float() {
		t.F32 = make([]float32, 0, n)
	} else {
		t.I64 = make([]int64, 0, n)
	}
}

// WriteData writes the elements of t in little-endian order to w, through buf, whose
// capacity is at least 8; a nil buf allocates one.
func (t Tensor) WriteData(w io.Writer, buf []byte) error {
	if buf == nil {
		buf = make([]byte, 0, 1<<16)
	}
	buf = buf[:0]
	flush := func(room int) error {
		if cap(buf)-len(buf) >= room {
			return nil
		}
		_, err := w.Write(buf)
		buf = buf[:0]
		return err
	}
	for _, v := range t.F32 {
		if err := flush(4); err != nil {
			return err
		}
		buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
	}
	for _, v := range t.I64 {
		if err := flush(8); err != nil {
			return err
		}
		buf = binary.LittleEndian.AppendUint64(buf, uint64(v))
	}
	if len(buf) == 0 {
		return nil
	}
	_, err := w.Write(buf)
	return err
}

// float8 widens an eight-bit float of type d: exact.
func float8(d DType, b byte) float32 {
	mantissa, bias, uz := uint(3), 7, false
	switch d {
	case F8E5M2:
		return half(uint16(b) << 8) // it is the upper half of one
	case F8E8M0:
		if b == 0xff {
			return float32(math.NaN())
		}
		return float32(math.Ldexp(1, int(b)-127))
	case F8E4M3UZ:
		bias, uz = 8, true
	case F8E5M2UZ:
		mantissa, bias, uz = 2, 16, true
	}
	if uz && b == 0x80 || !uz && b&0x7f == 0x7f {
		return float32(math.NaN())
	}
	exp, frac := int(b&0x7f>>mantissa), float64(b&(1<<mantissa-1))/float64(uint(1)<<mantissa)
	v := math.Ldexp(1+frac, exp-bias)
	if exp == 0 {
		v = math.Ldexp(frac, 1-bias)
	}
	if b&0x80 != 0 {
		v = math.Copysign(v, -1)
	}
	return float32(v)
}

// half widens an IEEE 754 half: exact, NaN payloads kept.
func half(h uint16) float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0: // zero and subnormals: frac * 2^-24, exact in float32
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*(1.0/(1<<24))))
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
