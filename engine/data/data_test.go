package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

func iota32(n int) []int32 {
	v := make([]int32, n)
	for i := range v {
		v[i] = int32(i)
	}
	return v
}

// all gathers every row of t.
func all(t *Table) []float32 {
	dst := make([]float32, t.Rows*t.Elems())
	t.Gather(dst, iota32(t.Rows))
	return dst
}

// The hashes are digits.py's: of what the walkthrough's own preprocessing makes.
func TestDigits(t *testing.T) {
	s, err := Digits()
	if err != nil {
		t.Fatal(err)
	}
	if len(digitsGz) > 150e3 {
		t.Errorf("embedded in %d bytes", len(digitsGz))
	}
	if s.Train.Len() != 1078 || s.Val.Len() != 719 ||
		!slices.Equal(s.Train.InputShape(), []int{1, 8, 8}) || !slices.Equal(s.Val.TargetShape(), []int{10}) {
		t.Errorf("%d and %d rows, %v -> %v", s.Train.Len(), s.Val.Len(), s.Train.InputShape(), s.Val.TargetShape())
	}
	for _, c := range []struct {
		table *Table
		want  string
	}{
		{s.Train.X(), "8d036efb80ced566b17da2967964365f655ea26d115fee7089f38994942ed08a"},
		{s.Train.Y(), "ae6b8a311e0390bb4dafb1f877f84dfbc4b7cbc90369b112fe0b613e8282faa3"},
		{s.Val.X(), "ba9fded57643d7ff64a282922cbce9f662ec61d1cfebfaa20e134277c2f4dee9"},
		{s.Val.Y(), "780f90c3774587f56bf3372de47a03dbc38c36f1dd2ff42facea95728420afd6"},
	} {
		h := sha256.New()
		if err := binary.Write(h, binary.LittleEndian, all(c.table)); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.want {
			t.Errorf("%v of %d rows: %s, want %s", c.table.Kind, c.table.Rows, got, c.want)
		}
	}
}

func tables() []*Table {
	return []*Table{
		{Kind: Inputs, Rows: 3, Shape: []int{2}, U8: []uint8{1, 2, 3, 4, 5, 255}},
		{Kind: Inputs, Rows: 2, Shape: []int{1, 2}, F32: []float32{1.5, -2, float32(math.Copysign(0, -1)), math.MaxFloat32}},
		{Kind: Inputs, Rows: 2, Shape: []int{2}, I32: []int32{1, -2, 1 << 24, -1 << 24}},
		{Kind: Targets, Rows: 3, Shape: []int{}, Classes: 4, U8: []uint8{3, 0, 1}},
		{Kind: Targets, Rows: 2, Shape: []int{3}, Classes: 300, I32: []int32{299, 0, 1, 5, 5, 257}},
		{Kind: Inputs, Rows: 0, Shape: []int{5}, U8: []uint8{}},
		{Kind: Targets, Rows: 0, Shape: []int{5}, F32: []float32{}},
		{Kind: Inputs, Rows: 1000, Shape: []int{8}, F32: make([]float32, 8000)}, // compresses
		{Kind: Inputs, Rows: 2, Shape: []int{2}, U16: []uint16{1, 256, 65535, 7}},
	}
}

