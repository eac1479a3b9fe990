// Package job is the description of a training run: what to train, on what, how,
// and under which schedule. It is data that travels from the requester to every
// provider, so that the same job means the same computation everywhere.
package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/strict"
)

// Version of the JSON form. History: 1, first form.
const Version = 1

// MaxBytes bounds the JSON form of a job that comes from outside.
const MaxBytes = 64 << 10

// MaxText bounds the name of a job and of its files, in bytes.
const MaxText = 200

// ErrInvalid is wrapped by every error about a job's contents.
var ErrInvalid = errors.New("invalid job")

// Schedules of the pipeline.
const (
	Sync  = "sync"  // 1F1B with a flush at every update: the result of one process
	Async = "async" // 1F1B without a flush: each backward uses its forward's weights
	ZB    = "zb"    // sync with a smaller bubble (ZB-H1) for more memory: the same result
)

// The names that the fields of a Spec may take.
var (
	Schedules  = []string{Sync, Async, ZB}
	Wires      = []string{"fp32", "fp16", "bf16", "int8"}
	Optimizers = []string{"sgd", "adam", "adamw", "nadam", "lamb"}
	LRs        = []string{"constant", "step", "multistep", "exponential", "cosine", "linear", "warmup", "warmup_linear", "warmup_cosine"}
	Recomputes = []string{"", "selective", "full"}
	Precisions = []string{"", "fp32", "bf16"}
)

// Spec is a job. Zero fields take the defaults that Default gives.
type Spec struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Model   string `json:"model"` // graph JSON: a file beside the job
	Data    string `json:"data"`  // a data set that comes with the program ("digits"), or a safetensors file beside the job
	Loss    string `json:"loss"`  // one of Losses
	// LossOptions are the loss's settings.
	LossOptions LossOptions `json:"loss_options,omitzero"`
	// Losses are those of a model with several outputs that training looks at; the first is what
	// metrics are about. None: Loss compares the model's answer with the targets.
	Losses []LossPart `json:"losses,omitempty"`
	// Metrics are the figures of a validation pass, some of Metrics. Left out: those that are
	// usual for the loss. Accuracy is always there where answers are right or wrong.
	Metrics []string `json:"metrics,omitempty"`
	// Shards keeps the data set in pieces that are fetched as they are needed, Augment changes its
	// inputs on their way into the model.
	Shards  Shards  `json:"shards,omitzero"`
	Augment Augment `json:"augment,omitzero"`
	// Weights are those that training begins with: a safetensors file beside the job with
	// every name of the model's state dict. None: drawn by the seed.
	Weights string `json:"weights,omitempty"`

	Optimizer Optimizer `json:"optimizer"`
	// ClipNorm is the largest norm that all gradients of an update may have together; above it
	// they are scaled down (torch.nn.utils.clip_grad_norm_). 0: they are left alone.
	ClipNorm float64 `json:"clip_norm,omitempty"`
	// Freeze are patterns of names of the state dict, with * for any characters: parameters
	// that training leaves alone. They have no gradient and no optimizer state.
	Freeze []string `json:"freeze,omitempty"`
	LoRA   LoRA     `json:"lora,omitzero"`
	LR     LR       `json:"lr_schedule"`

	Epochs    int `json:"epochs"`
	Steps     int `json:"steps,omitempty"` // stop after so many batches; 0: all of the epochs
	BatchSize int `json:"batch_size"`
	// MicroBatches is the number of parts of a batch that flow one by one. 0: the planner
	// chooses for each cluster what trains soonest, as far as that changes no bit of the result.
	MicroBatches int `json:"micro_batches,omitempty"`
	ValEvery     int `json:"val_every"`  // epochs between validation passes; 0: never
	SaveEvery    int `json:"save_every"` // epochs between saves; the end always saves

	Seed     uint64 `json:"seed"`
	Schedule string `json:"schedule"`
	Wire     string `json:"wire"`

	// Recompute makes backward passes compute again what forward passes would have to keep:
	// less memory, the same result. selective: normalisations and activations; full: all but
	// a few values.
	Recompute string `json:"recompute,omitempty"`

	// Precision is that of the operands of matrix products and convolutions, forward and
	// backward: fp32 (the default), or bf16, whose bits do not depend on whether a machine
	// fuses multiply-adds. Sums, weights and all else are float32.
	Precision string `json:"precision,omitempty"`

	// Audit has every stage commit itself to digests of what it exchanges with the others, by
	// which ravnest audit names who computed something else. It changes no bit of the result.
	Audit bool `json:"audit,omitempty"`

	// UpdateFrequency is the number of batches whose gradients one update adds up.
	UpdateFrequency int `json:"update_frequency"`
	// Replicas is the number of copies of the model that train, each on its own share of the
	// data; 0 or 1: one. It is a part of the job, not of who computes it: one process, one
	// cluster and several give the same result. Auto lets the host choose, and choose again: the
	// result is then a function of the job and of the record of the choices.
	Replicas Count `json:"replicas,omitempty"`
	// Periods is that record up to the period at hand, which has Replicas of them: see In.
	Periods []order.Period `json:"-"`
	// ReduceFactor is the number of updates that each replica does in a round, behind which
	// they are averaged. A round also ends where the run validates or saves. 0: what comes between two
	// such places is divided evenly into rounds of DefaultReduceFactor updates at most.
	ReduceFactor int     `json:"reduce_factor"`
	Average      Average `json:"average,omitzero"`
	// InFlight is the number of replicas that a pipeline works on at once. 0: as many as fit.
	// It changes no bit of the result.
	InFlight int `json:"in_flight,omitempty"`
}

