// Weights are imported into jobs and exported from them, and trained models predict.

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/e2e/torch"
	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/state"
)

// predicted is what predict --json prints.
type predicted struct {
	Rows []struct {
		Name, Label string
		Class       int
		Probability float64
	}
}

// digitRows writes the validation rows of the digits as the tensor x, and returns their classes.
func digitRows(t *testing.T, path string) []int32 {
	t.Helper()
	set, err := data.Digits()
	if err != nil {
		t.Fatal(err)
	}
	x := set.Val.X()
	idx, labels := make([]int32, x.Rows), make([]int32, x.Rows)
	for i := range idx {
		idx[i] = int32(i)
	}
	tensor := state.Tensor{Name: "x", Shape: append([]int{x.Rows}, x.RowShape()...), F32: make([]float32, x.Rows*x.Elems())}
	x.Gather(tensor.F32, idx)
	set.Val.Y().Labels(labels, idx)
	var b bytes.Buffer
	if err := safetensors.Write(&b, state.Dict{tensor}, nil); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.Bytes())
	return labels
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestExport trains an imported model, exports it in both formats, starts another job from it,
// and classifies digits with it: with the accuracy that eval reports and, where PyTorch is
// installed, with the answers of PyTorch.
func TestExport(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	at := func(name string) string { return filepath.Join(tmp, name) }
	job := at("job")
	s.ok("ravnest", "import", archives+"cnn.pt2", job, "--data", "digits", "--epochs", "2", "--lr", "0.01")
	x := at("x.safetensors")
	labels := digitRows(t, x)
	if _, remark := s.ok("ravnest", "predict", job, x); !strings.Contains(remark, "nothing has been trained") {
		t.Errorf("predict before training says %q", remark)
	}
	s.ok("ravnest", "train", "--local", job)
	for _, f := range []string{"a.pt", "a.safetensors"} {
		if out, _ := s.ok("ravnest", "export", job, "--to", at(f)); out != at(f)+"\n" {
			t.Errorf("export prints %q", out)
		}
	}
	pt, err := torchpt.Parse(read(t, at("a.pt")))
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := safetensors.Parse(read(t, at("a.safetensors")))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(pt.Names(), "1.num_batches_tracked") || len(pt) != len(st) || len(pt) != 11 {
		t.Errorf("the exported tensors are %v and %v", pt.Names(), st.Names())
	}

	out, _ := s.ok("ravnest", "predict", job, x, "--json")
	p := parse[predicted](t, out)
	right := 0
	for i, r := range p.Rows {
		if int32(r.Class) == labels[i] {
			right++
		}
	}
	ev, _ := s.ok("ravnest", "eval", "--json", job)
	if e := parse[struct{ Correct, Total int }](t, ev); e.Correct != right || e.Total != len(p.Rows) || right < 100 {
		t.Errorf("predict is right for %d of %d rows, eval says %+v", right, len(p.Rows), e)
	}
	plain, _ := s.ok("ravnest", "predict", job, x)
	if n, first := strings.Count(plain, "\n"), fmt.Sprintf("%d\t%.4f\n", p.Rows[0].Class, p.Rows[0].Probability); n != len(labels) || !strings.HasPrefix(plain, first) {
		t.Errorf("predict prints %d lines, %.40q..., want %q first", n, plain, first)
	}

	// Another job that starts from it gives the same answers before it is trained.
	other := at("other")
	s.ok("ravnest", "import", archives+"cnn.pt2", other, "--data", "digits")
	s.ok("ravnest", "import", at("a.pt"), other)
	if again, _ := s.ok("ravnest", "predict", other, x); again != plain {
		t.Error("a job that starts from the exported weights gives other answers")
	}
	answersAsTorch(t, p, x, at("a.pt"), at("a.safetensors"))
}

