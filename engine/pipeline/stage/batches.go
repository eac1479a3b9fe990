// Which sizes of batches a model can be trained with.

package stage

import (
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/exec"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
)

// sizes are those of the batches of n rows.
func sizes(j job.Spec, n int) []int {
	if n < 1 {
		return nil
	}
	return []int{j.Rows(n, 0), j.Rows(n, j.Batches(n)-1)}
}

// Prepare makes plans of job j ready for batches of all sizes that so many training and validation rows
// have.
func Prepare(j job.Spec, train, eval *exec.Plan, trainRows, valRows int) error {
	return errors.Join(train.Sizes(sizes(j, trainRows)...), eval.Sizes(sizes(j, valRows)...))
}

// checkCompared refuses to split the batches, of so many rows, of a model that compares their samples.
func checkCompared(j job.Spec, g *graph.Graph, totals []int) error {
	node, ok := g.Compares()
	switch {
	case !ok:
		return nil
	case j.Micro() > 1:
		return fmt.Errorf("node %q compares the samples of a batch with each other, and %d micro-batches would compare those of each for themselves: set micro_batches to 1, or leave it out", node, j.Micro())
	case j.Gradients():
		return fmt.Errorf("node %q compares the samples of a batch with each other, and %d replicas that average gradients would compare those of their parts for themselves: average parameters, or have one replica", node, j.Replica())
	}
	for _, n := range totals {
		if _, err := g.At(n); err != nil {
			return err
		}
	}
	return nil
}

// CheckBatches checks the sizes of all micro-batches of a run of job j over n training rows: batch
// norm has no variance of one value. All batches have the same size except the last of an epoch, if
// the run reaches it.
func CheckBatches(j job.Spec, g *graph.Graph, n int) error {
	totals := []int{j.Rows(n, 0)}
	if b := j.Batches(n); j.Total(n) >= b {
		totals = append(totals, j.Rows(n, b-1))
	}
	if err := checkCompared(j, g, totals); err != nil {
		return err
	}
	for i, nd := range g.Nodes {
		op, ok := nd.Op.(*graph.BatchNorm)
		if !ok {
			continue
		}
		values := g.Shape(g.Result(i)).Elems() / op.Features // per channel and row
		for k, total := range totals {
			for _, rows := range j.Order(n, 0).Parts(total) {
				if rows*values >= 2 {
					continue
				}
				which := "a batch"
				if k == 1 {
					which = "the last batch of an epoch"
				}
				if j.Gradients() {
					return fmt.Errorf("node %q: a replica's part of %s has 1 row (%d rows in batches of %d, split over %d replicas), batch norm needs 2: choose another batch_size, fewer replicas, or average parameters",
						nd.Name, which, n, j.BatchSize, j.Replica())
				}
				return fmt.Errorf("node %q: a micro-batch of %s has 1 row (%d rows in batches of %d, micro_batches %d), batch norm needs 2: choose another batch_size or micro_batches",
					nd.Name, which, n, j.BatchSize, j.Micro())
			}
		}
	}
	return nil
}
