// Package job is the description of a training run: what to train, on what, how,
// and under which schedule. It is data that travels from the requester to every
// provider, so that the same job means the same computation everywhere.
package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// Version of the JSON form. History: 1, first form.
const Version = 1

// MaxBytes bounds the JSON form of a job that comes from outside.
const MaxBytes = 64 << 10

// ErrInvalid is wrapped by every error about a job's contents.
var ErrInvalid = errors.New("invalid job")

// Schedules of the pipeline.
const (
	Sync  = "sync"  // 1F1B with a flush at every update: the result of one process
	Async = "async" // 1F1B without a flush: each backward uses its forward's weights
)

// The names that the fields of a Spec may take.
var (
	Schedules  = []string{Sync, Async}
	Wires      = []string{"fp32", "fp16", "bf16", "int8"}
	Losses     = []string{"mse", "cross_entropy"}
	Optimizers = []string{"sgd", "adam", "adamw", "nadam"}
	LRs        = []string{"constant", "step", "exponential", "cosine", "linear"}
	Recomputes = []string{"", "selective", "full"}
)

// Spec is a job. Zero fields take the defaults that Default gives.
type Spec struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	Model   string `json:"model"` // graph JSON: a file beside the job
	Data    string `json:"data"`  // a data set that comes with the program ("digits"), or a safetensors file beside the job
	Loss    string `json:"loss"`

	Optimizer Optimizer `json:"optimizer"`
	LR        LR        `json:"lr_schedule"`

	Epochs       int `json:"epochs"`
	Steps        int `json:"steps,omitempty"` // stop after so many batches; 0: all of the epochs
	BatchSize    int `json:"batch_size"`
	MicroBatches int `json:"micro_batches"` // parts of a batch that flow one by one
	ValEvery     int `json:"val_every"`     // epochs between validation passes; 0: never
	SaveEvery    int `json:"save_every"`    // epochs between saves; the end always saves

	Seed     uint64 `json:"seed"`
	Schedule string `json:"schedule"`
	Wire     string `json:"wire"`

	// Recompute makes backward passes compute again what forward passes would have to keep:
	// less memory, the same result. selective: normalisations and activations; full: all but
	// a few values.
	Recompute string `json:"recompute,omitempty"`

	// UpdateFrequency is the number of batches whose gradients one update adds up.
	UpdateFrequency int `json:"update_frequency"`
	// ReduceFactor is the number of updates per averaging across clusters; 0: one
	// averaging an epoch.
	ReduceFactor int `json:"reduce_factor"`
}

// Optimizer names an update rule and its constants, as torch.optim calls them.
// Fields that the rule does not have must be zero.
type Optimizer struct {
	Name        string     `json:"name"`
	LR          float64    `json:"lr"`
	Betas       [2]float64 `json:"betas,omitzero"`
	Eps         float64    `json:"eps,omitzero"`
	WeightDecay float64    `json:"weight_decay,omitzero"`
	Momentum    float64    `json:"momentum,omitzero"`  // sgd
	Dampening   float64    `json:"dampening,omitzero"` // sgd
	Nesterov    bool       `json:"nesterov,omitempty"` // sgd
	// StageMomentum raises beta1 (nadam, async) with a stage's delay:
	// 0.9 + 0.09 delay/stages, arXiv 2505.01099.
	StageMomentum bool `json:"stage_momentum,omitempty"`
}

// LR is the learning rate's schedule over epochs, as torch.optim.lr_scheduler.
type LR struct {
	Name     string  `json:"name"`                // one of LRs
	StepSize int     `json:"step_size,omitempty"` // step: epochs between decays
	Gamma    float64 `json:"gamma,omitempty"`     // step, exponential: the decay
	TMax     int     `json:"t_max,omitempty"`     // cosine: half a period, epochs
	EtaMin   float64 `json:"eta_min,omitempty"`   // cosine: the least rate
	Start    float64 `json:"start,omitempty"`     // linear: factor at epoch 0
	Total    int     `json:"total,omitempty"`     // linear: epochs until factor 1
}

// Default is the walkthrough's job.
func Default() Spec {
	return Spec{
		Version: Version, Name: "cnn", Model: "model.json", Data: "digits", Loss: "mse",
		Optimizer: Optimizer{Name: "adam", LR: 1e-3, Betas: [2]float64{0.9, 0.999}, Eps: 1e-8},
		LR:        LR{Name: "constant"},
		Epochs:    100, BatchSize: 64, MicroBatches: 1, ValEvery: 1, SaveEvery: 10,
		Seed: 42, Schedule: Sync, Wire: "fp32", UpdateFrequency: 1,
	}
}

// Parse decodes and checks a job. Errors wrap ErrInvalid.
func Parse(data []byte) (Spec, error) {
	if len(data) > MaxBytes {
		return Spec{}, fmt.Errorf("%w: %d bytes, at most %d are read", ErrInvalid, len(data), MaxBytes)
	}
	s := Default()
	s.Version, s.Optimizer, s.LR = 0, Optimizer{}, LR{Name: "constant"}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Spec{}, fmt.Errorf("%w: data after the end of the JSON value", ErrInvalid)
	}
	s.Optimizer.defaults()
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

