package dataset_test

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/native/dataset"
)

// TestInputs: rows to predict need no targets; targets that are there are skipped.
func TestInputs(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	grey := image.NewGray(image.Rect(0, 0, 4, 2))
	grey.SetGray(1, 1, color.Gray{Y: 200})
	var b bytes.Buffer
	if err := png.Encode(&b, grey); err != nil {
		t.Fatal(err)
	}
	pic := put("pictures/sub/a.png", b.String())
	put("pictures/b.png", b.String())
	put("pictures/notes.txt", "no image")
	for _, c := range []struct {
		path        string
		in          []int
		o           dataset.Options
		rows        int
		first, last float32
		names       []string
	}{
		{put("bare.csv", "a,b\n1,2\n3,4\n"), []int{2}, dataset.Options{}, 2, 1, 4, nil},
		{put("label.csv", "label,a,b\nx,1,2\ny,3,4\n"), []int{2}, dataset.Options{}, 2, 1, 4, nil},
		{put("named.csv", "a,out,b\n1,x,2\n3,y,4\n"), []int{1, 2}, dataset.Options{Target: []string{"out"}}, 2, 1, 4, nil},
		{put("y.csv", "y,x\n1,2\n"), []int{2}, dataset.Options{}, 1, 1, 2, nil}, // as many columns as the model has inputs: y is one of them
		{put("t.txt", "abcdefg"), []int{3}, dataset.Options{}, 2, 'a', 'f', nil},
		{put("t.bin", "\x01\x00\x02\x00"), []int{2}, dataset.Options{}, 1, 1, 2, nil},
		{pic, []int{1, 2, 4}, dataset.Options{}, 1, 0, 0, []string{"a.png"}},
		{filepath.Join(dir, "pictures"), []int{3, 2, 2}, dataset.Options{}, 2, 0, 0, []string{"b.png", "sub/a.png"}},
	} {
		x, names, err := inputs(t, c.path, c.in, c.o)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := x.Check(); err != nil || x.Rows != c.rows || !slices.Equal(x.Shape, c.in) || !slices.Equal(names, c.names) {
			t.Errorf("%s: %d rows of %v called %v: %v", c.path, x.Rows, x.Shape, names, err)
			continue
		}
		all, idx := make([]float32, x.Rows*x.Elems()), make([]int32, x.Rows)
		for i := range idx {
			idx[i] = int32(i)
		}
		x.Gather(all, idx)
		if first, last := all[0], all[len(all)-1]; names == nil && (first != c.first || last != c.last) {
			t.Errorf("%s: from %v to %v, want %v to %v", c.path, first, last, c.first, c.last)
		}
	}
	for path, want := range map[string]string{
		put("three.csv", "a,b,c\n1,2,3\n"):          "which column is the target",
		put("x.dat", ""):                            "not a known kind of data set",
		put("short.txt", "ab"):                      "too few",
		put("empty/x.txt", "") + "/..":              "not a directory",
		filepath.Join(dir, "empty"):                 "no image",
		put("none.npy", string(npy(nil, "(0, 2)"))): "it holds no rows",
	} {
		in := []int{2}
		if strings.HasSuffix(path, ".txt") {
			in = []int{3}
		}
		if _, _, err := inputs(t, path, in, dataset.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", path, want, err)
		}
	}
	o := dataset.Options{Fields: dataset.Fields{Inputs: []data.Field{{Name: "a", Shape: []int{2}}}}}
	put("fields/a.npy", string(npy(nil, "(0, 2)")))
	if _, err := inputFields(t, filepath.Join(dir, "fields"), o); err == nil || !strings.Contains(err.Error(), "it holds no rows") {
		t.Error(err)
	}
	if _, _, err := inputs(t, put("c.txt", "abc"), []int{2}, dataset.Options{Tokens: "characters"}); err == nil {
		t.Error("characters of an unknown vocabulary were taken")
	}
}

