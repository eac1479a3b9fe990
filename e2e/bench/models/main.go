// Command models compares training steps of the zoo's models with those of PyTorch, in
// alternating rounds, and the memory of both (make bench-models). It prints a table and appends
// a line of JSON for each model and peer to the file named by OUT.
//
// With -precision bf16 the peers are our own float32 and PyTorch's ways to be fast: float32,
// autocast to bfloat16, the same with images stored channels last, and compiled.
//
// With -torchvision models are exported by PyTorch and imported, as a user's would be.
//
// A step is forward, loss, backward and AdamW on one batch in memory. Our memory is what the
// plan announces; PyTorch's is the peak of its process less what it used before the model was
// made. All sides use the same number of threads; one thread is measured by the processor time
// of its process.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/e2e/torch"
	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/optim"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/native/project"
)

// bench is a model and a batch.
type bench struct {
	name  string // as step.py knows it
	graph *graph.Graph
	batch int
	steps int // in a round
	// weights are those of an imported model; none: the graph says how they begin.
	weights *state.Dict
}

// imported exports models of torchvision with PyTorch and imports them.
func (o *options) imported(ctx context.Context) ([]bench, error) {
	python, err := torch.Python(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ravnest-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var all []bench
	for _, s := range o.torchvision {
		name, size, _ := strings.Cut(s, "@")
		side, batch := 64, 16
		if _, err := fmt.Sscanf(size, "%dx%d", &side, &batch); size != "" && err != nil {
			return nil, fmt.Errorf("-torchvision: %q is no SIDExBATCH, as 64x16", size)
		}
		b := bench{name: fmt.Sprintf("torchvision/%s@%d", name, side), batch: batch, steps: 1}
		file := filepath.Join(dir, name+".pt2")
		if err := script(ctx, python, b.name, batch, 1, "export", file).Run(); err != nil {
			return nil, fmt.Errorf("%s is not exported: %w", name, err)
		}
		m, err := project.ReadModel(file, 0)
		if err != nil {
			return nil, err
		}
		b.graph, b.weights = m.Graph, &m.Weights
		all = append(all, b)
	}
	return all, nil
}

func resnet(c zoo.ResNetConfig, image int) *graph.Graph {
	c.Image = image
	return zoo.ResNet(c)
}

func benches() []bench {
	return []bench{
		{name: "cnn", graph: zoo.CNN(), batch: 64, steps: 100},
		{name: "gpt-sorter", graph: zoo.GPT(zoo.GPTSorter), batch: 64, steps: 10},
		{name: "char-gpt", graph: zoo.GPT(zoo.CharGPT), batch: 16, steps: 1},
		{name: "resnet18@64", graph: resnet(zoo.ResNet18, 64), batch: 32, steps: 1},
		{name: "resnet18@224", graph: resnet(zoo.ResNet18, 224), batch: 8, steps: 1},
		{name: "resnet50@64", graph: resnet(zoo.ResNet50, 64), batch: 32, steps: 1},
		{name: "resnet50@224", graph: resnet(zoo.ResNet50, 224), batch: 8, steps: 1},
		{name: "bert", graph: zoo.BERT(zoo.BERTBase), batch: 4, steps: 1},
	}
}

// line is a line of OUT.
type line struct {
	Name      string  `json:"name"`
	Threads   int     `json:"threads"`
	Precision string  `json:"precision,omitempty"`
	Ours      float64 `json:"ours"` // samples/s
	Peer      float64 `json:"peer"`
	PeerName  string  `json:"peer_name"`
	Ratio     float64 `json:"ratio"` // median of the rounds
	Memory    int     `json:"memory"`
	PeerMem   int     `json:"peer_memory"`
}

// options are the command line's.
type options struct {
	threads, rounds int
	only            []string // models; none: all
	peers           []string // PyTorch's modes
	python          string   // its interpreter; "": PyTorch does not run
	precision       string
	torchvision     []string // names of models that are imported, in place of the zoo's
	config          exec.Config
}

func main() {
	var o options
	flag.IntVar(&o.threads, "threads", 1, "threads of every contestant")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds for each model")
	only := flag.String("only", "", "models to run, separated by commas (default all)")
	alone := flag.Bool("alone", false, "do not run PyTorch")
	recompute := flag.String("recompute", "", "selective or full: what our side recomputes")
	flag.StringVar(&o.precision, "precision", "", "bf16: the operands of our side's products")
	vision := flag.String("torchvision", "", "models of torchvision to import and run in place of the zoo's, separated by commas, as mobilenet_v2@64x16: images of 64x64, 16 of them")
	peers := flag.String("peers", "", "PyTorch's modes, separated by commas, each some of "+strings.Join(switches, ", ")+
		" joined by + (default float32, and with -precision bf16 "+strings.Join(modes, ", ")+")")
	flag.Parse()
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if *vision != "" {
		o.torchvision = strings.Split(*vision, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := o.parse(ctx, *recompute, *peers, *alone)
	if err == nil {
		err = o.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-models:", err)
		os.Exit(1)
	}
}

// switches are what a mode of PyTorch is made of, as step.py knows them.
var switches = []string{"float32", "autocast", "channels_last", "compile"}

// modes are those that are measured beside our bf16.
var modes = []string{"float32", "autocast", "autocast+channels_last", "autocast+compile"}

// parse fills in what follows from the flags.
func (o *options) parse(ctx context.Context, recompute, peers string, alone bool) (err error) {
	if o.config.Recompute, err = exec.ParseRecompute(recompute); err != nil {
		return err
	}
	if o.config.Precision, err = exec.ParsePrecision(o.precision); err != nil {
		return err
	}
	if alone {
		return nil
	}
	switch {
	case peers != "":
		o.peers = strings.Split(peers, ",")
	case o.config.Precision == exec.BF16:
		o.peers = modes
	default:
		o.peers = switches[:1]
	}
	for _, mode := range o.peers {
		for _, s := range strings.Split(mode, "+") {
			if !slices.Contains(switches, s) {
				return fmt.Errorf("-peers: %q is none of %s", s, strings.Join(switches, ", "))
			}
		}
	}
	o.python, err = torch.Python(ctx)
	return err
}

func (o *options) run(ctx context.Context) error {
	fmt.Printf("%-14s %6s %12s %8s %10s  %s\n", "model", "batch", "samples/s", "ratio", "MB", "contestant; ratio: our speed to its")
	all := benches()
	if len(o.torchvision) > 0 {
		var err error
		if all, err = o.imported(ctx); err != nil {
			return err
		}
	}
	for _, b := range all {
		if len(o.only) > 0 && !slices.Contains(o.only, b.name) {
			continue
		}
		if err := o.measure(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

// contestant takes part in a race.
type contestant interface {
	name() string
	// steps does n training steps and tells how long they took.
	steps(n int) (seconds float64, err error)
	memory() int // bytes of the model and its steps, once it has done some
	stop()
}

// measure runs all contestants by turns, ours first, and prints what came of it.
func (o *options) measure(ctx context.Context, b bench) error {
	all, err := o.contestants(ctx, b)
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	if err != nil {
		return err
	}
	times, ratios := make([][]float64, len(all)), make([][]float64, len(all))
	for range o.rounds {
		for i, c := range all {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if o.threads > 1 {
				time.Sleep(pause)
			}
			t, err := c.steps(b.steps)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name(), err)
			}
			times[i] = append(times[i], t)
			ratios[i] = append(ratios[i], t/times[0][len(times[0])-1])
		}
	}
	samples := float64(b.batch * b.steps)
	ours := samples / median(times[0])
	fmt.Printf("%-14s %6d %12.1f %8s %10.0f  %s\n", b.name, b.batch, ours, "", float64(all[0].memory())/1e6, all[0].name())
	for i, c := range all[1:] {
		l := line{
			Name: b.name, Threads: o.threads, Precision: o.precision, Ours: ours, Memory: all[0].memory(),
			Peer: samples / median(times[i+1]), PeerName: c.name(), Ratio: median(ratios[i+1]), PeerMem: c.memory(),
		}
		fmt.Printf("%-14s %6s %12.1f %8.2f %10.0f  %s\n", "", "", l.Peer, l.Ratio, float64(l.PeerMem)/1e6, l.PeerName)
		if err := record(l); err != nil {
			return err
		}
	}
	return nil
}

// pause lets threads that spin after their work fall asleep.
const pause = 50 * time.Millisecond

// contestants starts all who train b. With an error it returns those that run.
func (o *options) contestants(ctx context.Context, b bench) ([]contestant, error) {
	var all []contestant
	configs := []exec.Config{o.config}
	if o.config.Precision != exec.Float32 {
		c := o.config
		c.Precision = exec.Float32
		configs = append(configs, c)
	}
	for _, c := range configs {
		m, err := newModel(b, c, o.threads)
		if err != nil {
			return all, err
		}
		all = append(all, m)
		m.step()
	}
	for _, mode := range o.peers {
		if strings.Contains(mode, "channels_last") && len(b.graph.Inputs[0].Shape) != 3 {
			continue // no images
		}
		p, err := startPeer(ctx, o.python, b, mode, o.threads)
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// model is a model that the engine trains.
type model struct {
	precision exec.Precision
	rows      int
	out       int
	e         *exec.Exec
	st        exec.State
	grads     []float32
	opt       *optim.Optimizer
	team      *kernel.Team
	y         []int32   // classes
	v         []float32 // or values
	cols      int
	n         uint64
	bytes     int
}

func newModel(b bench, config exec.Config, threads int) (*model, error) {
	g := b.graph
	m := &model{precision: config.Precision, rows: b.batch, out: g.OutputValue()}
	shape := g.Shape(m.out)
	config.Rows, config.Slots, config.Train, config.Outputs, config.Seeds = b.batch, 1, true, []int{m.out}, []int{m.out}
	p, err := exec.Compile(g, 0, config)
	if err != nil {
		return nil, err
	}
	rule := job.Optimizer{Name: "adamw", LR: 1e-5, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01}
	if m.opt, err = optim.New(rule, p.Layout.Trainable, optim.Delay{}); err != nil {
		return nil, err
	}
	m.bytes = p.Memory().Total() + optim.Bytes(rule, p.Layout.Trainable)
	m.team = kernel.NewTeam(threads)
	m.e, m.st, m.grads = p.New(m.team), p.Layout.NewState(), make([]float32, p.Layout.Grads)
	if b.weights == nil {
		p.Layout.Init(m.st, 1)
	} else if err := p.Layout.Import(m.st, *b.weights); err != nil {
		return nil, err
	}
	m.cols = shape[len(shape)-1]
	rnd := kernel.NewStream(1, kernel.DomainTest, 0, 0)
	x := m.e.Value(0, 0, m.rows)
	vocab := m.cols
	if b.name == "bert" {
		vocab = zoo.BERTBase.Vocab - 1
	}
	kernel.Normal(x, rnd)
	if g.Inputs[0].Constant {
		for i := range x {
			x[i] = float32(1 + int(rnd.Uint32(uint64(i)))%(vocab-1))
		}
	}
	answers := b.batch * shape.Elems() / m.cols
	if b.name == "cnn" {
		m.v = make([]float32, answers*m.cols)
		return m, nil
	}
	m.y = make([]int32, answers)
	for i := range m.y {
		m.y[i] = int32(int(rnd.Uint32(uint64(i))) % m.cols)
	}
	return m, nil
}

func (m *model) step() {
	m.e.Forward(0, exec.Batch{Seed: 1, Step: m.n, Rows: m.rows}, m.st.Params, &m.st)
	m.n++
	pred, grad := m.e.Value(0, m.out, m.rows), m.e.Grad(0, m.out, m.rows)
	if m.v != nil {
		kernel.MSE(grad, pred, m.v, 1/float32(len(m.v)))
	} else {
		kernel.CrossEntropy(grad, pred, m.y, len(m.y), m.cols, 1/float32(len(m.y)))
	}
	m.e.Backward(0, m.st.Params, m.grads, false)
	m.opt.Step(m.team, m.st.Params, m.grads, 1e-5)
}

func (m *model) name() string {
	if m.precision == exec.BF16 {
		return "ours bf16"
	}
	return "ours float32"
}

func (m *model) steps(n int) (seconds float64, err error) {
	begin := now(m.team.Threads())
	for range n {
		m.step()
	}
	return (now(m.team.Threads()) - begin).Seconds(), nil
}

func (m *model) memory() int { return m.bytes }

func (m *model) stop() { m.team.Close() }

// peer is a process of step.py.
type peer struct {
	cmd     *osexec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	mode    string
	version string
	base    int // bytes of PyTorch itself
	peak    int
}

// script is step.py for a model and a batch.
func script(ctx context.Context, python, name string, batch, threads int, more ...string) *osexec.Cmd {
	n := fmt.Sprint(threads)
	args := []string{filepath.Join("e2e", "bench", "models", "step.py"), filepath.Join("e2e", "torch"), name, fmt.Sprint(batch), n}
	cmd := osexec.CommandContext(ctx, python, append(args, more...)...)
	// torch.set_num_threads does not set the threads of OpenBLAS, with which Debian's PyTorch
	// multiplies matrices.
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1",
		"OMP_NUM_THREADS="+n, "MKL_NUM_THREADS="+n, "OPENBLAS_NUM_THREADS="+n)
	cmd.Stderr = os.Stderr
	return cmd
}

func startPeer(ctx context.Context, python string, b bench, mode string, threads int) (*peer, error) {
	cmd := script(ctx, python, b.name, b.batch, threads, mode)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{cmd: cmd, in: in, out: bufio.NewReader(out), mode: mode}
	if _, err := fmt.Fscanf(p.out, "ready %d %s\n", &p.base, &p.version); err != nil {
		p.stop()
		return nil, fmt.Errorf("PyTorch did not start in mode %s: %w", mode, err)
	}
	return p, nil
}

func (p *peer) name() string { return "PyTorch " + p.version + " " + p.mode }

func (p *peer) steps(n int) (seconds float64, err error) {
	if _, err := fmt.Fprintln(p.in, n); err != nil {
		return 0, err
	}
	_, err = fmt.Fscanf(p.out, "%g %d\n", &seconds, &p.peak)
	return seconds, err
}

func (p *peer) memory() int { return p.peak - p.base }

func (p *peer) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

func record(l line) error {
	name := os.Getenv("OUT")
	if name == "" {
		return nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	return f.Close()
}
