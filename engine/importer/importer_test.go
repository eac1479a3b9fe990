package importer_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/state"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func imported(t testing.TB, b []byte) *importer.Model {
	t.Helper()
	a, err := pt2.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	m, err := importer.Import(a, importer.Options{Name: "model"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// models are those that e2e/census/census.py writes as small.
func models(t testing.TB) []string {
	t.Helper()
	fs, err := filepath.Glob("testdata/*.pt2")
	if err != nil || len(fs) < 9 {
		t.Fatal(fs, err)
	}
	for i, f := range fs {
		fs[i] = strings.TrimSuffix(filepath.Base(f), ".pt2")
	}
	return fs
}

// near compares with PyTorch: the root mean square of the difference to that of want, or to
// floor.
func near(t *testing.T, what string, got, want []float32, floor float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d elements, PyTorch's %d", what, len(got), len(want))
		return
	}
	d, w := 0.0, floor*floor*float64(len(want))
	for i, v := range want {
		e := float64(got[i]) - float64(v)
		d += e * e
		w += float64(v) * float64(v)
	}
	if r := math.Sqrt(d / w); !(r < 1e-3) {
		t.Errorf("%s differs by %.1e of its size", what, r)
	}
}

// TestGolden imports models that people write and compares the output and every gradient
// with PyTorch's.
func TestGolden(t *testing.T) {
	for _, name := range models(t) {
		t.Run(name, func(t *testing.T) { golden(t, imported(t, load(t, name+".pt2")), name+".safetensors", 0) })
	}
}

// TestGoldenONNX does so for what torch.onnx.export writes, today's and the one before. A head
// that is the embedding has one name there.
func TestGoldenONNX(t *testing.T) {
	for name, renamed := range map[string]int{"cnn": 0, "encoder": 0, "unet": 0, "tied_decoder": 1} {
		t.Run(name, func(t *testing.T) {
			m, err := onnx.Parse(load(t, "onnx/"+name+".onnx"))
			if err != nil {
				t.Fatal(err)
			}
			model, err := importer.ImportONNX(m, nil, importer.Options{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, model, "onnx/"+name+".safetensors", renamed)
		})
	}
}

// TestONNXRuntime compares with what onnxruntime answers (testdata/onnx/make.py): recurrent layers
// and what its optimiser makes.
func TestONNXRuntime(t *testing.T) {
	files, err := filepath.Glob("testdata/onnx/*.onnx")
	if err != nil || len(files) < 12 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".onnx")
		if slices.Contains([]string{"cnn", "encoder", "unet", "tied_decoder"}, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			m, err := onnx.Parse(load(t, "onnx/"+name+".onnx"))
			if err != nil {
				t.Fatal(err)
			}
			model, err := importer.ImportONNX(m, nil, importer.Options{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, model, "onnx/"+name+".safetensors", 0)
		})
	}
}

