package project

import (
	"context"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// Rows are a project's data as training reads them.
type Rows struct {
	TrainX, TrainY, ValX, ValY stage.Rows
	Visits                     func() stage.Visits // of the training rows, for one reader; nil: by data.Order
	paged                      []*data.Paged
}

// Close ends reading.
func (r *Rows) Close() {
	for _, p := range r.paged {
		p.Close()
	}
}

// Rows opens the data for one reader of each table.
func (p *Project) Rows(ctx context.Context) *Rows {
	r := &Rows{}
	read := func(h *data.Table, training bool) stage.Rows {
		if h.Index == nil {
			return h
		}
		var visits *data.Shuffle
		if training {
			visits = data.NewShuffle(h.Index.Layout, p.Job.Seed)
			r.Visits = func() stage.Visits { return data.NewShuffle(h.Index.Layout, p.Job.Seed) }
		}
		x := data.NewPaged(ctx, h.Index, visits, h.Index.LeastShards(training), p.Job.BatchSize, p.Shards.Fetch)
		r.paged = append(r.paged, x)
		return x
	}
	d := p.Data
	r.TrainX, r.TrainY = read(d.Train.X(), true), read(d.Train.Y(), true)
	r.ValX, r.ValY = read(d.Val.X(), false), read(d.Val.Y(), false)
	if p.Job.Augment.On() {
		for _, x := range []*stage.Rows{&r.TrainX, &r.ValX} {
			*x = data.NewAugmented(*x, p.Job.Augment, p.Graph.InputShapes(), p.Job.Seed)
		}
	}
	return r
}
