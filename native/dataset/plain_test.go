package dataset_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/native/dataset"
)

// packed is b as a gzip file.
func packed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// elements are those of a table: inputs and targets of training, then of validation.
func elements(t *testing.T, s *dataset.Source, part int) []float32 {
	t.Helper()
	set, err := s.Set(s.Shape(), nil)
	if err != nil {
		t.Fatal(err)
	}
	x := []*data.Table{set.Train.X(), set.Train.Y(), set.Val.X(), set.Val.Y()}[part]
	all, row := []float32(nil), make([]float32, x.Elems())
	for r := range x.Rows {
		x.Gather(row, []int32{int32(r)})
		all = append(all, row...)
	}
	return all
}

// TestPlain: a table in lines of JSON, compressed or not, is the table of a CSV, and a folder of
// texts is the text that they are together. Nothing is left behind.
func TestPlain(t *testing.T) {
	dir, scratch := t.TempDir(), t.TempDir()
	table := "a,b,y\n0.5,-1,0\n2,1e-3,1\n-3,4,1\n1,1,0\n"
	lines := `{"a":0.5,"b":-1,"y":false}` + "\n" + `{"y":true,"a":2,"b":1e-3}` + "\n\n" + `{"a":-3,"b":4,"y":true}` + "\n" + ` {"a":1,"b":1.0,"y":0}`
	text := strings.Repeat("to be or not to be\n", 40)
	var wide bytes.Buffer
	for i := range 1<<16 + 1 {
		fmt.Fprintf(&wide, `,"%d":0`, i)
	}
	wide.Bytes()[0] = '{'
	wide.WriteByte('}')
	for name, b := range map[string][]byte{
		"t.csv": []byte(table), "t.jsonl": []byte(lines), "t.csv.gz": packed(t, []byte(table)), "t.jsonl.gz": packed(t, []byte(lines)),
		"all.txt": []byte(text + "\n" + text), "all.txt.gz": packed(t, []byte(text+"\n"+text)), "texts/2.txt": []byte(text), "texts/1.txt": []byte(text), "texts/.hidden": nil,
		"nested.jsonl": []byte(`{"a":[1],"y":0}`), "twice.jsonl": []byte(`{"a":1,"a":2}`), "lacks.jsonl": []byte("{\"a\":1,\"y\":0}\n{\"a\":1,\"z\":0}"), "more.jsonl": []byte(`{"a":1} {"a":2}`),
		"fewer.jsonl": []byte("{\"a\":1,\"y\":0}\n{\"a\":1}"), "bare.jsonl": []byte("{}\n{}"), "wide.jsonl": wide.Bytes(),
		"empty.jsonl": []byte("{\"t\":\"a\\nb\",\"y\":0}\n\n{\"t\":\"c\",\"y\":null}"), "bom.jsonl": append([]byte("\xef\xbb\xbf"), lines...),
		"long.jsonl": []byte(lines + "\n" + strings.Repeat(" ", 1<<24)), "none.jsonl": nil, "list.jsonl": []byte(`[1,2]`), "bad.csv.gz": []byte("a,b\n1,2\n"), "cut.csv.gz": packed(t, []byte(table))[:30], "what.pdf.gz": packed(t, nil), "t.csv.bz2": {1},
	} {
		write(t, b, append([]string{dir}, strings.Split(name, "/")...)...)
	}
	read := func(name string) *dataset.Source {
		t.Helper()
		o := dataset.Options{Val: 0.25, Seed: 3, Block: 8, Scratch: scratch}
		if strings.HasPrefix(name, "t.") {
			o.Target = []string{"y"}
		}
		s, err := dataset.Open(filepath.Join(dir, name), o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return s
	}
	for want, others := range map[string][]string{"t.csv": {"t.jsonl", "t.csv.gz", "t.jsonl.gz"}, "all.txt": {"all.txt.gz", "texts"}} {
		a := read(want)
		for _, name := range others {
			b := read(name)
			for _, part := range []int{0, 1, 2, 3} {
				x, y := elements(t, a, part), elements(t, b, part)
				if !slices.Equal(x, y) || len(x) == 0 {
					t.Errorf("%s, table %d: %v, want %v", name, part, y, x)
				}
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]string{
		"nested.jsonl": "holds a list or an object", "twice.jsonl": "is there twice", "lacks.jsonl": `line 2 has a column "z", the first has none`, "fewer.jsonl": `line 2 has no column "y"`, "bare.jsonl": "line 1 has no columns", "wide.jsonl": "more than 65536 columns", "more.jsonl": "something follows", "none.jsonl": "no lines", "list.jsonl": "no JSON object",
		"empty.jsonl": `row 1, column "t": "a\nb" is not a number`,
		"long.jsonl":  "line 6 has more than 16777216 bytes",
		"bad.csv.gz":  "unpacking it", "cut.csv.gz": "unpacking it", "what.pdf.gz": "a compressed file is", "t.csv.bz2": "compress it as .gz",
	} {
		_, err := dataset.Open(filepath.Join(dir, name), dataset.Options{Target: []string{"y"}, Scratch: scratch})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for _, name := range []string{"t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "bom.jsonl"} { // all columns are inputs
		x, _, err := inputs(t, filepath.Join(dir, name), []int{3}, dataset.Options{Scratch: scratch})
		if err != nil || x.Rows != 4 || !slices.Equal(x.F32[3:6], []float32{2, 1e-3, 1}) {
			t.Errorf("%s to be predicted: %v, %v", name, x, err)
		}
	}
	_, err := dataset.Open(filepath.Join(dir, "empty.jsonl"), dataset.Options{Target: []string{"y"}, OneHot: []string{"t"}, Scratch: scratch})
	if err == nil || !strings.Contains(err.Error(), `row 2, column "y": the cell is empty`) {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(scratch, ".*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// TestOddLines: names may hold what separates the columns of other tables, and a row of nothing is
// a row, as long as it is said which.
func TestOddLines(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"odd.jsonl":   `{"a;b;c":1,"d\te\tf":2,"g\"|\nh|,":3,"y":0}` + "\n" + `{"y":1,"g\"|\nh|,":6,"d\te\tf":5,"a;b;c":4}`,
		"empty.jsonl": "{\"x\":1}\n{\"x\":null}\n{\"x\":3}",
	} {
		write(t, []byte(text), dir, name)
	}
	s, err := dataset.Open(filepath.Join(dir, "odd.jsonl"), dataset.Options{Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if x := elements(t, s, 0); !slices.Equal(x, []float32{1, 2, 3, 4, 5, 6}) {
		t.Errorf("%v", x)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	x, _, err := inputs(t, filepath.Join(dir, "empty.jsonl"), []int{1}, dataset.Options{})
	if err == nil || !strings.Contains(err.Error(), `row 2, column "x": the cell is empty`) {
		t.Error(x, err)
	}
}

// TestStop: reading that takes long tells how far it is, and ends when it is told to, and nothing stays
// behind.
func TestStop(t *testing.T) {
	dir, scratch := t.TempDir(), t.TempDir()
	table := "a,b,y\n" + strings.Repeat("0.5,-1,0\n2,1,1\n", 200000)
	lines := strings.Repeat(`{"a":0.5,"y":0}`+"\n"+`{"a":2,"y":1}`+"\n", 100000)
	for name, b := range map[string][]byte{"t.csv": []byte(table), "t.csv.gz": packed(t, []byte(table)), "t.jsonl": []byte(lines)} {
		path := write(t, b, dir, name)
		enough, last := errors.New("enough"), int64(-1)
		_, err := dataset.Open(path, dataset.Options{Scratch: scratch, Progress: func(n int64) error {
			if n < last {
				t.Errorf("%s: %d bytes behind %d", name, n, last)
			}
			if last = n; n > 1<<20 {
				return enough
			}
			return nil
		}})
		if !errors.Is(err, enough) {
			t.Errorf("%s: %v at %d bytes", name, err, last)
		}
	}
	if left, err := filepath.Glob(filepath.Join(scratch, ".*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}
