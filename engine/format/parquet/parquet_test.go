package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"

	"github.com/ravnest/ravnest/engine/format/images"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".parquet"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rows reads all.
func rows(b []byte, target ...string) (f *File, out []string, err error) {
	if f, err = Open(bytes.NewReader(b), int64(len(b)), Columns{Target: target}); err != nil {
		return nil, nil, err
	}
	err = f.Each(func(r *Row) error {
		out = append(out, fmt.Sprint(r.X, r.Y, r.Text))
		return nil
	})
	return f, out, err
}

// TestTables: pyarrow's files in all compressions (testdata/make.py).
func TestTables(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "zstd", "brotli", "lz4"} {
		f, got, err := rows(load(t, "table-"+codec), "kind")
		if err != nil {
			t.Errorf("%s: %v", codec, err)
			continue
		}
		if len(got) != 30 || !f.Texts || f.Images() || f.Rows() != 30 {
			t.Errorf("%s: %d rows, texts: %v", codec, len(got), f.Texts)
		}
		for i, r := range got {
			even := 1 - i%2
			want := fmt.Sprint([]float32{float32(i) / 4, float32(i), float32(even), float32(i) / 2, float32(i), float32(i + 1), float32(i + 2)}, []float64{}, []string{"red", "green", "blue"}[i%3])
			if r != want {
				t.Errorf("%s: row %d is %s, want %s", codec, i, r, want)
			}
		}
	}
	// Other targets.
	f, got, err := rows(load(t, "table-none"), "kind", "a")
	if err == nil || !strings.Contains(err.Error(), "beside other targets") {
		t.Errorf("%v %v %v", f, got, err)
	}
	if _, _, err := rows(load(t, "table-none")); err == nil || !strings.Contains(err.Error(), "name the target's") {
		t.Error(err)
	}
	if _, _, err := rows(load(t, "table-none"), "b"); err == nil || !strings.Contains(err.Error(), "texts") {
		t.Error(err)
	}
	if _, _, err := rows(load(t, "table-none"), "z"); err == nil || !strings.Contains(err.Error(), `"z"`) {
		t.Error(err)
	}
	if _, _, err := rows(load(t, "nulls")); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `row 1: column "x" holds nothing`) {
		t.Error(err)
	}
	if f, got, err := rows(load(t, "ragged")); err != nil || !f.Whole || !slices.Equal(got, []string{"[1 2] [1]", "[3] [2]"}) {
		t.Errorf("%q %v", got, err)
	}
}

// TestHostile: a page that says that it is large is refused before anything makes room for it.
func TestHostile(t *testing.T) {
	b := load(t, "table-gzip")
	refused := 0
	for i := range min(len(b), 400) {
		// A varint of five bytes whose value is above 256 MB, wherever it comes to stand.
		c := slices.Concat(b[:i], []byte{0xfe, 0xff, 0xff, 0xff, 0x0f}, b[min(i+5, len(b)):])
		if _, _, err := rows(c, "kind"); err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("byte %d: %v", i, err)
			}
			if strings.Contains(err.Error(), "at most 268435456 bytes") {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("no page was refused for its size")
	}
}

func TestImages(t *testing.T) {
	b := load(t, "images")
	f, err := Open(bytes.NewReader(b), int64(len(b)), Columns{})
	if err != nil {
		t.Fatal(err)
	}
	if !f.Images() || !slices.Equal(f.Names, []string{"cat", "dog", "owl"}) || !f.Whole {
		t.Errorf("images: %v, %q", f.Images(), f.Names)
	}
	i := 0
	var o images.Options
	err = f.Each(func(r *Row) error {
		shape, pixels, err := r.Picture(&o)
		if err != nil {
			return err
		}
		if s := uint8(i); !slices.Equal(shape, []int{1, 2, 2}) || !slices.Equal(pixels, []uint8{s, s + 1, s, s + 1}) || r.Y[0] != float64(i%3) {
			t.Errorf("row %d: %v %v of class %v", i, shape, pixels, r.Y)
		}
		i++
		return nil
	})
	if err != nil || i != 30 {
		t.Errorf("%d rows: %v", i, err)
	}
}

