// Package optim is the update rules of training, as torch.optim defines them, over
// the flat parameter vector of a stage, and the schedules of the learning rate.
package optim

import (
	"fmt"
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Optimizer updates one flat vector of parameters. State and Resume carry what it knows
// over an interruption.
type Optimizer struct {
	spec  job.Optimizer
	t     int         // updates done
	mu    float64     // nadam: product of the momentum terms
	state [][]float32 // sgd: momentum buffer; adam family: first and second moment
	parts []Tensor    // neighbours with the same decay are one, but of a rule that looks at tensors
	now   update
}

// Tensor is a parameter's place in the vector, and whether it has weight decay.
type Tensor struct {
	From, To int
	Decay    bool
}

// Delay places a stage in an asynchronous pipeline: its weights are Stages-1-Stage
// updates old when they are used. The zero value is no delay.
type Delay struct{ Stage, Stages int }

// New makes the optimiser of spec for n parameters, which are those of tensors: their places
// ascend and cover the vector. Without any the vector is one.
func New(spec job.Optimizer, n int, d Delay, tensors ...Tensor) (*Optimizer, error) {
	o := &Optimizer{spec: spec, mu: 1}
	if len(tensors) == 0 {
		tensors = []Tensor{{0, n, true}}
	}
	for _, t := range tensors {
		if k := len(o.parts) - 1; k >= 0 && spec.Name != "lamb" && o.parts[k].Decay == t.Decay {
			o.parts[k].To = t.To
			continue
		}
		o.parts = append(o.parts, t)
	}
	if !slices.Contains(job.Optimizers, spec.Name) {
		return nil, fmt.Errorf("unknown optimizer %q", spec.Name)
	}
	if spec.StageMomentum && d.Stages > 1 {
		// arXiv 2505.01099: γ_s = γ + τ_s (0.99 - γ)/P with γ = 0.9.
		o.spec.Betas[0] = 0.9 + 0.09*float64(d.Stages-1-d.Stage)/float64(d.Stages)
	}
	for range Slots(spec) {
		o.state = append(o.state, make([]float32, n))
	}
	return o, nil
}

// Slots are the vectors that the rule of spec keeps for the parameters, as torch.optim calls
// them.
func Slots(spec job.Optimizer) []string {
	switch {
	case spec.Name != "sgd":
		return []string{"exp_avg", "exp_avg_sq"}
	case spec.Momentum != 0:
		return []string{"momentum_buffer"}
	}
	return nil
}

// Bytes is the size of the state for n parameters.
func Bytes(spec job.Optimizer, n int) int { return 4 * n * len(Slots(spec)) }

// State is what an optimiser has to know to go on as if nothing had been between.
type State struct {
	Name    string
	Updates int      // done
	Mu      float64  // nadam: the product of its momentum terms; 1 otherwise
	Slots   []string // names of Vectors
	Vectors [][]float32
}

// State is the optimiser's state; its vectors are the optimiser's own memory.
func (o *Optimizer) State() State {
	return State{Name: o.spec.Name, Updates: o.t, Mu: o.mu, Slots: Slots(o.spec), Vectors: o.state}
}

// Resume sets the scalars of the state; the vectors are written to through State.
func (o *Optimizer) Resume(updates int, mu float64) { o.t, o.mu = updates, mu }

// Rewind sets the scalars of the state to those behind so many updates.
func (o *Optimizer) Rewind(updates int) {
	o.t, o.mu = updates, 1
	if o.spec.Name == "nadam" {
		for t := 1; t <= updates; t++ {
			before := o.mu
			if o.mu *= o.momentum(t); o.mu == before {
				break // so small that it rounds to itself, and the momentum only grows
			}
		}
	}
}

// momentum is the momentum of update t, as of torch.optim.NAdam.
func (o *Optimizer) momentum(t int) float64 {
	return o.spec.Betas[0] * (1 - float64(0.5*pow(0.96, float64(t)*o.spec.MomentumDecay)))
}

// Step updates p in place with gradients g and learning rate lr, on the team's threads. Of lamb
// g becomes the direction of the step.
// The scalars of the formulas are computed in float64 and rounded once, as PyTorch does.
func (o *Optimizer) Step(t *kernel.Team, p, g []float32, lr float64) {
	o.t++
	s, u := o.spec, &o.now
	if s.Name == "nadam" {
		o.mu *= o.momentum(o.t)
	}
	if s.Name == "lamb" {
		*u = update{name: s.Name, p: p, g: g, adam: o.adam(1), lr: lr, parts: o.parts, decay: s.WeightDecay}
		copy(u.state[:], o.state)
		t.Run(len(o.parts), u)
		*u = update{} // nothing of the caller's is kept
		return
	}
	for _, part := range o.parts {
		s.WeightDecay = o.spec.WeightDecay
		if !part.Decay {
			s.WeightDecay = 0
		}
		*u = update{name: s.Name, p: p[part.From:part.To], g: g[part.From:part.To]}
		for k, v := range o.state {
			u.state[k] = v[part.From:part.To]
		}
		o.scalars(s, lr)
		t.Run((len(u.p)+rangeFloats-1)/rangeFloats, u)
	}
	*u = update{}
}

// scalars sets those of the next step of the rule s.
func (o *Optimizer) scalars(s job.Optimizer, lr float64) {
	u := &o.now
	switch s.Name {
	case "sgd":
		u.sgd = kernel.SGDParams{
			LR: float32(lr), Momentum: float32(s.Momentum), OneMinusDampening: float32(1 - s.Dampening),
			WeightDecay: float32(s.WeightDecay), Nesterov: s.Nesterov, First: o.t == 1,
		}
	case "adam", "adamw":
		u.adam = o.adam(lr)
		u.adam.WeightDecay, u.adam.Decay = float32(s.WeightDecay), float32(1-float64(lr*s.WeightDecay))
	case "nadam":
		mu, next := o.momentum(o.t), o.momentum(o.t+1)
		u.nadam = kernel.NAdamParams{
			Beta1: float32(s.Betas[0]), Beta2: float32(s.Betas[1]), OneMinusBeta1: float32(1 - s.Betas[0]), OneMinusBeta2: float32(1 - s.Betas[1]),
			Eps: float32(s.Eps), WeightDecay: float32(s.WeightDecay), BiasCorrection2: float32(1 - ipow(s.Betas[1], o.t)),
			GradScale: float32(lr * (1 - mu) / (1 - o.mu)), MomentScale: float32(lr * next / (1 - float64(o.mu*next))),
		}
	}
}

// rangeFloats is the parameters that a thread updates at a time.
const rangeFloats = 1 << 16

// update is a step cut into ranges of the parameters.
type update struct {
	name  string
	p, g  []float32
	state [2][]float32
	sgd   kernel.SGDParams
	adam  kernel.AdamParams
	nadam kernel.NAdamParams

	lr, decay float64 // lamb
	parts     []Tensor
}

// lamb updates one tensor. Its step is as long as the learning rate says in parts of the
// tensor's own norm (You et al., "Large Batch Optimization for Deep Learning", arXiv
// 1904.00962); tensors without weight decay, biases and norms as a rule, take Adam's step.
func (u *update) lamb(part Tensor) {
	cut := func(x []float32) []float32 { return x[part.From:part.To] }
	p, g, a := cut(u.p), cut(u.g), u.adam
	if a.WeightDecay = 0; part.Decay {
		a.WeightDecay = float32(u.decay)
	}
	kernel.LAMB(p, g, cut(u.state[0]), cut(u.state[1]), a)
	trust := 1.0
	if a.WeightDecay != 0 {
		if w, d := math.Sqrt(kernel.SumSquares(p)), math.Sqrt(kernel.SumSquares(g)); w > 0 && d > 0 {
			trust = w / d
		}
	}
	kernel.SGD(p, g, nil, kernel.SGDParams{LR: float32(u.lr * trust)})
}

// Tile implements kernel.Task.
func (u *update) Tile(_, i int) {
	if u.parts != nil {
		u.lamb(u.parts[i])
		return
	}
	part := func(s []float32) []float32 {
		if s == nil {
			return nil
		}
		return s[i*rangeFloats : min((i+1)*rangeFloats, len(s))]
	}
	p, g, m, v := part(u.p), part(u.g), part(u.state[0]), part(u.state[1])
	switch u.name {
	case "sgd":
		kernel.SGD(p, g, m, u.sgd)
	case "adam":
		kernel.Adam(p, g, m, v, u.adam)
	case "adamw":
		kernel.AdamW(p, g, m, v, u.adam)
	case "nadam":
		kernel.NAdam(p, g, m, v, u.nadam)
	}
}

func (o *Optimizer) adam(lr float64) kernel.AdamParams {
	s := o.spec
	return kernel.AdamParams{
		Beta1: float32(s.Betas[0]), Beta2: float32(s.Betas[1]), OneMinusBeta1: float32(1 - s.Betas[0]), OneMinusBeta2: float32(1 - s.Betas[1]),
		Eps: float32(s.Eps), StepSize: float32(lr / (1 - ipow(s.Betas[0], o.t))), SqrtBiasCorrection2: float32(math.Sqrt(1 - ipow(s.Betas[1], o.t))),
	}
}

// ipow is x to the n by squaring: the same bits on every platform.
func ipow(x float64, n int) float64 {
	y := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			y *= x
		}
		x *= x
	}
	return y
}

