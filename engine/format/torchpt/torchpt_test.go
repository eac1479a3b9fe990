package torchpt

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

var update = flag.Bool("update", false, "rewrite testdata/ours.pt (then run testdata/make.py)")

func bitsOf(u ...uint32) (f []float32) {
	for _, b := range u {
		f = append(f, math.Float32frombits(b))
	}
	return f
}

// ramp is make.py's: i/8 - 1.
func ramp(name string, shape ...int) state.Tensor {
	t := state.Tensor{Name: name, Shape: shape, F32: []float32{}}
	n, _ := state.Elems(shape)
	for i := range n {
		t.F32 = append(t.F32, float32(i)/8-1)
	}
	return t
}

func f32(name string, shape []int, v ...float32) state.Tensor {
	return state.Tensor{Name: name, Shape: shape, F32: append([]float32{}, v...)}
}

func i64(name string, shape []int, v ...int64) state.Tensor {
	return state.Tensor{Name: name, Shape: shape, I64: append([]int64{}, v...)}
}

func sample() state.Dict {
	return state.Dict{
		{Name: "a.weight", Shape: []int{2, 2}, F32: bitsOf(0x3f800000, 0x80000000, 0x7fc00001, 0xff800000)},
		f32("ü", []int{1}, 0.5),
		i64("bn.num_batches_tracked", nil, -5),
		f32("empty", []int{0, 3}),
		ramp("conv", 2, 1, 3, 3),
	}
}

func write(t testing.TB, d state.Dict) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	big := f32("big", []int{40000})
	big.F32 = make([]float32, 40000)
	for i := range big.F32 {
		big.F32[i] = float32(i) / 3
	}
	for _, d := range []state.Dict{nil, sample()[:1], sample(), append(sample(), big)} {
		b := write(t, d)
		if !bytes.Equal(b, write(t, d)) {
			t.Error("two writes differ")
		}
		got, err := Parse(b)
		if err != nil || !got.Equal(d) {
			t.Fatalf("read back %v, %v", got.Names(), err)
		}
	}
}

// Entries are stored, and their data begin at multiples of 64, as mapped files need.
func TestLayout(t *testing.T) {
	b := write(t, sample())
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		off, err := f.DataOffset()
		if err != nil || off%64 != 0 || f.Method != zip.Store {
			t.Errorf("%s: offset %d, method %d, %v", f.Name, off, f.Method, err)
		}
		names = append(names, f.Name)
	}
	want := "archive/data.pkl archive/byteorder archive/data/0 archive/data/1 archive/data/2 archive/data/3 archive/data/4 archive/version"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("entries %s", got)
	}
}

// What PyTorch read (testdata/make.py) is what we write.
func TestPinned(t *testing.T) {
	b := write(t, sample())
	if *update {
		if err := os.WriteFile("testdata/ours.pt", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/ours.pt")
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("the bytes changed (%v); run with -update, then testdata/make.py", err)
	}
}

// data.pkl is the same in every byte as PyTorch's, through the batches of 1000, the memo
// of more than 256 and numbers of one, two and four bytes.
func TestPickleBytes(t *testing.T) {
	shapes := [][]int{{}, {3}, {2, 3}, {1, 2, 3}, {2, 1, 3, 2}, {0, 4}, {300}}
	files, err := filepath.Glob("testdata/pickles-*.txt")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var n, size int
			var want string
			if _, err := fmt.Sscan(line, &n, &size, &want); err != nil {
				t.Fatal(name, err)
			}
			d := make(state.Dict, n)
			for i := range d {
				d[i] = state.Tensor{Name: fmt.Sprintf("layer.%d.weight", i), Shape: shapes[i%7]}
				if i == 6 {
					d[i].Shape = []int{70000}
				}
				elems, _ := state.Elems(d[i].Shape)
				if i%5 == 0 {
					d[i].I64 = make([]int64, elems)
				} else {
					d[i].F32 = make([]float32, elems)
				}
			}
			p := pickle(d)
			sum := sha256.Sum256(p)
			if len(p) != size || hex.EncodeToString(sum[:]) != want {
				t.Errorf("%s: the pickle of %d tensors has %d bytes (want %d) or differs in some", name, n, len(p), size)
			}
			if got, err := Parse(write(t, d)); err != nil || !got.Equal(d) {
				t.Errorf("%d tensors do not come back: %v", n, err)
			}
		}
	}
}

