// A job's newest weights, for others to use.

package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/exporter"
	"github.com/ravnest/ravnest/engine/fuse"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
)

// ErrUntrained is wrapped by errors about a job that has no weights yet.
var ErrUntrained = errors.New("nothing has been trained")

// Newest returns the newest state dict of a job: the trained one or the last checkpoint's,
// whichever is newer, or else the initial one. from says which.
func Newest(p *project.Project, cluster int) (d state.Dict, from string, err error) {
	trained := Files(p.Dir)[0]
	ft, terr := os.Stat(trained)
	newer := false // than what was fused is a checkpoint
	for _, f := range manifestFiles(p) {
		fm, err := os.Stat(f)
		newer = newer || err == nil && (terr != nil || cluster != 0 || fm.ModTime().After(ft.ModTime()))
	}
	switch {
	case newer:
		d, err = joined(p, cluster)
		return d, "the last checkpoint", err
	case terr == nil:
		if d, err = Read(trained, "trained weights"); err == nil {
			l := exec.NewLayout(p.Graph, 0)
			if err = l.Check(d); err != nil {
				err = fmt.Errorf("%s: %w", trained, err)
			}
		}
		return d, "the trained weights", err
	case !errors.Is(terr, fs.ErrNotExist):
		return nil, "", terr
	case p.Weights != nil:
		return p.Weights, "the initial weights: nothing has been trained", nil
	}
	return nil, "", fmt.Errorf("%w in %s: train first", ErrUntrained, p.Dir)
}

// joined returns a cluster's state dict, joined from its stages' parts.
func joined(p *project.Project, cluster int) (state.Dict, error) {
	shards, err := checkpoint(p, cluster)
	if errors.Is(err, fs.ErrNotExist) {
		shards, err = stageFiles(p, cluster)
	}
	if err != nil {
		return nil, err
	}
	var order []string
	for _, q := range p.Graph.Params() {
		order = append(order, q.Full)
	}
	d, err := fuse.Fuse(order, shards)
	if err != nil {
		return nil, err
	}
	for _, t := range d {
		for i, v := range t.F32 {
			if v-v != 0 {
				return nil, fmt.Errorf("%w: element %d of the weights %q is %v: train again with a lower lr", stage.ErrDiverged, i, t.Name, v)
			}
		}
	}
	return d, nil
}

// Exported is the result of ravnest export.
type Exported struct {
	Command string `json:"command"`
	File    string `json:"file"`
	From    string `json:"from"`
	Tensors int    `json:"tensors"`

	Files []string `json:"files,omitempty"` // of an adapter
}

// Export writes the newest state dict to a file, complete as PyTorch's model has it; as ONNX it
// writes the model with it.
func Export(p *project.Project, cluster int, file string) (Exported, error) {
	d, from, err := Newest(p, cluster)
	if err != nil {
		return Exported{}, err
	}
	if project.IsONNX(file) {
		m, err := exporter.ONNX(p.Graph, d)
		if err != nil {
			return Exported{}, err
		}
		return Exported{Command: "export", File: file, From: from, Tensors: len(m.Graph.Tensors)}, native.Save(file, 0o644, m.Write)
	}
	if !project.IsWeights(file) { // PEFT's directory
		files, err := p.WriteAdapter(file, d)
		return Exported{Command: "export", File: file, From: from, Tensors: 2 * len(p.Adapters), Files: files}, err
	}
	if d, err = p.Merge(d); err != nil {
		return Exported{}, err
	}
	rest, err := p.ReadRest()
	if err != nil {
		return Exported{}, err
	}
	if d, err = rest.Complete(d); err != nil {
		return Exported{}, err
	}
	return Exported{Command: "export", File: file, From: from, Tensors: len(d)}, project.WriteState(file, d)
}