// defaults fills what torch.optim fills.
func (o *Optimizer) defaults() {
	if o.Name == "" {
		*o = Default().Optimizer
	}
	adam := o.Name == "adam" || o.Name == "adamw" || o.Name == "nadam"
	if adam && o.Betas == ([2]float64{}) {
		o.Betas = [2]float64{0.9, 0.999}
	}
	if adam && o.Eps == 0 {
		o.Eps = 1e-8
	}
}

// Check validates every field; errors name the field.
func (s Spec) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	in := func(field, v string, set []string) {
		if !slices.Contains(set, v) {
			bad("%s %q is not one of %s", field, v, strings.Join(set, ", "))
		}
	}
	num := func(field string, v, lo, hi int) {
		if v < lo || v > hi {
			bad("%s %d is outside %d..%d", field, v, lo, hi)
		}
	}
	real := func(field string, v, lo, hi float64) {
		if math.IsNaN(v) || v < lo || v > hi {
			bad("%s %v is outside %v..%v", field, v, lo, hi)
		}
	}
	if s.Version != Version {
		bad("version %d, this program reads version %d", s.Version, Version)
	}
	for _, f := range [][2]string{{"name", s.Name}, {"model", s.Model}, {"data", s.Data}} {
		if f[1] == "" || len(f[1]) > 200 {
			bad("%s of %d bytes is outside 1..200", f[0], len(f[1]))
		}
	}
	in("loss", s.Loss, Losses)
	in("schedule", s.Schedule, Schedules)
	in("wire", s.Wire, Wires)
	in("recompute", s.Recompute, Recomputes)
	num("epochs", s.Epochs, 1, 1<<20)
	num("steps", s.Steps, 0, 1<<40)
	num("batch_size", s.BatchSize, 1, 1<<16)
	num("micro_batches", s.MicroBatches, 1, min(max(s.BatchSize, 1), 256))
	num("val_every", s.ValEvery, 0, 1<<20)
	num("save_every", s.SaveEvery, 0, 1<<20)
	num("update_frequency", s.UpdateFrequency, 1, 1<<16)
	num("reduce_factor", s.ReduceFactor, 0, 1<<20)
	o := s.Optimizer
	in("optimizer", o.Name, Optimizers)
	real("optimizer lr", o.LR, 0, 1e6)
	real("optimizer beta 1", o.Betas[0], 0, 0.999999)
	real("optimizer beta 2", o.Betas[1], 0, 0.99999999)
	real("optimizer eps", o.Eps, 0, 1)
	real("optimizer weight_decay", o.WeightDecay, 0, 1e3)
	real("optimizer momentum", o.Momentum, 0, 1)
	real("optimizer dampening", o.Dampening, 0, 1)
	if o.Name != "sgd" && (o.Momentum != 0 || o.Dampening != 0 || o.Nesterov) {
		bad("optimizer %s has no momentum, dampening or nesterov", o.Name)
	}
	if o.Name == "sgd" && (o.Betas != [2]float64{} || o.Eps != 0) {
		bad("optimizer sgd has no betas or eps")
	}
	if o.Nesterov && (o.Momentum == 0 || o.Dampening != 0) {
		bad("optimizer sgd: nesterov needs a momentum and no dampening")
	}
	if o.StageMomentum && o.Name != "nadam" {
		bad("optimizer %s: stage_momentum is for nadam", o.Name)
	}
	in("lr_schedule", s.LR.Name, LRs)
	num("lr_schedule step_size", s.LR.StepSize, 0, 1<<20)
	num("lr_schedule t_max", s.LR.TMax, 0, 1<<20)
	num("lr_schedule total", s.LR.Total, 0, 1<<20)
	real("lr_schedule gamma", s.LR.Gamma, 0, 10)
	real("lr_schedule eta_min", s.LR.EtaMin, 0, 1e6)
	real("lr_schedule start", s.LR.Start, 0, 1)
	switch {
	case s.LR.Name == "step" && s.LR.StepSize == 0:
		bad("lr_schedule step needs step_size")
	case s.LR.Name == "cosine" && s.LR.TMax == 0:
		bad("lr_schedule cosine needs t_max")
	case s.LR.Name == "linear" && s.LR.Total == 0:
		bad("lr_schedule linear needs total")
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(errs...))
	}
	return nil
}

// Order is the numbers that a run's order of work follows from, over so many training and
// validation rows.
func (s Spec) Order(train, val int) order.Run {
	return order.Run{
		Train: train, Val: val, Epochs: s.Epochs, Steps: s.Steps, BatchSize: s.BatchSize, MicroBatches: s.MicroBatches,
		UpdateFrequency: s.UpdateFrequency, ValEvery: s.ValEvery, SaveEvery: s.SaveEvery,
	}
}

// Batches is the number of batches of an epoch over n rows; the last may be short.
func (s Spec) Batches(n int) int { return (n + s.BatchSize - 1) / s.BatchSize }

// Rows is the number of rows of batch b of an epoch over n rows.
func (s Spec) Rows(n, b int) int { return min(s.BatchSize, n-b*s.BatchSize) }

// MicroRows is the number of rows of a full micro-batch.
func (s Spec) MicroRows() int { return (s.BatchSize + s.MicroBatches - 1) / s.MicroBatches }

// Total is the number of batches of the run over n training rows.
func (s Spec) Total(n int) int {
	t := s.Epochs * s.Batches(n)
	if s.Steps > 0 {
		t = min(t, s.Steps)
	}
	return t
}
