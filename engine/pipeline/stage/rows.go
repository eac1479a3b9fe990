// The rows of the data set that a stage reads, and the order in which it visits them.

package stage

import (
	"context"
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// Rows is a table of samples, read by row number.
type Rows interface {
	Len() int
	Gather(dst []float32, rows []int32) // rows × elements
}

// Fetched are Rows that are not all in memory, or depend on the epoch.
type Fetched interface {
	Rows
	// Hold makes rows readable until its next call: those that an epoch visits from position from
	// on. Epoch -1 is a pass over the validation rows.
	Hold(ctx context.Context, epoch, from int, rows []int32) error
}

// Hold prepares Rows to be read, where they ask for that: rows of the batch that it is of, the
// first of which is number row0 in the batch. batch is the size of all batches but the last.
func Hold(ctx context.Context, x Rows, it order.Item, batch, row0 int, rows []int32) error {
	f, ok := x.(Fetched)
	if !ok {
		return nil
	}
	epoch := it.Epoch
	if it.Kind == order.Eval {
		epoch = -1
	}
	if err := f.Hold(ctx, epoch, it.Batch*batch+row0, rows); err != nil {
		return fmt.Errorf("%w: %w", ErrData, err)
	}
	return nil
}

// ErrData is wrapped by errors about rows of the data set that could not be fetched.
var ErrData = errors.New("the data set")

// Visits is the order in which epochs visit the training rows.
type Visits interface {
	// Rows fills dst with the rows from position from of an epoch on.
	Rows(dst []int32, epoch, from int)
}

// AllRows is Visits of n rows by a function that orders all of them at once.
func AllRows(n int, seed uint64, order func(dst []int32, seed uint64, epoch int)) Visits {
	return &allRows{n: n, seed: seed, order: order, epoch: -1}
}

type allRows struct {
	n     int
	rows  []int32 // nil until they are asked for, which a stage in the middle never does
	seed  uint64
	epoch int // that rows are of; -1: none
	order func(dst []int32, seed uint64, epoch int)
}

func (a *allRows) Rows(dst []int32, epoch, from int) {
	if a.rows == nil {
		a.rows = make([]int32, a.n)
	}
	if a.epoch != epoch {
		a.order(a.rows, a.seed, epoch)
		a.epoch = epoch
	}
	copy(dst, a.rows[from:])
}

// reader says which rows of the data set items are about.
type reader struct {
	visits Visits
	size   int            // of a batch but the last
	of     order.Position // the batch that train are the rows of
	train  []int32
	val    []int32 // room for those of a micro-batch
}

func newReader(visits Visits, batch, micro int) *reader {
	return &reader{visits: visits, size: batch, train: make([]int32, 0, batch), val: make([]int32, micro)}
}

// rows are those that an item is about.
func (r *reader) rows(it order.Item) []int32 {
	if it.Kind == order.Eval {
		idx := r.val[:it.Rows]
		for i := range idx {
			idx[i] = int32(it.Batch*r.size + it.Row0 + i)
		}
		return idx
	}
	return r.batch(it)[it.Row0:][:it.Rows]
}

// batch is the rows of the whole batch that a Train item is a part of.
func (r *reader) batch(it order.Item) []int32 {
	if at := (order.Position{Epoch: it.Epoch, Batch: it.Batch}); len(r.train) == 0 || r.of != at {
		r.of, r.train = at, r.train[:it.Total]
		r.visits.Rows(r.train, it.Epoch, it.Batch*r.size)
	}
	return r.train
}
