// Reading a table that is stored in shards: a few are in memory, and the next are being fetched.

package data

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
)

// Fetch fetches the blob of a shard. It is called from several goroutines at once.
type Fetch func(ctx context.Context, s Shard) ([]byte, error)

// loaders is the number of shards that are fetched ahead at the same time: while one is verified
// and unpacked, the next arrives.
const loaders = 2

// Paged reads the rows of a table in shards, of which it keeps a limited number in memory. Hold
// says which rows are needed; the other methods read those. Paged knows the order of the run, so
// it fetches shards before they are asked for, and drops those that are needed last.
// Its methods are for one goroutine.
type Paged struct {
	ix     *Index
	head   *Table
	fetch  Fetch
	order  *Shuffle // nil: rows are visited in the order of the table
	most   int      // shards in memory at once
	staged *Table   // the rows that are held
	place  map[int32]int32
	idx    []int32
	row    int // bytes

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	epoch  int // for which the shards were ranked
	group  int

	mu      sync.Mutex
	pages   map[int]*page
	wanted  []int32 // shards in the order in which they are needed
	loading int
	spare   [][]byte
	fetched int // shards, in all
}

// page is a shard in memory.
type page struct {
	raw   []byte
	err   error
	rank  int           // place in wanted; the largest is dropped first
	ready chan struct{} // closed when raw or err is set
}

// NewPaged returns a reader of the table that ix describes. It keeps the given number of shards
// in memory and holds up to rows rows at a time. order is that of the job's epochs, nil that of
// the table. The caller must close it.
func NewPaged(ctx context.Context, ix *Index, order *Shuffle, shards, rows int, fetch Fetch) *Paged {
	p := &Paged{
		ix: ix, head: ix.Head(), fetch: fetch, order: order, most: max(shards, 1), row: ix.RowBytes(),
		place: make(map[int32]int32, rows), idx: make([]int32, 0, rows), epoch: math.MinInt,
		pages: map[int]*page{}, staged: &Table{Kind: ix.Kind, Shape: ix.Shape, Classes: ix.Classes},
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	n := rows * product(ix.Shape)
	switch ix.dtype {
	case typeU8:
		p.staged.U8 = make([]uint8, 0, n)
	case typeU16:
		p.staged.U16 = make([]uint16, 0, n)
	case typeI32:
		p.staged.I32 = make([]int32, 0, n)
	default:
		p.staged.F32 = make([]float32, 0, n)
	}
	return p
}

// LeastShards returns the number of shards that a reader needs room for. For training rows it is
// a group and two that are being fetched, so that the next group arrives while this one is in
// use; for validation rows, one and two that are being fetched.
func (ix *Index) LeastShards(training bool) int {
	n := 1
	if training {
		n = ix.Layout.Group
	}
	return min(ix.Layout.Shards(), n+loaders)
}

// LeastBytes returns the memory of a Paged with LeastShards shards, for batches of rows rows:
// the shards, the compressed ones that are being fetched, the held rows, and the index.
func (ix *Index) LeastBytes(training bool, rows int) int {
	if len(ix.Shards) == 0 {
		return 0
	}
	const row = 32 // bytes in the map that finds a held row
	return (ix.LeastShards(training)+loaders)*ix.ShardBytes() + rows*(ix.RowBytes()+row) + 2*indexShard*len(ix.Shards)
}

// LeastBytes returns the least memory in which a set in shards can be read for the batches of a
// job, where its inputs and where its targets are read.
func (s *Set) LeastBytes(batch int) (inputs, targets int) {
	for i, p := range []Part{s.Train, s.Val} {
		inputs += p.x.Index.LeastBytes(i == 0, batch)
		targets += p.y.Index.LeastBytes(i == 0, batch)
	}
	return inputs, targets
}

// Close stops fetching.
func (p *Paged) Close() {
	p.cancel()
	p.wg.Wait()
}

// Len returns the number of rows of the table.
func (p *Paged) Len() int { return p.head.Rows }

// Elems returns the number of float32 values in a row that Gather writes.
func (p *Paged) Elems() int { return p.head.Elems() }

// Labelled reports whether the elements are numbers of classes.
func (p *Paged) Labelled() bool { return p.head.Labelled() }

// Answers is like that of Table.
func (p *Paged) Answers(classes int) bool { return p.head.Answers(classes) }

// Fetched returns the number of shards that have been fetched.
func (p *Paged) Fetched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetched
}

