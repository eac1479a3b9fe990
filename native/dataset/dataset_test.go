package dataset_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
)

func write(t *testing.T, b []byte, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func zipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

// idx returns an IDX file of bytes with the given axes.
func idx(elem []byte, axes ...byte) []byte {
	b := []byte{0, 0, 8, byte(len(axes))}
	for _, a := range axes {
		b = append(b, 0, 0, 0, a)
	}
	return append(b, elem...)
}

func npy(elem []byte, shape string) []byte {
	head := fmt.Sprintf("{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n", shape)
	return append(append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), 0), append([]byte(head), elem...)...)
}

func ramp(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) % 3
	}
	return b
}

// npz returns an archive of four arrays, as numpy.savez writes MNIST.
func npz(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, array := range map[string][]byte{"x_train": npy(ramp(20*64), "(20, 8, 8)"), "y_train": npy(ramp(20), "(20,)"), "x_test": npy(ramp(64), "(1, 8, 8)"), "y_test": npy(ramp(1), "(1,)")} {
		w, err := z.Create(name + ".npy")
		if err == nil {
			_, err = w.Write(array)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pathCase is data of a kind, and what is read of it.
type pathCase struct {
	make       func(dir string) string
	o          dataset.Options
	shape      []int
	train, val int
	outputs    int
	bytes      bool // inputs stay bytes
}

// pathCases are data of every kind; picture is an image.
func pathCases(t *testing.T, picture []byte) map[string]pathCase {
	cifar := ramp(12 * 3073)
	table := "a,b,kind\n"
	for i := range 30 {
		table += fmt.Sprintf("%d,%d.5,%s\n", i, 30-i, []string{"x", "y"}[i%2])
	}
	return map[string]pathCase{
		"MNIST": {func(dir string) string {
			write(t, zipped(idx(ramp(20*64), 20, 8, 8)), dir, "train-images-idx3-ubyte.gz")
			write(t, idx(ramp(20), 20), dir, "train-labels-idx1-ubyte")
			write(t, idx(ramp(4*64), 4, 8, 8), dir, "t10k-images.idx3-ubyte")
			write(t, zipped(idx(ramp(4), 4)), dir, "t10k-labels.idx1-ubyte.gz")
			return dir
		}, dataset.Options{}, []int{1, 8, 8}, 20, 4, 3, true},
		"as torchvision downloads": {func(dir string) string {
			raw := filepath.Join(dir, "MNIST", "raw")
			write(t, idx(ramp(20*64), 20, 8, 8), raw, "train-images-idx3-ubyte")
			write(t, idx(ramp(20), 20), raw, "train-labels-idx1-ubyte")
			write(t, nil, dir, "MNIST", "readme.txt")
			return dir
		}, dataset.Options{}, []int{1, 8, 8}, 20, 0, 3, true},
		"tokens of nanoGPT": {func(dir string) string {
			write(t, bytes.Repeat([]byte{1, 0, 7, 0, 3, 0}, 20), dir, "train.bin")
			write(t, bytes.Repeat([]byte{1, 0, 9, 0}, 9), dir, "val.bin")
			return dir
		}, dataset.Options{Block: 8}, []int{8}, 7, 2, 10, true},
		"CIFAR": {func(dir string) string {
			write(t, cifar, dir, "data_batch_1.bin")
			write(t, cifar[:3073*2], dir, "test_batch.bin")
			write(t, []byte("airplane\nautomobile\nbird\n"), dir, "batches.meta.txt")
			return dir
		}, dataset.Options{}, []int{3, 32, 32}, 12, 2, 3, true},
		"npz": {func(dir string) string { return write(t, npz(t), dir, "mnist.npz") }, dataset.Options{}, []int{8, 8}, 20, 1, 3, true},
		"npy": {func(dir string) string {
			write(t, npy(ramp(20), "(20,)"), dir, "y.npy")
			write(t, npy(ramp(20*5), "(20, 5)"), dir, "x.npy")
			return dir
		}, dataset.Options{Val: 0.25, Seed: 1}, []int{5}, 15, 5, 3, true},
		"csv":    {func(dir string) string { return write(t, []byte(table), dir, "t.csv") }, dataset.Options{Target: []string{"kind"}, Val: 0.1}, []int{2}, 27, 3, 2, false},
		"values": {func(dir string) string { return write(t, []byte(table), dir, "t.csv") }, dataset.Options{Target: []string{"b"}, Val: 0.1}, nil, 0, 0, 0, false},
		"images": {func(dir string) string {
			for i := range 5 {
				write(t, picture, dir, "train", "cat", fmt.Sprint(i, ".png"))
				write(t, picture, dir, "train", "dog", fmt.Sprint(i, ".png"))
			}
			write(t, picture, dir, "val", "dog", "x.png")
			return dir
		}, dataset.Options{}, []int{3, 8, 8}, 10, 1, 2, true},
		"text":  {func(dir string) string { return write(t, bytes.Repeat([]byte("to be or not "), 20), dir, "a b.txt") }, dataset.Options{Block: 16, Tokens: "characters", Val: 0.2}, []int{16}, 13, 3, 7, true},
		"bytes": {func(dir string) string { return write(t, bytes.Repeat([]byte("to be or not "), 20), dir, "x.txt") }, dataset.Options{Block: 16}, []int{16}, 16, 0, 256, true},
	}
}

// TestPaths makes a job with data of every kind, opens it as the commands do and compares the
// rows.
func TestPaths(t *testing.T) {
	var imgPNG bytes.Buffer
	if err := png.Encode(&imgPNG, image.NewRGBA(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	for name, c := range pathCases(t, imgPNG.Bytes()) {
		dir := t.TempDir()
		s, err := dataset.Open(c.make(filepath.Join(dir, "data")), c.o)
		if c.shape == nil { // "kind" is not a number
			if err == nil || !strings.Contains(err.Error(), `column "kind"`) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		outputs, classes := s.Outputs()
		train, val := s.Rows()
		if !slices.Equal(s.Shape(), c.shape) || train != c.train || val != c.val || outputs != c.outputs || !classes {
			t.Errorf("%s: rows of %v, %d and %d, %d outputs (%v)", name, s.Shape(), train, val, outputs, classes)
		}
		g, err := zoo.Starter(s.Shape(), outputs, s.Tokens)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		j := job.Default()
		j.Loss, j.BatchSize = "cross_entropy", 4
		if err := project.Create(filepath.Join(dir, "job"), j, g, 3, s, nil, nil); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p, err := project.Open(filepath.Join(dir, "job"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if x := p.Data.Train.X(); x.Rows != train || (x.U8 != nil) != c.bytes || p.Data.Val.Len() != val || p.Data.Train.Y().Classes != outputs {
			t.Errorf("%s comes back as %d rows with bytes: %v, %d rows, %d classes", name, x.Rows, x.U8 != nil, p.Data.Val.Len(), p.Data.Train.Y().Classes)
		}
	}
	for _, c := range [][2]string{{filepath.Join(t.TempDir(), "none"), "no such file"}, {write(t, nil, t.TempDir(), "x.xlsx"), "a file ends in"}, {t.TempDir(), "folders of classes"}, {filepath.Dir(write(t, nil, t.TempDir(), "data_batch_1")), "take the binary version"}} {
		if _, err := dataset.Open(c[0], dataset.Options{}); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", c[0], err, c[1])
		}
	}
}

// TestLevel: of two texts one is larger than what is held in memory, so both are read from files.
func TestLevel(t *testing.T) {
	dir, above := t.TempDir(), int64(100)
	write(t, bytes.Repeat([]byte{1, 0, 7, 0, 3, 0}, 50), dir, "train.bin")
	write(t, bytes.Repeat([]byte{1, 0, 9, 0}, 9), dir, "val.bin")
	s, err := dataset.Open(dir, dataset.Options{Block: 8, Above: &above})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, large := s.Raw()
	if !large || r.TrainX.Rows != 18 || r.ValX == nil || r.ValX.Rows != 2 {
		t.Fatalf("%v %+v", large, r)
	}
	for _, raw := range []*data.Raw{r.ValX, r.ValY} {
		if st, err := raw.Survey(data.Inputs, nil); err != nil || st.Most != 9 || st.Least != 1 {
			t.Errorf("%+v %v", st, err)
		}
	}
	if _, err := dataset.Open(dir, dataset.Options{Block: 8, Tokens: "characters"}); err == nil || !strings.Contains(err.Error(), "different characters") {
		t.Error(err)
	}
}

// TestSplit: the split is a function of the seed, keeps the order and loses no row.
func TestSplit(t *testing.T) {
	tables := func() (x, y *data.Table) {
		return &data.Table{Rows: 10, Shape: []int{}, U8: ramp(10)}, &data.Table{Kind: data.Targets, Rows: 10, Shape: []int{}, I32: []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
	}
	seen := map[string]bool{}
	for seed := range uint64(4) {
		x, y := tables()
		a, err := data.Split(x, y, 0.3, seed)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := data.Split(x, y, 0.3, seed)
		all := slices.Concat(a[1].I32, a[3].I32)
		seen[fmt.Sprint(a[3].I32)] = true
		if !slices.Equal(a[3].I32, b[3].I32) || !slices.IsSorted(a[1].I32) || !slices.IsSorted(a[3].I32) || a[3].Rows != 3 || a[0].Rows != 7 {
			t.Errorf("seed %d: %v and %v", seed, a[1].I32, a[3].I32)
		}
		if slices.Sort(all); !slices.Equal(all, y.I32) {
			t.Errorf("seed %d: rows %v", seed, all)
		}
	}
	if len(seen) < 3 {
		t.Errorf("four seeds give %v", seen)
	}
	x, y := tables()
	if a, err := data.Split(x, y, 0, 1); err != nil || a[2] != nil {
		t.Errorf("no share: %v, %v", a, err)
	}
	if _, err := data.Split(x, y, 1, 1); !errors.Is(err, data.ErrInvalid) {
		t.Errorf("all rows: %v", err)
	}
}

// TestOtherFolders: a folder of something else is refused with what it holds, and what to do.
func TestOtherFolders(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"wav/a/1.wav", "wav/a/2.wav", "wav/b/3.wav", "wav/b/README", "tables/a.csv", "tables/b.csv", "bare/x/.hidden"} {
		write(t, []byte("x"), append([]string{dir}, strings.Split(name, "/")...)...)
	}
	for name, want := range map[string]string{
		"wav":    `no images in the folders of classes, but files in ".wav", others: classes are folders of images, or of texts (.txt) with --tokenizer`,
		"tables": `but files in ".csv"; other files are given by themselves, not by their folder`,
		"bare":   "no folders of images",
	} {
		if _, err := dataset.Open(filepath.Join(dir, name), dataset.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
