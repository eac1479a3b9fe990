package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

var update = flag.Bool("update", false, "rewrite testdata/ours.safetensors (then run testdata/make.py)")

func bitsOf(u ...uint32) (f []float32) {
	for _, b := range u {
		f = append(f, math.Float32frombits(b))
	}
	return f
}

func sample() (state.Dict, map[string]string) {
	return state.Dict{
		{Name: "a.weight", Shape: []int{2, 2}, F32: bitsOf(0x3f800000, 0x80000000, 0x7fc00001, 0xff800000)},
		{Name: "ü<&>\"\\", Shape: []int{1}, F32: []float32{0.5}},
		{Name: "bn.num_batches_tracked", Shape: []int{}, I64: []int64{-5}},
		{Name: "empty", Shape: []int{0, 3}, F32: []float32{}},
	}, map[string]string{"run": "1 <2>", "format": "pt"}
}

func write(t testing.TB, d state.Dict, meta map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, d, meta); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	d, meta := sample()
	big := state.Tensor{Name: "big", Shape: []int{40000}} // crosses the buffers
	for i := range 40000 {
		big.F32 = append(big.F32, float32(i)/3)
	}
	d = append(d, big)
	b := write(t, d, meta)
	if again := write(t, d, maps.Clone(meta)); !bytes.Equal(b, again) {
		t.Error("two writes differ")
	}
	if n := binary.LittleEndian.Uint64(b); n%8 != 0 {
		t.Errorf("header of %d bytes is not padded to 8", n)
	}
	got, m, err := Parse(b)
	if err != nil || !got.Equal(d) || !maps.Equal(m, meta) {
		t.Fatalf("read back %v %v %v", err, got.Names(), m)
	}
	got, m, err = Parse(write(t, nil, nil))
	if err != nil || len(got) != 0 || m != nil {
		t.Errorf("an empty dict came back as %v %v %v", got, m, err)
	}
}

// What the reference implementation read (testdata/make.py) is what we write.
func TestPinned(t *testing.T) {
	d, meta := sample()
	b := write(t, d, meta)
	if *update {
		if err := os.WriteFile("testdata/ours.safetensors", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/ours.safetensors")
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("the bytes changed (%v); run with -update, then testdata/make.py", err)
	}
}

func TestReference(t *testing.T) {
	ref, err := os.ReadFile("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(bytes.NewReader(ref), int64(len(ref)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Meta["note"] != `a "quoted" <word>` || f.Meta["format"] != "pt" {
		t.Errorf("metadata %q", f.Meta)
	}
	b, err := os.ReadFile("testdata/reference.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := state.Dict{
		{Name: "bn.num_batches_tracked", Shape: []int{}, I64: []int64{17}},
		{Name: "brain", Shape: []int{2, 1}, F32: []float32{1, -3}},
		{Name: "conv.weight", Shape: []int{2, 3}, F32: []float32{-1, -.75, -.5, -.25, 0, .25}},
		{Name: "größe/日本", Shape: []int{3}, F32: bitsOf(0x7fc00000, 0xff800000, 0x80000000)},
		{Name: "half", Shape: []int{3}, F32: []float32{1.5, -65504, 0x1p-24}},
		{Name: "none", Shape: []int{0, 4}, F32: []float32{}},
	}
	slices.SortFunc(d, func(a, b state.Tensor) int { return strings.Compare(a.Name, b.Name) })
	if !d.Equal(want) {
		t.Errorf("got %v\nwant %v", d, want)
	}
}

// file is a header, not padded, and n bytes of data.
func file(head string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(b, head...), make([]byte, n)...)
}