// Optimizer names an update rule and its constants, as torch.optim calls them. A field that
// a job leaves out has PyTorch's default, see DefaultOptimizer; one that the rule does not
// have must be zero.
type Optimizer struct {
	Name          string     `json:"name"`
	LR            float64    `json:"lr"`
	Betas         [2]float64 `json:"betas,omitzero"`
	Eps           float64    `json:"eps,omitzero"`
	WeightDecay   float64    `json:"weight_decay,omitzero"`
	Momentum      float64    `json:"momentum,omitzero"`       // sgd
	Dampening     float64    `json:"dampening,omitzero"`      // sgd
	Nesterov      bool       `json:"nesterov,omitempty"`      // sgd
	MomentumDecay float64    `json:"momentum_decay,omitzero"` // nadam
	// NoDecay says which parameters have no weight decay: patterns of names of the state dict,
	// with * for any characters; bias stands for all biases, norm for the parameters of all
	// normalisation layers.
	NoDecay []string `json:"no_decay,omitempty"`
	// StageMomentum raises beta1 (nadam, async) with a stage's delay:
	// 0.9 + 0.09 delay/stages, arXiv 2505.01099.
	StageMomentum bool `json:"stage_momentum,omitempty"`
}

// DefaultOptimizer is an update rule with the defaults of torch.optim (2.x): what is left out
// of a job's optimizer. A name that is not one of Optimizers has none.
func DefaultOptimizer(name string) Optimizer {
	o := Optimizer{Name: name, LR: 1e-3}
	switch name {
	case "sgd":
		return o
	case "adam", "adamw", "nadam", "lamb":
		o.Betas, o.Eps = [2]float64{0.9, 0.999}, 1e-8
	default:
		return Optimizer{Name: name}
	}
	switch name {
	case "adamw":
		o.WeightDecay = 1e-2
	case "lamb": // You et al., arXiv 1904.00962
		o.Eps, o.WeightDecay = 1e-6, 1e-2
	case "nadam":
		o.LR, o.MomentumDecay = 2e-3, 4e-3
	}
	return o
}

