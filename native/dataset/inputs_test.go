package dataset_test

import (
	"bytes"
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
		x, names, err := dataset.Inputs(c.path, c.in, c.o)
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
		if _, _, err := dataset.Inputs(path, in, dataset.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", path, want, err)
		}
	}
	o := dataset.Options{Fields: dataset.Fields{Inputs: []data.Field{{Name: "a", Shape: []int{2}}}}}
	put("fields/a.npy", string(npy(nil, "(0, 2)")))
	if _, err := dataset.InputFields(filepath.Join(dir, "fields"), o); err == nil || !strings.Contains(err.Error(), "it holds no rows") {
		t.Error(err)
	}
	if _, _, err := dataset.Inputs(put("c.txt", "abc"), []int{2}, dataset.Options{Tokens: "characters"}); err == nil {
		t.Error("characters of an unknown vocabulary were taken")
	}
}
