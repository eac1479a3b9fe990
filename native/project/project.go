// Package project is a job's directory on disk: what the requester writes (job, model,
// pool), what the planner adds (node_data) and what a run leaves behind (losses, weights,
// the trained state dict). File names are the original Ravnest's where it has such a file.
package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/strict"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native"
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
	TrainedDir   = "trained"
	StageFile    = "stage.json"
	WeightsFile  = "weights.safetensors"
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
	p, err := openModel(dir, change)
	if err != nil {
		return nil, err
	}
	if err := p.load(progress); err != nil {
		return nil, err
	}
	return p, p.Check()
}

// OpenModelWith is OpenModel of the job as change leaves it.
func OpenModelWith(dir string, change func(*job.Spec)) (*Project, error) {
	return openModel(dir, change)
}

// SaveJob writes the job as it is now.
func (p *Project) SaveJob() error { return p.write(JobFile, p.Job.JSON()) }

// OpenModel is like Open, but does not read the data set.
func OpenModel(dir string) (*Project, error) { return openModel(dir, nil) }

func openModel(dir string, change func(*job.Spec)) (*Project, error) {
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

// Source provides the data set for a model, and the names of its classes by number, or nil if
// they have none. It is implemented by dataset.Source.
type Source interface {
	Set(in []int, want *data.Want) (*data.Set, error)
	Names() []string
}

// RawSource is a Source of a data set that may be too large for memory.
type RawSource interface {
	Source
	// Raw gives it without reading it; false: it is not too large.
	Raw() (RawSet, bool)
}

// Tokenized is a Source whose tokens a tokenizer.json has made; nil: none has.
type Tokenized interface{ TokenizerJSON() []byte }

// Tabular is a Source that read a table with named columns; nil: it is another.
type Tabular interface{ Columns() []data.Column }

// Init writes an example job into dir: job, model and the walkthrough's pool of n
// nodes. Existing files are not overwritten.
func Init(dir, example string, n int, change func(*job.Spec)) error {
	e, err := zoo.Find(example)
	if err != nil {
		return err
	}
	j := e.Job
	if change != nil {
		change(&j)
	}
	return Create(dir, j, e.Graph, n, nil, nil, nil)
}

// Create writes a job into dir: job, model, the walkthrough's pool of n nodes and, unless they
// are nil, the data and the initial weights as safetensors files that the job names, and the
// rest of PyTorch's state dict. An invalid job is refused before anything is written; existing
// files are not overwritten.
func Create(dir string, j job.Spec, g *graph.Graph, n int, src Source, begin *Begin, progress Progress) (err error) {
	if Exists(dir) {
		return fmt.Errorf("%s already holds a job: choose another directory or remove %s", dir, JobFile)
	}
	raw, large := rawOf(src)
	switch {
	case large:
		if j.Data = ShardsDir; !j.Shards.On() {
			j.Shards.Bytes = job.DefaultShard
		}
	case src != nil:
		j.Data = dataFile
	}
	if begin != nil {
		j.Weights = InitialFile
	}
	if err := j.Check(); err != nil {
		return err
	}
	model, err := g.JSON()
	if err != nil {
		return err
	}
	p := &Project{Dir: dir, Job: j, Graph: g}
	if err := p.learn(); err != nil {
		return err
	}
	switch {
	case large:
		defer func() {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, ShardsDir)))
			}
		}()
		err = p.createShards(raw, progress)
	case src == nil:
		err = p.load(nil)
	default:
		p.Data, err = src.Set(inputShape(g), p.want())
	}
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "node_data"), 0o755); err != nil {
		return fmt.Errorf("creating the job's directory: %w", err)
	}
	if src != nil && !large {
		if err := p.Inside(dataFile); err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(dir, dataFile)); err == nil {
			return fmt.Errorf("%s already holds %s: choose another directory or remove it", dir, dataFile)
		}
		if err := native.Save(filepath.Join(dir, dataFile), 0o644, func(w io.Writer) error { return p.Data.WriteSafetensors(w, p.want()) }); err != nil {
			return err
		}
	}
	if src != nil {
		if err := p.writeClasses(src.Names()); err != nil {
			return err
		}
		if t, ok := src.(Tabular); ok && t.Columns() != nil {
			if err := p.writeJSON(ColumnsFile, t.Columns()); err != nil {
				return err
			}
		}
		if t, ok := src.(Tokenized); ok && t.TokenizerJSON() != nil {
			if err := p.write(TokenizerFile, t.TokenizerJSON()); err != nil {
				return err
			}
		}
	}
	if begin != nil {
		if err := p.saveBegin(begin); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{j.Model, model}, {ConfigsFile, configs(n)}, {JobFile, p.Job.JSON()}} { // the job last: it makes the directory a project
		if err := p.write(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
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

// dataFile is the name of the data file that Create writes.
const dataFile = "data.safetensors"

// config is one node of node_configs.json. The keys are the original Ravnest's except compute.
type config struct {
	IP         string `json:"IP"`
	Benchmarks struct {
		RAM       float64 `json:"ram"`               // GB
		Bandwidth float64 `json:"bandwidth"`         // Mbit/s
		Compute   float64 `json:"compute,omitempty"` // GFLOP/s; 0: not measured
	} `json:"benchmarks"`
}

// configs returns the walkthrough's pool: n nodes of 8 GB and 10 Mbit/s.
func configs(n int) []byte {
	var b bytes.Buffer
	b.WriteString("{\n")
	for i := range n {
		comma := ","
		if i == n-1 {
			comma = ""
		}
		fmt.Fprintf(&b, " %q: {\"IP\": \"0.0.0.0:%d\", \"benchmarks\": {\"ram\": 8, \"bandwidth\": 10}}%s\n", strconv.Itoa(i), 8080+i, comma)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// Node is one entry of the pool file.
type Node struct {
	ga.Node
	Address string // host:port, a label: providers are reached through the host
}

// Pool reads node_data/node_configs.json in the order of the node numbers.
func (p *Project) Pool() ([]Node, error) {
	path := filepath.Join(p.Dir, ConfigsFile)
	b, err := read(path, "node file", maxConfig)
	if err != nil {
		return nil, err
	}
	var m map[string]config
	if _, err := strict.Decode(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(m) == 0 || len(m) > ga.MaxNodes {
		return nil, fmt.Errorf("%s: %d nodes; 1 to %d are supported", path, len(m), ga.MaxNodes)
	}
	nodes := make([]Node, len(m))
	seen := map[string]string{}
	for k, c := range m {
		i, err := strconv.Atoi(k)
		if err != nil || i < 0 || i >= len(m) || strconv.Itoa(i) != k {
			return nil, fmt.Errorf("%s: node %q: nodes are numbered from \"0\" to \"%d\"", path, k, len(m)-1)
		}
		if err := checkAddress(c.IP); err != nil {
			return nil, fmt.Errorf("%s: node %q: %w", path, k, err)
		}
		if other, dup := seen[c.IP]; dup {
			return nil, fmt.Errorf("%s: nodes %q and %q have the same IP %s", path, min(other, k), max(other, k), c.IP)
		}
		seen[c.IP] = k
		nodes[i] = Node{Address: c.IP, Node: ga.Node{
			Name: "node_" + k, RAM: c.Benchmarks.RAM * 1e9, Bandwidth: c.Benchmarks.Bandwidth * 1e6, Compute: c.Benchmarks.Compute * 1e9,
		}}
	}
	return nodes, nil
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("the IP %q is not host:port", a)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("the port of %q is outside 1..65535", a)
	}
	if host == "" || strings.ContainsAny(host, "/\\ ") || strings.Contains(host, "..") {
		return fmt.Errorf("the host of %q is not usable", a)
	}
	return nil
}

// Stored is the plan as stored in node_data/plan.json.
type Stored struct {
	Version int      `json:"version"`
	Nodes   []Placed `json:"nodes"` // by position in the pool
	planner.Plan
}

// Placed is a pool node with the address that names its directory.
type Placed struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// ReadPlan reads and checks node_data/plan.json.
func (p *Project) ReadPlan() (*Stored, error) {
	path := filepath.Join(p.Dir, PlanFile)
	b, err := read(path, "plan", maxConfig)
	if err != nil {
		return nil, err
	}
	return p.parsePlan(path, b)
}

func (p *Project) parsePlan(path string, b []byte) (*Stored, error) {
	var s Stored
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w: run clusterize again", path, err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%s: it has version %d, this program reads version 1: run clusterize again", path, s.Version)
	}
	if err := s.Check(p.Graph); err != nil {
		return nil, fmt.Errorf("%s: %w: run clusterize again", path, err)
	}
	if s.GA == nil {
		s.GA = &ga.Plan{Model: p.Graph.Name} // only for people to read
	}
	for c, cl := range s.Clusters {
		for _, st := range cl.Stages {
			if st.Node < 0 || st.Node >= len(s.Nodes) || checkAddress(s.Nodes[st.Node].Address) != nil {
				return nil, fmt.Errorf("%s: cluster %d: stage of %q has no usable node: run clusterize again", path, c, st.Name)
			}
		}
	}
	return &s, nil
}

// nodeFile is node_data/nodes/node_N.json with the original Ravnest's keys.
type nodeFile struct {
	ID           int                 `json:"node_id"`
	Host         string              `json:"local_host"`
	Port         int                 `json:"local_port"`
	Template     string              `json:"template_path"`
	Rank         int                 `json:"rank"`
	RingSize     int                 `json:"ring_size"`
	Length       int                 `json:"cluster_length"`
	Addresses    []map[string]string `json:"param_addresses"`
	RingIDs      map[string]string   `json:"ring_ids"`
	ForwardHost  *string             `json:"forward_target_host"`
	ForwardPort  *int                `json:"forward_target_port"`
	BackwardHost *string             `json:"backward_target_host"`
	BackwardPort *int                `json:"backward_target_port"`
	Type         string              `json:"node_type"`
}

// split splits an address that checkAddress has accepted into host and port.
func split(a string) (string, int) {
	h, p, _ := net.SplitHostPort(a)
	n, _ := strconv.Atoi(p)
	return h, n
}

// WritePlan writes node_data: the plan, a file per node and each stage's graph. It returns the
// plan as ReadPlan will, also with an error of writing.
func (p *Project) WritePlan(nodes []Node, plan *planner.Plan) (*Stored, error) {
	s := Stored{Version: 1, Plan: *plan}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, Placed{n.Name, n.Address})
	}
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil, err
	}
	stored, err := p.parsePlan(filepath.Join(p.Dir, PlanFile), b)
	if err != nil {
		return nil, err
	}
	return stored, p.writePlan(&s, append(b, '\n'))
}