// TestPredictNames: if the classes of a table have names, predict answers with them.
func TestPredictNames(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	var b strings.Builder
	b.WriteString("a,b,label\n")
	for i := range 60 {
		fmt.Fprintf(&b, "%d,%d,%s\n", i%2, 1-i%2, []string{"odd one", "even"}[i%2])
	}
	table, rows, job := filepath.Join(tmp, "t.csv"), filepath.Join(tmp, "rows.csv"), filepath.Join(tmp, "job")
	write(t, table, []byte(b.String()))
	write(t, rows, []byte("a,b\n1,0\n0,1\n"))
	s.ok("ravnest", "init", job, "--data", table, "--epochs", "40")
	s.ok("ravnest", "train", "--local", job)
	if out, _ := s.ok("ravnest", "predict", job, rows); !strings.HasPrefix(out, "even\t0.") || !strings.Contains(out, "\nodd one\t0.") {
		t.Errorf("predict prints %q", out)
	}
	out, _ := s.ok("ravnest", "predict", job, rows, "--json")
	if p := parse[predicted](t, out); len(p.Rows) != 2 || p.Rows[0].Label != "even" || p.Rows[0].Class != 0 {
		t.Errorf("predict prints %s", out)
	}
}

// answersAsTorch compares predictions with those of PyTorch for the weights in each of files.
func answersAsTorch(t *testing.T, p predicted, x string, files ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	python, err := torch.Python(ctx)
	if errors.Is(err, torch.ErrMissing) {
		t.Log(err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var want struct {
			Class       []int
			Probability []float64
		}
		if err := torch.Run(ctx, python, &want, "imported.py", f, x); err != nil {
			t.Fatal(err)
		}
		if len(want.Class) != len(p.Rows) {
			t.Fatalf("PyTorch answers %d rows, predict %d", len(want.Class), len(p.Rows))
		}
		for i, r := range p.Rows {
			if math.Abs(r.Probability-want.Probability[i]) > 1e-4 || r.Class != want.Class[i] && r.Probability > 0.51 {
				t.Fatalf("%s, row %d: class %d with %v, PyTorch says %d with %v", f, i, r.Class, r.Probability, want.Class[i], want.Probability[i])
			}
		}
	}
}

// TestImportWeights: all tensors that do not fit are named at once, and can be left out.
func TestImportWeights(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	job, file := filepath.Join(tmp, "job"), filepath.Join(tmp, "w.pt")
	s.ok("ravnest", "import", archives+"cnn.pt2", job, "--data", "digits")
	was := read(t, job, "initial.safetensors")
	d, _, err := safetensors.Parse(was)
	if err != nil {
		t.Fatal(err)
	}
	save := func(change func(d state.Dict) state.Dict) {
		var b bytes.Buffer
		if err := torchpt.Write(&b, change(d.Clone())); err != nil {
			t.Fatal(err)
		}
		write(t, file, b.Bytes())
	}
	save(func(d state.Dict) state.Dict {
		d[0].Name = "first.weight" // 0.weight
		last := &d[len(d)-1]       // 8.bias
		last.Shape, last.F32 = []int{5}, last.F32[:5]
		d[1].F32[0] = 7
		return d
	})
	s.bad([]string{`1 missing:\s+0\.weight`, `1 surplus:\s+first\.weight`, `8\.bias is \[5\], the model's is \[10\]`, "--ignore"}, "ravnest", "import", file, job)
	s.bad([]string{`8\.bias is`}, "ravnest", "import", file, job, "--strict=false")
	if !bytes.Equal(read(t, job, "initial.safetensors"), was) {
		t.Error("a checkpoint that does not fit changed the job")
	}
	_, said := s.ok("ravnest", "import", file, job, "--ignore", "8.*", "--ignore", "0.weight", "--ignore", "first*")
	for _, want := range []string{"8 tensors of", "3 kept as they were: 0.weight, 8.weight, 8.bias", "first.weight"} {
		if !strings.Contains(said, want) {
			t.Errorf("import says %q, not %q", said, want)
		}
	}
	got, _, err := safetensors.Parse(read(t, job, "initial.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if !got[:1].Equal(d[:1]) || got[1].F32[0] != 7 || !got[len(got)-1:].Equal(d[len(d)-1:]) {
		t.Error("the job does not start from the checkpoint's weights and those kept")
	}
	save(func(d state.Dict) state.Dict {
		for i := range d {
			d[i].Name = "module." + d[i].Name
		}
		return d
	})
	s.bad([]string{"--strip module"}, "ravnest", "import", file, job)
	s.ok("ravnest", "import", file, job, "--strip", "module.")
	if !bytes.Equal(read(t, job, "initial.safetensors"), was) {
		t.Error("the same weights give a different file")
	}
	// Jobs of examples can be given weights, too.
	cnn := filepath.Join(tmp, "cnn")
	s.ok("ravnest", "init", cnn)
	s.bad([]string{"nothing has been trained"}, "ravnest", "export", cnn, "--to", file)
	s.bad([]string{`missing:`, `surplus:`}, "ravnest", "import", file, cnn)
	s.bad([]string{"needs a directory"}, "ravnest", "import", file)
	s.bad([]string{"--lr is for a model"}, "ravnest", "import", file, job, "--lr", "1")
	s.bad([]string{"--to FILE"}, "ravnest", "export", job)
	s.bad([]string{`a row is \[N,3\]`}, "ravnest", "predict", job, npy(t, filepath.Join(tmp, "x.npy"), 2, 3))
}

// npy writes an array of zeros as NumPy does.
func npy(t *testing.T, path string, shape ...int) string {
	t.Helper()
	n, dims := 1, ""
	for _, d := range shape {
		n *= d
		dims += fmt.Sprintf("%d,", d)
	}
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n", dims)
	b := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(head)))
	write(t, path, append(append(b, head...), make([]byte, 4*n)...))
	return path
}

