package project

import (
	"context"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/train"
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

// Trainer returns the job's trainer in one process and a function that closes it.
// Where the job leaves the number of replicas open it trains by a record, or is one of one.
func (p *Project) Trainer(ctx context.Context, record []order.Period, team *kernel.Team) (*train.Trainer, func(), error) {
	r := p.Rows(ctx)
	cfg := train.Config{
		Job: p.Job, Record: record, Graph: p.Graph, Order: data.Order, Team: team,
		TrainX: r.TrainX, TrainY: r.TrainY, ValX: r.ValX, ValY: r.ValY,
	}
	if p.Job.Auto() && record == nil {
		cfg.Job.Replicas = 1
	}
	if r.Visits != nil {
		cfg.Visits = r.Visits()
	}
	t, err := train.New(cfg)
	if err == nil && p.Weights != nil {
		err = t.Load(p.Weights)
	}
	return t, r.Close, err
}