// MarshalJSON writes every field whose default is not zero, so that Parse reads an explicit
// zero as one.
func (o Optimizer) MarshalJSON() ([]byte, error) {
	type plain Optimizer
	v := struct {
		plain
		Betas         *[2]float64 `json:"betas,omitempty"`
		Eps           *float64    `json:"eps,omitempty"`
		WeightDecay   *float64    `json:"weight_decay,omitempty"`
		MomentumDecay *float64    `json:"momentum_decay,omitempty"`
	}{plain: plain(o)}
	d := DefaultOptimizer(o.Name)
	if d.Betas != ([2]float64{}) || o.Betas != ([2]float64{}) {
		v.Betas = &o.Betas
	}
	for _, f := range []struct {
		to           **float64
		value, deflt float64
	}{{&v.Eps, o.Eps, d.Eps}, {&v.WeightDecay, o.WeightDecay, d.WeightDecay}, {&v.MomentumDecay, o.MomentumDecay, d.MomentumDecay}} {
		if f.value != 0 || f.deflt != 0 {
			*f.to = &f.value
		}
	}
	return json.Marshal(v)
}

// LR is the learning rate's schedule over epochs, as torch.optim.lr_scheduler. A field that a
// job leaves out has PyTorch's default, see DefaultLR; one that the schedule does not have
// must be zero.
type LR struct {
	Name     string  `json:"name"`                // one of LRs
	StepSize int     `json:"step_size,omitempty"` // step: epochs between decays
	Gamma    float64 `json:"gamma,omitempty"`     // step, exponential: the decay
	TMax     int     `json:"t_max,omitempty"`     // cosine: half a period, epochs
	EtaMin   float64 `json:"eta_min,omitempty"`   // cosine: the least rate
	Start    float64 `json:"start,omitempty"`     // linear: factor at epoch 0 (start_factor)
	End      float64 `json:"end,omitempty"`       // linear: factor from epoch total on (end_factor)
	Total    int     `json:"total,omitempty"`     // linear: epochs from start to end (total_iters); warmup_*: updates, 0: those of the run

	Milestones []int `json:"milestones,omitempty"` // multistep: epochs before which the rate decays
	// Warmup is the number of updates over which a warmup schedule raises the rate from 0
	// (transformers' get_..._schedule_with_warmup). Behind it the rate stays, falls linearly, or
	// falls as half a cosine, to eta_min.
	Warmup int `json:"warmup,omitempty"`
}

// DefaultLR is a schedule with the defaults of torch.optim.lr_scheduler: what is left out of
// a job's lr_schedule. Fields without a default there (step_size, t_max, exponential's gamma)
// are zero, which Check refuses.
func DefaultLR(name string) LR {
	l := LR{Name: name}
	switch name {
	case "step", "multistep":
		l.Gamma = 0.1
	case "linear":
		l.Start, l.End, l.Total = 1.0/3, 1, 5
	}
	return l
}

// MarshalJSON writes every field of the schedule, so that Parse reads an explicit zero as one.
func (l LR) MarshalJSON() ([]byte, error) {
	type plain LR
	v := struct {
		plain
		Gamma *float64 `json:"gamma,omitempty"`
		End   *float64 `json:"end,omitempty"`
	}{plain: plain(l)}
	if l.Gamma != 0 || l.Name == "step" || l.Name == "multistep" || l.Name == "exponential" {
		v.Gamma = &l.Gamma
	}
	if l.End != 0 || l.Name == "linear" {
		v.End = &l.End
	}
	return json.Marshal(v)
}

// Default is the walkthrough's job.
func Default() Spec {
	return Spec{
		Version: Version, Name: "cnn", Model: "model.json", Data: "digits", Loss: "mse",
		Optimizer: DefaultOptimizer("adam"), LR: DefaultLR("constant"),
		Epochs: 100, BatchSize: 64, ValEvery: 1, SaveEvery: 10,
		Seed: 42, Schedule: Sync, Wire: "fp32", UpdateFrequency: 1,
	}
}

