// Reading and describing models that PyTorch exported.

package project

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/ravnest/ravnest/engine/format/onnx"
	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/importer"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/train"
)

// IsONNX reports whether a file's extension is that of ONNX models.
func IsONNX(file string) bool { return strings.EqualFold(filepath.Ext(file), ".onnx") }

// ReadModel reads an archive written by torch.export.save, or an ONNX model. output is the index
// of the model's output that is its answer, more are those that losses look at besides.
func ReadModel(file string, output int, more ...int) (*importer.Model, error) {
	f, size, err := OpenRegular(file, "model file")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if IsONNX(file) {
		m, err := readONNX(f, size, importer.Options{Name: modelName(file), Output: output, More: more}, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return m, nil
	}
	a, err := pt2.Open(f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m, err := importer.Import(a, importer.Options{Name: modelName(file), Output: output, More: more})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// readONNX reads an ONNX model. Weights may lie in files of the same folder.
func readONNX(f *os.File, size int64, o importer.Options, file string) (*importer.Model, error) {
	if size > onnx.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", onnx.ErrFormat, size, int64(onnx.MaxBytes))
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	m, err := onnx.Parse(b)
	if err != nil {
		return nil, err
	}
	type part struct {
		f    *os.File
		size int64
	}
	parts := map[string]part{}
	defer func() {
		for _, p := range parts {
			_ = p.f.Close() // only read
		}
	}()
	open := func(name string) (io.ReaderAt, int64, error) {
		p, ok := parts[name]
		if !ok {
			if !filepath.IsLocal(name) {
				return nil, 0, fmt.Errorf("%w: %q does not lie beside the model", onnx.ErrFormat, name)
			}
			var err error
			if p.f, p.size, err = OpenRegular(filepath.Join(filepath.Dir(file), filepath.FromSlash(name)), "file of weights"); err != nil {
				return nil, 0, err
			}
			parts[name] = p
		}
		return p.f, p.size, nil
	}
	return importer.ImportONNX(m, open, o)
}

func modelName(file string) string {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	return name[:min(len(name), job.MaxText)]
}

// DescribeModel writes the model as a table with a line for every node: the shape of its
// output, its parameters, the floating-point operations of its forward pass, and the memory
// of its output for a batch. Lines before which the model can be cut are marked.
func DescribeModel(w io.Writer, m *importer.Model, j job.Spec) error {
	g, err := m.Graph.At(j.BatchSize)
	if err != nil {
		return err
	}
	begins := map[int]bool{}
	for _, u := range g.Units()[1:] {
		begins[u.From] = true
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\tlayer\top\toutput\tparameters\tMFLOP a row\tMB a batch")
	for i := range g.Nodes {
		mark := ""
		if begins[i] {
			mark = "✂"
		}
		s := g.Shape(g.Result(i))
		shape, samples := s.String(), j.BatchSize
		if g.Whole(g.Result(i)) {
			shape, samples = strings.ReplaceAll(fmt.Sprint([]int(s)), " ", ","), 1
		}
		params := ""
		if n := g.ParamCount(i, i+1); n > 0 {
			params = fmt.Sprint(n)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.3g\t%.3g\n", mark, g.Nodes[i].Name, g.Nodes[i].Op.Kind(), shape, params,
			g.Cost(i, i+1).Forward/1e6, float64(4*s.Elems()*samples)/1e6)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	c := g.Cost(0, len(g.Nodes))
	fmt.Fprintf(w, "%d parameters, %.4g MFLOP forward and %.4g backward a row, can be cut in up to %d stages\n",
		g.ParamCount(0, len(g.Nodes)), c.Forward/1e6, (c.BackInput+c.BackWeight)/1e6, len(begins)+1)
	if n, err := train.Bytes(j, g); err == nil {
		fmt.Fprintf(w, "training in one process takes %.4g MB at batch size %d, data not counted\n", float64(n)/1e6, j.BatchSize)
	}
	if len(g.Inputs) > 1 {
		fmt.Fprintf(w, "a row of the data has %d inputs:", len(g.Inputs))
		for _, in := range g.Inputs {
			fmt.Fprintf(w, " %s %s", in.Name, in.Shape)
		}
		fmt.Fprintln(w)
	}
	if n := 1 + len(m.More); m.Outputs > n {
		fmt.Fprintf(w, "the model returns %d tensors, of which %d count: --output N takes another, --losses several\n", m.Outputs, n)
	}
	if node, ok := g.Compares(); ok {
		fmt.Fprintf(w, "%q compares the samples of a batch with each other: batches are not split, and how large they are changes the loss\n", node)
	}
	for _, note := range m.Notes {
		fmt.Fprintln(w, note)
	}
	if shared := g.Shared(); len(shared) > 0 {
		fmt.Fprintf(w, "%d parameters are shared by several layers: in a cut between them each update sends their gradients\n", len(shared))
	}
	if len(m.Unused) > 0 {
		fmt.Fprintf(w, "the answer does not depend on %d tensors of the state dict, which are left out: %s\n", len(m.Unused), some(m.Unused))
	}
	return nil
}

// some returns the first few elements of a list as text.
func some(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
