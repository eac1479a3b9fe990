// Package golden opens PyTorch's answers: files that make_goldens.py computed once, so
// that tests can compare with PyTorch where there is none. README.md lists what is in
// each. Only tests import it.
package golden

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

//go:embed testdata
var testdata embed.FS

// File is an open file.
type File struct {
	Dict state.Dict        // all tensors in the file's order
	Meta map[string]string // what a case is, as JSON, by its name

	index map[string]int
}

// Open reads testdata/NAME.safetensors: "ops", "optim", "cnn" or "models".
func Open(name string) (*File, error) {
	b, err := testdata.ReadFile("testdata/" + name + ".safetensors")
	if err != nil {
		return nil, fmt.Errorf("golden: %w", err)
	}
	f := &File{index: map[string]int{}}
	if f.Dict, f.Meta, err = safetensors.Parse(b); err != nil {
		return nil, fmt.Errorf("golden: %s: %w", name, err)
	}
	for i, t := range f.Dict {
		f.index[t.Name] = i
	}
	return f, nil
}

// MustOpen is Open that ends the test on an error.
func MustOpen(t testing.TB, name string) *File {
	t.Helper()
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Has tells whether there is a tensor of that name.
func (f *File) Has(name string) bool { _, ok := f.index[name]; return ok }

// Tensor finds a tensor; its elements are the file's own: copy before writing. It panics
// where there is none, for then the test is wrong.
func (f *File) Tensor(name string) state.Tensor {
	i, ok := f.index[name]
	if !ok {
		panic("golden: no tensor " + name)
	}
	return f.Dict[i]
}

// F32 gives a copy of a float32 tensor's elements.
func (f *File) F32(name string) []float32 {
	t := f.Tensor(name)
	if t.F32 == nil {
		panic("golden: " + name + " is not float32")
	}
	return slices.Clone(t.F32)
}

// I64 gives a copy of an int64 tensor's elements.
func (f *File) I64(name string) []int64 {
	t := f.Tensor(name)
	if t.I64 == nil {
		panic("golden: " + name + " is not int64")
	}
	return slices.Clone(t.I64)
}

// Sub is the part of the dict whose names begin with prefix, without it, copied:
// Sub("init.") of "cnn" is a state dict in PyTorch's order.
func (f *File) Sub(prefix string) state.Dict {
	var d state.Dict
	for _, t := range f.Dict {
		if name, ok := strings.CutPrefix(t.Name, prefix); ok {
			t.Name = name
			d = append(d, t)
		}
	}
	return d.Clone()
}

// Cases lists the names under which there is a description, sorted.
func (f *File) Cases() []string {
	var cs []string
	for _, k := range slices.Sorted(maps.Keys(f.Meta)) {
		if strings.HasPrefix(f.Meta[k], "{") {
			cs = append(cs, k)
		}
	}
	return cs
}

// Describe decodes the description of a case into v. It panics where there is none or it
// does not fit.
func (f *File) Describe(name string, v any) {
	m, ok := f.Meta[name]
	if !ok {
		panic("golden: no case " + name)
	}
	if err := json.Unmarshal([]byte(m), v); err != nil {
		panic("golden: " + name + ": " + err.Error())
	}
}

// Diff is how far two slices of numbers are from each other.
type Diff struct {
	At    int     // where they are farthest apart
	Got   float32 // there
	Want  float32
	Abs   float64 // |got - want| there
	Scale float64 // the largest finite |want|
	ULP   uint64  // the most float32 numbers between a got and its want
	Odd   int     // elements where one is NaN or infinite and the other is not the same
}

// Rel is the largest difference relative to the largest number: what rounding in sums
// grows with. It is infinite where Odd is not 0.
func (d Diff) Rel() float64 {
	switch {
	case d.Odd > 0:
		return math.Inf(1)
	case d.Abs == 0:
		return 0
	}
	return d.Abs / d.Scale
}

// String is a line for a test's log.
func (d Diff) String() string {
	return fmt.Sprintf("element %d is %v, PyTorch says %v: %.3g apart, %.3g of the largest (%.3g); at most %d ulp; %d not finite alike",
		d.At, d.Got, d.Want, d.Abs, d.Rel(), d.Scale, d.ULP, d.Odd)
}

// Compare measures got against want. Any NaN equals any NaN, and 0 equals -0.
func Compare(got, want []float32) Diff {
	d := Diff{}
	if len(got) != len(want) {
		d.Odd = 1 + max(len(got), len(want))
		return d
	}
	for i, w := range want {
		if !finite(w) || !finite(got[i]) {
			if g := got[i]; g != w && (g == g || w == w) {
				if d.Odd == 0 {
					d.At, d.Got, d.Want, d.Abs = i, g, w, math.Inf(1)
				}
				d.Odd++
			}
			continue
		}
		d.Scale = max(d.Scale, math.Abs(float64(w)))
		if e := math.Abs(float64(got[i]) - float64(w)); e > d.Abs {
			d.At, d.Got, d.Want, d.Abs = i, got[i], w, e
		}
		d.ULP = max(d.ULP, ulp(got[i], w))
	}
	return d
}

func finite(x float32) bool { return x-x == 0 }

// ulp counts the steps from a to b along the float32 numbers.
func ulp(a, b float32) uint64 {
	line := func(x float32) int64 {
		u := int64(math.Float32bits(x))
		if u >= 1<<31 {
			return 1<<31 - u
		}
		return u
	}
	d := line(a) - line(b)
	return uint64(max(d, -d))
}

// Near fails the test where got is farther than tol, relative to the largest number of
// want, from want.
func Near(t testing.TB, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d elements, PyTorch has %d", what, len(got), len(want))
		return
	}
	if d := Compare(got, want); !(d.Rel() <= tol) {
		t.Errorf("%s: %v; allowed %.3g", what, d, tol)
	}
}
