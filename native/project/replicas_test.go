package project_test

import (
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native/project"
)

// TestPartsForBatchNorm checks that with batch norm a split of batches that leaves a replica a
// single row is refused, with advice, and that fewer replicas are accepted.
func TestPartsForBatchNorm(t *testing.T) {
	dir := t.TempDir()
	if err := project.Init(dir, "cnn", 3, nil); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[job.Count]string{4: "", 30: "a replica's part of the last batch of an epoch has 1 row"} {
		_, err := project.OpenWith(dir, func(j *job.Spec) { j.Replicas, j.Average.Of = n, job.Gradients }, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "average parameters")) {
			t.Errorf("%d replicas: %v", n, err)
		}
	}
}