func TestInts(t *testing.T) {
	for v, want := range map[int]string{
		255: "K\xff", 256: "M\x00\x01", 65536: "J\x00\x00\x01\x00",
		1<<31 - 1: "J\xff\xff\xff\x7f", 1 << 31: "\x8a\x05\x00\x00\x00\x80\x00", 1 << 39: "\x8a\x06\x00\x00\x00\x00\x80\x00",
	} {
		var p pickler
		p.int(v)
		if string(p.out) != want {
			t.Errorf("%d: %q, want %q", v, p.out, want)
		}
		if got, err := unpickle([]byte("\x80\x02" + want + ".")); err != nil || got != any(int64(v)) {
			t.Errorf("%d came back as %v, %v", v, got, err)
		}
	}
	if got, err := unpickle([]byte("\x80\x02\x8a\x02\x00\xff.")); err != nil || got != any(int64(-256)) {
		t.Errorf("-256 came back as %v, %v", got, err)
	}
}

// Files of the oldest and a current PyTorch.
func TestTorch(t *testing.T) {
	module := state.Dict{
		ramp("conv.weight", 2, 1, 3, 3), ramp("conv.bias", 2), ramp("bn.weight", 2), ramp("bn.bias", 2),
		ramp("bn.running_mean", 2), ramp("bn.running_var", 2), i64("bn.num_batches_tracked", nil, 17),
		ramp("block.0.weight", 3, 2), ramp("block.0.bias", 3),
	}
	base := ramp("", 4, 6).F32
	views := state.Dict{f32("transposed", []int{6, 4}), f32("offset", []int{2, 3}), f32("step", []int{4, 2}), f32("expanded", []int{2, 3}, 1, 1, 1, 2, 2, 2), f32("permuted", []int{2, 2, 3}), ramp("tied", 4, 6), f32("scalar", nil, base[23]), f32("empty", []int{0, 6})}
	for i := range 6 {
		for j := range 4 {
			views[0].F32 = append(views[0].F32, base[j*6+i])
		}
	}
	for i := range 2 {
		views[1].F32 = append(views[1].F32, base[(i+1)*6+2:(i+1)*6+5]...)
	}
	for i := range 4 {
		views[2].F32 = append(views[2].F32, base[i*6], base[i*6+3])
	}
	for k := range 2 {
		for i := range 2 {
			for j := range 3 {
				views[4].F32 = append(views[4].F32, float32(i*6+j*2+k)/8-1)
			}
		}
	}
	two := []int{2}
	types := state.Dict{
		f32("half", []int{3}, 1.5, -65504, 0x1p-24), f32("bfloat16", two, 1, -3), f32("double", two, 0.1, -2),
		i64("long", two, -1<<40, 7), i64("int", two, -5, 7), i64("short", two, -5, 7),
		i64("char", two, -5, 7), i64("byte", two, 250, 7), i64("bool", two, 1, 0),
	}
	for name, want := range map[string]state.Dict{"module": module, "parameters": module, "checkpoint": module, "views": views, "types": types} {
		for _, b := range files(t, name) {
			if got, err := Parse(b); err != nil || !got.Equal(want) {
				t.Errorf("%s: %v\ngot  %v\nwant %v", name, err, got, want)
			}
		}
	}
	for name, want := range map[string]string{
		"whole":  `it refers to "torch.nn.modules.linear.Linear"`,
		"legacy": "1.6",
	} {
		for _, b := range files(t, name) {
			if _, err := Parse(b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, want)
			}
		}
	}
}