// Gather is like that of Table, for held rows.
func (p *Paged) Gather(dst []float32, rows []int32) { p.staged.Gather(dst, p.held(rows)) }

// Labels is like that of Table, for held rows.
func (p *Paged) Labels(dst, rows []int32) { p.staged.Labels(dst, p.held(rows)) }

// held returns the places of rows among the held rows.
func (p *Paged) held(rows []int32) []int32 {
	p.idx = p.idx[:0]
	for _, r := range rows {
		i, ok := p.place[r]
		if !ok {
			panic(fmt.Sprintf("data: row %d is not held", r))
		}
		p.idx = append(p.idx, i)
	}
	return p.idx
}

// Hold makes rows readable until the next call. They must be those that the epoch visits from
// position from on; epoch -1 is a pass over the table in its order.
func (p *Paged) Hold(ctx context.Context, epoch, from int, rows []int32) error {
	clear(p.place)
	for i, r := range rows {
		if r < 0 || int(r) >= p.head.Rows {
			panic(fmt.Sprintf("data: row %d of %d", r, p.head.Rows))
		}
		p.place[r] = int32(i)
	}
	p.stage(len(rows))
	// Group by group, so that the shards of one are no longer needed when those of the next are.
	for i := 0; i < len(rows); {
		n := min(p.plan(epoch, from+i)-(from+i), len(rows)-i)
		p.ahead()
		if err := p.take(ctx, rows[i:i+n], i); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// take copies rows to the places from at on, shard by shard, so that room for one shard is
// enough.
func (p *Paged) take(ctx context.Context, rows []int32, at int) error {
	per := int32(p.ix.Layout.Per)
	todo := len(rows)
	for i := 0; todo > 0; i++ {
		k := rows[i] / per
		if slices.ContainsFunc(rows[:i], func(r int32) bool { return r/per == k }) {
			continue
		}
		pg, err := p.get(ctx, int(k))
		if err != nil {
			return fmt.Errorf("%v, shard %d: %w", p.ix.Kind, k, err)
		}
		for j, r := range rows[i:] {
			if r/per == k {
				p.put(at+i+j, pg.raw, int(r%per))
				todo--
			}
		}
		pg.rank = p.rank(int(k))
		p.mu.Unlock() // locked by get
	}
	return nil
}

// stage makes room for n held rows.
func (p *Paged) stage(n int) {
	t := p.staged
	t.Rows = n
	n *= t.stored()
	t.U8, t.U16, t.I32, t.F32 = room(t.U8, n), room(t.U16, n), room(t.I32, n), room(t.F32, n)
}

// room returns v with n elements; nil stays nil.
func room[T any](v []T, n int) []T {
	if v == nil {
		return nil
	}
	return slices.Grow(v[:0], n)[:n]
}

// put copies row r of a shard to place i of the held rows.
func (p *Paged) put(i int, raw []byte, r int) {
	t, le, n := p.staged, binary.LittleEndian, p.staged.stored()
	src := raw[r*p.row:][:p.row]
	switch p.ix.dtype {
	case typeU8:
		copy(t.U8[i*n:], src)
	case typeU16:
		d := t.U16[i*n:][:n]
		for j := range d {
			d[j] = le.Uint16(src[2*j:])
		}
	case typeI32:
		d := t.I32[i*n:][:n]
		for j := range d {
			d[j] = int32(le.Uint32(src[4*j:]))
		}
	default:
		d := t.F32[i*n:][:n]
		for j := range d {
			d[j] = math.Float32frombits(le.Uint32(src[4*j:]))
		}
	}
}

// plan ranks the shards by when they are needed, if the position has moved on to other shards. It
// returns the position up to which the ranks hold.
func (p *Paged) plan(epoch, from int) (to int) {
	g := from / p.ix.Layout.Per
	to = (g + 1) * p.ix.Layout.Per
	if p.order != nil && epoch >= 0 {
		var begin int
		g, begin = p.order.find(epoch, from)
		to = begin + p.order.size(g)
	}
	if epoch == p.epoch && g == p.group {
		return to
	}
	p.epoch, p.group = epoch, g
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = p.wanted[:0]
	if p.order != nil && epoch >= 0 {
		p.wanted = p.order.Next(p.wanted, epoch, from, p.most)
	} else {
		for i := range min(p.most, len(p.ix.Shards)) {
			p.wanted = append(p.wanted, int32((g+i)%len(p.ix.Shards)))
		}
	}
	for _, pg := range p.pages {
		pg.rank = math.MaxInt
	}
	for i, k := range p.wanted {
		if pg := p.pages[int(k)]; pg != nil {
			pg.rank = i
		}
	}
	return to
}

// ahead starts fetching the shards that are needed next.
func (p *Paged) ahead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.loading < loaders {
		k, pg := p.pick()
		if pg == nil {
			return
		}
		p.loading++
		p.wg.Go(func() {
			for pg != nil {
				p.load(p.ctx, k, pg)
				failed := pg.err != nil // get reports it to whoever needs the shard
				p.mu.Lock()
				if k, pg = 0, nil; !failed {
					k, pg = p.pick()
				}
				if pg == nil {
					p.loading--
				}
				p.mu.Unlock()
			}
		})
	}
}

// pick makes a page for the shard that is needed first of those that are not in memory, if there
// is room.
func (p *Paged) pick() (int, *page) {
	if p.ctx.Err() != nil {
		return 0, nil
	}
	for i, k := range p.wanted {
		if p.pages[int(k)] == nil {
			if len(p.pages) >= p.most && !p.drop(i) {
				return 0, nil
			}
			return int(k), p.page(int(k), i)
		}
	}
	return 0, nil
}

func (p *Paged) page(k, rank int) *page {
	pg := &page{rank: rank, ready: make(chan struct{})}
	p.pages[k] = pg
	return pg
}

// drop drops the shard that is needed last, if its rank is larger than rank.
func (p *Paged) drop(rank int) bool {
	worst, at := rank, -1
	for k, pg := range p.pages {
		if pg.rank > worst && pg.loaded() {
			worst, at = pg.rank, k
		}
	}
	if at < 0 {
		return false
	}
	if raw := p.pages[at].raw; len(p.spare) < loaders && raw != nil {
		p.spare = append(p.spare, raw)
	}
	delete(p.pages, at)
	return true
}

func (pg *page) loaded() bool {
	select {
	case <-pg.ready:
		return true
	default:
		return false
	}
}

// load fetches shard k into its page.
func (p *Paged) load(ctx context.Context, k int, pg *page) {
	p.mu.Lock()
	var buf []byte
	if n := len(p.spare); n > 0 {
		buf, p.spare = p.spare[n-1], p.spare[:n-1]
	}
	p.fetched++
	p.mu.Unlock()
	var raw []byte
	blob, err := p.fetch(ctx, p.ix.Shards[k])
	if err == nil {
		raw, err = p.ix.open(buf, blob, k)
	}
	p.mu.Lock()
	if pg.raw, pg.err = raw, err; err != nil {
		delete(p.pages, k) // whoever needs it next tries again
	}
	if buf != nil && (err != nil || cap(buf) == 0 || &buf[:1][0] != &pg.raw[:1][0]) {
		p.spare = append(p.spare, buf) // not needed
	}
	p.mu.Unlock()
	close(pg.ready)
}

// rank returns the place of shard k in wanted.
func (p *Paged) rank(k int) int {
	if i := slices.Index(p.wanted, int32(k)); i >= 0 {
		return i
	}
	return math.MaxInt
}

// get waits for shard k or fetches it. If there is no error, it returns with p.mu locked.
func (p *Paged) get(ctx context.Context, k int) (*page, error) {
	for tried := false; ; {
		p.mu.Lock()
		pg := p.pages[k]
		mine := pg == nil
		if mine {
			for len(p.pages) >= p.most && p.drop(-1) {
			}
			pg = p.page(k, 0)
		}
		if pg.rank = -1; pg.loaded() && pg.err == nil { // -1: never dropped
			return pg, nil
		}
		p.mu.Unlock()
		if mine {
			p.load(ctx, k, pg)
		}
		select {
		case <-pg.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if pg.err != nil && (mine || tried) {
			return nil, pg.err
		}
		tried = pg.err != nil
	}
}