// TestMetadata: metadata that say they are large, or are nested, take neither memory nor the stack
// before they are found not to be whole. A stack that is too large would end the program.
func TestMetadata(t *testing.T) {
	file := func(foot []byte) []byte {
		b := binary.LittleEndian.AppendUint32(append([]byte("PAR1"), foot...), uint32(len(foot)))
		return append(b, "PAR1"...)
	}
	version := []byte{0x15, 2}
	list := func(kind byte, n uint64, rest ...byte) []byte {
		return append(binary.AppendUvarint(append(bytes.Clone(version), 0x19, 0xf0|kind), n), rest...)
	}
	for name, c := range map[string]struct {
		foot []byte
		want string
	}{
		"a list of nothing":   {list(tStruct, 1<<26), "it ends within its metadata"},
		"numbers of nothing":  {list(tI64, 1<<31-1), "it ends within its metadata"},
		"many structures":     {list(tStruct, 1<<21, make([]byte, 1<<21)...), "more structures than are read"},
		"structures":          {append(version, bytes.Repeat([]byte{0xfc}, 8<<20)...), "nested too deeply"},
		"lists":               {append(version, append([]byte{0xf9}, bytes.Repeat([]byte{0x19}, 8<<20)...)...), "nested too deeply"},
		"a map of structures": {append(version, 0xfb, 0xff, 0xff, 0xff, 0xff, 7, 0xcc), "it ends within its metadata"},
		"a long text":         {append(version, 0xf8, 0xff, 0xff, 0xff, 0xff, 7), "it ends within its metadata"},
	} {
		b := file(c.foot)
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		_, err := Names(bytes.NewReader(b), int64(len(b)))
		runtime.ReadMemStats(&is)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if took := is.TotalAlloc - was.TotalAlloc; took > uint64(2*len(b)+1<<20) {
			t.Errorf("%s: a file of %d bytes took %d", name, len(b), took)
		}
	}
	for _, end := range []string{"\xff\xff\xff\x7fPAR1", "\xff\xff\xff\x7fPARE"} { // as much as there is memory
		b := []byte("PAR1" + end)
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		_, err := Names(bytes.NewReader(b), int64(len(b)))
		runtime.ReadMemStats(&is)
		if took := is.TotalAlloc - was.TotalAlloc; !errors.Is(err, ErrFormat) || took > 1<<20 {
			t.Errorf("%q: %v, it took %d bytes", b, err, took)
		}
	}
	deep := append([]byte{0x15, 0}, bytes.Repeat([]byte{0xfc}, 8<<20)...) // at the place of a page
	buf := make([]byte, 1<<16)
	var protocol thrift.CompactProtocol
	p := protocol.NewReaderFromBytes(nil)
	if _, _, err := header(bytes.NewReader(deep), 0, int64(len(deep)), &buf, thrift.NewDecoder(p), p); err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Error(err)
	}
}

