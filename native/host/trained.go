// The trained state dict on disk: stage shards fused into the two files that PyTorch
// loads.

package host

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/fuse"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
)

// trainedFiles are the two forms of the fused state dict, safetensors first.
func trainedFiles(dir string) []string {
	base := filepath.Join(dir, project.TrainedDir, "trained_state_dict")
	return []string{base + ".safetensors", base + ".pt"}
}

func writeTrained(dir string, d state.Dict) ([]string, error) {
	files := trainedFiles(dir)
	if err := os.MkdirAll(filepath.Dir(files[0]), 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", filepath.Dir(files[0]), err)
	}
	var st, pt bytes.Buffer
	if err := safetensors.Write(&st, d, map[string]string{"format": "pt"}); err != nil {
		return nil, err
	}
	if err := torchpt.Write(&pt, d); err != nil {
		return nil, err
	}
	for i, b := range []*bytes.Buffer{&st, &pt} {
		if err := native.WriteFile(files[i], b.Bytes(), 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// maxState bounds a state file that is read whole.
const maxState = 64 << 30

func readState(path string) (state.Dict, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("no trained weights at %s: train first, then run fuse", path)
	}
	if fi.Size() > maxState {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, int64(maxState))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading trained weights: %w", err)
	}
	d, _, err := safetensors.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// Fuse joins the stages of a cluster, as the last run saved them, into one state dict
// with the model's own names.
func Fuse(p *project.Project, cluster int) ([]string, error) {
	s, err := p.ReadPlan()
	if err != nil {
		return nil, err
	}
	if cluster < 0 || cluster >= len(s.Clusters) {
		return nil, fmt.Errorf("there is no cluster %d: the plan has clusters 0..%d", cluster, len(s.Clusters)-1)
	}
	var shards []state.Dict
	for k := range s.Clusters[cluster].Stages {
		d, err := readState(filepath.Join(p.Dir, s.StageDir(cluster, k), project.WeightsFile))
		if err != nil {
			return nil, fmt.Errorf("stage %d of cluster %d: %w", k, cluster, err)
		}
		shards = append(shards, d)
	}
	var order []string
	for _, q := range p.Graph.Params() {
		order = append(order, q.Full)
	}
	d, err := fuse.Fuse(order, shards)
	if err != nil {
		return nil, err
	}
	return writeTrained(p.Dir, d)
}