// Parse decodes and checks a job. Fields that are left out have their defaults. Errors wrap
// ErrInvalid.
func Parse(data []byte) (Spec, error) {
	if len(data) > MaxBytes {
		return Spec{}, fmt.Errorf("%w: %d bytes, at most %d are read", ErrInvalid, len(data), MaxBytes)
	}
	s := Default()
	s.Version, s.Optimizer, s.LR = 0, Optimizer{}, LR{}
	has, err := strict.Decode(data, &s)
	if err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := errors.Join(s.defaults(has), s.Average.zeros(has), s.emptyLists(has)); err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(s.Augment.Mean) == 0 {
		s.Augment.Mean = nil
	}
	if len(s.Augment.Std) == 0 {
		s.Augment.Std = nil
	}
	return s, s.Check()
}

// JSON is the canonical form.
func (s Spec) JSON() []byte {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		panic(err) // only plain values: NaN is refused by Check
	}
	return append(b, '\n')
}

// defaults fills in what a text that has these fields leaves out of the rules.
func (s *Spec) defaults(has strict.Fields) error {
	for _, part := range []string{"optimizer", "lr_schedule"} {
		if has[part] && !has[part+".name"] {
			return fmt.Errorf("%s has no name", part)
		}
	}
	d := DefaultOptimizer(s.Optimizer.Name)
	if !has["optimizer"] {
		d = Default().Optimizer
	}
	o, l := &s.Optimizer, &s.LR
	fill(has, "optimizer.name", &o.Name, d.Name)
	fill(has, "optimizer.lr", &o.LR, d.LR)
	fill(has, "optimizer.betas", &o.Betas, d.Betas)
	fill(has, "optimizer.eps", &o.Eps, d.Eps)
	fill(has, "optimizer.weight_decay", &o.WeightDecay, d.WeightDecay)
	fill(has, "optimizer.momentum_decay", &o.MomentumDecay, d.MomentumDecay)
	fill(has, "lr_schedule.name", &l.Name, Default().LR.Name)
	e := DefaultLR(l.Name)
	if l.Name == "exponential" && !has["lr_schedule.gamma"] {
		return errors.New("lr_schedule exponential needs gamma")
	}
	fill(has, "lr_schedule.gamma", &l.Gamma, e.Gamma)
	fill(has, "lr_schedule.start", &l.Start, e.Start)
	fill(has, "lr_schedule.end", &l.End, e.End)
	fill(has, "lr_schedule.total", &l.Total, e.Total)
	return nil
}

func fill[T any](has strict.Fields, path string, v *T, to T) {
	if !has[path] {
		*v = to
	}
}

// faults collects what is wrong with a job.
type faults struct{ errs []error }

func (f *faults) bad(format string, a ...any) { f.errs = append(f.errs, fmt.Errorf(format, a...)) }

func (f *faults) in(field, v string, set []string) {
	if !slices.Contains(set, v) {
		named := slices.DeleteFunc(slices.Clone(set), func(s string) bool { return s == "" })
		f.bad("%s %.60q is not one of %s: the nearest is %q", field, v, strings.Join(named, ", "), strict.Nearest(v, named))
	}
}

func (f *faults) num(field string, v, lo, hi int) {
	if v < lo || v > hi {
		f.bad("%s %d is outside %d..%d", field, v, lo, hi)
	}
}

func (f *faults) real(field string, v, lo, hi float64) {
	if !(v >= lo && v <= hi) { // NaN too
		f.bad("%s %v is outside %v..%v", field, v, lo, hi)
	}
}

