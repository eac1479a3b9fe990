package dataset_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
)

func picture(t *testing.T, shade int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 4, 4))
	for i := range 16 {
		m.Set(i%4, i/4, color.Gray{uint8(shade + i)})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarOf packs pictures of n classes as WebDataset does.
func tarOf(t *testing.T, from, to int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, c []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(c)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(c); err != nil {
			t.Fatal(err)
		}
	}
	for i := from; i < to; i++ {
		put(fmt.Sprintf("%04d.png", i), picture(t, i))
		put(fmt.Sprintf("%04d.cls", i), []byte(fmt.Sprint(i%3)))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// counting are n bytes of which no two neighbours are alike.
func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 13)
	}
	return b
}

// stored is an archive with the same files, not compressed.
func stored(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		to, err := w.CreateHeader(&zip.FileHeader{Name: f.Name, Method: zip.Store})
		if err == nil {
			_, err = io.Copy(to, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sheet is a table whose targets are texts or numbers.
func sheet(texts bool) string {
	var b strings.Builder
	b.WriteString("a,kind,b\n")
	for i := range 40 {
		k := fmt.Sprint(i % 3)
		if texts {
			k = []string{"pear", "apple", "fig"}[i%3]
		}
		fmt.Fprintf(&b, "%d,%s,%d.25\n", i, k, 40-i)
	}
	return b.String()
}

// rowsOf are the rows of a part as texts, in their order.
func rowsOf(t *testing.T, p *project.Project, part data.Part) (rows []string) {
	t.Helper()
	read := func(h *data.Table) data.Rows {
		if h.Index == nil {
			return h
		}
		r := data.NewPaged(t.Context(), h.Index, nil, 2, 1, p.Shards.Fetch)
		t.Cleanup(r.Close)
		return r
	}
	x, y := read(part.X()), read(part.Y())
	for i := range int32(part.Len()) {
		dx, dy := make([]float32, part.X().Elems()), make([]float32, part.Y().Elems())
		for _, r := range []data.Rows{x, y} {
			if g, ok := r.(*data.Paged); ok {
				if err := g.Hold(t.Context(), -1, int(i), []int32{i}); err != nil {
					t.Fatal(err)
				}
			}
		}
		x.Gather(dx, []int32{i})
		y.Gather(dy, []int32{i})
		rows = append(rows, fmt.Sprint(dx, dy))
	}
	return rows
}

// largeCase is a data set that does not fit in memory.
type largeCase struct {
	make func(dir string) string
	o    dataset.Options
	want []int // rows for training and for validation, outputs
}

func largeCases(t *testing.T) map[string]largeCase {
	const chars = "to be or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"
	return map[string]largeCase{
		"tar": {func(dir string) string { return write(t, tarOf(t, 0, 40), dir, "x.tar") }, dataset.Options{Val: 0.2, Seed: 1}, []int{32, 8, 3}},
		"tars": {func(dir string) string {
			write(t, tarOf(t, 0, 20), dir, "train-0.tar")
			write(t, tarOf(t, 30, 37), dir, "val-0.tar")
			write(t, tarOf(t, 20, 30), dir, "train-1.tar")
			return dir
		}, dataset.Options{}, []int{30, 7, 3}},
		"images": {func(dir string) string {
			for i := range 12 {
				write(t, picture(t, i), dir, "train", string(rune('a'+i%3)), fmt.Sprint(i, ".png"))
			}
			write(t, picture(t, 99), dir, "val", "b", "x.png")
			return dir
		}, dataset.Options{}, []int{12, 1, 3}},
		"text":   {func(dir string) string { return write(t, []byte(strings.Repeat(chars, 9)), dir, "x.txt") }, dataset.Options{Block: 16, Val: 0.1}, []int{42, 5, 256}},
		"tokens": {func(dir string) string { return write(t, bytes.Repeat([]byte{1, 0, 2, 1, 7, 0}, 40), dir, "x.bin") }, dataset.Options{Block: 7, Val: 0.25}, []int{13, 4, 259}},
		"uint32": {func(dir string) string {
			return write(t, bytes.Repeat([]byte{1, 0, 1, 0, 7, 0, 0, 0}, 40), dir, "x.bin")
		}, dataset.Options{Block: 7, Tokens: "uint32"}, []int{11, 0, 65538}},
		"npz":        {func(dir string) string { return write(t, npz(t), dir, "x.npz") }, dataset.Options{}, []int{20, 1, 3}},
		"npz stored": {func(dir string) string { return write(t, stored(t, npz(t)), dir, "x.npz") }, dataset.Options{}, []int{20, 1, 3}},
		"npy": {func(dir string) string {
			write(t, npy(ramp(30), "(30,)"), dir, "..", "y.npy")
			return write(t, npy(counting(30*12), "(30, 12)"), dir, "x.npy")
		}, dataset.Options{Val: 0.2, Target: []string{"y.npy"}}, []int{24, 6, 3}},
		"npys": {func(dir string) string {
			write(t, npy(ramp(16), "(16,)"), dir, "y_train.npy")
			write(t, npy(counting(16*12), "(16, 12)"), dir, "x_train.npy")
			write(t, npy(ramp(4), "(4,)"), dir, "y_test.npy")
			write(t, npy(counting(4*12), "(4, 12)"), dir, "x_test.npy")
			return dir
		}, dataset.Options{}, []int{16, 4, 3}},
		"MNIST": {func(dir string) string {
			write(t, zipped(idx(counting(20*64), 20, 8, 8)), dir, "train-images-idx3-ubyte.gz")
			write(t, idx(ramp(20), 20), dir, "train-labels-idx1-ubyte")
			return dir
		}, dataset.Options{Val: 0.2}, []int{16, 4, 3}},
		"CIFAR": {func(dir string) string {
			write(t, ramp(12*3073), dir, "data_batch_1.bin")
			write(t, ramp(5*3073), dir, "data_batch_2.bin")
			write(t, ramp(3073*2), dir, "test_batch.bin")
			return dir
		}, dataset.Options{}, []int{17, 2, 3}},
		"classes":   {func(dir string) string { return write(t, []byte(sheet(true)), dir, "x.csv") }, dataset.Options{Val: 0.1, Target: []string{"kind"}}, []int{36, 4, 3}},
		"numbers":   {func(dir string) string { return write(t, []byte(sheet(false)), dir, "x.csv") }, dataset.Options{Val: 0.1, Target: []string{"kind"}}, []int{36, 4, 3}},
		"tokenizer": {func(dir string) string { return write(t, []byte(strings.Repeat(chars, 9)), dir, "x.txt") }, dataset.Options{Block: 8, Tokenizer: "../../engine/format/tokenizer/testdata/gpt2.json", Val: 0.1}, nil},
	}
}

// TestLarge: what is too large for memory has the rows that it would have in memory: those for
// training in another order, those for validation in the same.
func TestLarge(t *testing.T) {
	for name, c := range largeCases(t) {
		var train, val [2][]string
		for k, above := range []int64{1 << 40, 0} {
			dir := t.TempDir()
			o := c.o
			o.Above, o.Scratch = &above, dir
			if len(o.Target) == 1 && filepath.Ext(o.Target[0]) == ".npy" {
				o.Target = []string{filepath.Join(dir, o.Target[0])}
			}
			s, err := dataset.Open(c.make(filepath.Join(dir, "data")), o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, large := s.Raw(); large != (above == 0) {
				t.Errorf("%s: large: %v", name, large)
			}
			n, m := s.Rows()
			outputs, _ := s.Outputs()
			if c.want != nil && !slices.Equal([]int{n, m, outputs}, c.want) {
				t.Errorf("%s: %d and %d rows, %d outputs, want %v", name, n, m, outputs, c.want)
			}
			g, err := zoo.Starter(s.Shape(), outputs, s.Tokens)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			j := job.Default()
			j.Loss, j.BatchSize, j.Shards.Bytes = "cross_entropy", 4, 0
			if above == 0 {
				j.Shards = job.Shards{Bytes: 100, Group: 2}
			}
			job := filepath.Join(dir, "job")
			if err := project.Create(job, j, g, 3, s, nil, nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".ravnest-*")); len(left) > 0 {
				t.Errorf("%s leaves %q", name, left)
			}
			p, err := project.Open(job)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			train[k], val[k] = rowsOf(t, p, p.Data.Train), rowsOf(t, p, p.Data.Val)
			if name == "tokenizer" {
				if b, err := os.ReadFile(filepath.Join(job, "tokenizer.json")); err != nil || len(b) == 0 {
					t.Errorf("no tokenizer in the job: %v", err)
				}
			}
		}
		if len(train[0]) < 10 || slices.Equal(train[0], train[1]) || !slices.Equal(slices.Sorted(slices.Values(train[0])), slices.Sorted(slices.Values(train[1]))) {
			t.Errorf("%s: %d rows in memory, %d in shards, not the same in another order", name, len(train[0]), len(train[1]))
		}
		if !slices.Equal(val[0], val[1]) {
			t.Errorf("%s: other rows for validation", name)
		}
	}
}

// TestTokenizer: a text's rows are the tokens of the whole text, one behind the other.
func TestTokenizer(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("It's a text.\nOf several lines\n\n  and words, isn't it?\n", 20)
	file := "../../engine/format/tokenizer/testdata/gpt2.json"
	s, err := dataset.Open(write(t, []byte(text), dir, "x.txt"), dataset.Options{Block: 5, Tokenizer: file})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := k.Encode(nil, text, true)
	if err != nil {
		t.Fatal(err)
	}
	in, _, err := inputs(t, write(t, []byte(text), dir, "in.txt"), []int{5}, dataset.Options{Tokenizer: file})
	if err != nil || in.Rows != len(ids)/5 || !slices.Equal(in.I32, ids[:5*in.Rows]) {
		t.Errorf("rows to predict: %v of %d tokens, %v", in, len(ids), err)
	}
	set, err := s.Set([]int{5}, nil)
	if err != nil {
		t.Fatal(err)
	}
	x, y := set.Train.X(), set.Train.Y()
	if x.Rows != (len(ids)-1)/5 || s.Tokens != k.Size() {
		t.Fatalf("%d rows of %d tokens, %d tokens in all", x.Rows, len(ids), s.Tokens)
	}
	for r := range int32(x.Rows) {
		in, out := make([]float32, 5), make([]int32, 5)
		x.Gather(in, []int32{r})
		y.Labels(out, []int32{r})
		for i := range 5 {
			if at := int(r)*5 + i; in[i] != float32(ids[at]) || out[i] != ids[at+1] {
				t.Fatalf("row %d is %v -> %v, want %v", r, in, out, ids[5*r:][:6])
			}
		}
	}
	for _, c := range []struct {
		name, file, says string
	}{{"x.txt", "none.json", "missing file"}, {"x.bin", file, "for a text"}, {"x.txt", write(t, []byte("{}"), dir, "bad.json"), "no model"}} {
		_, err := dataset.Open(write(t, []byte(text), dir, c.name), dataset.Options{Tokenizer: c.file})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.says, err)
		}
	}
}

// TestParquet: images with classes that have names, and tables with texts as classes, in memory
// and in shards.
func TestParquet(t *testing.T) {
	from := "../../engine/format/parquet/testdata/"
	copied := func(name string, as ...string) func(dir string) string {
		return func(dir string) string {
			for _, a := range as {
				b, err := os.ReadFile(from + name)
				if err != nil {
					t.Fatal(err)
				}
				write(t, b, dir, a)
			}
			return dir
		}
	}
	for name, c := range map[string]struct {
		make    func(dir string) string
		target  []string
		shape   []int
		want    []int // rows for training and for validation, outputs
		classes []string
	}{
		"images": {copied("images.parquet", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"), nil, []int{1, 2, 2}, []int{60, 30, 3}, []string{"cat", "dog", "owl"}},
		"table":  {copied("table-zstd.parquet", "t.parquet"), []string{"kind"}, []int{7}, []int{24, 6, 3}, []string{"blue", "green", "red"}},
		"values": {copied("table-none.parquet", "t.parquet"), []string{"a"}, nil, nil, nil},
	} {
		for _, above := range []int64{1 << 40, 0} {
			dir := t.TempDir()
			s, err := dataset.Open(c.make(filepath.Join(dir, "data")), dataset.Options{Target: c.target, Val: 0.2, Above: &above, Scratch: dir})
			if c.shape == nil { // "kind" is no number
				if err == nil || !strings.Contains(err.Error(), `column "kind" holds texts`) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n, m := s.Rows()
			outputs, classes := s.Outputs()
			if !slices.Equal(s.Shape(), c.shape) || !slices.Equal([]int{n, m, outputs}, c.want) || !classes || !slices.Equal(s.Names(), c.classes) {
				t.Errorf("%s: rows of %v, %d and %d of %d classes %q", name, s.Shape(), n, m, outputs, s.Names())
			}
			g, err := zoo.Starter(s.Shape(), outputs, s.Tokens)
			if err != nil {
				t.Fatal(err)
			}
			j := job.Default()
			j.Loss, j.BatchSize = "cross_entropy", 4
			if err := project.Create(filepath.Join(dir, "job"), j, g, 3, s, nil, nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			p, err := project.Open(filepath.Join(dir, "job"))
			if err != nil {
				t.Fatal(err)
			}
			if name == "table" {
				for _, r := range rowsOf(t, p, p.Data.Train) {
					var a, b, even, h, v1, v2, v3, y1, y2, y3 float32
					if _, err := fmt.Sscanf(r, "[%f %f %f %f %f %f %f] [%f %f %f]", &a, &b, &even, &h, &v1, &v2, &v3, &y1, &y2, &y3); err != nil {
						t.Fatalf("%q: %v", r, err)
					}
					if class := map[int][3]float32{0: {0, 0, 1}, 1: {0, 1, 0}, 2: {1, 0, 0}}[int(b)%3]; a != b/4 || v3 != b+2 || [3]float32{y1, y2, y3} != class {
						t.Errorf("a row is %s", r)
					}
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLargeShares: targets of a binary cross entropy are shares whether they are in memory or in
// shards.
func TestLargeShares(t *testing.T) {
	for share, ok := range map[float64]bool{0.5: true, 1.5: false} {
		for _, above := range []int64{1 << 40, 0} {
			dir := t.TempDir()
			var b strings.Builder
			b.WriteString("a,b,y\n")
			for i := range 40 {
				fmt.Fprintf(&b, "%d,%d.5,%v\n", i, i%7, []float64{0, 1, share}[i%3])
			}
			file := filepath.Join(dir, "t.csv")
			if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := dataset.Open(file, dataset.Options{Target: []string{"y"}, Val: 0.2, Above: &above, Scratch: dir})
			if err != nil {
				t.Fatal(err)
			}
			g, err := zoo.Starter(s.Shape(), 1, s.Tokens)
			if err != nil {
				t.Fatal(err)
			}
			j := job.Default()
			j.Loss, j.BatchSize = job.BCE, 4
			err = project.Create(filepath.Join(dir, "job"), j, g, 3, s, nil, nil)
			if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "from 0 (no) to 1 (yes)") {
				t.Errorf("%v in shards above %d bytes: %v", share, above, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestUTF16: a text in UTF-16 is no text of bytes, in memory or not.
func TestUTF16(t *testing.T) {
	file := write(t, []byte("\xff\xfea\x00b\x00c\x00d\x00"), t.TempDir(), "t.txt")
	for _, above := range []int64{0, 1 << 20} {
		s, err := dataset.Open(file, dataset.Options{Block: 2, Above: &above})
		if err == nil || !strings.Contains(err.Error(), "it is UTF-16") {
			t.Errorf("%v, %v", s, err)
		}
	}
}

// TestUnpacked: an array that says it unpacks to more than fits is not begun.
func TestUnpacked(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"x.npy", "y.npy"} {
		to, err := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, CompressedSize64: 2, UncompressedSize64: 1 << 40})
		if err == nil {
			_, err = to.Write([]byte{3, 0})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	above := int64(0)
	_, err := dataset.Open(write(t, b.Bytes(), t.TempDir(), "x.npz"), dataset.Options{Above: &above})
	if err == nil || !strings.Contains(err.Error(), "an array of 1099511627776 bytes, at most") {
		t.Error(err)
	}
}

// TestParquetRows: what is wrong with a row is said with its number.
func TestParquetRows(t *testing.T) {
	type stored struct {
		Bytes []byte `parquet:"bytes"`
		Path  string `parquet:"path"`
	}
	type row struct {
		Image stored `parquet:"image"`
		Label int32  `parquet:"label"`
	}
	var grey, b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	err := png.Encode(&grey, image.NewGray(image.Rect(0, 0, 2, 2)))
	if err == nil {
		_, err = w.Write([]row{{Image: stored{Bytes: grey.Bytes()}}, {Image: stored{Bytes: grey.Bytes()[:40]}}})
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	cut := write(t, b.Bytes(), t.TempDir(), "cut.parquet")
	for path, want := range map[string]string{
		cut: "cut.parquet: row 1: ", "../../engine/format/parquet/testdata/ragged.parquet": "ragged.parquet: row 1: invalid Parquet file: 1 inputs and 1 targets, the first row has 2 and 1",
	} {
		if _, err := dataset.Open(path, dataset.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, _, err := inputs(t, path, []int{1, 2, 2}, dataset.Options{}); err == nil || !strings.Contains(err.Error(), ": row 1: ") {
			t.Errorf("to be predicted: %v", err)
		}
	}
}
