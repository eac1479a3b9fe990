package job_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
)

func TestRoundTrip(t *testing.T) {
	s, err := job.Parse(job.Default().JSON())
	if err != nil || !reflect.DeepEqual(s, job.Default()) {
		t.Errorf("the default job comes back as %+v, %v", s, err)
	}
}

func TestMistakesNameTheField(t *testing.T) {
	good := string(job.Default().JSON())
	for _, c := range [][3]string{
		{`"version": 1`, `"version": 2`, "version 2"},
		{`"loss": "mse"`, `"loss": "hinge"`, `loss "hinge"`},
		{`"loss": "mse"`, `"loss": "mse", "loss_options": {"delta": 1}`, "delta is for the loss huber, not for mse"},
		{`"loss": "mse"`, `"loss": "huber", "loss_options": {"delta": 0}`, "delta 0 is not above 0"},
		{`"loss": "mse"`, `"loss": "cross_entropy", "loss_options": {"label_smoothing": 1.5}`, "label_smoothing 1.5 is outside 0..1"},
		{`"loss": "mse"`, `"loss": "cross_entropy", "loss_options": {"class_weights": []}`, "class_weights is empty"},
		{`"loss": "mse"`, `"loss": "cross_entropy", "loss_options": {"class_weights": [1, -1]}`, "class_weights[1] -1"},
		{`"loss": "mse"`, `"loss": "mse", "metrics": ["acuracy"]`, `the nearest is "accuracy"`},
		{`"loss": "mse"`, `"loss": "mse", "metrics": ["perplexity"]`, "the loss is mse"},
		{`"loss": "mse"`, `"loss": "mse", "metrics": ["mae", "mae"]`, "twice"},
		{`"loss": "mse"`, `"loss": "output", "metrics": ["mae"]`, "no targets to compare with"},
		{`"loss": "mse"`, `"loss": "mse", "shards": {"bytes": -1}`, "shards bytes -1"},
		{`"loss": "mse"`, `"loss": "mse", "shards": {"group": 2}`, "shards has no bytes"},
		{`"loss": "mse"`, `"loss": "mse", "augment": {"crop": -1}`, "augment crop -1"},
		{`"loss": "mse"`, `"loss": "mse", "augment": {"std": [1, 0]}`, "augment std 0"},
		{`"schedule": "sync"`, `"schedule": "async", "clip_norm": 1`, "never has the norm of all gradients"},
		{`"epochs": 100`, `"epochs": 100, "clip_norm": -1`, "clip_norm -1 is outside"},
		{`"epochs": 100`, `"epochs": 100, "lora": {"alpha": 4}`, "lora needs r"},
		{`"epochs": 100`, `"epochs": 100, "lora": {"r": -1}`, "lora r -1 is outside"},
		{`"epochs": 100`, `"epochs": 100, "lora": {"r": 2, "dropout": 1}`, "lora dropout 1 is outside"},
		{`"epochs": 100`, `"epochs": 100, "lora": {"r": 2, "save": ["["]}`, "lora save"},
		{`"epochs": 100`, `"epochs": 100, "freeze": ["["]`, "is no pattern"},
		{`"name": "adam"`, `"name": "adam", "no_decay": []`, "no_decay is empty"},
		{`"name": "constant"`, `"name": "warmup_cosine", "warmup": 5, "total": 5`, "takes all of its 5 updates"},
		{`"name": "constant"`, `"name": "multistep"`, "needs milestones"},
		{`"name": "constant"`, `"name": "multistep", "milestones": [3, 2]`, "do not ascend"},
		{`"batch_size": 64`, `"batch_size": 0`, "batch_size 0"},
		{`"batch_size": 64`, `"batch_size": 64, "micro_batches": 65`, "micro_batches 65"},
		{`"lr": 0.001`, `"lr": -1`, "optimizer lr"},
		{`"schedule": "sync"`, `"schedule": "soon"`, `schedule "soon"`},
		{`"wire": "fp32"`, `"wire": "fp4"`, `wire "fp4"`},
		{`"epochs": 100`, `"epochs": 100, "colour": 3`, "colour"},
		{`"name": "adam"`, `"name": "lion"`, `optimizer "lion"`},
		{`"name": "constant"`, `"name": "step"`, "step_size"},
		{`"name": "constant"`, `"name": "exponential"`, "needs gamma"},
		{`"name": "constant"`, `"name": "linear", "start": 0`, "needs start"},
		{`"name": "constant"`, `"name": "linear", "gamma": 0.5`, "linear has no gamma"},
		{`"name": "constant"`, `"name": "linear", "start_factor": 0.5`, `the nearest is "start"`},
		{`"name": "constant"`, `"name": "cosin"`, `the nearest is "cosine"`},
		{`"name": "adam",`, ``, "optimizer has no name"},
		{`"epochs": 100`, `"epochs": null`, "epochs is null"},
		{`"name": "cnn"`, `"name": "a\nb"`, "cannot be printed"},
		{`"epochs": 100`, `"epochs": 100, "replicas": 65`, "replicas 65 is outside 0..64"},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"of": "gradient"}`, `the nearest is "gradients"`},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"bits": 1}`, "average bits 1 is outside 2..32"},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"bits": 0}`, "average.bits is empty or zero"},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"optimizer": "sum"}`, `average optimizer "sum"`},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"outer": {"name": "adam"}}`, `average outer "adam"`},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"outer": {"lr": 1}}`, "outer none has no lr"},
		{`"epochs": 100`, `"epochs": 100, "average": {"outer": {"name": "nesterov"}}`, "needs replicas"},
		{`"schedule": "sync"`, `"schedule": "async", "replicas": 2`, "schedule async has one replica"},
		{`"reduce_factor": 0`, `"reduce_factor": 4, "replicas": 2, "average": {"of": "gradients"}`, "averaged at every update"},
		{`"epochs": 100`, `"epochs": 100, "replicas": 2, "average": {"of": "gradients", "optimizer": "keep"}`, "one optimizer for all replicas"},
		{`"batch_size": 64`, `"batch_size": 3, "replicas": 4, "average": {"of": "gradients"}`, "cannot be split over so many"},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s is not in the default job", c[0])
		}
		if _, err := job.Parse([]byte(bad)); !errors.Is(err, job.ErrInvalid) || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: got %v, want %q", c[1], err, c[2])
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(job.Default().JSON())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := job.Parse(b)
		if err != nil {
			return
		}
		if s.Batches(1000) < 1 || s.MicroRows() < 1 || s.Total(1000) < 1 {
			t.Fatalf("an accepted job has no batches: %+v", s)
		}
		if _, err := job.Parse(s.JSON()); err != nil {
			t.Fatalf("own JSON is refused: %v", err)
		}
	})
}