// collect joins batches of rows, which read gives n at a time, and checks that they are no larger.
func collect(t *testing.T, n int, read func(take dataset.Take) error) (*data.Table, []string, error) {
	t.Helper()
	all := &data.Table{}
	var names []string
	err := read(func(x *data.Table, called []string) error {
		if x.Rows > n || x.Rows == 0 || all.Rows > 0 && !slices.Equal(x.Shape, all.Shape) || called != nil && len(called) != x.Rows {
			t.Errorf("%d rows of %v called %q behind rows of %v, at most %d are asked for", x.Rows, x.Shape, called, all.Shape, n)
		}
		all.Rows, all.Shape, names = all.Rows+x.Rows, slices.Clone(x.Shape), append(names, called...)
		all.U8, all.U16, all.F32, all.I32 = append(all.U8, x.U8...), append(all.U16, x.U16...), append(all.F32, x.F32...), append(all.I32, x.I32...)
		return nil
	})
	return all, names, err
}

// whole gives rows to predict at once, which are the same one by one.
func whole(t *testing.T, read func(n int, take dataset.Take) error) (*data.Table, []string, error) {
	t.Helper()
	x, names, err := collect(t, 1<<20, func(take dataset.Take) error { return read(1<<20, take) })
	y, called, yerr := collect(t, 1, func(take dataset.Take) error { return read(1, take) })
	if (err == nil) != (yerr == nil) || err == nil && (x.Rows != y.Rows || !slices.Equal(names, called) || !slices.Equal(x.F32, y.F32) || !slices.Equal(x.U8, y.U8) || !slices.Equal(x.I32, y.I32)) {
		t.Errorf("at once: %+v %q %v, one by one: %+v %q %v", x, names, err, y, called, yerr)
	}
	return x, names, err
}

func inputs(t *testing.T, path string, in []int, o dataset.Options) (*data.Table, []string, error) {
	t.Helper()
	return whole(t, func(n int, take dataset.Take) error { return dataset.Inputs(path, in, n, o, take) })
}

func inputFields(t *testing.T, path string, o dataset.Options) (*data.Table, error) {
	t.Helper()
	x, _, err := whole(t, func(n int, take dataset.Take) error { return dataset.InputFields(path, n, o, take) })
	return x, err
}

// TestInputsInBatches: rows come before those behind them are read, from every kind of file, and whoever
// takes them may end it.
func TestInputsInBatches(t *testing.T) {
	dir := t.TempDir()
	tail := strings.Repeat("5,6\n", 20000) // more than is read ahead
	floats := make([]byte, 4*12)
	floats[4*9+3], floats[4*9+2] = 0x7f, 0xc0 // NaN
	floats = bytes.Replace(npy(floats, "(6, 2)"), []byte("|u1"), []byte("<f4"), 1)
	enough := errors.New("enough")
	for name, b := range map[string][]byte{
		"rows.csv": []byte("a,b\n1,2\n3,4\n" + tail + "x,y\n"), "rows.tsv": []byte("a\tb\n1\t2\n3\t4\n" + strings.ReplaceAll(tail, ",", "\t") + "x\ty\n"),
		"rows.npy": floats,
	} {
		path := write(t, b, dir, name)
		given := 0
		err := dataset.Inputs(path, []int{2}, 2, dataset.Options{}, func(x *data.Table, _ []string) error {
			given += x.Rows
			return x.Check()
		})
		if err == nil || given < 4 {
			t.Errorf("%s: %d rows were given, %v", name, given, err)
		}
		given = 0
		err = dataset.Inputs(path, []int{2}, 2, dataset.Options{}, func(*data.Table, []string) error { given++; return enough })
		if err != enough || given != 1 { //nolint:errorlint // the error itself, without words about the input
			t.Errorf("%s: %d batches, %v", name, given, err)
		}
	}
	for path, in := range map[string][]int{ // eight rows of the file are one of the model's
		write(t, []byte("a,b,c,d\n"+strings.Repeat("1,2,3,4\n", 8)), dir, "one.csv"): {1, 8, 4},
		write(t, npy(make([]byte, 32), "(8, 4)"), dir, "one.npy"):                    {8, 4},
	} {
		o := dataset.Options{Columns: []data.Column{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}}
		if x, _, err := inputs(t, path, in, o); err != nil || x.Rows != 1 || !slices.Equal(x.Shape, in) {
			t.Errorf("%s: %+v, %v", path, x, err)
		}
	}
	cut := npy(make([]byte, 12), "(6, 2)")
	err := dataset.Inputs(write(t, cut[:len(cut)-1], dir, "cut.npy"), []int{2}, 2, dataset.Options{}, func(*data.Table, []string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "11 bytes of elements") {
		t.Error(err)
	}
}
