package dataset_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/dataset"
	"github.com/ravnest/ravnest/native/project"
)

// TestColumns: a job remembers which columns its model learned from, and rows to predict are found
// by them, in another order and with more beside them.
func TestColumns(t *testing.T) {
	dir := t.TempDir()
	table := "id,city,size,kind\n"
	for i := range 12 {
		table += strings.Join([]string{string(rune('a' + i)), []string{"Rome", "Oslo"}[i%2], []string{"1.5", "2"}[i%2], []string{"x", "y"}[i%2]}, ",") + "\n"
	}
	file := write(t, []byte(table), dir, "t.csv")
	for _, above := range []int64{0, 1 << 20} {
		s, err := dataset.Open(file, dataset.Options{Target: []string{"kind"}, Skip: []string{"id"}, OneHot: []string{"city"}, Above: &above})
		if err != nil {
			t.Fatal(err)
		}
		if _, large := s.Raw(); large != (above == 0) || s.Values() != 1 {
			t.Errorf("above %d bytes the table is in memory: %v", above, !large)
		}
		g, err := zoo.Starter(s.Shape(), 2, 0)
		if err != nil {
			t.Fatal(err)
		}
		j := job.Default()
		j.Loss, j.BatchSize = "cross_entropy", 4
		at := filepath.Join(dir, "job", map[bool]string{true: "shards", false: "memory"}[above == 0])
		if err := project.Create(at, j, g, 3, s, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		p, err := project.OpenModel(at)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := p.Columns()
		if err != nil || len(columns) != 2 || !slices.Equal(columns[0].Values, []string{"Oslo", "Rome"}) || columns[1].Name != "size" {
			t.Fatalf("%v %v", columns, err)
		}
		rows := write(t, []byte("size,more,city\n7,x,Rome\n8,y,Oslo\n"), dir, "rows.csv")
		x, _, err := inputs(t, rows, []int{3}, dataset.Options{Columns: columns})
		if err != nil || !slices.Equal(x.F32, []float32{0, 1, 7, 1, 0, 8}) {
			t.Errorf("%+v %v", x, err)
		}
	}
	if _, _, err := inputs(t, file, []int{3}, dataset.Options{Columns: []data.Column{{Name: "weight"}}}); err == nil || !strings.Contains(err.Error(), `no column "weight"; the columns are id, city, size, kind`) {
		t.Error(err)
	}
}

// TestParquetColumns: the same of a Parquet file.
func TestParquetColumns(t *testing.T) {
	b, err := os.ReadFile("../../engine/format/parquet/testdata/forms.parquet")
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, bytes.Clone(b), t.TempDir(), "t.parquet")
	s, err := dataset.Open(file, dataset.Options{Skip: []string{"day", "u", "w"}, OneHot: []string{"city"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.Notes) != 1 || len(s.Columns()) != 2 || !slices.Equal(s.Shape(), []int{3}) {
		t.Errorf("%q, %v, rows of %v", s.Notes, s.Columns(), s.Shape())
	}
	x, _, err := inputs(t, file, []int{3}, dataset.Options{Columns: s.Columns()})
	if err != nil || !slices.Equal(x.F32, []float32{1.25, 0, 1, -3.75, 1, 0, 40000, 0, 1}) {
		t.Errorf("%+v %v", x, err)
	}
	// Where the columns are not known, those that are no target.
	if x, _, err = inputs(t, file, []int{1}, dataset.Options{Target: []string{"u", "w", "day", "city", "y"}}); err != nil || !slices.Equal(x.F32, []float32{1.25, -3.75, 40000}) {
		t.Errorf("%+v %v", x, err)
	}
}

// TestParquetFields: the inputs of a model with several are columns, in the model's order.
func TestParquetFields(t *testing.T) {
	const file = "../../engine/format/parquet/testdata/table-none.parquet"
	o := dataset.Options{Fields: dataset.Fields{
		Inputs: []data.Field{{Name: "list", Shape: []int{3}}, {Name: "a", Shape: []int{1}}}, From: map[string]string{"list": "v"},
	}}
	x, err := inputFields(t, file, o)
	if err != nil || x.Rows != 30 || !slices.Equal(x.F32[8:12], []float32{2, 3, 4, 0.5}) {
		t.Errorf("%+v %v", x, err)
	}
	o.Fields.Inputs[0].Shape = []int{4}
	if _, err := inputFields(t, file, o); err == nil || !strings.Contains(err.Error(), `"v" has 3 numbers, the model takes 4`) {
		t.Error(err)
	}
}

// TestGreat: whole numbers that are too great for those of classes are values to be learned.
func TestGreat(t *testing.T) {
	type row struct {
		A string  `parquet:"a"`
		X float32 `parquet:"x"`
		Y int64   `parquet:"y"`
	}
	dir := t.TempDir()
	tokens, _ := paired(t, dir)
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	_, err := w.Write([]row{{"x", 1, 20000000}, {"y", 2, -3}})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	parquets := write(t, b.Bytes(), dir, "t.parquet")
	lines := write(t, []byte(`{"a":"x","x":1,"y":20000000}`+"\n"+`{"a":"y","x":2,"y":-3}`), dir, "t.jsonl")
	for _, above := range []int64{0, 1 << 20} {
		for name, o := range map[string]dataset.Options{
			parquets: {Skip: []string{"a"}}, lines: {Skip: []string{"a"}}, "texts": {Texts: []string{"a"}, Tokenizer: tokens, Block: 4},
		} {
			if o.Above = &above; name == "texts" {
				name = lines
			}
			s, err := dataset.Open(name, o)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if n, classes := s.Outputs(); n != 1 || classes {
				t.Errorf("%s: %d outputs, classes: %v", name, n, classes)
			}
			var y []float32
			if raw, large := s.Raw(); large {
				b := make([]byte, 8)
				if _, err := raw.TrainY.R.ReadAt(b, raw.TrainY.Off); err != nil {
					t.Fatal(err)
				}
				for i := range 2 {
					y = append(y, math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
				}
			} else {
				y = elements(t, s, 1)
			}
			if !slices.Equal(y, []float32{2e7, -3}) {
				t.Errorf("%s above %d: %v", name, above, y)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestShardsStay: shards that lie where a job is to be made are neither replaced nor removed.
func TestShardsStay(t *testing.T) {
	dir, above := t.TempDir(), int64(0)
	file := write(t, []byte("a,y\n1,0\n2,1\n3,0\n4,1\n5,0\n6,1\n"), dir, "t.csv")
	own := write(t, []byte("mine"), dir, "job", project.ShardsDir, "index.json")
	create := func(inputs int) error {
		s, err := dataset.Open(file, dataset.Options{Above: &above})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		g, err := zoo.Starter([]int{inputs}, 2, 0)
		if err != nil {
			t.Fatal(err)
		}
		j := job.Default()
		j.Loss, j.BatchSize = "cross_entropy", 2
		return project.Create(filepath.Join(dir, "job"), j, g, 3, s, nil, nil)
	}
	if err := create(1); err == nil || !strings.Contains(err.Error(), "already holds data.shards") {
		t.Error(err)
	}
	if b, err := os.ReadFile(own); err != nil || string(b) != "mine" {
		t.Fatalf("the shards that were there hold %q, %v", b, err)
	}
	if err := os.RemoveAll(filepath.Dir(own)); err != nil {
		t.Fatal(err)
	}
	if err := create(3); err == nil { // what was begun goes, when it cannot be ended
		t.Error("rows of one fit inputs of three")
	}
	if _, err := os.Stat(filepath.Dir(own)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the shards of a job that was not made are there: %v", err)
	}
}
