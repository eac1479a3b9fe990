// Package weights is what a job's directory has of trained weights: the newest checkpoint of the
// stages, and what they are fused into, two files that PyTorch loads.
package weights

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/torchpt"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
)

// Files returns the paths of the fused state dict's two forms, safetensors first.
func Files(dir string) []string {
	base := filepath.Join(dir, project.TrainedDir, "trained_state_dict")
	return []string{base + ".safetensors", base + ".pt"}
}

// Write writes both forms.
func Write(p *project.Project, d state.Dict) ([]string, error) {
	files := Files(p.Dir)
	if err := p.Inside(filepath.Join(project.TrainedDir, filepath.Base(files[0]))); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(files[0]), 0o755); err != nil {
		return nil, fmt.Errorf("creating %s: %w", filepath.Dir(files[0]), err)
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

// Read reads a state dict that others may have written: a .safetensors file, or what torch.save has
// written of one. what it is stands in errors.
func Read(path, what string) (state.Dict, error) {
	f, size, err := project.OpenRegular(path, what)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := native.Room(size, "reading "+path); err != nil {
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

// Fuse joins the stages of a cluster, as the last run saved them, into one state dict with the
// model's own names. If there is a manifest, only the parts that it names are used.
func Fuse(p *project.Project, cluster int) ([]string, error) {
	d, err := joined(p, cluster)
	if err != nil {
		return nil, err
	}
	return Write(p, d)
}

// checkpoint returns the weights of a cluster's parts that the manifest names. Without a
// manifest the error wraps fs.ErrNotExist. Every part must have the digest and the position
// stated in the manifest.
func checkpoint(p *project.Project, cluster int) ([]state.Dict, error) {
	m, err := Manifest(p)
	if err != nil {
		return nil, err
	}
	entries := m.Overlapping(cluster, snapshot.Segment{From: 0, To: len(p.Graph.Nodes)})
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s: the checkpoint has no stages of cluster %d: all clusters have one state after a round, fuse cluster %d", filepath.Join(p.Dir, project.ManifestFile), cluster, m.Parts[0].Cluster)
	}
	need := int64(0)
	for _, e := range entries {
		need += 2 * e.Size
	}
	if err := native.Room(need, "joining the checkpoint's parts"); err != nil {
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
	return states(parts)
}

func openPart(p *project.Project, m *snapshot.Manifest, e snapshot.Entry) (*snapshot.Part, error) {
	if !filepath.IsLocal(e.Object) {
		return nil, fmt.Errorf("the manifest's object %q is not inside the store", e.Object)
	}
	f, _, err := project.OpenRegular(filepath.Join(p.Dir, project.StoreDir, e.Object), "checkpoint's part")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return m.Open(e, f)
}

// states returns the state dicts of parts, which must share a position.
func states(parts []*snapshot.Part) ([]state.Dict, error) {
	if _, err := snapshot.Join(parts...); err != nil {
		return nil, err
	}
	var ds []state.Dict
	for _, q := range parts {
		ds = append(ds, q.State)
	}
	return ds, nil
}

// stageFiles returns the weights in the directories of the plan's stages, for runs without a
// manifest. Files that have a position must all have the same.
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
		return states(parts)
	}
	return nil, fmt.Errorf("%d of the cluster's %d stage files have a step and the others do not: they come from different runs", len(parts), len(shards))
}

// stageFile reads a stage's file, which holds either plain weights or a part.
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