// pow is x to the y for 0 < x < 1, y >= 0. math.Exp and math.Log differ between
// platforms in the last bit; the series below does not, and the arguments are small
// enough (0.004 t ln 0.96) for its squarings to keep 1e-15.
func pow(x, y float64) float64 {
	// ln x = 2 atanh((x-1)/(x+1))
	z := (x - 1) / (x + 1)
	z2, term, ln := z*z, z, 0.0
	for k := 1; k < 60; k += 2 {
		ln += float64(term / float64(k))
		term *= z2
	}
	return exp(float64(2*ln) * y)
}

// exp is e to the x for x <= 0: a Taylor series at x/1024 and ten squarings.
func exp(x float64) float64 {
	if x < -700 {
		return 0
	}
	r := x / 1024
	term, sum := 1.0, 1.0
	for k := 1; k < 12; k++ {
		term = float64(term*r) / float64(k)
		sum += term
	}
	for range 10 {
		sum *= sum
	}
	return sum
}

// When is an update's place in a run.
type When struct {
	Epoch         int // 0 is the first
	Update, Total int // its number, from 0, and how many the run has
}

// Rate is the learning rate of an update under schedule s.
func Rate(s job.LR, base float64, at When) float64 {
	epoch := at.Epoch
	e := float64(epoch)
	switch s.Name {
	case "step":
		return base * ipow(s.Gamma, epoch/s.StepSize)
	case "multistep":
		n := 0
		for _, m := range s.Milestones {
			if epoch >= m {
				n++
			}
		}
		return base * ipow(s.Gamma, n)
	case "exponential":
		return base * ipow(s.Gamma, epoch)
	case "cosine":
		return s.EtaMin + float64((base-s.EtaMin)*(1+cospi(e/float64(s.TMax))))/2
	case "linear":
		if epoch >= s.Total {
			return base * s.End
		}
		return base * (s.Start + float64((s.End-s.Start)*e)/float64(s.Total))
	case "warmup", "warmup_linear", "warmup_cosine":
		return warm(s, base, at)
	}
	return base
}

// warm is Rate of the schedules that count updates, which are those of transformers.
func warm(s job.LR, base float64, at When) float64 {
	if at.Update < s.Warmup {
		return base * (float64(at.Update) / float64(s.Warmup))
	}
	total := s.Total
	if total == 0 {
		total = at.Total
	}
	done := min(float64(at.Update-s.Warmup)/float64(max(total-s.Warmup, 1)), 1)
	switch s.Name {
	case "warmup_linear":
		return s.EtaMin + float64((base-s.EtaMin)*(1-done))
	case "warmup_cosine":
		return s.EtaMin + float64((base-s.EtaMin)*(1+cospi(done)))/2
	}
	return base
}

// cospi is cos(πx) by range reduction to [0, 1/2] and a Taylor series.
func cospi(x float64) float64 {
	x = math.Mod(math.Abs(x), 2)
	if x > 1 {
		x = 2 - x
	}
	sign := 1.0
	if x > 0.5 {
		x, sign = 1-x, -1
	}
	y := float64(x*math.Pi) * float64(x*math.Pi)
	term, sum := 1.0, 1.0
	for k := 1; k < 26; k += 2 {
		term = float64(-term*y) / float64(k*(k+1))
		sum += term
	}
	return sign * sum
}