// golden takes PyTorch's step and compares. So many weights have names that PyTorch does not give.
func golden(t *testing.T, m *importer.Model, name string, renamed int) {
	t.Helper()
	want, _, err := safetensors.Parse(load(t, name))
	if err != nil {
		t.Fatal(err)
	}
	get := func(name string) state.Tensor {
		x, ok := want.Get(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		return x
	}
	b, err := m.Graph.JSON() // what a job holds
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	rows, out := get("input.0").Shape[0], g.OutputValue()
	p, err := exec.Compile(g, 0, exec.Config{Rows: rows, Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Layout.NewState()
	if err := p.Layout.Import(s, m.Weights); err != nil {
		t.Fatal(err)
	}
	e := p.New(nil)
	for i := range g.Inputs {
		copy(e.Value(0, i, rows), get(fmt.Sprintf("input.%d", i)).F32)
	}
	e.Forward(0, exec.Batch{Seed: 1, Rows: rows}, s.Params, &s)
	answer, grad := e.Value(0, out, rows), e.Grad(0, out, rows)
	copy(grad, get("seed").F32)
	if m.Loss { // each row has its part of the mean
		mean := float32(0)
		for i, v := range answer {
			mean += v / float32(rows)
			grad[i] = get("seed").F32[0] / float32(rows)
		}
		answer = []float32{mean}
	}
	near(t, "the output", answer, get("output").F32, 0)
	for _, x := range p.Layout.Export(s) {
		if w, ok := want.Get("after." + x.Name); ok && x.I64 == nil {
			near(t, "the buffer "+x.Name+" after the step", x.F32, w.F32, 1e-6)
		}
	}
	grads := make([]float32, max(p.Layout.Grads, p.Layout.Params))
	e.Backward(0, s.Params, grads, false)
	p.Layout.Fold(grads)
	size := 0.0
	for _, v := range grads {
		size += float64(v) * float64(v)
	}
	size = math.Sqrt(size / float64(len(grads)))
	n := 0
	for _, x := range p.Layout.Export(exec.State{Params: grads, Buffers: s.Buffers, Counters: s.Counters}) {
		if _, ok := want.Get("grad." + x.Name); ok {
			near(t, "the gradient of "+x.Name, x.F32, get("grad."+x.Name).F32, 1e-2*size)
			n++
		}
	}
	for _, x := range want {
		if strings.HasPrefix(x.Name, "grad.") {
			n--
		}
	}
	if n != -renamed {
		t.Errorf("%d gradients are missing", -n)
	}
}

// TestBeside compares a batch of another size than was exported, and evaluation.
func TestBeside(t *testing.T) {
	for _, name := range []string{
		"norms", "truths", "untracked", "more_clip", "more_ntxent", "more_batchhard", "more_barlow", "more_centred", "more_classifiedandcontrasted", "more_hardestofranks", "more_softtargets", "odd_batch_counted", "odd_batch_cumulated",
	} {
		m := imported(t, load(t, name+".pt2"))
		want, _, err := safetensors.Parse(load(t, name+".safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"other", "eval"} {
			x, ok := want.Get(what + ".0")
			y, ok2 := want.Get(what + ".output")
			if !ok || !ok2 {
				t.Fatalf("%s has no %s", name, what)
			}
			rows, out := x.Shape[0], m.Graph.OutputValue()
			p, err := exec.Compile(m.Graph, 0, exec.Config{Rows: rows, Slots: 1, Train: what == "other", Outputs: []int{out}})
			if err != nil {
				t.Fatal(err)
			}
			s := p.Layout.NewState()
			if err := p.Layout.Import(s, m.Weights); err != nil {
				t.Fatal(err)
			}
			e := p.New(nil)
			for i := range m.Graph.Inputs {
				x, _ := want.Get(fmt.Sprintf("%s.%d", what, i))
				copy(e.Value(0, i, rows), x.F32)
			}
			e.Forward(0, exec.Batch{Seed: 1, Rows: rows}, s.Params, &s)
			answer := e.Value(0, out, rows)
			if m.Loss {
				mean := float32(0)
				for _, v := range answer {
					mean += v / float32(rows)
				}
				answer = []float32{mean}
			}
			near(t, name+" with "+what, answer, y.F32, 0)
		}
	}
}

// edited rewrites an archive's program.
func edited(t *testing.T, b []byte, old, new string) []byte {
	t.Helper()
	program, rest := unpacked(t, b)
	if !bytes.Contains(program, []byte(old)) {
		t.Fatalf("there is no %q", old)
	}
	return packed(t, bytes.ReplaceAll(program, []byte(old), []byte(new)), rest)
}

// TestProblems: what the engine does not have is named all at once, with the line of the
// user's source, how often, and what to write instead.
func TestProblems(t *testing.T) {
	b := edited(t, load(t, "unet.pt2"), "aten.silu.default", "aten.nonzero.default")
	b = edited(t, b, "aten.cat.default", "aten.lstm.input")
	a, err := pt2.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = importer.Import(a, importer.Options{})
	var ps importer.Problems
	if !errors.As(err, &ps) || !errors.Is(err, importer.ErrUnsupported) || len(ps) != 1 {
		t.Fatalf("%v", err)
	}
	if p := ps[0]; p.Target != "aten.nonzero.default" || p.Module != "a.2" || !strings.HasPrefix(p.Where, "census.py:") {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(err.Error(), "its size depends on the data") {
		t.Error(err)
	}
}

// TestRefused: what no graph could compute as PyTorch does is refused, not imported as something
// else: a backward pass of its own, buffers and parameters that a step writes, integers beyond
// float32, a transform along the batch, samples that change places.
func TestRefused(t *testing.T) {
	for name, want := range map[string]string{
		"function_straight": "aten.sign.default at odd.py", "step_counter": "in the buffer step", "clamped_weight": "writes to the parameter a.weight", "int_hash": "beyond 2^24", "fft_all": "along the batch",
		"batch_rolled": "it moves samples",
	} {
		a, err := pt2.Parse(load(t, "refused/odd_"+name+".pt2"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := importer.Import(a, importer.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestCompared: what compares the samples of a batch becomes a graph for batches of any size, and what
// needs to know that is refused with what to do.
func TestCompared(t *testing.T) {
	b := load(t, "more_clip.pt2")
	m := imported(t, b)
	if node, ok := m.Graph.Compares(); !ok || !m.Loss {
		t.Errorf("it compares by %q: %v, and is a loss: %v", node, ok, m.Loss)
	}
	for _, n := range []int{1, 2, 3, 1000} {
		if g, err := m.Graph.At(n); err != nil || g.Samples() != n {
			t.Errorf("for %d samples: %v", n, err)
		}
	}
	if _, err := m.Graph.At(1 << 15); err == nil {
		t.Error("a value of 2^30 elements is taken")
	}
	if _, ok := imported(t, load(t, "cnn.pt2")).Graph.Compares(); ok {
		t.Error("a network of convolutions compares samples")
	}
}

// TestByHand: of what an installed package computes in a method of its own the user is told.
func TestByHand(t *testing.T) {
	program, rest := unpacked(t, load(t, "refused/odd_function_straight.pt2"))
	b := packed(t, bytes.ReplaceAll(program, []byte("/src/odd.py"), []byte("/usr/site-packages/odd.py")), rest)
	if m := imported(t, b); len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "odd.py:") {
		t.Error(m.Notes)
	}
}

// TestFrozen: parameters with requires_grad=False stay as they are, and the user is told.
func TestFrozen(t *testing.T) {
	m := imported(t, load(t, "truths.pt2"))
	for _, p := range m.Graph.Params() {
		if want := strings.HasPrefix(p.Full, "b."); want != (p.Role == graph.Frozen) {
			t.Errorf("%s has the role %d", p.Full, p.Role)
		}
	}
	if len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "requires_grad=False") {
		t.Error(m.Notes)
	}
}

// TestEvaluation: who exports a model in evaluation mode is told that there is no dropout.
func TestEvaluation(t *testing.T) {
	still := edited(t, load(t, "cnn.pt2"), "aten.leaky_relu.default", "aten.dropout.default")
	still = edited(t, still, `"name": "negative_slope"`, `"name": "train"`)
	still = edited(t, still, `{"as_float": 0.1}`, `{"as_bool": false}`)
	if m := imported(t, still); len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "call model.train()") {
		t.Error(m.Notes)
	}
}

// TestNoise: what a model draws itself is drawn for each sample, and not once for all.
func TestNoise(t *testing.T) {
	m := imported(t, edited(t, load(t, "lstm_unrolled.pt2"), "aten.sigmoid.default", "aten.randn_like.default"))
	if !slices.ContainsFunc(m.Graph.Nodes, func(n graph.Node) bool { return n.Op.Kind() == "noise" }) {
		t.Error("there is no noise")
	}
	a, err := pt2.Parse(edited(t, load(t, "written_views.pt2"), "aten.sigmoid.default", "aten.randn_like.default"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = importer.Import(a, importer.Options{}); err == nil || !strings.Contains(err.Error(), "once for the whole batch") {
		t.Error(err)
	}
}

// TestMixedSamples: what mixes the samples of a batch is refused.
func TestMixedSamples(t *testing.T) {
	for _, c := range []struct{ model, old, new, want string }{
		{"two_heads", "aten.unsqueeze.default", "aten.flip.default", "it picks samples"},
		{"cnn", `"training", "arg": {"as_bool": true`, `"training", "arg": {"as_bool": false`, "model.train()"},
	} {
		a, err := pt2.Parse(edited(t, load(t, c.model+".pt2"), c.old, c.new))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := importer.Import(a, importer.Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.model, err)
		}
	}
}

// TestMutations imports programs with numbers, names and operators exchanged: a graph or an
// error, and no panic.
func TestMutations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	numbers := regexp.MustCompile(`"as_int": -?[0-9]+`)
	words := regexp.MustCompile(`"(name|target)": "[A-Za-z0-9_.]+"`)
	rounds := 25
	if testing.Short() {
		rounds = 10
	}
	for _, name := range models(t) {
		program, base := unpacked(t, load(t, name+".pt2"))
		ops := words.FindAll(program, -1)
		for range max(5, min(rounds, rounds*(128<<10)/len(program))) { // fewer of the large ones
			b := bytes.Clone(program)
			for range 1 + r.IntN(3) {
				if r.IntN(2) == 0 {
					at := numbers.FindAllIndex(b, -1)
					k := at[r.IntN(len(at))]
					n := []int{0, -1, 1, 2, 3, 7, 1 << 20, 1 << 40, math.MaxInt}[r.IntN(9)]
					b = slices.Concat(b[:k[0]], fmt.Appendf(nil, `"as_int": %d`, n), b[k[1]:])
					continue
				}
				at := words.FindAllIndex(b, -1)
				k := at[r.IntN(len(at))]
				b = slices.Concat(b[:k[0]], ops[r.IntN(len(ops))], b[k[1]:])
			}
			a, err := pt2.Parse(packed(t, b, base))
			if err != nil {
				continue
			}
			importer.Import(a, importer.Options{}) //nolint:errcheck // only that it returns
		}
	}
}

// unpacked are the program and the other entries of an archive.
func unpacked(t testing.TB, b []byte) (program []byte, rest map[string][]byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	rest = map[string][]byte{}
	for _, e := range z.File {
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name, "model.json") {
			program = b
		} else {
			rest[e.Name] = b
		}
	}
	return program, rest
}

// packed is an archive of a program and other entries.
func packed(t testing.TB, program []byte, rest map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	add := func(name string, b []byte) {
		e, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = e.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("model/models/model.json", program)
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		add(name, rest[name])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzImport: whatever the program says, an import ends with a graph or an error.
func FuzzImport(f *testing.F) {
	_, base := unpacked(f, load(f, "unet.pt2"))
	for _, name := range models(f) {
		program, _ := unpacked(f, load(f, name+".pt2"))
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		a, err := pt2.Parse(packed(t, program, base))
		if err != nil {
			return
		}
		importer.Import(a, importer.Options{}) //nolint:errcheck // only that it returns
	})
}

// TestPrimes: where sizes are multiples of all small primes, what compares samples is refused, and soon.
func TestPrimes(t *testing.T) {
	a, err := pt2.Parse(load(t, "more_clip.pt2"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := a.Program.Graph.Tensors
	for p := 101; p < 2100; p += 2 {
		sizes[fmt.Sprint("p", p)] = pt2.Meta{Sizes: []pt2.Size{{N: int64(p)}}}
	}
	if _, err := importer.Import(a, importer.Options{}); !errors.Is(err, importer.ErrUnsupported) || !strings.Contains(err.Error(), "it mixes samples") {
		t.Error(err)
	}
}