// Check validates every field; errors name the field, its value and what is allowed.
func (s Spec) Check() error {
	var f faults
	if s.Version != Version {
		f.bad("version %d, this program reads version %d", s.Version, Version)
	}
	for _, t := range [][2]string{{"name", s.Name}, {"model", s.Model}, {"data", s.Data}, {"weights", s.Weights}} {
		switch {
		case t[0] == "weights" && t[1] == "":
		case t[1] == "" || len(t[1]) > MaxText:
			f.bad("%s of %d bytes is outside 1..%d", t[0], len(t[1]), MaxText)
		case !utf8.ValidString(t[1]) || strings.ContainsFunc(t[1], unicode.IsControl):
			f.bad("%s %q holds a character that cannot be printed", t[0], t[1])
		}
	}
	if s.checkLosses(&f); !s.Several() {
		s.checkLoss(&f)
	}
	f.in("schedule", s.Schedule, Schedules)
	f.in("wire", s.Wire, Wires)
	f.in("recompute", s.Recompute, Recomputes)
	f.in("precision", s.Precision, Precisions)
	f.num("epochs", s.Epochs, 1, 1<<20)
	f.num("steps", s.Steps, 0, 1<<40)
	f.num("batch_size", s.BatchSize, 1, 1<<16)
	if most := min(max(s.BatchSize, 1), 256); s.MicroBatches < 0 || s.MicroBatches > most {
		f.bad("micro_batches %d is outside 0..%d (batch_size is %d)", s.MicroBatches, most, s.BatchSize)
	}
	f.num("val_every", s.ValEvery, 0, 1<<20)
	f.num("save_every", s.SaveEvery, 0, 1<<20)
	f.num("update_frequency", s.UpdateFrequency, 1, 1<<16)
	f.num("reduce_factor", s.ReduceFactor, 0, 1<<20)
	s.checkReplicas(&f)
	s.Shards.check(&f)
	s.Augment.check(&f)
	f.real("clip_norm", s.ClipNorm, 0, 1e6)
	if s.ClipNorm > 0 && s.Schedule == Async {
		f.bad("clip_norm %v: the schedule async updates each stage by itself and never has the norm of all gradients: choose sync or zb", s.ClipNorm)
	}
	s.Optimizer.check(&f)
	s.LR.check(&f)
	checkPatterns(&f, "freeze", s.Freeze)
	s.LoRA.check(&f)
	if len(f.errs) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(f.errs...))
	}
	return nil
}

func (o Optimizer) check(f *faults) {
	f.in("optimizer", o.Name, Optimizers)
	f.real("optimizer lr", o.LR, 0, 1e6)
	f.real("optimizer beta 1", o.Betas[0], 0, 0.999999)
	f.real("optimizer beta 2", o.Betas[1], 0, 0.99999999)
	f.real("optimizer eps", o.Eps, 0, 1)
	f.real("optimizer weight_decay", o.WeightDecay, 0, 1e3)
	f.real("optimizer momentum", o.Momentum, 0, 1)
	f.real("optimizer dampening", o.Dampening, 0, 1)
	f.real("optimizer momentum_decay", o.MomentumDecay, 0, 1)
	if o.Name != "sgd" && (o.Momentum != 0 || o.Dampening != 0 || o.Nesterov) {
		f.bad("optimizer %s has no momentum, dampening or nesterov", o.Name)
	}
	if o.Name == "sgd" && (o.Betas != [2]float64{} || o.Eps != 0) {
		f.bad("optimizer sgd has no betas or eps")
	}
	checkPatterns(f, "optimizer no_decay", o.NoDecay)
	if o.Nesterov && (o.Momentum == 0 || o.Dampening != 0) {
		f.bad("optimizer sgd: nesterov needs a momentum and no dampening")
	}
	if (o.StageMomentum || o.MomentumDecay != 0) && o.Name != "nadam" {
		f.bad("optimizer %s: stage_momentum and momentum_decay are for nadam", o.Name)
	}
}

