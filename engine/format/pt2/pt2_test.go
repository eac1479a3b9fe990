package pt2

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRead reads an archive that PyTorch wrote.
func TestRead(t *testing.T) {
	a, err := Parse(read(t, "net.pt2"))
	if err != nil {
		t.Fatal(err)
	}
	p := a.Program
	if !strings.HasPrefix(p.Torch, "2.") || p.Dialect != "TRAINING" {
		t.Errorf("torch %q, dialect %q", p.Torch, p.Dialect)
	}
	if in := p.UserInputs(); len(in) != 1 || in[0].Name != "x" {
		t.Fatalf("user inputs %v", in)
	}
	x := p.Tensors["x"].Sizes
	if k, s, ok := x[0].Linear(); k != 1 || s == "" || !ok || x[1].N != 1 || x[2].N != 8 {
		t.Errorf("x is %v", x)
	}
	n := p.Nodes[0]
	if n.Target != "aten.conv2d.default" || n.Module != "conv1" || filepath.Base(n.File) != "net.py" || n.Line == 0 {
		t.Errorf("node 0 is %+v", n)
	}
	w, err := a.Load("fc.weight")
	if err != nil || len(w.F32) != 640 {
		t.Errorf("fc.weight: %d elements, %v", len(w.F32), err)
	}
	c, err := a.Load("bn.num_batches_tracked")
	if err != nil || len(c.I64) != 1 || len(c.Shape) != 0 {
		t.Errorf("num_batches_tracked is %v, %v", c, err)
	}
	b, err := a.Load("np_buf")
	if err != nil || fmt.Sprint(b.F32) != "[0 1 2 3]" {
		t.Errorf("np_buf is %v, %v", b.F32, err)
	}
}

func TestLinear(t *testing.T) {
	for _, c := range []struct {
		expr string
		k    int64
		sym  string
	}{
		{"s77", 1, "s77"},
		{"8*s0", 8, "s0"},
		{"Symbol('s77', positive=True, integer=True)", 1, "s77"},
		{"Mul(Integer(8), Symbol('s77', positive=True, integer=True))", 8, "s77"},
		{"s0 + 1", 0, ""},
		{"Add(Symbol('s0'), Integer(1))", 0, ""},
		{"s0*s1", 0, ""},
		{"Mul(Pow(Symbol('s0'), Integer(2)), Integer(3))", 0, ""},
	} {
		k, sym, ok := Size{Expr: c.expr}.Linear()
		if ok != (c.sym != "") || ok && (k != c.k || sym != c.sym) {
			t.Errorf("%s is %d times %q, %v", c.expr, k, sym, ok)
		}
	}
}

// repack rewrites an archive; edit returns nil to drop an entry.
func repack(t testing.TB, b []byte, edit func(name string, data []byte) []byte, more ...string) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	add := func(name string, data []byte) {
		e, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = e.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		var d bytes.Buffer
		if _, err := d.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		if n := edit(f.Name, d.Bytes()); n != nil {
			add(f.Name, n)
		}
	}
	for _, name := range more {
		add(name, []byte("x"))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func replace(file, old, new string) func(string, []byte) []byte {
	return func(name string, b []byte) []byte {
		if strings.HasSuffix(name, file) {
			return bytes.ReplaceAll(b, []byte(old), []byte(new))
		}
		return b
	}
}

// TestHostile refuses archives that lie, with an error that says what is wrong.
func TestHostile(t *testing.T) {
	good := read(t, "net.pt2")
	for _, c := range []struct {
		name, want string
		edit       func(string, []byte) []byte
	}{
		{"byte order", "byte order", replace("byteorder", "little", "big")},
		{"schema", "schema version 9", replace("model.json", `"major": 8`, `"major": 9`)},
		{"no program", "no models/model.json", func(n string, b []byte) []byte {
			if strings.HasSuffix(n, "model.json") {
				return nil
			}
			return b
		}},
		{"deep", "deep", func(n string, b []byte) []byte {
			if strings.HasSuffix(n, "model.json") {
				return bytes.Repeat([]byte("["), 1<<20)
			}
			return b
		}},
		{"path", "outside of its folder", replace("weights_config.json", "weight_0", "../../x")},
	} {
		_, err := Parse(repack(t, good, c.edit))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name string
		edit func(string, []byte) []byte
	}{
		{"storage", replace("weights/weight_5", "\x00", "")},
		{"missing", func(n string, b []byte) []byte {
			if strings.HasSuffix(n, "weight_5") {
				return nil
			}
			return b
		}},
		{"pickle", replace("weights_config.json", `"use_pickle": false`, `"use_pickle": true`)},
		{"sizes", replace("weights_config.json", `"as_int": 64`, `"as_int": 99999999999`)},
	} {
		a, err := Parse(repack(t, good, c.edit))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, err := a.Load("fc.weight"); c.name != "storage" && !errors.Is(err, ErrFormat) && err == nil {
			t.Errorf("%s: fc.weight was read", c.name)
		}
	}
}

// TestUnusedEntries: a hundred thousand entries that nothing names cost little.
func TestUnusedEntries(t *testing.T) {
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("net/data/weights/unused_%d", i)
	}
	b := repack(t, read(t, "net.pt2"), func(_ string, b []byte) []byte { return b }, names...)
	begin := time.Now()
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestInfinity: Python writes numbers that JSON does not have.
func TestInfinity(t *testing.T) {
	b, err := tame([]byte(`{"a": -Infinity, "b": [NaN, Infinity, -1], "c": "NaN \" -Infinity"}`))
	if err != nil || string(b) != `{"a": "-Infinity", "b": ["NaN", "Infinity", -1], "c": "NaN \" -Infinity"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(read(f, "net.pt2"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		a, err := Parse(b)
		if err != nil {
			return
		}
		for _, in := range a.Program.Inputs {
			a.Load(in.Name) //nolint:errcheck // only that it returns
		}
	})
}

func FuzzProgram(f *testing.F) {
	a, err := Parse(read(f, "net.pt2"))
	if err != nil {
		f.Fatal(err)
	}
	b, err := a.read("net/models/model.json", MaxProgram)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseProgram(b) //nolint:errcheck // only that it returns
	})
}
