package project_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native/project"
)

func fresh(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "job")
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string) *project.Project {
	t.Helper()
	p, err := project.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPlanFiles checks that the files of a plan have the original Ravnest's names and keys.
func TestPlanFiles(t *testing.T) {
	p := open(t, fresh(t))
	nodes, err := p.Pool()
	if err != nil {
		t.Fatal(err)
	}
	var gn []ga.Node
	for _, n := range nodes {
		gn = append(gn, n.Node)
	}
	plan, err := planner.Make(p.Job, p.Graph, gn, ga.Options{}, 42)
	if err != nil {
		t.Fatal(err)
	}
	wrote, err := p.WritePlan(nodes, plan)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.ReadPlan()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(wrote, s) {
		t.Errorf("the plan that was written is\n%+v, and read\n%+v", wrote, s)
	}
	var log strings.Builder
	s.WriteLog(&log)
	if want := "Node(1, Cluster(0))\nrole(stem)\nself.IP(0.0.0.0:8081)\nRing IDs({1: 'dense_1.weight'})\nAddress2Param({'0.0.0.0:8081': 'dense_1.weight'})\n"; !strings.Contains(log.String(), want) {
		t.Errorf("the log lacks\n%s\nit is\n%s", want, log.String())
	}
	b, err := os.ReadFile(filepath.Join(p.Dir, "node_data/nodes/node_1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"node_id": 1.0, "local_host": "0.0.0.0", "local_port": 8081.0, "template_path": "node_data/cluster_0/0.0.0.0:8081/",
		"rank": 0.0, "ring_size": 1.0, "cluster_length": 3.0, "forward_target_host": "0.0.0.0", "forward_target_port": 8082.0,
		"backward_target_host": "0.0.0.0", "backward_target_port": 8080.0, "node_type": "stem",
	} {
		if m[k] != want {
			t.Errorf("node_1.json: %s is %v, want %v", k, m[k], want)
		}
	}
	b, err = os.ReadFile(filepath.Join(p.Dir, "node_data/cluster_0/0.0.0.0:8082/stage.json"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.Parse(b)
	if err != nil || g.Nodes[0].Name != "bn_3" {
		t.Errorf("the leaf's graph: %v", err)
	}
}

// TestMoveAside checks that older runs' results are kept, run after run.
func TestMoveAside(t *testing.T) {
	p := open(t, fresh(t))
	if n, err := p.MoveAside(); n != 0 || err != nil {
		t.Errorf("nothing to move: %d, %v", n, err)
	}
	for run := 1; run <= 2; run++ {
		for _, f := range []string{"losses.txt", "trained/x.pt", "node_data/cluster_0/0.0.0.0:8080/weights.safetensors"} {
			path := filepath.Join(p.Dir, f)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte{byte(run)}, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := p.MoveAside(); n != run || err != nil {
			t.Fatalf("run %d: %d, %v", run, n, err)
		}
	}
	for _, f := range []string{"previous/1/losses.txt", "previous/2/trained/x.pt", "previous/2/node_data/cluster_0/0.0.0.0:8080/weights.safetensors"} {
		if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		file, old, new, want string
	}{
		{"job.json", `"model.json"`, `"../model.json"`, "inside the job's directory"},
		{"job.json", `"model.json"`, `"nothing.json"`, "no model file"},
		{"job.json", `"digits"`, `"data.safetensors"`, "no data file"},
		{"job.json", `"batch_size": 64`, `"batch_size": 359`, "1 row"},
		{"job.json", `"epochs": 100`, `"epochs": "many"`, "job.json"},
		{"model.json", `"in_features": 32`, `"in_features": 33`, `node "dense_1"`},
		{"model.json", `"out_features": 10`, `"out_features": 9`, "holds class 9; the model has 9 outputs"},
		{"model.json", `"relu"`, `"swish"`, `unknown op "swish"`},
	} {
		dir := fresh(t)
		path := filepath.Join(dir, c.file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), c.old, c.new, 1)
		if changed == string(b) {
			t.Fatalf("%s has no %s", c.file, c.old)
		}
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := project.Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: got %v, want %q", c.old, c.new, err, c.want)
		}
	}
	if _, err := project.Open(t.TempDir()); !errors.Is(err, project.ErrMissing) {
		t.Errorf("an empty directory: %v", err)
	}
	if err := project.Init(fresh(t), "cnn", 3, nil); err == nil {
		t.Error("init overwrites a job")
	}
	if err := project.Init(t.TempDir(), "cnn", 3, func(j *job.Spec) { j.Epochs = -1 }); !errors.Is(err, job.ErrInvalid) {
		t.Errorf("init with -1 epochs: %v", err)
	}
}

// FuzzPool checks that any pool file, which people write, is either read or refused.
func FuzzPool(f *testing.F) {
	dir := fresh(f)
	good, err := os.ReadFile(filepath.Join(dir, project.ConfigsFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"0":{"IP":"a:1","benchmarks":{"ram":-1,"bandwidth":1e400}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, project.ConfigsFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		p := &project.Project{Dir: dir}
		nodes, err := p.Pool()
		if err != nil {
			return
		}
		for i, n := range nodes {
			if n.Name == "" || strings.ContainsAny(n.Address, "/\\") {
				t.Fatalf("node %d is accepted as %+v", i, n)
			}
		}
	})
}

// FuzzPlan does the same for plans.
func FuzzPlan(f *testing.F) {
	dir := fresh(f)
	p := open(f, dir)
	f.Add([]byte(`{"version":1,"nodes":[{"name":"a","address":"h:1"}],"clusters":[{"stages":[{"node":0,"name":"a","start":0}]}]}`))
	f.Add([]byte(`{"version":1,"nodes":[],"clusters":[{"stages":[{"node":-1,"name":"a","start":0}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, project.PlanFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := p.ReadPlan()
		if err != nil {
			return
		}
		for c, cl := range s.Clusters {
			for k := range cl.Stages {
				if d := s.StageDir(c, k); !filepath.IsLocal(d) || slices.Contains(strings.Split(d, "/"), "..") {
					t.Fatalf("a stage's directory is %q", d)
				}
			}
		}
	})
}

// TestExamples checks that every example of the zoo is a job that fits its data.
func TestExamples(t *testing.T) {
	for _, name := range zoo.Names() {
		dir := t.TempDir()
		if err := project.Init(dir, name, 3, nil); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p, err := project.Open(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.Job.Name != name || p.Graph.Name != name {
			t.Errorf("%s: the job is called %q and the model %q", name, p.Job.Name, p.Graph.Name)
		}
	}
}

// TestTokensOutsideTheTable checks that tokens without an embedding are refused before
// anything runs.
func TestTokensOutsideTheTable(t *testing.T) {
	e, err := zoo.Find("gpt-sorter")
	if err != nil {
		t.Fatal(err)
	}
	d, err := data.Sorter()
	if err != nil {
		t.Fatal(err)
	}
	if err := project.CheckJob(e.Job, e.Graph, d); err != nil {
		t.Fatal(err)
	}
	d.Train.X().U8[25] = 3
	if err := project.CheckJob(e.Job, e.Graph, d); !errors.Is(err, data.ErrInvalid) || !strings.Contains(err.Error(), `"transformer.wte"`) {
		t.Errorf("a token outside the table: got %v, want ErrInvalid that names the node", err)
	}
}
