package job_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

func TestRoundTrip(t *testing.T) {
	s, err := job.Parse(job.Default().JSON())
	if err != nil || s != job.Default() {
		t.Errorf("the default job comes back as %+v, %v", s, err)
	}
}

func TestMistakesNameTheField(t *testing.T) {
	good := string(job.Default().JSON())
	for _, c := range [][3]string{
		{`"version": 1`, `"version": 2`, "version 2"},
		{`"loss": "mse"`, `"loss": "hinge"`, `loss "hinge"`},
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
