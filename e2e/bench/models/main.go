// Command models compares training steps of the zoo's models with those of PyTorch, in
// alternating rounds, and the memory of both (make bench-models). It prints a table and appends
// a line of JSON for each model to the file named by OUT.
//
// A step is forward, loss, backward and AdamW on one batch in memory. Our memory is what the
// plan announces; PyTorch's is the peak of its process less what it used before the model was
// made. Both sides use the same number of threads.
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
	"github.com/ravnest/ravnest/engine/zoo"
)

// bench is a model and a batch.
type bench struct {
	name  string // as step.py knows it
	graph *graph.Graph
	batch int
	steps int // in a round
}

func resnet(c zoo.ResNetConfig, image int) *graph.Graph {
	c.Image = image
	return zoo.ResNet(c)
}

func benches() []bench {
	return []bench{
		{"cnn", zoo.CNN(), 64, 100},
		{"gpt-sorter", zoo.GPT(zoo.GPTSorter), 64, 10},
		{"char-gpt", zoo.GPT(zoo.CharGPT), 16, 1},
		{"resnet18@64", resnet(zoo.ResNet18, 64), 32, 1},
		{"resnet18@224", resnet(zoo.ResNet18, 224), 8, 1},
		{"resnet50@64", resnet(zoo.ResNet50, 64), 32, 1},
		{"resnet50@224", resnet(zoo.ResNet50, 224), 8, 1},
		{"bert", zoo.BERT(zoo.BERTBase), 4, 1},
	}
}

// line is a line of OUT.
type line struct {
	Name     string  `json:"name"`
	Threads  int     `json:"threads"`
	Ours     float64 `json:"ours"` // samples/s
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	Ratio    float64 `json:"ratio"` // median of the rounds
	Memory   int     `json:"memory"`
	PeerMem  int     `json:"peer_memory"`
}

func main() {
	threads := flag.Int("threads", 1, "threads of both sides")
	rounds := flag.Int("rounds", 5, "rounds for each model")
	only := flag.String("only", "", "models to run, separated by commas (default all)")
	alone := flag.Bool("alone", false, "do not run PyTorch")
	recompute := flag.String("recompute", "", "selective or full: what our side recomputes")
	precision := flag.String("precision", "", "bf16: the operands of our side's products (PyTorch stays in float32)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var mode exec.Config
	var err error
	if mode.Recompute, err = exec.ParseRecompute(*recompute); err == nil {
		mode.Precision, err = exec.ParsePrecision(*precision)
	}
	if err == nil {
		err = run(ctx, mode, *threads, *rounds, *only, *alone)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-models:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, mode exec.Config, threads, rounds int, only string, alone bool) error {
	python := ""
	if !alone {
		var err error
		if python, err = torch.Python(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("%-14s %8s %12s %12s %8s %10s %12s  %s\n", "model", "batch", "ours, 1/s", "theirs, 1/s", "ratio", "ours, MB", "theirs, MB", "peer")
	for _, b := range benches() {
		if only != "" && !slices.Contains(strings.Split(only, ","), b.name) {
			continue
		}
		l, err := measure(ctx, b, mode, threads, rounds, python)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		fmt.Printf("%-14s %8d %12.1f %12.1f %8.2f %10.0f %12.0f  %s\n", b.name, b.batch, l.Ours, l.Peer, l.Ratio, float64(l.Memory)/1e6, float64(l.PeerMem)/1e6, l.PeerName)
		if err := record(l); err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, b bench, mode exec.Config, threads, rounds int, python string) (line, error) {
	l := line{Name: b.name, Threads: threads}
	team := kernel.NewTeam(threads)
	defer team.Close()
	m, err := newModel(b, mode, team)
	if err != nil {
		return l, err
	}
	l.Memory = m.bytes
	var p *peer
	if python != "" {
		if p, err = startPeer(ctx, python, b, threads); err != nil {
			return l, err
		}
		defer p.stop()
	}
	m.step()
	var ours, theirs, ratios []float64
	for range rounds {
		if err := context.Cause(ctx); err != nil {
			return l, err
		}
		begin := time.Now()
		for range b.steps {
			m.step()
		}
		o := time.Since(begin).Seconds()
		ours = append(ours, o)
		if p != nil {
			t, err := p.steps(b.steps)
			if err != nil {
				return l, err
			}
			theirs, ratios = append(theirs, t), append(ratios, t/o)
		}
	}
	samples := float64(b.batch * b.steps)
	l.Ours = samples / median(ours)
	if p != nil {
		l.Peer, l.Ratio, l.PeerMem = samples/median(theirs), median(ratios), p.memory
		l.PeerName = "PyTorch " + p.version
	}
	return l, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// model is a model that the engine trains.
type model struct {
	rows  int
	out   int
	e     *exec.Exec
	st    exec.State
	grads []float32
	opt   *optim.Optimizer
	team  *kernel.Team
	y     []int32   // classes
	v     []float32 // or values
	cols  int
	n     uint64
	bytes int
}

func newModel(b bench, mode exec.Config, team *kernel.Team) (*model, error) {
	g := b.graph
	m := &model{team: team, rows: b.batch, out: g.OutputValue()}
	shape := g.Shape(m.out)
	p, err := exec.Compile(g, 0, exec.Config{Rows: b.batch, Slots: 1, Train: true, Outputs: []int{m.out}, Seeds: []int{m.out}, Recompute: mode.Recompute, Precision: mode.Precision})
	if err != nil {
		return nil, err
	}
	rule := job.Optimizer{Name: "adamw", LR: 1e-5, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01}
	if m.opt, err = optim.New(rule, p.Layout.Trainable, optim.Delay{}); err != nil {
		return nil, err
	}
	m.bytes = p.Memory().Total() + optim.Bytes(rule, p.Layout.Trainable)
	m.e, m.st, m.grads = p.New(team), p.Layout.NewState(), make([]float32, p.Layout.Grads)
	p.Layout.Init(m.st, 1)
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

// peer is a process of step.py.
type peer struct {
	cmd     *osexec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	base    int
	version string
	memory  int // bytes of the model and its steps
}

func startPeer(ctx context.Context, python string, b bench, threads int) (*peer, error) {
	n := fmt.Sprint(threads)
	cmd := osexec.CommandContext(ctx, python, filepath.Join("e2e", "bench", "models", "step.py"),
		filepath.Join("e2e", "torch"), b.name, fmt.Sprint(b.batch), n)
	// torch.set_num_threads does not set the threads of OpenBLAS, with which Debian's PyTorch
	// multiplies matrices.
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1",
		"OMP_NUM_THREADS="+n, "MKL_NUM_THREADS="+n, "OPENBLAS_NUM_THREADS="+n)
	cmd.Stderr = os.Stderr
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
	p := &peer{cmd: cmd, in: in, out: bufio.NewReader(out)}
	if _, err := fmt.Fscanf(p.out, "ready %d %s\n", &p.base, &p.version); err != nil {
		p.stop()
		return nil, fmt.Errorf("PyTorch did not start: %w", err)
	}
	return p, nil
}

func (p *peer) steps(n int) (seconds float64, err error) {
	if _, err := fmt.Fprintln(p.in, n); err != nil {
		return 0, err
	}
	var peak int
	_, err = fmt.Fscanf(p.out, "%g %d\n", &seconds, &peak)
	p.memory = peak - p.base
	return seconds, err
}

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
