package weights

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// keeper keeps the last state of a run.
type keeper struct{ part *snapshot.Part }

func (k *keeper) Loss(stage.Loss)            {}
func (k *keeper) Validated(stage.Validation) {}
func (k *keeper) Batch(int)                  {}
func (k *keeper) Keep(s stage.Saved) error   { k.part = s.Part; return nil }

// checkpointed returns a project with a checkpoint of two stages, as a served run leaves it,
// and the state dict that its parts add up to.
func checkpointed(t *testing.T, change func(parts []*snapshot.Part)) (*project.Project, state.Dict) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "job")
	if err := project.Init(dir, "cnn", 2, func(j *job.Spec) { j.Steps, j.ValEvery = 2, 0 }); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tr, end, err := p.Trainer(t.Context(), nil, nil)
	defer end()
	if err != nil {
		t.Fatal(err)
	}
	var k keeper
	if err := tr.Run(context.Background(), nil, &k); err != nil || k.part == nil {
		t.Fatal(err)
	}
	const cut = 8 // nodes of the first stage
	m := &snapshot.Manifest{Version: snapshot.Version, Run: "cnn-1", Generation: 1, Position: k.part.Position}
	first := map[string]bool{}
	for _, n := range p.Graph.Nodes[:cut] {
		first[n.Name] = true
	}
	var parts []*snapshot.Part
	for i := range 2 {
		q := &snapshot.Part{Position: k.part.Position, Optimizer: k.part.Optimizer}
		mine := func(d state.Dict) (e state.Dict) {
			for _, x := range d {
				if node, _, _ := strings.Cut(x.Name, "."); first[node] == (i == 0) {
					e = append(e, x)
				}
			}
			return e
		}
		q.State, q.Optimizer.Slots = mine(k.part.State), nil
		for _, s := range k.part.Optimizer.Slots {
			q.Optimizer.Slots = append(q.Optimizer.Slots, snapshot.Slot{Name: s.Name, Tensors: mine(s.Tensors)})
		}
		parts = append(parts, q)
	}
	if change != nil {
		change(parts)
	}
	for i, q := range parts {
		b, err := q.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		seg := snapshot.Segment{From: 0, To: cut}
		if i == 1 {
			seg = snapshot.Segment{From: cut, To: len(p.Graph.Nodes)}
		}
		object := []string{"cnn-1-a", "cnn-1-b"}[i]
		m.Parts = append(m.Parts, snapshot.Entry{Stage: i, Segment: seg, Object: object, SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Size: int64(len(b)), Holds: []string{snapshot.Weights, snapshot.Statistics, snapshot.Optimiser}})
		write(t, b, dir, project.StoreDir, object)
	}
	b, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	write(t, b, dir, project.ManifestFile)
	return p, k.part.State
}

func write(t *testing.T, b []byte, elem ...string) {
	t.Helper()
	path := filepath.Join(elem...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestFuseManifest checks that the parts that the manifest names are joined, whatever other
// files there are.
func TestFuseManifest(t *testing.T) {
	p, want := checkpointed(t, nil)
	// A file of another run in a stage's directory is ignored.
	write(t, []byte("nothing"), p.Dir, "node_data", "cluster_0", "0.0.0.0:8080", project.WeightsFile)
	files, err := Fuse(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(files[0], "fused model")
	if err != nil || !got.Equal(want) {
		t.Errorf("the fused state is not the run's: %v", err)
	}
	if _, err := Fuse(p, 1); err == nil || !strings.Contains(err.Error(), "no stages of cluster 1") {
		t.Errorf("a cluster that is not there: %v", err)
	}
}

// TestFuseNewest: the copy of the manifest for readers is that of an older checkpoint, whose parts
// are gone, as after a full disk: the store's counts. One that names what is not there does not.
func TestFuseNewest(t *testing.T) {
	p, want := checkpointed(t, nil)
	files := manifestFiles(p)
	newest, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(newest), `"cnn-1-b"`, `"cnn-1-gone"`, 1)
	if older == string(newest) {
		t.Fatal("the manifest has other objects")
	}
	for _, at := range [][2]string{{string(newest), older}, {older, string(newest)}} {
		write(t, []byte(at[0]), files[0])
		write(t, []byte(at[1]), files[1])
		out, err := Fuse(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(out[0], "fused model")
		if err != nil || !got.Equal(want) {
			t.Errorf("the fused state is not the newest: %v", err)
		}
	}
}

// TestFuseRefuses checks that parts with a wrong digest, position or number are refused, and
// that an older result is left alone.
func TestFuseRefuses(t *testing.T) {
	for _, c := range []struct {
		name, says string
		parts      func([]*snapshot.Part)
		files      func(p *project.Project) error
	}{
		{"a byte", "digest", nil, func(p *project.Project) error {
			path := filepath.Join(p.Dir, project.StoreDir, "cnn-1-b")
			b, err := os.ReadFile(path)
			if err == nil {
				b[len(b)-1] ^= 1
				err = os.WriteFile(path, b, 0o644)
			}
			return err
		}},
		{"a part is gone", "no checkpoint's part", nil, func(p *project.Project) error { return os.Remove(filepath.Join(p.Dir, project.StoreDir, "cnn-1-a")) }},
		{"steps differ", "step", func(ps []*snapshot.Part) { ps[1].Position.Step++ }, nil},
		{"a part leads out", "is not inside the store", nil, func(p *project.Project) error {
			path := filepath.Join(p.Dir, project.ManifestFile)
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, []byte(strings.Replace(string(b), `"cnn-1-a"`, `"../../secret"`, 1)), 0o644)
			}
			return err
		}},
		{"no manifest", "manifest", nil, func(p *project.Project) error {
			return os.WriteFile(filepath.Join(p.Dir, project.ManifestFile), []byte("{}"), 0o644)
		}},
		{"a tensor is missing", "bn_1.weight", func(ps []*snapshot.Part) {
			for i, x := range ps[0].State {
				if x.Name == "bn_1.weight" {
					ps[0].State = append(ps[0].State[:i:i], ps[0].State[i+1:]...)
					break
				}
			}
			ps[0].Optimizer = snapshot.Optimizer{Name: ps[0].Optimizer.Name, Updates: ps[0].Optimizer.Updates}
			ps[1].Optimizer = snapshot.Optimizer{Name: ps[1].Optimizer.Name, Updates: ps[1].Optimizer.Updates}
		}, nil},
	} {
		p, _ := checkpointed(t, c.parts)
		write(t, []byte("older"), Files(p.Dir)[0])
		if c.files != nil {
			if err := c.files(p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Fuse(p, 0); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
		if b, err := os.ReadFile(Files(p.Dir)[0]); err != nil || string(b) != "older" {
			t.Errorf("%s: the older result is %q, %v", c.name, b, err)
		}
	}
}

// TestFuseNumbers checks that weights that are not finite are refused.
func TestFuseNumbers(t *testing.T) {
	zero := float32(0)
	p, _ := checkpointed(t, func(ps []*snapshot.Part) { ps[0].State[0].F32[1] = zero / zero })
	if _, err := Fuse(p, 0); !errors.Is(err, stage.ErrDiverged) {
		t.Errorf("a weight is NaN: %v", err)
	}
}
