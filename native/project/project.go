// Package project is a job's directory on disk: what the requester writes (job, model,
// pool), what the planner adds (node_data) and what a run leaves behind (losses, weights,
// the trained state dict). File names are the original Ravnest's where it has such a file.
package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/strict"
)

// Names inside a project directory.
const (
	JobFile     = "job.json"
	ConfigsFile = "node_data/node_configs.json"
	PlanFile    = "node_data/plan.json"
	// AchievedFile says how true the forecasts of the job's runs were.
	AchievedFile = "node_data/achieved.json"
	NodesDir     = "node_data/nodes"
	LossesFile   = "losses.txt"
	RoundsFile   = "rounds.json"
	ValsFile     = "val_accuracies.txt"
	ValLossFile  = "val_losses.txt"
	// MetricsFile is a table of all figures, RunsDir holds TensorBoard's event files of every
	// run.
	MetricsFile = "metrics.csv"
	RunsDir     = "runs"
	// ManifestFile names the parts of the last checkpoint: a snapshot.Manifest.
	ManifestFile = "node_data/manifest.json"
	// StoreDir is where a host stores what stages have saved, and what audits need.
	StoreDir    = "node_data/store"
	TrainedDir  = "trained"
	StageFile   = "stage.json"
	WeightsFile = "weights.safetensors"
	// InitialFile holds the initial weights of an imported model.
	InitialFile = "initial.safetensors"
	// RestFile holds the entries of an imported model's PyTorch state dict that the graph
	// does not have.
	RestFile = "rest.safetensors"
	// ClassesFile is a JSON list of the names of the classes, if the data have names.
	ClassesFile = "classes.json"
	// ColumnsFile is a JSON list of the columns of the table that are the model's inputs.
	ColumnsFile = "columns.json"
	// TokenizerFile is the tokenizer.json that made the tokens of a text.
	TokenizerFile = "tokenizer.json"
	OldDir        = "previous"
)

const maxConfig = 4 << 20 // bytes of a file written by people

// ErrMissing is wrapped by errors about a file that should be there.
var ErrMissing = errors.New("missing file")

// Project is a job's directory, with its job and model read and checked.
type Project struct {
	Dir       string
	Job       job.Spec
	Graph     *graph.Graph
	GraphJSON []byte
	Data      *data.Set
	Weights   state.Dict // initial weights; nil: drawn from the seed

	Base     *graph.Graph    // the model as it is in its file
	Adapters []graph.Adapter // that Graph has beside it

	Shards *Shards // of Data; nil: they are in memory
}

// Exists reports whether dir holds a job.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, JobFile))
	return err == nil
}

// Open reads and checks the job, its model and its data.
func Open(dir string) (*Project, error) { return OpenWith(dir, nil, nil) }

// OpenWith is like Open, but first lets change modify the job, for flags that override it.
// progress, if not nil, is told how far the shards of the data set are made.
func OpenWith(dir string, change func(*job.Spec), progress Progress) (*Project, error) {
	p, err := OpenModelWith(dir, change)
	if err != nil {
		return nil, err
	}
	if err := p.load(progress); err != nil {
		return nil, err
	}
	return p, p.Check()
}

// SaveJob writes the job as it is now.
func (p *Project) SaveJob() error { return p.write(JobFile, p.Job.JSON()) }

// OpenModel is like Open, but does not read the data set.
func OpenModel(dir string) (*Project, error) { return OpenModelWith(dir, nil) }

// OpenModelWith is OpenModel of the job as change, unless it is nil, leaves it.
func OpenModelWith(dir string, change func(*job.Spec)) (*Project, error) {
	p := &Project{Dir: dir}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s is a file: name the directory that holds %s", dir, JobFile)
	}
	b, err := read(filepath.Join(dir, JobFile), "job file", job.MaxBytes)
	if errors.Is(err, ErrMissing) {
		return nil, fmt.Errorf("%w: ravnest init %s creates an example", err, dir)
	}
	if err != nil {
		return nil, err
	}
	if p.Job, err = job.Parse(b); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, JobFile), err)
	}
	if change != nil {
		change(&p.Job)
		if err := p.Job.Check(); err != nil {
			return nil, err
		}
	}
	if p.GraphJSON, err = p.readLocal(p.Job.Model, "model file", graph.MaxBytes); err != nil {
		return nil, err
	}
	if p.GraphJSON, err = strict.Text(p.GraphJSON); err == nil {
		p.Graph, err = graph.Parse(p.GraphJSON)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, p.Job.Model), err)
	}
	if err := p.learn(); err != nil {
		return nil, err
	}
	if p.Graph, err = p.Graph.At(p.Job.BatchSize); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, p.Job.Model), err)
	}
	return p, p.loadWeights()
}

