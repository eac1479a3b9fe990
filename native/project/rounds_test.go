package project

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// autoProject is the walkthrough, whose replicas the host chooses, in rounds of two updates.
func autoProject(t testing.TB, change func(*job.Spec)) *Project {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "job")
	if err := Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	p, err := OpenWith(dir, func(j *job.Spec) {
		j.Replicas, j.ReduceFactor, j.Epochs = job.Auto, 2, 3
		if change != nil {
			change(j)
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestReplicasByProviders: one replica for each provider, as far as an epoch of 17 batches, or
// what batch norm needs of a batch, has work for them.
func TestReplicasByProviders(t *testing.T) {
	for _, c := range []struct {
		name             string
		change           func(*job.Spec)
		providers, wants int
	}{
		{"one", nil, 1, 1},
		{"as many as there are", nil, 5, 5},
		{"full rounds", nil, 30, 8},
		{"long rounds", func(j *job.Spec) { j.ReduceFactor = 0 }, 30, 2},
		{"no full round", func(j *job.Spec) { j.ReduceFactor = 40 }, 30, 1},
		{"gradients", func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 }, 6, 6},
		{"rows of the last batch", func(j *job.Spec) { j.Average.Of, j.ReduceFactor = job.Gradients, 0 }, 60, 27},
	} {
		if got := autoProject(t, c.change).Replicas(c.providers); got != c.wants {
			t.Errorf("%s: %d replicas for %d providers, want %d", c.name, got, c.providers, c.wants)
		}
	}
}

// TestRounds: what is written is read.
func TestRounds(t *testing.T) {
	p := autoProject(t, nil)
	want := []order.Period{{Step: 0, Replicas: 2}, {Step: 4, Replicas: 3}, {Step: 17, Replicas: 1}, {Step: 17, Replicas: 2}}
	if err := p.WriteRounds(want); err != nil {
		t.Fatal(err)
	}
	got, err := p.ReadRounds(filepath.Join(p.Dir, RoundsFile))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzRounds: whatever a file says is a record that a run can go by, or an error.
func FuzzRounds(f *testing.F) {
	f.Add([]byte(`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 4, "replicas": 3}]}`))
	f.Add([]byte(`{"version": 1, "periods": [{"step": 0, "replicas": 2}, {"step": 18446744073709551615, "replicas": 3}]}`))
	f.Add([]byte(`{"version": 1}`))
	p := autoProject(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		record, err := p.parseRounds(b)
		if err != nil {
			return
		}
		for i := range record {
			j, err := p.Job.In(record[:i+1])
			if err != nil {
				t.Fatal(err)
			}
			run := j.Order(p.Data.Train.Len(), p.Data.Val.Len())
			if _, err := order.NewSequence(run, run.Start()); err != nil {
				t.Fatalf("%v: %v", record[:i+1], err)
			}
		}
	})
}
