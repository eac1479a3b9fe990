package csv

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
)

// table is what Each gives of a file.
type table struct {
	rows    int
	x       []float32
	whole   []int32
	values  []float32
	classes []string
}

func read(r io.Reader, want Want) (table, error) {
	var t table
	var cells []int32
	h, err := Each(r, want, func(x []float32, y Target) error {
		t.rows++
		t.x, t.values, t.whole, cells = append(t.x, x...), append(t.values, y.Values...), append(t.whole, y.Whole), append(cells, y.Cell)
		return nil
	})
	if err != nil {
		return t, err
	}
	switch t.classes = h.Classes; h.Kind {
	case Texts:
		for i, c := range cells {
			t.whole[i] = h.Order[c]
		}
		t.values = nil
	case Numbers:
		t.whole = nil
	default:
		t.values = nil
	}
	return t, nil
}

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
		{"truth", "a,y\nTrue,1\nfalse,0\n", nil, []float32{1, 0}, []int32{1, 0}, nil, nil},
		{"truth as a target", "a,y\n1,True\n2,False\n", nil, []float32{1, 2}, []int32{1, 0}, nil, []string{"False", "True"}},
		{"the numbers of rows", ",a,y\n0,7,1\n1,8,0\n", nil, []float32{7, 8}, []int32{1, 0}, nil, nil},
		{"tabs, no trimming", "a\ty\tb\n1\tx\t2\n", nil, []float32{1, 2}, []int32{0}, nil, []string{"x"}},
		{"bars, spaces", "a | y\n 1 | x\n 2| z\n", nil, []float32{1, 2}, []int32{0, 1}, nil, []string{"x", "z"}},
		{"prices", "a,y\n1,20000000\n2,-3\n", nil, []float32{1, 2}, nil, []float32{2e7, -3}, nil},
		{"languages", "a,y\n1,nan\n2,yue\n", nil, []float32{1, 2}, []int32{0, 1}, nil, []string{"nan", "yue"}},
		{"separators in names", "\"a;b;c\",\"d\ne;;\",y\n1,2,0\n3,4,1\n", nil, []float32{1, 2, 3, 4}, []int32{0, 1}, nil, nil},
		{"quotes", "\"a\",\"y\"\n\"1\",\"x, \"\"y\"\"\"\n\"2\",z\n", nil, []float32{1, 2}, []int32{0, 1}, nil, []string{`x, "y"`, "z"}},
	} {
		r, err := read(strings.NewReader(c.file), Want{Target: c.target})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.Equal(r.x, c.x) || !slices.Equal(r.whole, c.i32) || !slices.Equal(r.values, c.f32) || !slices.Equal(r.classes, c.classes) {
			t.Errorf("%s: x %v, y %v %v of %q", c.name, r.x, r.whole, r.values, r.classes)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range [][2]string{
		{"", "it is empty"},
		{"\xff\xfea\x00", "save it as UTF-8"},
		{"a,y\r1,2\r", "CR alone"},
		{"a,,y\n1,2,3\n", "column 2 has no name"},
		{"a;y\n1,5;2\n", `"1,5" has a comma`},
		{"a,y\nParis,2\n", "--one-hot a makes an input of each of its texts"},
		{"a,b\n1,2\n", "which column is the target? name one of a, b"},
		{"1,2\n3,4\n", "the first line should name the columns"},
		{"a,a,y\n", `two columns are called "a"`},
		{"a,y\n", "0 rows"},
		{"y\n1\n", "0 inputs"},
		{"a,y\n1\n", "line 2: the columns are 2, the cells 1: a cell that holds a separator needs quotes"},
		{"a,y\n1,2\n,3\n", `line 3, column "a": the cell is empty`},
		{"a,y\nBerlin,2\n", `line 2, column "a": "Berlin" is not a number`},
		{"a,y\n1,\n", `line 2, column "y": the cell is empty`},
		{"a,y\n1e99,2\n", `"1e99" is not finite, or too great for a float32: scale the column`},
		{"a,y\nNaN,2\n", `line 2, column "a": "NaN" is not finite`},
		{"a,y\n1,0.5\n2,nan\n3,1\n", `line 3, column "y": "nan" is not finite`},
		{"a,y\n1,1e40\n2,0.5\n", `line 2, column "y": "1e40" is not finite`},
		{"a,y\n1,1\n2,-Inf\n", `line 3, column "y": "-Inf" is not finite`},
	} {
		if _, err := read(strings.NewReader(c[0]), Want{}); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%q: %v, want %q", c[0], err, c[1])
		}
	}
	if _, err := read(strings.NewReader("a,b\n1,2\n"), Want{Target: []string{"c"}}); err == nil || !strings.Contains(err.Error(), `no column "c"`) {
		t.Error(err)
	}
}