// writePlan writes the files of a plan, itself as b the last.
func (p *Project) writePlan(s *Stored, b []byte) error {
	old, err := p.glob(NodesDir + "/node_*.json")
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(filepath.Join(p.Dir, f)); err != nil {
			return fmt.Errorf("removing an older plan: %w", err)
		}
	}
	for c, cl := range s.Clusters {
		stages, err := p.Graph.Cut(cl.Starts())
		if err != nil {
			return err
		}
		for k, st := range cl.Stages {
			g, err := stages[k].Graph.JSON()
			if err != nil {
				return err
			}
			if err := p.write(filepath.Join(s.StageDir(c, k), StageFile), g); err != nil {
				return err
			}
			node, err := json.MarshalIndent(p.nodeFile(s, c, k, stages[k]), "", " ")
			if err != nil {
				return err
			}
			if err := p.write(filepath.Join(NodesDir, fmt.Sprintf("node_%d.json", st.Node)), append(node, '\n')); err != nil {
				return err
			}
		}
	}
	return p.write(PlanFile, b)
}

func (p *Project) nodeFile(s *Stored, c, k int, gs *graph.Stage) nodeFile {
	cl, st := s.Clusters[c], s.Clusters[c].Stages[k]
	f := nodeFile{
		ID: st.Node, Template: filepath.ToSlash(s.StageDir(c, k)) + "/", Rank: c, RingSize: len(s.Clusters), Length: len(cl.Stages),
		RingIDs: map[string]string{}, Addresses: []map[string]string{s.Addresses(c, k)}, Type: gs.Role(),
	}
	f.Host, f.Port = split(s.Nodes[st.Node].Address)
	for _, r := range st.Rings {
		f.RingIDs[strconv.Itoa(r.ID)] = r.First
	}
	if k+1 < len(cl.Stages) {
		h, n := split(s.Nodes[cl.Stages[k+1].Node].Address)
		f.ForwardHost, f.ForwardPort = &h, &n
	}
	if k > 0 {
		h, n := split(s.Nodes[cl.Stages[k-1].Node].Address)
		f.BackwardHost, f.BackwardPort = &h, &n
	}
	return f
}

