// Command census imports the models that census.py exported, repeats the training step that
// PyTorch took, and prints a table of the differences. make census runs it.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/exporter"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: census DIR [NAME...]")
		os.Exit(2)
	}
	names := os.Args[2:]
	if len(names) == 0 {
		fs, _ := filepath.Glob(filepath.Join(os.Args[1], "*.pt2")) //nolint:errcheck // the pattern is ours
		for _, f := range fs {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".pt2"))
		}
	}
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(os.Args[1], n+".onnx")); err == nil {
			names = append(names, n+" .onnx")
		}
	}
	slices.Sort(names)
	fmt.Printf("| %-20s | %-7s | %-9s | %-9s | %-6s | %s |\n|---|---|---|---|---|---|\n", "model", "imports", "output", "gradients", "cuts", "nodes, parameters, or why not")
	bad := 0
	for _, n := range names {
		r, err := census(os.Args[1], n)
		if err != nil {
			bad++
			r.note = err.Error()
			var ps importer.Problems
			if errors.As(err, &ps) && len(os.Args) > 2 {
				fmt.Fprintln(os.Stderr, err)
			} else if errors.As(err, &ps) {
				r.note = fmt.Sprintf("%d kinds; %s: %s", len(ps), ps[0].Target, ps[0].Reason)
			}
		}
		fmt.Printf("| %-20s | %-7s | %-9s | %-9s | %-6s | %s |\n", n, yes(r.imports), r.output, r.grads, r.cuts, strings.ReplaceAll(r.note, "\n", "; "))
	}
	fmt.Printf("%d of %d\n", len(names)-bad, len(names))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type result struct {
	imports       bool
	output, grads string
	cuts          string
	note          string
}

// census compares one training step of one model.
func census(dir, name string) (r result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	file, base, _ := strings.Cut(name, " ")
	m, err := project.ReadModel(filepath.Join(dir, file+cmp.Or(base, ".pt2")), 0)
	if err != nil {
		return r, err
	}
	name = file
	r.imports = true
	b, err := os.ReadFile(filepath.Join(dir, name+".safetensors"))
	if err != nil {
		return r, err
	}
	want, _, err := safetensors.Parse(b)
	if err != nil {
		return r, err
	}
	if err := r.step(m, want, base != ""); err != nil || base != "" {
		return r, err
	}
	_, compares := m.Graph.Compares() // which ONNX's operators could, but its writer does not
	if compares {
	} else if err := export(filepath.Join(dir, name), m, want); err != nil {
		return r, fmt.Errorf("as ONNX: %w", err)
	}
	var inputs [][]float32
	rows := 0
	for i := range m.Graph.Inputs {
		x, _ := want.Get(fmt.Sprintf("input.%d", i))
		inputs, rows = append(inputs, x.F32), x.Shape[0]
	}
	if r.cuts, err = cuts(m.Graph, m.Weights, inputs, rows); err != nil {
		return r, err
	}
	return r, nil
}

// export writes the model as ONNX together with its outputs in evaluation mode. census.py
// compares them with those of onnxruntime.
func export(file string, m *importer.Model, want state.Dict) error {
	x, err := exporter.ONNX(m.Graph, m.Weights)
	if err != nil {
		return err
	}
	f, err := os.Create(file + ".out.onnx")
	if err != nil {
		return err
	}
	if err := errors.Join(x.Write(f), f.Close()); err != nil {
		return err
	}
	g := m.Graph
	out := g.OutputValue()
	_, e, _, rows, err := forward(m, want, "input", exec.Config{Outputs: []int{out}})
	if err != nil {
		return err
	}
	var d state.Dict
	for i, in := range g.Inputs {
		x, _ := want.Get(fmt.Sprintf("input.%d", i))
		d = append(d, state.Tensor{Name: in.Name, Shape: append([]int{rows}, g.Shape(i)...), F32: x.F32})
	}
	d = append(d, state.Tensor{Name: "answer", Shape: append([]int{rows}, g.Shape(out)...), F32: e.Value(0, out, rows)})
	if f, err = os.Create(file + ".out.safetensors"); err != nil {
		return err
	}
	return errors.Join(safetensors.Write(f, d, nil), f.Close())
}

// forward runs a model on PyTorch's inputs, which have a name and a number each.
func forward(m *importer.Model, want state.Dict, inputs string, c exec.Config) (p *exec.Plan, e *exec.Exec, s exec.State, rows int, err error) {
	in0, _ := want.Get(inputs + ".0")
	rows = in0.Shape[0]
	c.Rows = rows
	if p, err = exec.Compile(m.Graph, 0, c); err != nil {
		return p, e, s, rows, err
	}
	s = p.Layout.NewState()
	if err := p.Layout.Import(s, m.Weights); err != nil {
		return p, e, s, rows, err
	}
	e = p.New(nil)
	for i := range m.Graph.Inputs {
		x, _ := want.Get(fmt.Sprintf("%s.%d", inputs, i))
		copy(e.Value(0, i, rows), x.F32)
	}
	e.Forward(0, exec.Batch{Seed: 1, Rows: rows}, s.Params, &s)
	return p, e, s, rows, nil
}

// answered is the model's answer; where it is the mean loss of a batch, that of the rows' parts.
func answered(m *importer.Model, e *exec.Exec, rows int) []float32 {
	y := e.Value(0, m.Graph.OutputValue(), rows)
	if !m.Loss {
		return y
	}
	sum := 0.0
	for _, v := range y {
		sum += float64(v)
	}
	return []float32{float32(sum / float64(rows))}
}

