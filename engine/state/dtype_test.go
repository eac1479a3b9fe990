package state

import (
	"bytes"
	"math"
	"slices"
	"testing"
)

func TestDecode(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		d   DType
		raw string
		f   []float32
		i   []int64
	}{
		{F32, "\x00\x00\x80\x3f\x00\x00\x00\xc0", []float32{1, -2}, nil},
		{F16, "\x00\x3c\x00\xc0\xff\x7b\x00\x04\xff\x03\x01\x00\x00\xfc", []float32{1, -2, 65504, 0x1p-14, 0x1p-14 - 0x1p-24, 0x1p-24, -inf}, nil},
		{BF16, "\x80\x3f\x00\xc0\x80\x7f", []float32{1, -2, inf}, nil},
		{F64, "\x00\x00\x00\x00\x00\x00\xf0\x3f\x9a\x99\x99\x99\x99\x99\xb9\x3f", []float32{1, 0.1}, nil},
		{I64, "\xfe\xff\xff\xff\xff\xff\xff\xff", nil, []int64{-2}},
		{I32, "\xfe\xff\xff\xff\x07\x00\x00\x00", nil, []int64{-2, 7}},
		{I16, "\xfe\xff\x07\x00", nil, []int64{-2, 7}},
		{I8, "\xfe\x07", nil, []int64{-2, 7}},
		{U8, "\xfe\x07", nil, []int64{254, 7}},
		{Bool, "\x00\x01\x02", nil, []int64{0, 1, 1}},
		{U16, "\xfe\xff\x07\x00", nil, []int64{65534, 7}},
		{U32, "\xfe\xff\xff\xff\x07\x00\x00\x00", nil, []int64{1<<32 - 2, 7}},
		{U64, "\xfe\xff\xff\xff\xff\xff\xff\x7f", nil, []int64{1<<63 - 2}},
		// As PyTorch's float8 types convert.
		{F8E4M3, "\x00\x01\x08\x38\xb8\x7e\x80", []float32{0, 0x1p-9, 0x1p-6, 1, -1, 448, float32(math.Copysign(0, -1))}, nil},
		{F8E5M2, "\x00\x01\x04\x3c\xbc\x7b\x7c", []float32{0, 0x1p-16, 0x1p-14, 1, -1, 57344, inf}, nil},
		{F8E4M3UZ, "\x00\x01\x08\x40\xc0\x7f", []float32{0, 0x1p-10, 0x1p-7, 1, -1, 240}, nil},
		{F8E5M2UZ, "\x00\x01\x04\x40\xc0\x7f", []float32{0, 0x1p-17, 0x1p-15, 1, -1, 57344}, nil},
		{F8E8M0, "\x00\x7f\x80\xfe", []float32{0x1p-127, 1, 2, 0x1p127}, nil},
	} {
		var x Tensor
		n := len(c.raw) / c.d.Size()
		x.Grow(c.d, n)
		x.Decode(c.d, []byte(c.raw))
		if !slices.Equal(x.F32, c.f) || !slices.Equal(x.I64, c.i) || cap(x.F32)+cap(x.I64) != n {
			t.Errorf("%v: got %v %v, want %v %v", c.d, x.F32, x.I64, c.f, c.i)
		}
		if d, ok := ParseDType(c.d.String()); !ok || d != c.d {
			t.Errorf("%v does not parse", c.d)
		}
	}
	if _, ok := ParseDType(""); ok {
		t.Error("the empty name parses")
	}
}

func TestNotANumber(t *testing.T) {
	for d, raw := range map[DType]string{F8E4M3: "\x7f\xff", F8E5M2: "\x7d\xfe", F8E4M3UZ: "\x80", F8E5M2UZ: "\x80", F8E8M0: "\xff"} {
		var x Tensor
		x.Decode(d, []byte(raw))
		for i, v := range x.F32 {
			if v == v {
				t.Errorf("%v %#x is %v, want NaN", d, raw[i], v)
			}
		}
	}
	var x Tensor
	if err := x.DecodeChecked(U64, []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80")); err == nil || len(x.I64) > 0 {
		t.Errorf("an element beyond int64 gives %v, %v", x.I64, err)
	}
}

// Every half against its definition: (-1)^s * 2^(e-15) * 1.f, or * 0.f below.
func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		got := half(uint16(h))
		e, f := h>>10&31, float64(h&0x3ff)/1024
		want := math.Ldexp(1+f, e-15)
		switch {
		case e == 0:
			want = math.Ldexp(f, -14)
		case e == 31 && f == 0:
			want = math.Inf(1)
		case e == 31:
			if !math.IsNaN(float64(got)) || math.Float32bits(got)>>13&0x3ff != uint32(h&0x3ff) {
				t.Fatalf("%#x: %v is not its NaN", h, got)
			}
			continue
		}
		if h>>15 == 1 {
			want = -want
		}
		if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
			t.Fatalf("%#x: got %v, want %v", h, got, want)
		}
	}
}

// What WriteData writes, Decode reads, whatever the buffer.
func TestWriteData(t *testing.T) {
	x := Tensor{F32: []float32{1, -2, float32(math.Inf(-1)), 0.1, 5}}
	y := Tensor{I64: []int64{-1, 1 << 40, 3}}
	for _, buf := range [][]byte{nil, make([]byte, 0, 8), make([]byte, 3, 13)} {
		var b bytes.Buffer
		if err := x.WriteData(&b, buf); err != nil {
			t.Fatal(err)
		}
		if err := y.WriteData(&b, buf); err != nil {
			t.Fatal(err)
		}
		var got Tensor
		got.Decode(F32, b.Next(20))
		got.Decode(I64, b.Bytes())
		if !slices.Equal(got.F32, x.F32) || !slices.Equal(got.I64, y.I64) {
			t.Errorf("cap %d: got %v", cap(buf), got)
		}
	}
}