// endless are the letters behind a beginning.
type endless struct{ begin string }

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.begin)
	e.begin = e.begin[n:]
	for i := n; i < len(p); i++ {
		p[i] = 'a'
	}
	return len(p), nil
}

// TestLong: a quote that is not closed does not read a whole file into memory.
func TestLong(t *testing.T) {
	const want = "row 2 has more than 67108864 bytes: is a quote not closed?"
	if _, err := read(&endless{"a,y\n1,2\n\"3,4\n"}, Want{}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	err := Cells(&endless{"a,y\n1,2\n\"3,4\n"}, []string{"a"}, func(int, []string) error { return nil })
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestColumns: columns are left out, made one input for each text, and found again by their names.
func TestColumns(t *testing.T) {
	const file = "id,city,a,y\n7,Rome,1,0\n8,Paris,2,1\n9,Rome,3,0\n"
	values, err := Values(strings.NewReader(file), []string{"city"})
	if err != nil || !slices.Equal(values["city"], []string{"Paris", "Rome"}) {
		t.Fatal(values, err)
	}
	var columns []data.Column
	r, err := read(strings.NewReader(file), Want{Skip: []string{"id"}, Values: values})
	if err != nil || !slices.Equal(r.x, []float32{0, 1, 1, 1, 0, 2, 0, 1, 3}) {
		t.Fatal(r, err)
	}
	h, err := Each(strings.NewReader(file), Want{Skip: []string{"id"}, Values: values}, func([]float32, Target) error { return nil })
	if columns = h.Columns; err != nil || len(columns) != 2 || columns[0].Width() != 2 {
		t.Fatal(columns, err)
	}
	if r, err := read(strings.NewReader("a,more,city\n5,x,Paris\n"), Want{Inputs: columns}); err != nil || !slices.Equal(r.x, []float32{1, 0, 5}) {
		t.Error(r, err)
	}
	for in, want := range map[string]string{"a,city\n5,Oslo\n": `"Oslo" is none of the 2 texts`, "a\n5\n": `there is no column "city"; the columns are a`} {
		if _, err := read(strings.NewReader(in), Want{Inputs: columns}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
	for n, file := range map[int]string{2: ",a,b,y\n0,1,2,3\n", 3: "a,b,y\n1,2,3\n"} {
		if cs, err := Inputs(strings.NewReader(file), n, nil); err != nil || len(cs) != n || cs[0].Name != "a" {
			t.Errorf("%q: %v %v", file, cs, err)
		}
	}
}

// TestOneHotSpaces: the texts of a column are read as its cells are, with quotes behind spaces.
func TestOneHotSpaces(t *testing.T) {
	const file = "a, \"city, state\", y\n1, \"Rome, NY\", 0\n2, Oslo, 1\n"
	values, err := Values(strings.NewReader(file), []string{"city, state"})
	if err != nil || !slices.Equal(values["city, state"], []string{"Oslo", "Rome, NY"}) {
		t.Fatal(values, err)
	}
	if r, err := read(strings.NewReader(file), Want{Values: values}); err != nil || !slices.Equal(r.x, []float32{1, 0, 1, 2, 1, 0}) {
		t.Error(r, err)
	}
	if cs, err := Inputs(strings.NewReader(file), 2, nil); err != nil || len(cs) != 2 || cs[1].Name != "city, state" {
		t.Error(cs, err)
	}
}

// TestTextsTwice: of two columns with one name none is chosen in silence.
func TestTextsTwice(t *testing.T) {
	give := func(int, []string) error { return nil }
	if err := Cells(strings.NewReader("t,b,t,b\n1,2,3,4\n"), []string{"t"}, give); err == nil || !strings.Contains(err.Error(), `two columns are called "t"`) {
		t.Error(err)
	}
	if err := Cells(strings.NewReader("t,b,b\n1,2,3\n"), []string{"t"}, give); err != nil {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("a,y\n1,2\n3,x\n"))
	f.Add([]byte("a;y\r\n1;2\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := read(bytes.NewReader(b), Want{})
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
		if err == nil && (len(r.x)%r.rows != 0 || len(r.whole)+len(r.values) != r.rows) {
			t.Fatalf("%d inputs and %d targets of %d rows", len(r.x), len(r.whole)+len(r.values), r.rows)
		}
		if err != nil {
			return
		}
		columns, err := Inputs(bytes.NewReader(b), len(r.x)/r.rows, nil)
		if err != nil || len(columns) == 0 {
			t.Fatalf("%v, %v", columns, err)
		}
		if again, err := read(bytes.NewReader(b), Want{Inputs: columns}); err == nil && again.rows != r.rows {
			t.Fatalf("%d rows, then %d", r.rows, again.rows)
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
