// The pool of nodes that a plan is made for, and the plan as it is stored.

package project

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/strict"
	"github.com/ravnest/ravnest/ga"
)

// config is one node of node_configs.json. The keys are the original Ravnest's except compute and threads.
type config struct {
	IP         string `json:"IP"`
	Benchmarks struct {
		RAM       float64 `json:"ram"`               // GB
		Bandwidth float64 `json:"bandwidth"`         // Mbit/s
		Compute   float64 `json:"compute,omitempty"` // GFLOP/s, with all threads; 0: not measured
		Threads   int     `json:"threads,omitempty"` // 0: not known
	} `json:"benchmarks"`
}

const maxThreads = 1024

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
	Threads int    // that compute; 0: not known
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
		if n := c.Benchmarks.Threads; n < 0 || n > maxThreads {
			return nil, fmt.Errorf("%s: node %q: %d threads, 1 to %d are supported; leave it out where it is not known", path, k, n, maxThreads)
		}
		nodes[i] = Node{Address: c.IP, Threads: c.Benchmarks.Threads, Node: ga.Node{
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