// TestAveraging: what a job leaves out of its average.
func TestAveraging(t *testing.T) {
	for text, want := range map[string]job.Average{
		`{}`:                             {Of: "parameters", Bits: 28, Optimizer: "average", Outer: job.Outer{Name: "none"}},
		`{"of": "gradients", "bits": 4}`: {Of: "gradients", Bits: 4, Optimizer: "average", Outer: job.Outer{Name: "none"}},
		`{"outer": {"name": "nesterov"}, "optimizer": "keep"}`:      {Of: "parameters", Bits: 28, Optimizer: "keep", Outer: job.Outer{Name: "nesterov", LR: 0.7, Momentum: 0.9}},
		`{"outer": {"name": "nesterov", "lr": 1, "momentum": 0.5}}`: {Of: "parameters", Bits: 28, Optimizer: "average", Outer: job.Outer{Name: "nesterov", LR: 1, Momentum: 0.5}},
	} {
		s, err := job.Parse([]byte(`{"version": 1, "replicas": 2, "average": ` + text + `}`))
		if err != nil || s.Averaging() != want {
			t.Errorf("%s: %+v, %v", text, s.Averaging(), err)
		}
	}
	for _, c := range []struct {
		replicas            job.Count
		reduce, batch, want int
	}{
		{1, 0, 1, 1},
		{1, 5, 1, 1},
		{2, 3, 1, 3},
		{2, 60, 1, 60},
		{2, 0, 10, 5},                           // 10 batches between two validations
		{2, 0, 1, 25},                           // 100: 50 updates in two rounds
		{3, 0, 1, 17},                           // 34
		{4, 0, 1, 25},                           // 25 in one
		{job.Count(order.MaxReplicas), 0, 1, 2}, // 2
	} {
		s := job.Default()
		s.Replicas, s.ReduceFactor, s.BatchSize = c.replicas, c.reduce, c.batch
		if got := s.Order(100, 10).Each(); got != c.want {
			t.Errorf("%d replicas, reduce_factor %d, batches of %d of 100 rows: rounds of %d updates, want %d", c.replicas, c.reduce, c.batch, got, c.want)
		}
	}
}
