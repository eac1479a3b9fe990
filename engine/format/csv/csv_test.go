package csv

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, file string
		target     []string
		x          []float32
		i32        []int32
		f32        []float32
		classes    []string
	}{
		{"texts", "a,species,b\n1,setosa,2\n3,iris,4\n5,setosa,6\n", []string{"species"}, []float32{1, 2, 3, 4, 5, 6}, []int32{1, 0, 1}, nil, []string{"iris", "setosa"}},
		{"a mark, semicolons, CRLF", "\xef\xbb\xbfa;Label\r\n1.5;0\r\n-2;1\r\n", nil, []float32{1.5, -2}, []int32{0, 1}, nil, nil},
		{"a regression", "x\ty\n1\t0.5\n2\t3\n", nil, []float32{1, 2}, nil, []float32{0.5, 3}, nil},
		{"two targets", "u,a,v\n1,2,3\n4,5,6\n", []string{"v", "u"}, []float32{2, 5}, nil, []float32{1, 3, 4, 6}, nil},
		{"quotes", "\"a\",\"y\"\n\"1\",\"x, \"\"y\"\"\"\n\"2\",z\n", nil, []float32{1, 2}, []int32{0, 1}, nil, []string{`x, "y"`, "z"}},
	} {
		r, err := Read(strings.NewReader(c.file), c.target)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.Equal(r.X.F32, c.x) || !slices.Equal(r.Y.I32, c.i32) || !slices.Equal(r.Y.F32, c.f32) || !slices.Equal(r.Classes, c.classes) {
			t.Errorf("%s: x %v, y %v %v of %q", c.name, r.X.F32, r.Y.I32, r.Y.F32, r.Classes)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range [][2]string{
		{"", "header"},
		{"a,b\n1,2\n", "which column is the target? name one of a, b"},
		{"a,a,y\n", `two columns are called "a"`},
		{"a,y\n", "0 rows"},
		{"y\n1\n", "0 inputs"},
		{"a,y\n1\n", "wrong number of fields"},
		{"a,y\n1,2\n,3\n", `line 3, column "a": the cell is empty`},
		{"a,y\nBerlin,2\n", `line 2, column "a": "Berlin" is not a number`},
		{"a,y\n1,\n", `line 2, column "y": the cell is empty`},
		{"a,y\n1e99,2\n", "float32"},
		{"a,y\nNaN,2\n", "NaN"},
	} {
		if _, err := Read(strings.NewReader(c[0]), nil); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%q: %v, want %q", c[0], err, c[1])
		}
	}
	if _, err := Read(strings.NewReader("a,b\n1,2\n"), []string{"c"}); err == nil || !strings.Contains(err.Error(), `no column "c"`) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("a,y\n1,2\n3,x\n"))
	f.Add([]byte("a;y\r\n1;2\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(bytes.NewReader(b), nil)
		if err == nil && (r.X.Check() != nil || r.Y.Rows != r.X.Rows) {
			t.Fatalf("what was read is no table: %v", r.X.Check())
		}
	})
}

// FuzzCells: every row has a cell for each column, or there is an error.
func FuzzCells(f *testing.F) {
	f.Add("a,y\n\"1\n2\",2\n3,x\n")
	f.Add("\ufeffy\ta\r\n1\t\"x\"y\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Header(strings.NewReader(s)); err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
		line := 0
		err := Cells(strings.NewReader(s), []string{"a", "y"}, func(at int, cells []string) error {
			if at <= line || len(cells) != 2 {
				t.Errorf("%q at line %d after %d", cells, at, line)
			}
			line = at
			return nil
		})
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
}
