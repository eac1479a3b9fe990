// Which sizes of batches a model can be trained with.

package stage

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
)

// CheckBatches checks the sizes of all micro-batches of a run of job j over n training rows: batch
// norm has no variance of one value. All batches have the same size except the last of an epoch, if
// the run reaches it.
func CheckBatches(j job.Spec, g *graph.Graph, n int) error {
	totals := []int{j.Rows(n, 0)}
	if b := j.Batches(n); j.Total(n) >= b {
		totals = append(totals, j.Rows(n, b-1))
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
