// Adapters out of a job: in the layout of Hugging Face's PEFT, or merged into the model.

package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native"
)

// Files of an adapter as PEFT calls them.
const (
	AdapterConfig  = "adapter_config.json"
	AdapterWeights = "adapter_model.safetensors"
)

// ErrNoLoRA is wrapped by errors about adapters of a job that has none.
var ErrNoLoRA = errors.New("the job has no adapters")

// adapters is what a job's settings ask of the graph.
func adapters(l job.LoRA) graph.LoRA {
	return graph.LoRA{Rank: l.R, Scale: l.Scaled() / float64(l.R), Targets: l.Target, Dropout: l.Dropout, Save: l.Save}
}

// complete adds the adapters' initial values to weights of the model beside which they are.
func (p *Project) complete(weights state.Dict) state.Dict {
	l := exec.NewLayout(p.Graph, 0)
	s := l.NewState()
	l.Init(s, p.Job.Seed)
	all := l.View(s)
	for i, t := range all {
		if w, ok := weights.Get(t.Name); ok {
			all[i] = w
		}
	}
	return all
}

// peft is adapter_config.json.
type peft struct {
	Type         string         `json:"peft_type"`
	Task         *string        `json:"task_type"`
	Base         string         `json:"base_model_name_or_path"`
	R            int            `json:"r"`
	Alpha        float64        `json:"lora_alpha"`
	Dropout      float64        `json:"lora_dropout"`
	Targets      []string       `json:"target_modules"`
	Bias         string         `json:"bias"`
	Transposed   bool           `json:"fan_in_fan_out"`
	Inference    bool           `json:"inference_mode"`
	Init         bool           `json:"init_lora_weights"`
	ModulesSaved []string       `json:"modules_to_save"`
	RankPattern  map[string]int `json:"rank_pattern"`
	AlphaPattern map[string]int `json:"alpha_pattern"`
}

// WriteAdapter writes the adapters of a trained state dict into a directory, from which
// peft.PeftModel.from_pretrained(model, dir) reads them.
func (p *Project) WriteAdapter(dir string, d state.Dict) ([]string, error) {
	if len(p.Adapters) == 0 {
		return nil, ErrNoLoRA
	}
	c := peft{
		Type: "LORA", Base: p.Base.Name, R: p.Job.LoRA.R, Alpha: p.Job.LoRA.Scaled(), Dropout: p.Job.LoRA.Dropout, Bias: "none",
		Transposed: p.Adapters[0].Transposed, Inference: true, Init: true, RankPattern: map[string]int{}, AlphaPattern: map[string]int{},
	}
	var out state.Dict
	for _, a := range p.Adapters {
		if a.Transposed != c.Transposed {
			return nil, fmt.Errorf("PEFT keeps adapters of layers with transposed weights apart from others: choose targets of one kind, not both %q and %q", p.Adapters[0].Module, a.Module)
		}
		c.Targets = append(c.Targets, a.Module)
		for _, w := range [][2]string{{a.A, ".lora_A.weight"}, {a.B, ".lora_B.weight"}} {
			t, ok := d.Get(w[0])
			if !ok {
				return nil, fmt.Errorf("the trained weights have no %q", w[0])
			}
			t.Name = "base_model.model." + a.Module + w[1]
			out = append(out, t)
		}
	}
	saved := p.Base.Saved(adapters(p.Job.LoRA))
	for _, m := range slices.Sorted(maps.Keys(saved)) {
		c.ModulesSaved = append(c.ModulesSaved, m)
		for _, name := range saved[m] {
			t, ok := d.Get(name)
			if !ok {
				return nil, fmt.Errorf("the trained weights have no %q", name)
			}
			t.Name = "base_model.model." + name
			out = append(out, t)
		}
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating the adapter's directory: %w", err)
	}
	config, weights := filepath.Join(dir, AdapterConfig), filepath.Join(dir, AdapterWeights)
	write := func(w io.Writer) error { return safetensors.Write(w, out, map[string]string{"format": "pt"}) }
	return []string{config, weights}, errors.Join(native.WriteFile(config, append(text, '\n'), 0o644), native.Save(weights, 0o644, write))
}

// Merge is the state dict of the model without adapters, where what they have learned is added
// to the weights of their layers: W + alpha/r B A. A state dict without adapters is as it was.
func (p *Project) Merge(d state.Dict) (state.Dict, error) {
	if len(p.Adapters) == 0 {
		return d, nil
	}
	scale := p.Job.LoRA.Scaled() / float64(p.Job.LoRA.R)
	var out state.Dict
	for _, q := range p.Base.Params() {
		t, ok := d.Get(q.Full)
		if !ok {
			return nil, fmt.Errorf("the trained weights have no %q", q.Full)
		}
		if i := slices.IndexFunc(p.Adapters, func(a graph.Adapter) bool { return a.Weight == q.Full }); i >= 0 {
			var err error
			if t, err = merged(t, p.Adapters[i], d, scale); err != nil {
				return nil, err
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func merged(w state.Tensor, l graph.Adapter, d state.Dict, scale float64) (state.Tensor, error) {
	a, haveA := d.Get(l.A)
	b, haveB := d.Get(l.B)
	if !haveA || !haveB {
		return w, fmt.Errorf("the trained weights have no adapter of %q", l.Module)
	}
	r, in, rows := a.Shape[0], a.Shape[1], b.Shape[0]
	w.F32 = slices.Clone(w.F32)
	for o := range rows {
		for i := range in {
			sum := 0.0
			for k := range r {
				sum += float64(float64(b.F32[o*r+k]) * float64(a.F32[k*in+i]))
			}
			at := o*in + i
			if l.Transposed {
				at = i*rows + o
			}
			w.F32[at] = float32(float64(w.F32[at]) + float64(scale*sum))
		}
	}
	return w, nil
}
