package data

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/state"
)

// pairs wants two inputs and two targets, one of which is classes.
var pairs = &Want{
	Inputs:  []Field{{Name: "ids", Shape: []int{2}}, {Name: "scale", Shape: []int{1}}},
	Targets: []Field{{Name: "", Shape: []int{}, Classes: 3, Ignore: NoClass}, {Name: "box", Shape: []int{2}}},
}

// TestFields reads a file of named tensors, writes it, and reads that again.
func TestFields(t *testing.T) {
	f := file(t, f32("train_x.scale", []int{2, 1}, .5, -1), i64("train_x.ids", []int{2, 2}, 300, 2, 7, 0),
		f32("train_y.box", []int{2, 2}, 1, 2, 3, 4), i64("train_y", []int{2}, 2, NoClass))
	s, err := fromBytes("pairs", f, pairs)
	if err != nil {
		t.Fatal(err)
	}
	row := func(x *Table, r int32) []float32 {
		v := make([]float32, x.Elems())
		x.Gather(v, []int32{r})
		return v
	}
	if x, y := row(s.Train.X(), 1), row(s.Train.Y(), 1); !reflect.DeepEqual(x, []float32{7, 0, -1}) || !reflect.DeepEqual(y, []float32{NoClass, 3, 4}) {
		t.Errorf("row 1 is %v and %v", x, y)
	}
	var b bytes.Buffer
	if err := s.WriteSafetensors(&b, pairs); err != nil {
		t.Fatal(err)
	}
	again, err := fromBytes("pairs", b.Bytes(), pairs)
	if err != nil {
		t.Fatal(err)
	}
	for r := range int32(2) {
		if !reflect.DeepEqual(row(again.Train.X(), r), row(s.Train.X(), r)) || !reflect.DeepEqual(row(again.Train.Y(), r), row(s.Train.Y(), r)) {
			t.Errorf("row %d came back as %v and %v", r, row(again.Train.X(), r), row(again.Train.Y(), r))
		}
	}
}

func TestFieldsRefuse(t *testing.T) {
	x, y := f32("train_x.scale", []int{1, 1}, 1), []state.Tensor{i64("train_y", []int{1}, 2), f32("train_y.box", []int{1, 2}, 1, 2)}
	ids := i64("train_x.ids", []int{1, 2}, 1, 2)
	for name, c := range map[string]struct {
		dict []state.Tensor
		want string
	}{
		"missing":      {append(y, x), "train_x.ids is missing; the job wants train_x.ids [2], train_x.scale [1]"},
		"surplus":      {append(y, x, ids, f32("train_x.other", []int{1, 1}, 1)), `tensor "train_x.other"; the job wants train_x.ids`},
		"another half": {append(y, x, ids, f32("test_x", []int{1, 1}, 1)), `tensor "test_x"; a data set has`},
		"shape":        {append(y, x, i64("train_x.ids", []int{1, 3}, 1, 2, 3)), `a row of "ids" is [3], but the model takes [2]`},
		"rows":         {append(y, x, i64("train_x.ids", []int{2, 2}, 1, 2, 3, 4)), `1 rows of "scale", but 2 of "ids"`},
		"class":        {[]state.Tensor{x, ids, y[1], i64("train_y", []int{1}, 3)}, "class 3 is not one of 3"},
		"values":       {[]state.Tensor{x, ids, y[1], f32("train_y", []int{1}, 1.5)}, "1.5 is not the number of a class"},
		"no rows":      {nil, "train_x.ids [2], train_x.scale [1] and train_y [], train_y.box [2] with at least one row are needed"},
	} {
		if _, err := fromBytes("pairs", file(t, c.dict...), pairs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := fromBytes("one", file(t, x, y[0]), nil); err == nil || !strings.Contains(err.Error(), `tensor "train_x.scale"; the model has one of train_x`) {
		t.Errorf("fields for a model with one input: %v", err)
	}
	if err := (&Table{Kind: Targets, Rows: 1, Shape: []int{3}, F32: []float32{1.5, 0, 0}}).CheckFields(pairs.Targets); err == nil {
		t.Error("half a class is accepted")
	}
}

// TestJoinRaw: fields that are not in memory give the rows that those in memory give.
func TestJoinRaw(t *testing.T) {
	ids := &Raw{Rows: 3, Shape: []int{2}, DType: state.U16, R: bytes.NewReader([]byte{1, 0, 2, 0, 0, 1, 4, 0, 5, 0, 6, 0})}
	mask := &Raw{Rows: 3, Shape: []int{1}, DType: state.U8, R: bytes.NewReader([]byte{1, 0, 1})}
	half := &Raw{Rows: 3, Shape: []int{}, DType: state.F16, R: bytes.NewReader([]byte{0, 0x38, 0, 0x3c, 0, 0xc0})}
	for _, c := range []struct {
		parts []*Raw
		want  [][]float32
	}{
		{[]*Raw{ids, mask}, [][]float32{{1, 2, 1}, {256, 4, 0}, {5, 6, 1}}},
		{[]*Raw{mask, half, ids}, [][]float32{{1, .5, 1, 2}, {0, 1, 256, 4}, {1, -2, 5, 6}}},
		{[]*Raw{half}, [][]float32{{.5}, {1}, {-2}}},
	} {
		var fields []Field
		for _, r := range c.parts {
			fields = append(fields, Field{Name: "f", Shape: r.Shape})
		}
		j, err := JoinRaw(Inputs, fields, c.parts)
		if err != nil {
			t.Fatal(err)
		}
		s, err := j.Survey(Inputs, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := j.table(Inputs, s.dtype(), []int32{0, 2}, make([]byte, 2*j.rowBytes()))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 2*x.Elems())
		x.Gather(got, []int32{0, 1})
		if want := append(append([]float32{}, c.want[0]...), c.want[2]...); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestFieldsBuiltin: the targets of a set that comes with the program are the numbers of classes
// for a job with several losses.
func TestFieldsBuiltin(t *testing.T) {
	s, err := Digits()
	if err != nil {
		t.Fatal(err)
	}
	fields := []Field{{Shape: []int{}, Classes: 10, Ignore: NoClass}}
	f, err := s.For(&Want{Output: []int{10}, Targets: fields})
	if err != nil {
		t.Fatal(err)
	}
	if y := f.Train.Y(); y.Elems() != 1 || y.CheckFields(fields) != nil || f.Train.Len() != s.Train.Len() {
		t.Errorf("a row of targets has %d elements", y.Elems())
	}
	if s.Train.Y().Elems() != 10 {
		t.Error("the set itself has changed")
	}
}