// Addresses returns the nodes of the next cluster in the rings for a stage's parameters, each
// with the first of those parameters: the original Ravnest's Address2Param.
func (s *Stored) Addresses(c, k int) map[string]string {
	next := s.Clusters[(c+1)%len(s.Clusters)]
	m := map[string]string{}
	for _, r := range s.Clusters[c].Stages[k].Rings {
		for _, st := range next.Stages {
			for _, q := range st.Rings {
				if _, ok := m[s.Nodes[st.Node].Address]; q.ID == r.ID && !ok {
					m[s.Nodes[st.Node].Address] = r.First
				}
			}
		}
	}
	return m
}

// StageDir returns the directory of a stage, relative to the project.
func (s *Stored) StageDir(c, k int) string {
	address := s.Nodes[s.Clusters[c].Stages[k].Node].Address
	if runtime.GOOS == "windows" {
		address = strings.ReplaceAll(address, ":", "_") // on Windows a colon separates drives and streams
	}
	return filepath.Join("node_data", fmt.Sprintf("cluster_%d", c), address)
}

// WriteLog prints each node with its role, as the original Ravnest's clusterize does.
func (s *Stored) WriteLog(w io.Writer) {
	for c, cl := range s.Clusters {
		for k, st := range cl.Stages {
			var rings, addrs []string
			for _, r := range st.Rings {
				rings = append(rings, fmt.Sprintf("%d: '%s'", r.ID, r.First))
			}
			for a, q := range s.Addresses(c, k) {
				addrs = append(addrs, fmt.Sprintf("'%s': '%s'", a, q))
			}
			slices.Sort(addrs)
			fmt.Fprintf(w, "Node(%d, Cluster(%d))\nrole(%s)\nself.IP(%s)\nRing IDs({%s})\nAddress2Param({%s})\n\n",
				st.Node, c, (&graph.Stage{Index: k, Of: len(cl.Stages)}).Role(), s.Nodes[st.Node].Address, strings.Join(rings, ", "), strings.Join(addrs, ", "))
		}
	}
}
