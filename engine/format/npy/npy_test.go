package npy

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// file is an array of version 1 as NumPy writes it.
func file(descr string, fortran bool, shape string, elems []byte) []byte {
	order := "False"
	if fortran {
		order = "True"
	}
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }", descr, order, shape)
	for (10+len(head)+1)%64 != 0 {
		head += " "
	}
	head += "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), binary.LittleEndian.AppendUint16(nil, uint16(len(head)))...)
	return append(append(b, head...), elems...)
}

func TestRead(t *testing.T) {
	big := func(v ...uint16) (b []byte) {
		for _, x := range v {
			b = binary.BigEndian.AppendUint16(b, x)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		file  []byte
		rows  int
		shape []int
		u8    []uint8
		i32   []int32
		f32   []float32
	}{
		{"bytes", file("|u1", false, "(2, 3)", []byte{1, 2, 3, 4, 5, 6}), 2, []int{3}, []uint8{1, 2, 3, 4, 5, 6}, nil, nil},
		{"booleans", file("|b1", false, "(2,)", []byte{1, 0}), 2, []int{}, []uint8{1, 0}, nil, nil},
		{"columns first", file("|u1", true, "(2, 3)", []byte{1, 4, 2, 5, 3, 6}), 2, []int{3}, []uint8{1, 2, 3, 4, 5, 6}, nil, nil},
		{"three axes, the first fastest", file("|u1", true, "(2, 2, 2)", []byte{0, 4, 2, 6, 1, 5, 3, 7}), 2, []int{2, 2}, []uint8{0, 1, 2, 3, 4, 5, 6, 7}, nil, nil},
		{"big-endian", file(">i2", false, "(2,)", big(0xfffe, 7)), 2, []int{}, nil, []int32{-2, 7}, nil},
		{"halves", file("<f2", false, "(1, 2)", []byte{0, 0x3c, 0, 0xc0}), 1, []int{2}, nil, nil, []float32{1, -2}},
		{"no rows", file("<f4", false, "(0, 2)", nil), 0, []int{2}, nil, nil, []float32{}},
	} {
		x, err := Read(bytes.NewReader(c.file))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if x.Rows != c.rows || !slices.Equal(x.Shape, c.shape) || !slices.Equal(x.U8, c.u8) || !slices.Equal(x.I32, c.i32) || !slices.Equal(x.F32, c.f32) {
			t.Errorf("%s: %d rows of %v: %v %v %v", c.name, x.Rows, x.Shape, x.U8, x.I32, x.F32)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		file []byte
		says string
	}{
		{[]byte("PK\x03\x04 and so on"), "does not begin"},
		{file("|O", false, "(2,)", []byte("\x80\x04.")), "pickles, which are never read"},
		{file("<c8", false, "(2,)", nil), "must be real"},
		{file("<U4", false, "(2,)", nil), "texts"},
		{file("<f4", false, "(2,)", []byte{1, 2, 3}), "row 0 of 2"},
		{file("<f4", false, "(1000000000000,)", nil), "rows"},
		{file("<f4", false, "()", []byte{0, 0, 0, 0}), "scalar"},
		{file("<f4", false, "(-1,)", nil), "shape"},
		{file("<f4', 'x': '", false, "(1,)", nil), "unknown key"},
		{[]byte("\x93NUMPY\x09\x00\x00\x00"), "version 9"},
		{[]byte("\x93NUMPY\x02\x00\xff\xff\xff\xff"), "at most"},
	} {
		if _, err := Read(bytes.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.40q: %v, want %q", c.file, err, c.says)
		}
	}
}

func TestReadZip(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, n := range []string{"x_train.npy", "y_train.npy"} {
		w, err := z.Create(n)
		if err == nil {
			_, err = w.Write(file("|u1", false, "(2,)", []byte{3, 4}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := ReadZip(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(m) != 2 || m["y_train"].U8[1] != 4 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := ReadZip(strings.NewReader("no zip"), 6); !errors.Is(err, ErrFormat) {
		t.Errorf("no zip: %v", err)
	}
}

// TestRows: rows that lie in order are found where they are.
func TestRows(t *testing.T) {
	b := file("<i2", false, "(3, 2)", []byte{1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 1})
	r, err := Rows(bytes.NewReader(b), int64(len(b)))
	if err != nil || r.Rows != 3 || !slices.Equal(r.Shape, []int{2}) || int(r.Off) != len(b)-12 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, c := range []struct {
		file []byte
		want error
	}{
		{file(">i2", false, "(3, 2)", make([]byte, 12)), ErrOrder},
		{file("<i2", true, "(3, 2)", make([]byte, 12)), ErrOrder},
		{file("<i2", false, "(3, 2)", make([]byte, 11)), ErrFormat},
		{file("<i2", false, "()", make([]byte, 2)), ErrFormat},
	} {
		if _, err := Rows(bytes.NewReader(c.file), int64(len(c.file))); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add(file("<f4", false, "(2, 1)", make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Rows(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		n := int64(r.DType.Size()) * int64(r.Rows)
		for _, d := range r.Shape {
			n *= int64(d)
		}
		if r.Off+n > int64(len(b)) {
			t.Fatalf("rows up to byte %d of %d", r.Off+n, len(b))
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add(file("<f4", true, "(2, 1)", make([]byte, 8)))
	f.Add(file(">i8", false, "(1,)", make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := Read(bytes.NewReader(b)); err == nil && x.Check() != nil && x.F32 == nil {
			t.Fatalf("what was read is no table: %v", x.Check())
		}
	})
}