// learn makes the model what the job trains: some of its parameters may be frozen, and
// it may have adapters.
func (p *Project) learn() error {
	p.Base = p.Graph
	if len(p.Job.Freeze) == 0 && !p.Job.LoRA.On() {
		return p.gather()
	}
	g, err := p.Graph, error(nil)
	if l := p.Job.LoRA; l.On() {
		if g, p.Adapters, err = g.Adapt(adapters(l)); err != nil {
			return fmt.Errorf("lora: %w", err)
		}
	}
	if len(p.Job.Freeze) > 0 {
		if g, err = g.Freeze(p.Job.Freeze); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	p.Graph = g
	if p.GraphJSON, err = g.JSON(); err != nil {
		return err
	}
	return p.gather()
}

// loadWeights reads the initial weights.
func (p *Project) loadWeights() error {
	if p.Job.Weights == "" {
		return nil
	}
	path, err := p.local(p.Job.Weights, "weights file")
	if err != nil {
		return err
	}
	f, size, err := OpenRegular(path, "weights file")
	if err != nil {
		return err
	}
	defer f.Close()
	if p.Weights, _, err = safetensors.Read(f, size); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	l := exec.NewLayout(p.Base, 0)
	if err := l.Check(p.Weights); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(p.Adapters) > 0 {
		p.Weights = p.complete(p.Weights)
	}
	return nil
}

// load reads the data set in the form that the model needs.
func (p *Project) load(progress Progress) error {
	set, builtin, err := data.Builtin(p.Job.Data)
	if builtin {
		if err != nil {
			return err
		}
		if p.Job.Shards.On() {
			return fmt.Errorf("shards are of a data file, %q comes with the program: remove shards from the job", p.Job.Data)
		}
		p.Data, err = set.For(p.want())
		return err
	}
	path, err := p.local(p.Job.Data, "data file")
	if err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Join(path, shardsFile)); err == nil && info.Mode().IsRegular() {
		return p.loadShards(path)
	}
	f, size, err := OpenRegular(path, "data file")
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := safetensors.Open(f, size); err == nil && p.inShards(st) {
		return p.shard(st, f, progress)
	}
	p.Data, err = data.ReadSafetensors(p.Job.Data, f, size, p.want())
	return err
}

// writeClasses writes ClassesFile, if there are names.
func (p *Project) writeClasses(names []string) error {
	if names == nil {
		return nil
	}
	return p.writeJSON(ClassesFile, names)
}

func (p *Project) writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.write(file, append(b, '\n'))
}

// readJSON reads a file of the job into v, and leaves v as it is where there is none.
func (p *Project) readJSON(file, what string, v any) error {
	path := filepath.Join(p.Dir, file)
	b, err := read(path, what, maxConfig)
	if errors.Is(err, ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Classes returns the names of the classes by number, or nil if they have none.
func (p *Project) Classes() (names []string, err error) {
	err = p.readJSON(ClassesFile, "names of the classes", &names)
	return names, err
}

// Columns returns the columns of the table that the model learns from, or nil if that was no table.
func (p *Project) Columns() (cs []data.Column, err error) {
	err = p.readJSON(ColumnsFile, "columns of the table", &cs)
	return cs, err
}

// WhenDiverged says what to change in a job that has diverged.
func (p *Project) WhenDiverged() string {
	return fmt.Sprintf("lower the optimizer's lr of %g, let it rise slowly (lr_schedule linear), or check the data for very large numbers", p.Job.Optimizer.LR)
}
