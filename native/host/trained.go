// The trained state dict on disk: stage shards fused into the two files that PyTorch
// loads.

package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
)

// trainedFiles are the two forms of the fused state dict, safetensors first.
func trainedFiles(dir string) []string {
	base := filepath.Join(dir, project.TrainedDir, "trained_state_dict")
	return []string{base + ".safetensors", base + ".pt"}
}

// writeTrained writes both forms, straight to their files.
func writeTrained(p *project.Project, d state.Dict) ([]string, error) {
	files := trainedFiles(p.Dir)
	if err := p.Inside(filepath.Join(project.TrainedDir, filepath.Base(files[0]))); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(files[0]), 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", filepath.Dir(files[0]), err)
	}
	for i, write := range []func(io.Writer) error{
		func(w io.Writer) error { return safetensors.Write(w, d, map[string]string{"format": "pt"}) },
		func(w io.Writer) error { return torchpt.Write(w, d) },
	} {
		err := native.Save(files[i], 0o644, func(w io.Writer) error {
			b := bufio.NewWriterSize(w, 1<<16)
			if err := write(b); err != nil {
				return err
			}
			return b.Flush()
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// ReadWeights reads a checkpoint that others wrote: a .safetensors file, or a state dict of
// torch.save.
func ReadWeights(file string) (state.Dict, error) { return readState(file, "weights file") }

// readState reads a state dict of a file.
func readState(path, what string) (state.Dict, error) {
	f, size, err := project.OpenRegular(path, what)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := room(size, "reading "+path); err != nil {
		return nil, err
	}
	var d state.Dict
	if project.IsTorch(path) {
		d, err = torchpt.Read(f, size)
	} else {
		d, _, err = safetensors.Read(f, size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// ErrMemory is wrapped by errors about what this machine has not enough memory for.
var ErrMemory = errors.New("not enough memory")

// room checks that what takes need more bytes does not take more than this process may
// have: the machine's free memory and the limits of its control groups and shell.
func room(need int64, what string) error {
	have, err := native.AvailableRAM()
	if err != nil || need <= have { // an error: the system does not tell
		return nil
	}
	return fmt.Errorf("%w: %s needs %s, %s are available here", ErrMemory, what, native.FormatSize(need), native.FormatSize(have))
}

// Fuse joins the stages of a cluster, as the last run saved them, into one state dict
// with the model's own names. It takes what the last checkpoint's manifest names, and
// nothing else where there is one.
func Fuse(p *project.Project, cluster int) ([]string, error) {
	d, err := joined(p, cluster)
	if err != nil {
		return nil, err
	}
	return writeTrained(p, d)
}

// checkpoint is the weights of a cluster's parts that the manifest names. Without a manifest
// the error wraps fs.ErrNotExist. Every part must have the digest and the position that the
// manifest says.
func checkpoint(p *project.Project, cluster int) ([]state.Dict, error) {
	path := filepath.Join(p.Dir, project.ManifestFile)
	f, size, err := project.OpenRegular(path, "manifest")
	if errors.Is(err, project.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(size, snapshot.MaxManifest)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	m, err := snapshot.ParseManifest(b)
	if err == nil {
		err = m.Check(len(p.Graph.Nodes))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	entries := m.Overlapping(cluster, snapshot.Segment{From: 0, To: len(p.Graph.Nodes)})
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s: the checkpoint has no cluster %d", path, cluster)
	}
	need := int64(0)
	for _, e := range entries {
		need += 2 * e.Size
	}
	if err := room(need, "joining the checkpoint's parts"); err != nil {
		return nil, err
	}
	var parts []*snapshot.Part
	for _, e := range entries {
		q, err := openPart(p, m, e)
		if err != nil {
			return nil, fmt.Errorf("stage %d of cluster %d: %w", e.Stage, e.Cluster, err)
		}
		parts = append(parts, q)
	}
	return weights(parts)
}

func openPart(p *project.Project, m *snapshot.Manifest, e snapshot.Entry) (*snapshot.Part, error) {
	if !filepath.IsLocal(e.Object) {
		return nil, fmt.Errorf("the manifest's object %q does not lie in the store", e.Object)
	}
	f, _, err := project.OpenRegular(filepath.Join(p.Dir, storeDir, e.Object), "checkpoint's part")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return m.Open(e, f)
}

// weights are the state dicts of parts that share a position.
func weights(parts []*snapshot.Part) ([]state.Dict, error) {
	if _, err := snapshot.Join(parts...); err != nil {
		return nil, err
	}
	var ds []state.Dict
	for _, q := range parts {
		ds = append(ds, q.State)
	}
	return ds, nil
}

// stageFiles are the weights that lie beside the plan's stages, of runs before there were
// manifests. Files that know their position must be of one.
func stageFiles(p *project.Project, cluster int) ([]state.Dict, error) {
	s, err := p.ReadPlan()
	if errors.Is(err, project.ErrMissing) {
		return nil, fmt.Errorf("%w: fuse joins what providers have trained (serve or demo)", err)
	}
	if err != nil {
		return nil, err
	}
	if cluster < 0 || cluster >= len(s.Clusters) {
		return nil, fmt.Errorf("there is no cluster %d: the plan has clusters 0..%d", cluster, len(s.Clusters)-1)
	}
	var shards []state.Dict
	var parts []*snapshot.Part
	for k := range s.Clusters[cluster].Stages {
		path := filepath.Join(p.Dir, s.StageDir(cluster, k), project.WeightsFile)
		d, part, err := stageFile(path)
		if err != nil {
			return nil, fmt.Errorf("stage %d of cluster %d: %w", k, cluster, err)
		}
		if shards = append(shards, d); part != nil {
			parts = append(parts, part)
		}
	}
	switch len(parts) {
	case 0:
		return shards, nil
	case len(shards):
		return weights(parts)
	}
	return nil, fmt.Errorf("%d of the cluster's %d stage files know the step that they are of, the others do not: they are of different runs", len(parts), len(shards))
}

// stageFile reads a stage's file: weights alone, or a part.
func stageFile(path string) (state.Dict, *snapshot.Part, error) {
	f, size, err := project.OpenRegular(path, "trained weights")
	if errors.Is(err, project.ErrMissing) {
		return nil, nil, fmt.Errorf("no trained weights at %s: train first, then run fuse", path)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if part, err := snapshot.Read(f, size); err == nil {
		return part.State, part, nil
	}
	d, _, err := safetensors.Read(f, size)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil, nil
}