// buffers compares the buffers behind a step. An ONNX file's are those behind the export's own.
func buffers(got, want state.Dict, onnx bool) error {
	for _, t := range got {
		w, ok := want.Get("after." + t.Name)
		if !ok || onnx || t.I64 != nil {
			continue
		}
		d, n := distance(t.F32, w.F32, 1e-2), 0.0
		if x, ok := want.Get("exact.after." + t.Name); ok {
			d, n = distance(t.F32, x.F32, 1e-2), distance(w.F32, x.F32, 1e-2)
		}
		if !(d < max(1e-3, 4*n)) {
			return fmt.Errorf("the buffer %s differs by %.1e after the step, in PyTorch's float32 by %.1e", t.Name, d, n)
		}
	}
	return nil
}

// step compares a forward and backward pass with PyTorch's.
func (r *result) step(m *importer.Model, want state.Dict, onnx bool) error {
	g := m.Graph
	out := g.OutputValue()
	p, e, s, rows, err := forward(m, want, "input", exec.Config{Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}})
	if err != nil {
		return err
	}
	y, _ := want.Get("output")
	seed, _ := want.Get("seed")
	answer := answered(m, e, rows)
	d := distance(answer, y.F32, 0)
	noise := 0.0 // rounding of PyTorch's own output
	if x, ok := want.Get("exact"); ok {
		d, noise = distance(answer, x.F32, 0), distance(y.F32, x.F32, 0)
	}
	r.output = fmt.Sprintf("%.1e", d)
	grad := e.Grad(0, out, rows)
	copy(grad, seed.F32)
	if m.Loss {
		for i := range grad {
			grad[i] = seed.F32[0] / float32(rows)
		}
	}
	if err := buffers(p.Layout.Export(s), want, onnx); err != nil {
		return err
	}
	grads := make([]float32, max(p.Layout.Grads, p.Layout.Params))
	e.Backward(0, s.Params, grads, false)
	p.Layout.Fold(grads)

	// A gradient that is nothing but rounding is measured against the size of all gradients.
	all, n := 0.0, 0
	for _, t := range want {
		if strings.HasPrefix(t.Name, "grad.") {
			for _, v := range t.F32 {
				all += float64(v) * float64(v)
			}
			n += len(t.F32)
		}
	}
	floor := 1e-3 * math.Sqrt(all/float64(max(n, 1)))
	worst, theirs, at, count, over := 0.0, 0.0, "", 0, 0.0
	s.Params = grads
	has := map[string]bool{}
	for _, t := range p.Layout.Export(s) {
		has[t.Name] = true
		w, ok := want.Get("grad." + t.Name)
		if !ok {
			continue
		}
		count++
		d, n := distance(t.F32, w.F32, floor), 0.0
		if x, ok := want.Get("exact." + t.Name); ok {
			d, n = distance(t.F32, x.F32, floor), distance(w.F32, x.F32, floor)
		}
		theirs = max(theirs, n)
		worst = max(worst, d)
		// A gradient that jumps within what rounding moves is as far from it as it jumps.
		if edge, ok := want.Get("edge." + t.Name); ok {
			d /= max(1, 2e3*float64(edge.F32[0]))
		}
		if d > over || d != d {
			over, at = d, t.Name
		}
	}
	r.grads = fmt.Sprintf("%.1e", worst)
	r.note = fmt.Sprintf("%d nodes, %d gradients; PyTorch's own rounding: %.0e, %.0e", len(g.Nodes), count, noise, theirs)
	whats := []string{"other", "eval"}
	if onnx {
		whats = whats[:1]
	}
	if err := beside(m, want, whats, 10*max(noise, 1e-4)); err != nil {
		return err
	}
	renamed := 0
	for _, t := range want {
		k, ok := strings.CutPrefix(t.Name, "grad.")
		if _, tied := m.Tied[k]; ok && !has[k] && !tied {
			if !onnx {
				return fmt.Errorf("no gradient of %s", k)
			}
			renamed++
		}
	}
	if renamed > 0 { // ONNX keeps one name of a shared weight, and transposes some
		r.note += fmt.Sprintf("; %d weights have other names", renamed)
	}
	switch {
	case !(d < max(1e-4, 4*noise)):
		return fmt.Errorf("the output differs by %.1e", d)
	case !(over < max(1e-3, 4*theirs)):
		return fmt.Errorf("the gradient of %s differs by %.1e, in PyTorch's float32 by %.1e at most", at, over, theirs)
	}
	return nil
}

// beside compares another batch in training, and evaluation.
func beside(m *importer.Model, want state.Dict, whats []string, most float64) error {
	for _, what := range whats {
		y, ok := want.Get(what + ".output")
		if !ok {
			continue
		}
		_, e, _, rows, err := forward(m, want, what, exec.Config{Slots: 1, Train: what == "other", Outputs: []int{m.Graph.OutputValue()}})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if d := distance(answered(m, e, rows), y.F32, 0); !(d < most) {
			return fmt.Errorf("the output of %s differs by %.1e", map[string]string{"other": "another batch", "eval": "evaluation"}[what], d)
		}
	}
	return nil
}

// distance returns the root mean square of the difference, as a share of that of want.
func distance(got, want []float32, floor float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d, w := 0.0, 0.0
	for i, v := range want {
		e := float64(got[i]) - float64(v)
		d += e * e
		w += float64(v) * float64(v)
	}
	n := float64(max(len(want), 1))
	return math.Sqrt(d/n) / max(math.Sqrt(w/n), floor, 1e-30)
}