// FuzzRead: a file that is none, or not whole, is an error and no more.
func FuzzRead(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.parquet")
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
		b = bytes.Clone(b)
		for i := 40; i < len(b); i += 97 {
			b[i] ^= 0x55
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		columns, err := Names(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			err = Texts(bytes.NewReader(b), int64(len(b)), columns, func(int, []string) error { return nil })
		}
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
		file, err := Open(bytes.NewReader(b), int64(len(b)), Columns{})
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		err = file.Each(func(r *Row) error {
			if len(r.X)+len(r.Y) > maxElems {
				t.Errorf("%d numbers", len(r.X))
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
}

// TestForms: unsigned integers, decimals and texts are what they mean; dates are refused unless they
// are left out, and the numbers of pandas' rows are.
func TestForms(t *testing.T) {
	each := func(name string, want Columns) (f *File, out []string, err error) {
		b := load(t, name)
		if f, err = Open(bytes.NewReader(b), int64(len(b)), want); err != nil {
			return nil, nil, err
		}
		err = f.Each(func(r *Row) error { out = append(out, fmt.Sprint(r.X)); return nil })
		return f, out, err
	}
	b := load(t, "forms")
	values, err := Values(bytes.NewReader(b), int64(len(b)), []string{"city"}, 10)
	if err != nil || !slices.Equal(values["city"], []string{"Paris", "Rome"}) {
		t.Fatal(values, err)
	}
	want := []string{"[1 1 1.25 0 1]", "[2.1474847e+09 9.223373e+18 -3.75 1 0]", "[4.294967e+09 7 40000 0 1]"}
	f, got, err := each("forms", Columns{Skip: []string{"day"}, Values: values})
	if err != nil || !f.Index || len(f.Inputs()) != 4 {
		t.Fatal(f, err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// To predict, the same columns are found by name.
	_, got, err = each("forms", Columns{NoTarget: true, Inputs: []string{"city", "m"}, Values: values})
	if err != nil || !slices.Equal(got, []string{"[0 1 1.25]", "[1 0 -3.75]", "[0 1 40000]"}) {
		t.Errorf("%q %v", got, err)
	}
	if _, got, err = each("money", Columns{}); err != nil || !slices.Equal(got, []string{"[1.25]", "[-3.75]", "[40000]"}) {
		t.Errorf("%q %v", got, err)
	}
	for _, c := range []struct {
		want Columns
		err  string
	}{
		{Columns{Values: values}, `column "day" holds dates or times`},
		{Columns{Skip: []string{"day"}}, "--one-hot city"},
		{Columns{Skip: []string{"none"}}, `no column "none"`},
		{Columns{Skip: []string{"day"}, Values: map[string][]string{"city": {"Oslo"}}}, "none of the 1 texts"},
	} {
		if _, _, err := each("forms", c.want); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v, want %q", err, c.err)
		}
	}
	if _, err := Values(bytes.NewReader(b), int64(len(b)), []string{"city"}, 1); err == nil || !strings.Contains(err.Error(), "more than 1 different texts") {
		t.Error(err)
	}
}

// TestWritten: a column of whole numbers can be one input for each, as that of a .csv can, and its
// texts have all digits.
func TestWritten(t *testing.T) {
	b := load(t, "forms")
	values, err := Values(bytes.NewReader(b), int64(len(b)), []string{"u", "w"}, 10)
	if err != nil || !slices.Equal(values["u"], []string{"1", "2147484672", "4294967040"}) || !slices.Contains(values["w"], "9223373136366403584") {
		t.Fatal(values, err)
	}
	delete(values, "w")
	f, err := Open(bytes.NewReader(b), int64(len(b)), Columns{Skip: []string{"w", "m", "day", "city"}, Values: values})
	if err != nil || len(f.Inputs()) != 1 || f.Inputs()[0].Width() != 3 {
		t.Fatal(f, err)
	}
	var got []float32
	if err := f.Each(func(r *Row) error { got = append(got, r.X...); return nil }); err != nil || !slices.Equal(got, []float32{1, 0, 0, 0, 1, 0, 0, 0, 1}) {
		t.Error(got, err)
	}
}

// TestLists: lists of texts are no texts, neither as targets nor beside others.
func TestLists(t *testing.T) {
	var b bytes.Buffer
	type row struct {
		Words []string `parquet:"words,list"`
		Y     int32    `parquet:"y"`
	}
	w := parquet.NewGenericWriter[row](&b)
	if _, err := w.Write([]row{{Words: []string{"a", "b"}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, size := bytes.NewReader(b.Bytes()), int64(b.Len())
	err := Texts(r, size, []string{"words"}, func(_ int, cells []string) error { t.Errorf("%q", cells); return nil })
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `"words" holds lists`) {
		t.Error(err)
	}
	if _, err := Open(r, size, Columns{Target: []string{"words"}}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `"words" holds lists`) {
		t.Error(err)
	}
}

// TestTruths: truth values that are written as runs are what they are, whatever the runs' lengths. The
// library reads others.
func TestTruths(t *testing.T) {
	value := func(i int) float32 {
		if i*i/7%3 == 0 || 100 <= i && i < 160 {
			return 1
		}
		return 0
	}
	for _, codec := range []string{"none", "snappy", "zstd"} {
		b := load(t, "truths-"+codec)
		f, got, err := rows(b, "y")
		if err != nil || len(got) != 400 || len(f.asRuns) == 0 {
			t.Errorf("%s: %d rows, %v", codec, len(got), err)
			continue
		}
		for i, r := range got {
			x := []float32{value(i), value(i), value(i + 1)}[:2+i%2]
			if want := fmt.Sprint(x, []float64{float64(i % 3)}, ""); r != want {
				t.Fatalf("%s: row %d is %s, want %s", codec, i, r, want)
			}
		}
		for i := 0; i < len(b); i += 5 { // no byte takes it anywhere else than to an error
			c := slices.Clone(b)
			c[i] ^= 0x55
			if _, _, err := rows(c, "y"); err != nil && !errors.Is(err, ErrFormat) {
				t.Errorf("%s: byte %d: %v", codec, i, err)
			}
		}
	}
}