// files reads testdata/name-*.pt, of which two versions are committed.
func files(t *testing.T, name string) (all [][]byte) {
	t.Helper()
	paths, err := filepath.Glob("testdata/" + name + "-*.pt")
	if err != nil || len(paths) < 2 {
		t.Fatalf("%s: %v %v", name, paths, err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// entry is a zip entry of a file made by hand.
type entry struct {
	name, data string
	method     uint16
}

func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		w, err := z.CreateHeader(&zip.FileHeader{Name: e.name, Method: e.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tensorOp is the part of a pickle that makes one tensor of storage 0.
func tensorOp(class, numel, offset, size, stride string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + class + "\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" +
		numel + "tQ" + offset + size + stride + "\x89ccollections\nOrderedDict\n)RtR"
}

func TestHostilePickle(t *testing.T) {
	const od, w = "ccollections\nOrderedDict\n)R", "X\x01\x00\x00\x00w"
	long := func(v string) string { return "\x8a\x08" + v }
	good := tensorOp("FloatStorage", "K\x02", "K\x00", "K\x02\x85", "K\x01\x85")
	run := func(p, data string) error {
		_, err := Parse(archiveOf(t, entry{"x/data.pkl", "\x80\x02" + p, 0}, entry{"x/data/0", data, 0}))
		return err
	}
	if err := run(od+w+good+"s.", "12345678"); err != nil {
		t.Fatal(err)
	}
	tensor := func(numel, offset, size, stride string) string {
		return od + w + tensorOp("FloatStorage", numel, offset, size, stride) + "s."
	}
	for _, c := range []struct{ name, want, p string }{
		{"call", `refers to "os.system"`, "cos\nsystem\nX\x02\x00\x00\x00ls\x85R."},
		{"builtin", `refers to "builtins.eval"`, "cbuiltins\neval\n)R."},
		{"other torch function", `refers to "torch._utils._rebuild_tensor_v3"`, "ctorch._utils\n_rebuild_tensor_v3\n)R."},
		{"long name", "longer than", "c" + strings.Repeat("a", 300) + "\nb\n."},
		{"call of a string", "it calls a", w + ")R."},
		{"call of a storage type", "do not fit", "ctorch\nFloatStorage\n)R."},
		{"arguments", "do not fit", "ccollections\nOrderedDict\nK\x01\x85R."},
		{"unknown operation", "0x69", "ios\nsystem\n."},
		{"new object", "0x81", "ccollections\nOrderedDict\n)\x81."},
		{"empty", "cut short", ""},
		{"no stop", "cut short", "N"},
		{"stop at nothing", "not there", "."},
		{"pop through a mark", "not there", "N(\x85."},
		{"no mark", "mark that is not there", "t."},
		{"memo", "memo slot 7", "h\x07."},
		{"memo of nothing", "memoizes", "q\x00."},
		{"memo of a mark", "memoizes", "(q\x00."},
		{"append to None", "appends to a None", "NNa."},
		{"set on a tuple", "sets items of a tuple", ")NNs."},
		{"odd items", "sets items", "}(NNNu."},
		{"attributes of None", "attributes of a None", "NNb."},
		{"string cut", "cut short", "X\xff\xff\xff\xffab."},
		{"string bytes", "UTF-8", "X\x01\x00\x00\x00\xff."},
		{"big integer", "integer of 200", "\x8a\xc8."},
		{"persistent id", "not a storage's", "NQ."},
		{"protocol 9", "protocol 9", "\x80\x09N."},
		{"root", "holds a None", "N."},
		{"root list", "holds a list", "]."},
		{"key", "the name of an entry is 1, not a text", od + "K\x01" + good + "s."},
		{"value", `entry "w" is a 1`, od + w + "K\x01s."},
		{"twice", "occurs twice", od + "(" + w + good + w + good + "u."},
		{"storage type", "a storage of type", od + w + strings.Replace(good, "ctorch\nFloatStorage\n", "N", 1) + "s."},
		{"negative storage", "a storage of type", tensor("J\xff\xff\xff\xff", "K\x00", "K\x02\x85", "K\x01\x85")},
		{"storage longer", "its storage has 8 bytes", tensor("K\x03", "K\x00", "K\x03\x85", "K\x01\x85")},
		{"size outside", "reaches outside", tensor("K\x02", "K\x00", "K\x03\x85", "K\x01\x85")},
		{"offset outside", "reaches outside", tensor("K\x02", "K\x01", "K\x02\x85", "K\x01\x85")},
		{"offset negative", "reaches outside", tensor("K\x02", "J\xff\xff\xff\xff", "K\x02\x85", "K\x01\x85")},
		{"stride outside", "reaches outside", tensor("K\x02", "K\x00", "K\x02\x85", "K\x02\x85")},
		{"stride negative", "reaches outside", tensor("K\x02", "K\x01", "K\x02\x85", "J\xff\xff\xff\xff\x85")},
		{"stride overflow", "reaches outside", tensor("K\x02", "K\x00", "K\x03K\x03\x86", long("\x00\x00\x00\x00\x00\x00\x00\x40")+long("\x00\x00\x00\x00\x00\x00\x00\x40")+"\x86")},
		{"scalar outside", "reaches outside", tensor("K\x00", "K\x00", ")", ")")},
		{"ranks", "a tensor made of", tensor("K\x02", "K\x00", "K\x02\x85", ")")},
		{"nine axes", "9 axes", tensor("K\x02", "K\x00", "("+strings.Repeat("K\x01", 9)+"t", "("+strings.Repeat("K\x01", 9)+"t")},
		{"size overflow", "more than", tensor("K\x02", "K\x00", long("\x00\x00\x00\x00\x00\x00\x00\x40")+"K\x04\x86", "K\x00K\x00\x86")},
		{"size negative", "negative", tensor("K\x02", "K\x00", "J\xff\xff\xff\xff\x85", "K\x01\x85")},
		{"repeats", "too many for a file", tensor("K\x02", "K\x00", "J\x00\x00\x00\x40K\x02\x86", "K\x00K\x01\x86")},
		{"stack", "stack grows", strings.Repeat("N", maxStack+1)},
		{"operations", "operations", strings.Repeat("\x80\x02", maxOps)},
	} {
		if err := run(c.p, "12345678"); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := unpickle(make([]byte, maxPickle+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("a pickle beyond the limit: %v", err)
	}
	if _, err := unpickle([]byte("(lp0\n.")); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("protocol 0: %v", err)
	}
	var memo bytes.Buffer
	memo.WriteString("\x80\x02N")
	for i := range maxMemo + 1 {
		memo.Write([]byte{'r', byte(i), byte(i >> 8), byte(i >> 16), 0})
	}
	if _, err := unpickle(memo.Bytes()); err == nil || !strings.Contains(err.Error(), "memo grows") {
		t.Errorf("the memo's limit: %v", err)
	}
}

func TestHostileZip(t *testing.T) {
	w := write(t, state.Dict{f32("w", []int{2}, 1, 2)})
	z, err := zip.NewReader(bytes.NewReader(w), int64(len(w)))
	if err != nil {
		t.Fatal(err)
	}
	off, err := z.File[2].DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(w)
	flipped[off] ^= 1
	p := string(pickle(state.Dict{f32("w", []int{2}, 1, 2)}))
	many := make([]entry, maxEntries+1)
	for i := range many {
		many[i].name = fmt.Sprint(i)
	}
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"nothing", "not a zip", nil},
		{"text", "not a zip", []byte("hello, this is not a zip archive")},
		{"checksum", "checksum", flipped},
		{"no pickle", "no data.pkl", archiveOf(t, entry{name: "a"})},
		{"deep pickle", "no data.pkl", archiveOf(t, entry{name: "a/b/data.pkl", data: p})},
		{"two pickles", "two pickles", archiveOf(t, entry{name: "a/data.pkl", data: p}, entry{name: "b/data.pkl", data: p})},
		{"same name", "twice", archiveOf(t, entry{name: "a/data.pkl", data: p}, entry{name: "a/data.pkl", data: p})},
		{"compressed", "compressed", archiveOf(t, entry{"a/data.pkl", p, zip.Deflate})},
		{"big-endian", `"big"`, archiveOf(t, entry{name: "a/data.pkl", data: p}, entry{name: "a/byteorder", data: "big"})},
		{"no storage", `"a/data/0" is missing`, archiveOf(t, entry{name: "a/data.pkl", data: p})},
		{"other folder", `"a/data/0" is missing`, archiveOf(t, entry{name: "a/data.pkl", data: p}, entry{name: "b/data/0", data: "12345678"})},
		{"short storage", "its storage has 7", archiveOf(t, entry{name: "a/data.pkl", data: p}, entry{name: "a/data/0", data: "1234567"})},
		{"entries", "zip entries", archiveOf(t, many...)},
	} {
		if _, err := Parse(c.b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	for n := range w {
		if _, err := Parse(w[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were read as a file", n, len(w))
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
	d := sample()
	d = append(d, f32("big", []int{100000}, make([]float32, 100000)...))
	n := len(write(t, d))
	for left := 0; left < n; left += 9973 {
		if err := Write(&failing{left}, d); !errors.Is(err, errFull) {
			t.Fatalf("a disk full after %d of %d bytes: %v", left, n, err)
		}
	}
	if err := Write(&failing{n}, d); err != nil {
		t.Error(err)
	}
	if err := Write(io.Discard, state.Dict{{Name: "a"}}); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a tensor without elements: %v", err)
	}
}

// Whatever is read must be written again to something that reads the same.
func checkRead(t *testing.T, d state.Dict, err error) {
	if err != nil {
		if d != nil {
			t.Error("a dict beside an error")
		}
		return
	}
	if err := d.Validate(); err != nil {
		t.Fatalf("read a dict that is not valid: %v", err)
	}
	again, err := Parse(write(t, d))
	if err != nil || !again.Equal(d) {
		t.Fatalf("does not round-trip: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(write(f, sample()))
	paths, _ := filepath.Glob("testdata/*.pt")
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		checkRead(t, d, err)
	})
}

// The pickle alone, beside storages of 64 bytes: no checksum stands in the fuzzer's way.
func FuzzPickle(f *testing.F) {
	f.Add(pickle(sample()))
	paths, _ := filepath.Glob("testdata/*.pt")
	for _, p := range paths {
		r, err := zip.OpenReader(p)
		if err != nil {
			continue // the format before zip
		}
		for _, e := range r.File {
			if strings.HasSuffix(e.Name, "data.pkl") {
				rc, err := e.Open()
				if err != nil {
					f.Fatal(err)
				}
				b, err := io.ReadAll(rc)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(b)
			}
		}
		if err := r.Close(); err != nil {
			f.Fatal(err)
		}
	}
	data := strings.Repeat("\x00\x00\x80\x3f", 16)
	f.Fuzz(func(t *testing.T, p []byte) {
		d, err := Parse(archiveOf(t, entry{name: "a/data.pkl", data: string(p)}, entry{name: "a/data/0", data: data}, entry{name: "a/data/1", data: data}))
		checkRead(t, d, err)
	})
}

func BenchmarkRead(b *testing.B) {
	raw := write(b, state.Dict{f32("w", []int{1 << 20}, make([]float32, 1<<20)...)})
	b.SetBytes(4 << 20)
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	d := state.Dict{f32("w", []int{1 << 20}, make([]float32, 1<<20)...)}
	b.SetBytes(4 << 20)
	for b.Loop() {
		if err := Write(io.Discard, d); err != nil {
			b.Fatal(err)
		}
	}
}