func (l LR) check(f *faults) {
	f.in("lr_schedule", l.Name, LRs)
	f.num("lr_schedule step_size", l.StepSize, 0, 1<<20)
	f.num("lr_schedule t_max", l.TMax, 0, 1<<20)
	f.num("lr_schedule total", l.Total, 0, 1<<40)
	f.num("lr_schedule warmup", l.Warmup, 0, 1<<40)
	if l.Total > 0 && l.Warmup >= l.Total {
		f.bad("lr_schedule warmup %d takes all of its %d updates", l.Warmup, l.Total)
	}
	for i, m := range l.Milestones {
		f.num("lr_schedule milestones", m, 1, 1<<20)
		if i > 0 && m < l.Milestones[i-1] {
			f.bad("lr_schedule milestones %v do not ascend", l.Milestones)
		}
	}
	if len(l.Milestones) > maxList {
		f.bad("lr_schedule has %d milestones, at most %d are read", len(l.Milestones), maxList)
	}
	f.real("lr_schedule gamma", l.Gamma, 0, 10)
	f.real("lr_schedule eta_min", l.EtaMin, 0, 1e6)
	f.real("lr_schedule start", l.Start, 0, 1)
	f.real("lr_schedule end", l.End, 0, 1)
	for _, x := range []struct {
		field string
		set   bool
		of    []string
		must  bool
	}{
		{"step_size", l.StepSize != 0, []string{"step"}, true},
		{"gamma", l.Gamma != 0, []string{"step", "multistep", "exponential"}, false},
		{"milestones", l.Milestones != nil, []string{"multistep"}, true},
		{"warmup", l.Warmup != 0, []string{"warmup", "warmup_linear", "warmup_cosine"}, false},
		{"t_max", l.TMax != 0, []string{"cosine"}, true},
		{"eta_min", l.EtaMin != 0, []string{"cosine", "warmup_linear", "warmup_cosine"}, false},
		{"start", l.Start != 0, []string{"linear"}, true},
		{"end", l.End != 0, []string{"linear"}, false},
		{"total", l.Total != 0, []string{"linear", "warmup_linear", "warmup_cosine"}, l.Name == "linear"},
	} {
		has := slices.Contains(x.of, l.Name)
		switch {
		case has && x.must && !x.set:
			f.bad("lr_schedule %s needs %s, and more than 0", l.Name, x.field)
		case !has && x.set && slices.Contains(LRs, l.Name):
			f.bad("lr_schedule %s has no %s", l.Name, x.field)
		}
	}
}

// Order is the numbers that a run's order of work follows from, over so many training and
// validation rows.
func (s Spec) Order(train, val int) order.Run {
	updates, even := s.reduce()
	return order.Run{
		Train: train, Val: val, Epochs: s.Epochs, Steps: s.Steps, BatchSize: s.BatchSize, MicroBatches: s.Micro(),
		UpdateFrequency: s.UpdateFrequency, ValEvery: s.ValEvery, SaveEvery: s.SaveEvery,
		Replicas: s.Replica(), ReduceFactor: updates, Even: even, Split: s.Average.Of == Gradients, Periods: s.Periods, InFlight: s.InFlight,
	}
}

// Batches is the number of batches of an epoch over n rows; the last may be short.
func (s Spec) Batches(n int) int { return (n + s.BatchSize - 1) / s.BatchSize }

// Rows is the number of rows of batch b of an epoch over n rows.
func (s Spec) Rows(n, b int) int { return min(s.BatchSize, n-b*s.BatchSize) }

// Micro is the number of micro-batches of a batch; 1 where nobody has chosen.
func (s Spec) Micro() int { return max(s.MicroBatches, 1) }

// MicroRows is the number of rows of a full micro-batch.
func (s Spec) MicroRows() int { return s.Order(1, 0).MicroRows(s.BatchSize) }

// Total is the number of batches of the run over n training rows.
func (s Spec) Total(n int) int {
	t := s.Epochs * s.Batches(n)
	if s.Steps > 0 {
		t = min(t, s.Steps)
	}
	return t
}
