// What a host offers: the job to the server, and its model, data and initial weights to providers.

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
)

// refs are the blobs that assignments name.
type refs struct {
	graph   proto.Ref
	data    map[string]proto.Ref
	weights map[string]proto.Ref // initial ones; nil: drawn from the seed
}

// answers returns the most answers that a validation pass counts. Models that answer for every
// position of a row, as transformers do for tokens, give one for each.
func answers(p *project.Project) int64 {
	out, j := graph.Shape(p.Graph.AnswerShapes()[0]), p.Job
	if j.Several() {
		j = j.Part(0)
	}
	if n := len(out); n > 0 && j.Loss != job.BCE { // where each output is right or wrong for itself
		return int64(p.Data.Val.Len()) * int64(out.Elems()/out[n-1])
	}
	return int64(p.Data.Val.Len()) * int64(out.Elems())
}

// grows tells whether providers that come while the job is trained take part at once: where they can
// form clusters of their own, and neither a plan nor the user says how many there are.
func grows(j job.Spec, opt *Options) bool {
	return j.Auto() || j.Replica() > 1 && opt.Providers > 0 && opt.Clusters == 0
}

// offer is the job as the server takes it, as far as it follows from the project and the options.
func (r *run) offer() server.Job {
	p, rows := r.p, r.p.Data.Train.Len()
	o := server.Job{
		Job: machine.Job{
			ID: p.RunID(), Raw: p.Job.JSON(), Want: r.opt.Providers, Names: r.opt.Names, Spares: true, Replan: true,
			Steps: int64(p.Job.Total(rows)), Val: answers(p), Audit: p.Job.Audit, Strict: r.opt.Alone,
			Rows: int64(p.Job.BatchSize), Grows: grows(p.Job, &r.opt), Apart: (p.Job.Auto() || p.Job.Replica() > 1) && p.Job.Averaging().Optimizer == job.KeepState,
		},
		Plan: r.roster.place, Worth: r.roster.worth, Inspect: r.roster.inspect, Shards: server.ShardCost(p.Shards.Len(), p.Shards.Bytes()), Fresh: r.opt.Fresh,
	}
	switch order := p.Job.Order(rows, p.Data.Val.Len()); {
	case p.Job.Auto():
		o.Auto = &order
	case p.Job.Replica() > 1 && !p.Job.Gradients():
		o.Rounds = &order
	}
	return o
}

// readPlan reads the plan that clusterize has stored, and checks that it is one of this job.
func readPlan(p *project.Project) (*project.Stored, error) {
	plan, err := p.ReadPlan()
	if errors.Is(err, project.ErrMissing) {
		err = fmt.Errorf("%w: run clusterize first, or use --providers N to plan by the benchmarks of the first N providers to join", err)
	}
	if err != nil {
		return nil, err
	}
	j, err := form.Job(p, &plan.Plan, nil, 0)
	if err == nil {
		err = stage.Placement.Check(stage.Placement{Clusters: form.Clusters(&plan.Plan, j)}, j, len(p.Graph.Nodes))
	}
	if err != nil {
		return nil, fmt.Errorf("the plan is not one of this job: %w: run clusterize again", err)
	}
	return plan, nil
}

// publish makes the blobs that providers need: graph, data and initial weights.
func (r *run) publish() (blobs, error) {
	p := r.p
	bl := blobs{held: map[string][]byte{}, shards: p.Shards}
	r.refs.graph = bl.add(p.GraphJSON)
	for kind, half := range map[string]*data.Table{
		provider.TrainX: p.Data.Train.X(), provider.TrainY: p.Data.Train.Y(),
		provider.ValX: p.Data.Val.X(), provider.ValY: p.Data.Val.Y(),
	} {
		if half.Index != nil {
			r.refs.data[kind] = bl.add(half.Index.Encode())
			continue
		}
		b, err := half.Encode()
		if err != nil {
			return blobs{}, fmt.Errorf("encoding %s: %w", kind, err)
		}
		r.refs.data[kind] = bl.add(b)
	}
	if p.Weights != nil {
		var b bytes.Buffer
		if err := safetensors.Write(&b, p.Weights, nil); err != nil {
			return blobs{}, fmt.Errorf("encoding the initial weights: %w", err)
		}
		r.refs.weights = map[string]proto.Ref{provider.Weights: bl.add(b.Bytes())}
	}
	return bl, nil
}

// blobs holds the run's blobs by hash: those in memory and the shards of its data.
type blobs struct {
	held   map[string][]byte
	shards *project.Shards // nil: none
}

func (b blobs) add(data []byte) proto.Ref {
	ref := proto.RefOf(data, nil)
	b.held[ref.SHA256] = data
	return ref
}

// Blob implements server.Blobs.
func (b blobs) Blob(sum string) (io.ReaderAt, int64, error) {
	data, ok := b.held[sum]
	switch {
	case !ok && b.shards != nil:
		f, size, err := b.shards.Open(sum)
		if err != nil {
			return nil, 0, err
		}
		return f, size, nil
	case !ok:
		return nil, 0, fs.ErrNotExist
	}
	return bytes.NewReader(data), int64(len(data)), nil
}
