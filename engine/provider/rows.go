// The stage's part of the data set: a table, or shards that are fetched while it trains.

package provider

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/signaling/proto"
)

// table is one table that a stage reads.
type table struct {
	kind  string
	dst   *stage.Rows
	rows  int
	elems int
	// classes is the number of classes that targets have if they are the numbers of classes; 0: any.
	classes int
	index   *data.Index // of a table in shards
}

// rows fetches the stage's part of the data set; of a table in shards, the index. need is the
// memory that the stage takes besides, which shards are a part of already.
func (r *attempt) rows(f *fetcher, j job.Spec, g *graph.Graph, s *graph.Stage, cfg *stage.Config, need int64) error {
	var tables []*table
	if s.Index == 0 {
		n := g.InputElems()
		tables = append(tables, &table{kind: TrainX, dst: &cfg.TrainX, rows: cfg.TrainRows, elems: n}, &table{kind: ValX, dst: &cfg.ValX, rows: cfg.ValRows, elems: n})
	}
	if s.Last {
		n, classes, err := targetElems(j, g)
		if err != nil {
			return err
		}
		for _, t := range []*table{{kind: TrainY, dst: &cfg.TrainY, rows: cfg.TrainRows}, {kind: ValY, dst: &cfg.ValY, rows: cfg.ValRows}} {
			t.elems, t.classes = n, classes
			tables = append(tables, t)
		}
	}
	for _, t := range tables {
		ref, ok := r.a.Data[t.kind]
		if !ok {
			return fmt.Errorf("the assignment has no %s", t.kind)
		}
		f.want += ref.Size
	}
	r.d.kept.only(tables, r.a.Data)
	for _, t := range tables {
		ref := r.a.Data[t.kind]
		if k, ok := r.d.kept.find(ref.SHA256); ok {
			need += int64(k.bytes)
			if err := errors.Join(r.fits(need, s.Index, " with "+t.kind), t.take(k.table)); err != nil {
				return fmt.Errorf("%s: %w", t.kind, err)
			}
			f.done += ref.Size
			continue
		}
		b, err := f.get(t.kind, ref, need)
		if err != nil {
			return err
		}
		n, err := t.read(b)
		if err != nil {
			return fmt.Errorf("%s: %w", t.kind, err)
		}
		need += int64(n)
		if err := r.fits(need, s.Index, " with "+t.kind); err != nil {
			return err
		}
		if t.index == nil {
			half, err := data.Decode(b)
			if err == nil {
				err = t.take(half)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", t.kind, err)
			}
			r.d.kept.add(ref.SHA256, half, n)
		} else if !j.Shards.On() {
			return fmt.Errorf("%s is in shards, which the job does not say", t.kind)
		}
	}
	if j.Shards.On() && len(tables) > 0 {
		if err := r.page(j, tables, cfg, need); err != nil {
			return err
		}
	}
	if j.Augment.On() && s.Index == 0 {
		shapes := g.InputShapes()
		if err := data.CheckAugment(j.Augment, shapes); err != nil {
			return err
		}
		for _, x := range []*stage.Rows{&cfg.TrainX, &cfg.ValX} {
			*x = data.NewAugmented(*x, j.Augment, shapes, j.Seed)
		}
	}
	return nil
}

// kept are the tables of the newest attempt, which one after a loss most often reads again. Only one
// attempt at a time fetches.
type kept struct{ tables map[string]keptTable } // by digest

type keptTable struct {
	table *data.Table
	bytes int
}

// only drops those that an attempt does not read.
func (k *kept) only(tables []*table, refs map[string]proto.Ref) {
	maps.DeleteFunc(k.tables, func(sum string, _ keptTable) bool {
		return !slices.ContainsFunc(tables, func(t *table) bool { return refs[t.kind].SHA256 == sum })
	})
}

func (k *kept) find(sum string) (keptTable, bool) {
	t, ok := k.tables[sum]
	return t, ok
}

func (k *kept) add(sum string, t *data.Table, bytes int) {
	if k.tables == nil {
		k.tables = map[string]keptTable{}
	}
	k.tables[sum] = keptTable{t, bytes}
}

