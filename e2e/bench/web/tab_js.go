// The engine's side, built for the browser: kernels and the training step of the walkthrough,
// called by bench.js.

package main

import (
	"syscall/js"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/zoo"
)

// team has as many threads as the page started; call runs the case that was set up.
var (
	team *kernel.Team
	call func()
)

func main() {
	if n := kernel.Cores(); n > 1 {
		team = kernel.NewTeam(n)
	}
	js.Global().Set("ravnest", map[string]any{
		"setup": js.FuncOf(func(_ js.Value, args []js.Value) any {
			var n []int
			for i := range args[1].Length() {
				n = append(n, args[1].Index(i).Int())
			}
			call = setup(args[0].String(), n)
			return nil
		}),
		"run": js.FuncOf(func(_ js.Value, args []js.Value) any {
			for range args[0].Int() {
				call()
			}
			return nil
		}),
		"drop": js.FuncOf(func(js.Value, []js.Value) any {
			call = nil
			return nil
		}),
	})
	select {}
}

// draw returns n random floats distributed like activations.
func draw(n int) []float32 {
	v := make([]float32, n)
	kernel.Normal(v, kernel.NewStream(7, kernel.DomainTest, 0, uint32(n)))
	return v
}

// setup returns the call of a case; the numbers are those of cases.js.
func setup(kind string, a []int) func() {
	switch kind {
	case "gemm":
		return product(a[0], a[1], a[2], a[3] != 0, a[4] != 0)
	case "forward", "data", "weights":
		return convolution(kind, &kernel.Conv{
			N: a[0], C: a[1], H: a[2], W: a[2], O: a[3], KH: a[4], KW: a[4], SH: a[5], SW: a[5],
			PT: a[6], PL: a[6], PB: a[6], PR: a[6], DH: 1, DW: 1, Groups: a[7],
		})
	case "maxpool":
		return pool(a[0], a[1], a[2], a[3], a[4])
	case "step":
		return step(a[0])
	}
	return loop(kind, a[0], a[1])
}

func product(m, k, n int, ta, tb bool) func() {
	g := &kernel.GemmArgs{M: m, N: n, K: k, A: draw(m * k), RS: k, KS: 1, B: draw(k * n), BK: n, BJ: 1, C: draw(m * n), LDC: n}
	if ta {
		g.RS, g.KS = 1, m
	}
	if tb {
		g.BK, g.BJ = 1, k
	}
	scratch := make([]float32, kernel.GemmScratch(m, n, k))
	return func() { kernel.Gemm(team, g, scratch) }
}

func convolution(direction string, c *kernel.Conv) func() {
	x, w, y := draw(c.N*c.C*c.H*c.W), draw(c.O*c.C/c.Groups*c.KH*c.KW), draw(c.N*c.O*c.OH()*c.OW())
	scratch := make([]float32, kernel.ConvScratch(c))
	switch direction {
	case "data":
		return func() { kernel.ConvBackwardData(team, c, x, y, w, scratch) }
	case "weights":
		return func() { kernel.ConvBackwardWeight(team, c, w, y, x, false, scratch) }
	}
	return func() { kernel.ConvForward(team, c, y, x, w, nil, false, scratch) }
}

func pool(planes, side, window, stride, pad int) func() {
	out := kernel.PoolOut(side, window, stride, pad)
	p := &kernel.Pool{N: 1, C: planes, H: side, W: side, KH: window, KW: window, SH: stride, SW: stride, PT: pad, PL: pad, OH: out, OW: out}
	x, y := draw(planes*side*side), draw(planes*out*out)
	return func() { kernel.MaxPool(p, y, x, nil) }
}

// loop returns an operation on [rows,cols].
func loop(kind string, rows, cols int) func() {
	x, y, z := draw(rows*cols), draw(rows*cols), draw(rows*cols)
	switch kind {
	case "add":
		return func() { kernel.Add(z, x, y) }
	case "relu":
		return func() { kernel.ReLU(y, x) }
	case "sigmoid":
		return func() { kernel.Sigmoid(y, x) }
	case "tanh":
		return func() { kernel.TanhForward(y, x) }
	case "gelu":
		return func() { kernel.GELU(y, x) }
	case "softmax":
		return func() { kernel.Softmax(y, x, rows, cols) }
	case "layernorm":
		gamma, beta, mean, invstd := draw(cols), draw(cols), draw(rows), draw(rows)
		return func() { kernel.LayerNorm(y, x, gamma, beta, mean, invstd, rows, cols, 1e-5) }
	}
	panic("no case " + kind)
}

// step returns the training step of the walkthrough's model, without the optimiser.
func step(batch int) func() {
	g := zoo.CNN()
	out := g.OutputValue()
	p, err := exec.Compile(g, 0, exec.Config{Rows: batch, Slots: 1, Train: true, Outputs: []int{out}, Seeds: []int{out}, InputGrad: true})
	if err != nil {
		panic(err)
	}
	e, state := p.New(team), p.Layout.NewState()
	p.Layout.Init(state, 42)
	grads := make([]float32, p.Layout.Grads)
	x, want := draw(batch*g.Shape(0).Elems()), draw(batch*g.Shape(out).Elems())
	return func() {
		copy(e.Value(0, 0, batch), x)
		e.Forward(0, exec.Batch{Seed: 3, Step: 5, Rows: batch}, state.Params, &state)
		kernel.MSE(e.Grad(0, out, batch), e.Value(0, out, batch), want, 1/float32(len(want)))
		e.Backward(0, state.Params, grads, false)
	}
}