func TestHostile(t *testing.T) {
	const w = `"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	if _, _, err := Parse(file("{"+w+"}  ", 8)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"nothing", "shorter", nil},
		{"cut length", "shorter", []byte{1, 0, 0}},
		{"header too long", "at most", binary.LittleEndian.AppendUint64(nil, 1<<63)},
		{"header past the end", "cut short", binary.LittleEndian.AppendUint64(nil, 100)},
		{"no header", "begin with {", file("", 0)},
		{"space first", "begin with {", file(" {}", 0)},
		{"not JSON", "header", file("{]", 0)},
		{"open", "header", file("{"+w, 8)},
		{"not UTF-8", "UTF-8", file("{\"\xff\":1}", 0)},
		{"after", "goes on", file("{"+w+"}\n", 8)},
		{"two values", "goes on", file("{"+w+"}{}", 8)},
		{"twice", "occurs twice", file("{"+w+","+w+"}", 8)},
		{"short data", "outside the data", file("{"+w+"}", 7)},
		{"hole at the end", "take 8 bytes", file("{"+w+"}", 12)},
		{"hole", `"v" begins at byte 9`, file("{"+w+`,"v":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}`, 10)},
		{"hole first", `"v" begins at byte 1`, file(`{"v":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2)},
		{"overlap", `"v" begins at byte 4`, file("{"+w+`,"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8)},
		{"same bytes", `begins at byte 0`, file("{"+w+`,"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)},
		{"length", "8 bytes between", file(`{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8)},
		{"overflow", "more than", file(`{"w":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}}`, 16)},
		{"negative shape", "negative", file(`{"w":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}`, 8)},
		{"negative offset", "outside", file(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`, 8)},
		{"backwards", "outside", file(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, 8)},
		{"one offset", "two data_offsets", file(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[8]}}`, 8)},
		{"no shape", "needs", file(`{"w":{"dtype":"F32","data_offsets":[0,4]}}`, 4)},
		{"null", "needs", file(`{"w":null}`, 0)},
		{"fraction", "tensor", file(`{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,6]}}`, 6)},
		{"unknown field", "code", file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"code":1}}`, 4)},
		{"unknown type", `"F12"`, file(`{"w":{"dtype":"F12","shape":[4],"data_offsets":[0,4]}}`, 4)},
		{"complex", `"C64", which is not read here: numbers must be real`, file(`{"w":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}`, 8)},
		{"four bits", `"F4", which is not read here: elements must fill bytes`, file(`{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1)},
		{"narrow type", "has dtype F64", file(`{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, 8)},
		{"metadata", "__metadata__", file(`{"__metadata__":{"a":1}}`, 0)},
		{"no name", "without a name", file(`{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4)},
	} {
		_, _, err := Parse(c.b)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	// A reader that ends before the size that it was said to have.
	b := file("{"+w+"}", 8)
	for _, n := range []int{4, 20, len(b) - 1} {
		if _, _, err := Read(bytes.NewReader(b[:n]), int64(len(b))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
}

type failing struct{ left int }

var errFull = errors.New("disk full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteErrors(t *testing.T) {
	d, meta := sample()
	n := len(write(t, d, meta))
	for left := range n {
		if err := Write(&failing{left}, d, meta); !errors.Is(err, errFull) {
			t.Fatalf("a disk full after %d of %d bytes: %v", left, n, err)
		}
	}
	if err := Write(&failing{n}, d, meta); err != nil {
		t.Error(err)
	}
	if err := Write(io.Discard, state.Dict{{Name: "a"}}, nil); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a tensor without elements: %v", err)
	}
	if err := Write(io.Discard, state.Dict{{Name: metaKey, F32: []float32{1}}}, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("a tensor with the metadata's name: %v", err)
	}
	if err := Write(io.Discard, nil, map[string]string{"\xff": ""}); !errors.Is(err, ErrFormat) {
		t.Errorf("metadata not in UTF-8: %v", err)
	}
}

func TestRaw(t *testing.T) {
	d, meta := sample()
	b := write(t, d, meta)
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := f.Get("a.weight")
	if !ok {
		t.Fatal("a.weight is not there")
	}
	raw, err := io.ReadAll(f.Raw(e))
	if err != nil || len(raw) != 16 || binary.LittleEndian.Uint32(raw) != 0x3f800000 {
		t.Errorf("raw bytes %x, %v", raw, err)
	}
}

// Whatever is read must be written again to something that reads the same.
func FuzzParse(f *testing.F) {
	d, meta := sample()
	f.Add(write(f, d, meta))
	f.Add(file(`{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4))
	f.Add(file(`{"w":{"dtype":"F32","shape":[0,2],"data_offsets":[0,0]},"__metadata__":{"a":"b"}} `, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, meta, err := Parse(b)
		if err != nil {
			if d != nil {
				t.Error("a dict beside an error")
			}
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("read a dict that is not valid: %v", err)
		}
		again, m, err := Parse(write(t, d, meta))
		if err != nil || !again.Equal(d) || !maps.Equal(m, meta) {
			t.Fatalf("does not round-trip: %v", err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	d := state.Dict{{Name: "w", Shape: []int{1 << 20}, F32: make([]float32, 1<<20)}}
	raw := write(b, d, nil)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	d := state.Dict{{Name: "w", Shape: []int{1 << 20}, F32: make([]float32, 1<<20)}}
	b.SetBytes(4 << 20)
	for b.Loop() {
		if err := Write(io.Discard, d, nil); err != nil {
			b.Fatal(err)
		}
	}
}