func TestGather(t *testing.T) {
	ts := tables()
	for _, c := range []struct {
		table *Table
		rows  []int32
		want  []float32
	}{
		{ts[0], []int32{2, 0}, []float32{5, 255, 1, 2}},
		{ts[1], []int32{1, 0, 1}, []float32{0, math.MaxFloat32, 1.5, -2, 0, math.MaxFloat32}},
		{ts[2], []int32{1}, []float32{1 << 24, -1 << 24}},
		{ts[3], []int32{0, 1}, []float32{0, 0, 0, 1, 1, 0, 0, 0}},
		{ts[0], nil, nil},
	} {
		got := make([]float32, len(c.rows)*c.table.Elems())
		for i := range got {
			got[i] = 99 // what was there must not shine through
		}
		c.table.Gather(got, c.rows)
		if !slices.Equal(got, c.want) {
			t.Errorf("rows %v: got %v, want %v", c.rows, got, c.want)
		}
	}
	wide := all(ts[4])
	if len(wide) != 1800 {
		t.Fatalf("%d values", len(wide))
	}
	for i, v := range wide {
		if want := slices.Contains([]int{299, 300 + 0, 600 + 1, 900 + 5, 1200 + 5, 1500 + 257}, i); (v == 1) != want || v != 0 && v != 1 {
			t.Errorf("one-hot value %d is %v", i, v)
		}
	}
	lab := make([]int32, 3)
	ts[4].Labels(lab, []int32{1})
	if !slices.Equal(lab, []int32{5, 5, 257}) {
		t.Errorf("labels %v", lab)
	}
	for name, f := range map[string]func(){
		"row above":   func() { ts[0].Gather(make([]float32, 2), []int32{3}) },
		"row below":   func() { ts[0].Gather(make([]float32, 2), []int32{-1}) },
		"class row":   func() { ts[3].Gather(make([]float32, 4), []int32{3}) },
		"length":      func() { ts[0].Gather(make([]float32, 3), []int32{0}) },
		"no classes":  func() { ts[0].Labels(make([]int32, 2), []int32{0}) },
		"label count": func() { ts[3].Labels(make([]int32, 2), []int32{0}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	rows, dst := iota32(3), make([]float32, 12)
	if n := testing.AllocsPerRun(10, func() { ts[3].Gather(dst, rows); ts[0].Gather(dst[:6], rows) }); n != 0 {
		t.Errorf("Gather allocates %v times", n)
	}
}

func TestCheck(t *testing.T) {
	for name, x := range map[string]*Table{
		"none":        {Rows: 1, Shape: []int{1}},
		"two":         {Rows: 1, Shape: []int{1}, U8: []uint8{1}, F32: []float32{}},
		"length":      {Rows: 2, Shape: []int{2}, U8: []uint8{1, 2, 3}},
		"class":       {Rows: 1, Classes: 3, U8: []uint8{3}},
		"class below": {Rows: 1, Classes: 3, I32: []int32{-1}},
		"class above": {Rows: 1, Classes: 3, I32: []int32{3}},
		"class float": {Rows: 1, Classes: 3, F32: []float32{1}},
		"nan":         {Rows: 1, F32: []float32{float32(math.NaN())}},
		"inf":         {Rows: 1, F32: []float32{float32(math.Inf(-1))}},
		"not exact":   {Rows: 1, I32: []int32{1<<24 + 1}},
		"least":       {Rows: 1, I32: []int32{math.MinInt32}},
		"empty row":   {Rows: 1, Shape: []int{0}, U8: []uint8{}},
		"negative":    {Rows: -1, U8: []uint8{}},
		"axes":        {Rows: 1, Shape: []int{1, 1, 1, 1, 1, 1, 1}, U8: []uint8{1}},
		"overflow":    {Rows: 4, Shape: []int{1 << 62, 4}, U8: []uint8{}},
		"wide":        {Rows: 0, Shape: []int{1 << 20}, Classes: 1 << 20, U8: []uint8{}},
		"large":       {Rows: 1 << 20, Shape: []int{1 << 11}, U8: []uint8{}},
		"kind":        {Kind: 2, Rows: 1, U8: []uint8{1}},
	} {
		if err := x.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := x.Encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s encodes: %v", name, err)
		}
	}
	ts := tables()
	for _, p := range [][2]*Table{{ts[0], ts[4]}, {ts[3], ts[3]}, {ts[0], ts[0]}, {ts[0], {Rows: 3}}} {
		if _, err := NewPart(p[0], p[1]); !errors.Is(err, ErrInvalid) {
			t.Errorf("a part of %v and %v: %v", p[0], p[1], err)
		}
	}
	a, err := NewPart(ts[0], ts[3])
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewPart(ts[2], ts[4])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSet("x", a, b); !errors.Is(err, ErrInvalid) {
		t.Errorf("parts that do not match: %v", err)
	}
}

func TestBlob(t *testing.T) {
	for i, x := range tables() {
		b, err := x.Encode()
		if err != nil {
			t.Fatal(i, err)
		}
		again, err := x.Encode()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("table %d: two blobs differ", i)
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("table %d: got %+v, %v, want %+v", i, got, err, x)
		}
		h, size, err := Peek(b)
		if err != nil || size != x.Bytes() || h.Rows != x.Rows || h.Elems() != x.Elems() || h.Kind != x.Kind {
			t.Errorf("table %d: peek says %+v, %d bytes, %v", i, h, size, err)
		}
		for n := range min(len(b), 200) {
			if _, err := Decode(b[:n]); !errors.Is(err, ErrInvalid) {
				t.Errorf("table %d: %d of %d bytes: %v", i, n, len(b), err)
			}
		}
		if _, err := Decode(append(bytes.Clone(b), 1)); !errors.Is(err, ErrInvalid) {
			t.Errorf("table %d with a byte more: %v", i, err)
		}
	}
	s, err := Digits()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Table{s.Train.X(), s.Train.Y(), s.Val.X(), s.Val.Y()} {
		b, err := x.Encode()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("digits: %d rows of %v: %d bytes, blob %d", x.Rows, x.Kind, x.Bytes(), len(b))
		if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("%v do not come back: %v", x.Kind, err)
		}
		if len(b) > x.Bytes()*3/4 {
			t.Errorf("%v: a blob of %d bytes for %d", x.Kind, len(b), x.Bytes())
		}
	}
}