// TestONNX: a model in ONNX trains, on one process and on two providers to the same bytes, goes
// out as ONNX, and comes in again with its answers.
func TestONNX(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	job := func(name, model string) string {
		dir := filepath.Join(tmp, name)
		out, _ := s.ok("ravnest", "import", model, dir, "--data", "digits", "--epochs", "2", "--lr", "0.01")
		if !strings.Contains(out, "1434 parameters") || !strings.Contains(out, "conv2d") {
			t.Errorf("import of %s prints %s", model, out)
		}
		return dir
	}
	local, cut := job("local", archives+"onnx/cnn.onnx"), job("cut", archives+"onnx/cnn.onnx")
	s.ok("ravnest", "train", "--local", local)
	s.demo("--providers", "2", "--clusters", "1", "--dir", cut)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, cut, f), read(t, local, f)) {
			t.Errorf("two providers: %s is not that of one process", f)
		}
	}
	file := filepath.Join(tmp, "trained.onnx")
	s.ok("ravnest", "export", local, "--to", file)
	again := job("again", file)
	x := filepath.Join(tmp, "x.safetensors")
	digitRows(t, x)
	classes := func(dir string) (cs []int, ps []float64) {
		out, _ := s.ok("ravnest", "predict", "--json", dir, x)
		var p predicted
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Rows {
			cs, ps = append(cs, r.Class), append(ps, r.Probability)
		}
		return cs, ps
	}
	// The second job has not been trained: it answers as the first one does.
	c, p := classes(local)
	d, q := classes(again)
	for i := range p {
		if c[i] != d[i] || math.Abs(p[i]-q[i]) > 1e-5 {
			t.Fatalf("row %d: class %d with %v, exported and imported %d with %v", i, c[i], p[i], d[i], q[i])
		}
	}
	if len(p) != 719 || len(q) != 719 {
		t.Errorf("%d and %d answers", len(p), len(q))
	}
	s.bad([]string{"ends in .safetensors, .pt or .onnx"}, "ravnest", "export", local, "--to", filepath.Join(tmp, "x.npz"))
}
