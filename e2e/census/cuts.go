// Two updates of every model in one process and cut in 2, 3 and 5 stages: the bytes are the
// same.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/train"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
)

// ignored is an observer that does nothing.
type ignored struct{}

func (ignored) Loss(stage.Loss)            {}
func (ignored) Validated(stage.Validation) {}
func (ignored) Batch(int)                  {}
func (ignored) Keep(stage.Saved) error     { return nil }

func inOrder(dst []int32, _ uint64, _ int) {
	for i := range dst {
		dst[i] = int32(i)
	}
}

// cutting is a model and the data of two updates.
type cutting struct {
	g       *graph.Graph
	job     job.Spec
	weights state.Dict
	x, y    *data.Table
}

// cuts says which of 2, 3 and 5 stages train to the bytes of one process.
func cuts(g *graph.Graph, weights state.Dict, inputs [][]float32, rows int) (string, error) {
	input := make([]float32, 0, rows*g.InputElems()) // a row of each, side by side
	for r := range rows {
		for k, in := range g.Inputs {
			n := in.Shape.Elems()
			input = append(input, inputs[k][r*n:][:n]...)
		}
	}
	c := cutting{g: g, job: job.Default(), weights: weights}
	c.job.Name, c.job.Epochs, c.job.BatchSize, c.job.MicroBatches, c.job.ValEvery = "census", 2, rows, 1, 0
	c.job.Optimizer = job.DefaultOptimizer("sgd")
	c.job.Optimizer.LR = 1e-3
	out := g.Shape(g.OutputValue()).Elems()
	c.x = &data.Table{Rows: rows, Shape: []int{g.InputElems()}, F32: input}
	c.y = &data.Table{Kind: data.Targets, Rows: rows, Shape: []int{out}, F32: make([]float32, rows*out)}
	kernel.Normal(c.y.F32, kernel.NewStream(1, kernel.DomainTest, 1, 1))
	one, err := train.New(train.Config{Job: c.job, Graph: g, TrainX: c.x, TrainY: c.y, ValX: c.x, ValY: c.y, Order: inOrder})
	if err != nil {
		return "", err
	}
	if err := one.Load(weights); err != nil {
		return "", err
	}
	if err := one.Run(context.Background(), nil, ignored{}); err != nil {
		return "", err
	}
	want := one.State()
	all := ""
	us := g.Units()
	for _, n := range []int{2, 3, 5} {
		if n > len(us) {
			continue
		}
		starts := make([]int, n)
		for k := range starts {
			starts[k] = us[k*len(us)/n].From
		}
		got, err := c.pipeline(starts)
		if err != nil {
			return all, fmt.Errorf("%d stages: %w", n, err)
		}
		if !sameState(got, want) {
			return all, fmt.Errorf("%d stages train to other bytes than one process", n)
		}
		all += fmt.Sprint(" ", n)
	}
	return all, nil
}

// sameState compares two states by name, in the order of want.
func sameState(got, want state.Dict) bool {
	for _, w := range want {
		g, ok := got.Get(w.Name)
		if !ok || !g.Equal(w) {
			return false
		}
	}
	return true
}

// pipeline trains the model cut into stages, in this process.
func (c *cutting) pipeline(starts []int) (state.Dict, error) {
	cut, err := c.g.Cut(starts)
	if err != nil {
		return nil, err
	}
	compiled, links := make([]*stage.Compiled, len(cut)), make([]map[int]stage.Link, len(cut))
	for k := range cut {
		links[k] = map[int]stage.Link{}
		if compiled[k], err = stage.Compile(c.job, cut[k], stage.Placement{}); err != nil {
			return nil, err
		}
	}
	for a, s := range compiled {
		for _, b := range s.Peers() {
			if b > a {
				pa, pb := mem.Pair(mem.Faults{}, mem.Faults{})
				la, lb := transport.NewLink(pa, s.Link(b)), transport.NewLink(pb, compiled[b].Link(a))
				links[a][b], links[b][a] = la, lb
				defer la.Close() //nolint:errcheck // over
				defer lb.Close() //nolint:errcheck // over
			}
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var wg sync.WaitGroup
	states, errs := make([]state.Dict, len(cut)), make([]error, len(cut))
	for k, s := range compiled {
		st, err := stage.New(s, stage.Config{
			TrainRows: c.x.Len(), ValRows: c.x.Len(), TrainX: c.x, TrainY: c.y, ValX: c.x, ValY: c.y, Order: inOrder, Links: links[k], Weights: c.weights,
		})
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			if errs[k] = st.Run(ctx, nil, ignored{}); errs[k] != nil {
				cancel(errs[k])
			}
			states[k] = st.State()
		})
	}
	wg.Wait()
	return slices.Concat(states...), errors.Join(errs...)
}