// targetElems is the number of elements of a row of targets, -1 where no loss looks at them, and the
// number of classes that numbers of classes are of, which a loss takes from the model's last axis.
func targetElems(j job.Spec, g *graph.Graph) (elems, classes int, err error) {
	if !j.Several() && j.Loss == job.OutputLoss {
		return -1, 0, nil
	}
	if out := g.Shape(g.OutputValue()); !j.Several() {
		if classes = 1; len(out) > 0 {
			classes = out[len(out)-1]
		}
		return out.Elems(), classes, nil
	}
	fields, err := loss.Fields(j, g.AnswerShapes())
	for _, f := range fields {
		elems += f.Elems()
	}
	return elems, 0, err
}

// read looks at a blob and returns how much more memory its table takes.
func (t *table) read(b []byte) (int, error) {
	if !data.IsIndex(b) {
		_, n, err := data.Peek(b)
		return n, err
	}
	var err error
	if t.index, err = data.DecodeIndex(b); err != nil {
		return 0, err
	}
	head := t.index.Head()
	return 0, t.check(head)
}

func (t *table) take(half *data.Table) error {
	*t.dst = half
	return t.check(half)
}

func (t *table) check(half *data.Table) error {
	if rows, elems := half.Len(), half.Elems(); rows != t.rows || elems != t.elems && t.elems >= 0 {
		return fmt.Errorf("%d rows of %d elements, but the plan says %d of %d", rows, elems, t.rows, t.elems)
	}
	if half.Labelled() && t.classes > 0 && half.Classes != t.classes {
		return fmt.Errorf("numbers of %d classes, but the model has %d", half.Classes, t.classes)
	}
	return nil
}

// page reads the tables that are in shards. What is lent beyond need holds further shards, so
// that fewer are fetched again in each epoch; half of it is left for what the garbage collector has
// not come to yet.
func (r *attempt) page(j job.Spec, tables []*table, cfg *stage.Config, need int64) error {
	spare := (r.cfg.RAM - need) / 2
	least := 0
	var layout *data.Layout
	for _, t := range tables {
		if t.index == nil {
			return fmt.Errorf("%s is not in shards, as the job says", t.kind)
		}
		least += t.index.LeastBytes(t.training(), j.BatchSize)
		if t.training() {
			if layout != nil && *layout != t.index.Layout {
				return fmt.Errorf("the inputs are in %+v and the targets in %+v", *layout, t.index.Layout)
			}
			layout = &t.index.Layout
		}
	}
	if layout == nil {
		return errors.New("a part without training rows")
	}
	if most := j.Shards.Inputs + j.Shards.Targets; least > most {
		return fmt.Errorf("reading the shards takes %d bytes, the job says %d", least, most)
	}
	for _, t := range tables {
		ix, shards := t.index, t.index.LeastShards(t.training())
		if per := int64(ix.ShardBytes()); per > 0 && spare > per {
			more := min(int64(ix.Layout.Shards()-shards), spare/per)
			shards, spare, r.cached = shards+int(more), spare-more*per, r.cached+more*per
		}
		var visits *data.Shuffle
		if t.training() {
			visits = data.NewShuffle(ix.Layout, j.Seed)
		}
		p := data.NewPaged(r.ctx, ix, visits, shards, j.BatchSize, r.shard)
		r.paged = append(r.paged, p)
		*t.dst = p
	}
	r.visits = func() stage.Visits { return data.NewShuffle(*layout, j.Seed) }
	cfg.Visits = r.visits()
	return nil
}

// training tells the training rows from those for validation.
func (t *table) training() bool { return t.kind == TrainX || t.kind == TrainY }

// The host may be away for a moment; whoever needs the shard waits that long.
const (
	shardTries = 6
	shardWait  = 2 * time.Second
)

// shard fetches one shard.
func (r *attempt) shard(ctx context.Context, s data.Shard) ([]byte, error) {
	defer r.d.work.elsewhere()()
	ref := proto.Ref{SHA256: hex.EncodeToString(s.SHA256[:]), Size: int64(s.Size)}
	for n := 1; ; n++ {
		b, err := r.host.Blob(ctx, ref, nil)
		var refused *proto.Error
		if err == nil || n == shardTries || ctx.Err() != nil || errors.As(err, &refused) {
			return b, err
		}
		select {
		case <-time.After(shardWait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
