package data_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
)

func builtin(t *testing.T, name string) *data.Set {
	t.Helper()
	s, ok, err := data.Builtin(name)
	if err != nil || !ok {
		t.Fatalf("%s: %v, found: %v", name, err, ok)
	}
	return s
}

// TestBuiltin: every set is the same twice, and its blobs are read back.
func TestBuiltin(t *testing.T) {
	for _, name := range data.BuiltinNames() {
		a, b := builtin(t, name), builtin(t, name)
		if a.Name != name {
			t.Errorf("%s is called %q", name, a.Name)
		}
		for i, x := range []*data.Table{a.Train.X(), a.Train.Y(), a.Val.X(), a.Val.Y()} {
			y := []*data.Table{b.Train.X(), b.Train.Y(), b.Val.X(), b.Val.Y()}[i]
			p, err := x.Encode()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			q, err := y.Encode()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !bytes.Equal(p, q) {
				t.Errorf("%s: table %d is not the same twice", name, i)
			}
			if _, err := data.Decode(p); err != nil {
				t.Errorf("%s: table %d: %v", name, i, err)
			}
		}
	}
	if _, ok, _ := data.Builtin("nothing"); ok {
		t.Error("an unknown name is found")
	}
}

// TestSorter: the targets that count are the sorted digits, and no row is in both parts.
func TestSorter(t *testing.T) {
	s := builtin(t, "sorter")
	seen := map[string]bool{}
	for _, p := range []data.Part{s.Train, s.Val} {
		for r := range p.Len() {
			x, y := p.X().U8[r*11:][:11], p.Y().I32[r*11:][:11]
			if seen[string(x[:6])] {
				t.Fatalf("%v twice", x[:6])
			}
			seen[string(x[:6])] = true
			var count [3]int
			for i := range 6 {
				count[x[i]]++
				count[y[5+i]]--
				if i < 5 && (y[i] != data.NoClass || int32(x[6+i]) != y[5+i] || y[5+i] > y[6+i]) {
					t.Fatalf("row %d: %v %v", r, x, y)
				}
			}
			if count != [3]int{} {
				t.Fatalf("row %d: %v is not %v sorted", r, y[5:], x[:6])
			}
		}
	}
	if len(seen) != 729 {
		t.Errorf("%d rows, want all 729", len(seen))
	}
}

// TestSums: the text is right arithmetic, each target the next character.
func TestSums(t *testing.T) {
	s := builtin(t, "sums")
	x, y := s.Train.X().U8[:256], s.Train.Y().U8[:256]
	var text strings.Builder
	for i, c := range x {
		text.WriteByte(data.SumsAlphabet[c])
		if i < 255 && x[i+1] != y[i] {
			t.Fatalf("target %d is not the next character", i)
		}
	}
	lines := strings.Split(text.String(), "\n")
	for _, l := range lines[:len(lines)-1] {
		if !strings.HasSuffix(l, ".") || !strings.Contains(l, " is ") {
			t.Errorf("line %q", l)
		}
	}
	if len(lines) < 4 {
		t.Errorf("only %d lines in a row", len(lines))
	}
}

// TestNoClass: a position without a class is zeros as values.
func TestNoClass(t *testing.T) {
	s := builtin(t, "sorter")
	y := s.Train.Y()
	v := make([]float32, 33)
	y.Gather(v, []int32{4})
	for i := range 11 {
		var sum float32
		for _, x := range v[3*i:][:3] {
			sum += x
		}
		if want := float32(min(i/5, 1)); sum != want {
			t.Errorf("position %d sums to %v, want %v", i, sum, want)
		}
	}
}

// TestAnswers tells classes and one-hot vectors from the values of a regression.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		t    *data.Table
		want bool
	}{
		{&data.Table{Rows: 2, Shape: []int{}, Classes: 3, U8: []uint8{0, 2}}, true},
		{&data.Table{Rows: 2, Shape: []int{}, Classes: 1, U8: []uint8{0, 0}}, false},
		{&data.Table{Rows: 2, Shape: []int{2}, F32: []float32{0, 1, 1, 0}}, true},
		{&data.Table{Rows: 2, Shape: []int{2}, U8: []uint8{0, 1, 1, 0}}, true},
		{&data.Table{Rows: 2, Shape: []int{2}, F32: []float32{1, 1, 1, 0}}, false},
		{&data.Table{Rows: 2, Shape: []int{2}, F32: []float32{0, 0, 1, 0}}, false},
		{&data.Table{Rows: 2, Shape: []int{2}, F32: []float32{0, 0.5, 1, 0}}, false},
		{&data.Table{Rows: 2, Shape: []int{1}, F32: []float32{1, 1}}, false},
		{&data.Table{Rows: 2, Shape: []int{}, F32: []float32{1, 1}}, false},
	} {
		if got := c.t.Answers(0); got != c.want {
			t.Errorf("%v of %v: %v", c.t.F32, c.t.Shape, got)
		}
		if c.t.F32 != nil && c.t.Answers(12) {
			t.Errorf("%v of %v are answers of a model of 12 classes", c.t.F32, c.t.Shape)
		}
	}
}