// The window that the encoder chooses depends on the size.
func TestBlobSizes(t *testing.T) {
	for _, shift := range []int{0, 1, 2, 7, 8, 9, 10, 11, 16, 17, 20} {
		for _, n := range []int{1<<shift - 1, 1 << shift, 1<<shift + 1, 1<<24 + 1} {
			if n == 1<<24+1 && shift != 20 {
				continue // beyond the widest window, once
			}
			x := &Table{Rows: n, Shape: []int{}, U8: make([]uint8, n)}
			for i := range min(n, 1000) {
				x.U8[i] = uint8(i * i >> 3)
			}
			b, err := x.Encode()
			if err != nil {
				t.Fatal(n, err)
			}
			if got, err := Decode(b); err != nil || !bytes.Equal(got.U8, x.U8) {
				t.Errorf("%d bytes do not come back: %v", n, err)
			}
		}
	}
}

func TestHostileBlob(t *testing.T) {
	good, err := tables()[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	zip, err := tables()[7].Encode()
	if err != nil || zip[7] != codingZstd {
		t.Fatal(err)
	}
	bomb, err := (&Table{Rows: 4 << 20, U8: make([]uint8, 4<<20)}).Encode()
	if err != nil || len(bomb) > 1<<10 {
		t.Fatal(len(bomb), err)
	}
	set := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"magic", "not a data blob", set(good, 0, 'X')},
		{"version", "version 2", set(good, 4, 2)},
		{"kind", "kind 2", set(good, 5, 2)},
		{"type", "type 0", set(good, 6, 0)},
		{"type 5", "type 5", set(good, 6, 5)},
		{"coding", "coding 2", set(good, 7, 2)},
		{"class", "is not one of 2", set(good, 8, 2)},
		{"classes", "classes", set(good, 8, 255, 255, 255, 255)},
		{"rows", "rows", set(good, 12, 255, 255, 255, 255)},
		{"more rows", "payload of 6", set(good, 12, 4)},
		{"many rows", "bytes", set(good, 12, 0, 0, 0, 16, 1, 0, 0, 0, 255)},
		{"rank", "7 axes", set(good, 16, 7)},
		{"reserved", "reserved", set(good, 19, 1)},
		{"axis", "axis", set(good, 20, 255, 255, 255, 255)},
		{"axis 0", "empty", set(good, 20, 0)},
		{"bytes as float", "payload of 6", set(good, 6, typeF32)},
		{"not zstd", "unpack", set(good, 7, codingZstd)},
		{"unpacks to more", "payload of 32000", set(zip, 12, 1, 0)},
		{"unpacks to much more", "unpack", set(bomb, 12, 1, 0, 0, 0)},
		{"unpacks to less", "payload of 32000", set(zip, 12, 255, 255)},
		{"floats as rows of bytes", "payload of", set(zip, 6, typeU8, codingNone)},
	} {
		if _, err := Decode(c.b); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestOrder(t *testing.T) {
	a, b := make([]int32, 1078), make([]int32, 1078)
	Order(a, 42, 3)
	sorted := slices.Sorted(slices.Values(a))
	if !slices.Equal(sorted, iota32(1078)) {
		t.Fatal("not a permutation")
	}
	for i, c := range []struct {
		seed  uint64
		epoch int
		same  bool
	}{{42, 3, true}, {42, 4, false}, {43, 3, false}, {3, 42, false}, {42 + 1<<32, 3, false}} {
		Order(b, c.seed, c.epoch)
		if slices.Equal(a, b) != c.same {
			t.Errorf("case %d: equal is %v", i, !c.same)
		}
	}
	// The order is part of the numeric contract: every machine, every version.
	Order(b[:8], 42, 0)
	if want := []int32{3, 2, 6, 0, 5, 7, 1, 4}; !slices.Equal(b[:8], want) {
		t.Errorf("order of 8 rows with seed 42: %v, want %v", b[:8], want)
	}
}

func file(t testing.TB, d ...state.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := safetensors.Write(&b, d, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func f32(name string, shape []int, v ...float32) state.Tensor {
	return state.Tensor{Name: name, Shape: shape, F32: append([]float32{}, v...)}
}

func i64(name string, shape []int, v ...int64) state.Tensor {
	return state.Tensor{Name: name, Shape: shape, I64: append([]int64{}, v...)}
}

func fromBytes(name string, raw []byte, want *Want) (*Set, error) {
	return ReadSafetensors(name, bytes.NewReader(raw), int64(len(raw)), want)
}

func TestReadSafetensors(t *testing.T) {
	// Classes, of which the greatest is in validation only; inputs that fit bytes.
	s, err := fromBytes("a", file(t, f32("train_x", []int{2, 2}, 0, 255, 3, 4), i64("train_y", []int{2}, 0, 2),
		f32("val_x", []int{1, 2}, .5, -1), i64("val_y", []int{1}, 4)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "a" || s.Train.X().U8 == nil || s.Val.X().F32 == nil || s.Train.Y().Classes != 5 || s.Val.Len() != 1 {
		t.Errorf("got %+v %+v", s.Train.X(), s.Train.Y())
	}
	if got := all(s.Train.Y()); !slices.Equal(got, []float32{1, 0, 0, 0, 0, 0, 0, 1, 0, 0}) {
		t.Errorf("one-hot %v", got)
	}
	if got := all(s.Train.X()); !slices.Equal(got, []float32{0, 255, 3, 4}) {
		t.Errorf("inputs %v", got)
	}
	// Regression without validation; -0 must not become a byte.
	s, err = fromBytes("b", file(t, i64("train_x", []int{2, 1}, -3, 300), f32("train_y", []int{2}, float32(math.Copysign(0, -1)), 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	y := all(s.Train.Y())
	if !slices.Equal(s.Train.TargetShape(), []int{1}) || !math.Signbit(float64(y[0])) || s.Val.Len() != 0 || s.Val.X().Elems() != 1 {
		t.Errorf("targets %v %v, %d rows of validation", s.Train.TargetShape(), y, s.Val.Len())
	}
	if b, err := s.Val.Y().Encode(); err != nil {
		t.Error(err)
	} else if v, err := Decode(b); err != nil || v.Len() != 0 {
		t.Errorf("no validation came back as %v, %v", v, err)
	}
	// One-hot targets as they are, and classes without validation.
	s, err = fromBytes("c", file(t, f32("train_x", []int{1, 1}, 7), f32("train_y", []int{1, 3}, 0, 1, 0)), nil)
	if err != nil || !slices.Equal(s.Train.TargetShape(), []int{3}) || !slices.Equal(all(s.Train.Y()), []float32{0, 1, 0}) {
		t.Errorf("one-hot: %v %v", s, err)
	}
	s, err = fromBytes("d", file(t, f32("train_x", []int{2, 1}, 7, 8), i64("train_y", []int{2}, 300, 1)), nil)
	if err != nil || s.Train.Y().Classes != 301 || s.Val.Y().Classes != 301 || s.Train.Y().U16 == nil {
		t.Errorf("classes: %v %v", s, err)
	}
	// Bytes stay bytes; other narrow types have no writer here: a header by hand.
	head := `{"train_x":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]},"train_y":{"dtype":"I8","shape":[2],"data_offsets":[4,6]}}`
	raw := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	raw = append(append(raw, head...), 9, 8, 7, 255, 1, 0)
	s, err = fromBytes("e", raw, nil)
	if err != nil || !bytes.Equal(s.Train.X().U8, []byte{9, 8, 7, 255}) || s.Train.Y().Classes != 2 {
		t.Errorf("bytes: %+v %v", s, err)
	}
}

func TestFileErrors(t *testing.T) {
	x, y := f32("train_x", []int{2, 1}, 1, 2), i64("train_y", []int{2}, 0, 1)
	vx, vy := f32("val_x", []int{1, 1}, 1), i64("val_y", []int{1}, 0)
	nan := float32(math.NaN())
	for _, c := range []struct {
		name, want string
		d          state.Dict
	}{
		{"nothing", "are needed", nil},
		{"no targets", "are needed", state.Dict{x}},
		{"no rows", "are needed", state.Dict{f32("train_x", []int{0, 1}), i64("train_y", []int{0})}},
		{"other name", `"valid_x"`, state.Dict{x, y, f32("valid_x", []int{1}, 1)}},
		{"half of validation", "belong together", state.Dict{x, y, vx}},
		{"scalar", "no rows", state.Dict{f32("train_x", nil, 1), y}},
		{"row counts", "2 rows of inputs, but 1", state.Dict{x, i64("train_y", []int{1}, 1)}},
		{"row shapes", "[1] for training and of [2]", state.Dict{x, y, f32("val_x", []int{1, 2}, 1, 2), vy}},
		{"kinds of targets", "or the reverse", state.Dict{x, y, vx, f32("val_y", []int{1}, 1)}},
		{"negative class", "classes count from 0", state.Dict{x, i64("train_y", []int{2}, 0, -1)}},
		{"large integer", "row 1 holds 16777217", state.Dict{i64("train_x", []int{2, 1}, 0, 1<<24+1), y}},
		{"wraps", "row 0 holds 4294967296", state.Dict{x, i64("train_y", []int{2}, 1<<32, 0)}},
		{"nan", "row 1: NaN", state.Dict{f32("train_x", []int{2, 1}, 1, nan), y}},
		{"empty rows", "empty", state.Dict{f32("train_x", []int{2, 0}), y}},
		{"axes", "axes", state.Dict{f32("train_x", []int{1, 1, 1, 1, 1, 1, 1, 1}, 1), y}},
	} {
		_, err := fromBytes("my.safetensors", file(t, c.d...), nil)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "my.safetensors") {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := fromBytes("x", []byte("train_x"), nil); !errors.Is(err, safetensors.ErrFormat) {
		t.Errorf("not a file: %v", err)
	}
}

// A blob that decodes is valid, and its table comes back from a blob of its own.
func FuzzDecode(f *testing.F) {
	for _, x := range tables() {
		b, err := x.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, size, err := Peek(b); err == nil && size > 1<<24 {
			t.Skip("as large as the limits allow: too slow to fuzz")
		}
		x, err := Decode(b)
		if err != nil {
			return
		}
		c, err := x.Encode()
		if err != nil {
			t.Fatalf("does not encode: %v", err)
		}
		y, err := Decode(c)
		if err != nil || !reflect.DeepEqual(x, y) {
			t.Fatalf("%+v came back as %+v, %v", x, y, err)
		}
		if x.Rows > 0 && x.Elems() < 1<<20 {
			x.Gather(make([]float32, x.Elems()), []int32{int32(x.Rows - 1)})
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add(file(f, f32("train_x", []int{2, 2}, 0, 255, 3, 4), i64("train_y", []int{2}, 0, 2), f32("val_x", []int{1, 2}, .5, -1), i64("val_y", []int{1}, 4)))
	f.Add(file(f, i64("train_x", []int{2, 1}, -3, 300), f32("train_y", []int{2}, 0, 1)))
	f.Add(file(f, f32("train_x.scale", []int{2, 1}, .5, -1), i64("train_x.ids", []int{2, 2}, 300, 2, 7, 0), f32("train_y.box", []int{2, 2}, 1, 2, 3, 4), i64("train_y", []int{2}, 2, NoClass)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := fromBytes("x", b, nil)
		if err != nil {
			s, err = fromBytes("x", b, pairs)
		}
		if err != nil {
			return
		}
		for _, x := range []*Table{s.Train.X(), s.Train.Y(), s.Val.X(), s.Val.Y()} {
			if err := x.Check(); err != nil {
				t.Fatalf("read a table that is not valid: %v", err)
			}
			if x.Rows > 0 && x.Elems() < 1<<20 {
				x.Gather(make([]float32, x.Elems()), []int32{int32(x.Rows - 1)})
			}
		}
	})
}

func BenchmarkGather(b *testing.B) {
	s, err := Digits()
	if err != nil {
		b.Fatal(err)
	}
	order := make([]int32, s.Train.Len())
	Order(order, 42, 0)
	dst := make([]float32, 64*64)
	b.SetBytes(int64(4 * len(dst)))
	for b.Loop() {
		s.Train.X().Gather(dst, order[:64])
	}
}

func BenchmarkOrder(b *testing.B) {
	dst := make([]int32, 1078)
	for b.Loop() {
		Order(dst, 42, 1)
	}
}

func BenchmarkDigits(b *testing.B) {
	for b.Loop() {
		if _, err := Digits(); err != nil {
			b.Fatal(err)
		}
	}
}
