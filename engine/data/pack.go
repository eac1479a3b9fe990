// Packing tables that are not in memory into shards.

package data

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/ravnest/ravnest/engine/kernel"
)

// PackedTable describes a table in shards, as far as it does not depend on the model.
type PackedTable struct {
	Rows   int      `json:"rows"`
	Shape  []int    `json:"shape"`
	DType  int      `json:"dtype"` // as in blobs
	Stats  *Stats   `json:"stats"`
	SHA256 [][]byte `json:"sha256"` // of each shard
	Size   []uint32 `json:"size"`
}

// Packed is a part of a data set in shards. Shard k of the targets has the rows of shard k of the
// inputs.
type Packed struct {
	Per int         `json:"shard_rows"`
	X   PackedTable `json:"x"`
	Y   PackedTable `json:"y"`
}

// Pack packs the rows of x and y into shards of at most size bytes and passes them to put, blob
// by blob. With shuffle, the rows are distributed in a random order that is a function of their
// number alone: the rows of a file are often sorted by class, and all shards should be alike.
// Neither x nor y is ever in memory as a whole. done, unless nil, is called now and then with the
// number of rows read, of 3*x.Rows, and stops the packing by returning an error.
func Pack(x, y *Raw, size int, shuffle bool, put func(sum [sha256.Size]byte, blob []byte) error, done func(rows int) error) (*Packed, error) {
	if x.Rows != y.Rows {
		return nil, bad("%d rows of inputs, but %d of targets", x.Rows, y.Rows)
	}
	if done == nil {
		done = func(int) error { return nil }
	}
	var stats [2]*Stats
	for i, r := range []*Raw{x, y} {
		var err error
		if stats[i], err = r.Survey(Kind(i), func(n int) error { return done(i*x.Rows + n) }); err != nil {
			return nil, err
		}
	}
	p := &Packed{}
	row := 0
	for i, r := range []*Raw{x, y} {
		row += r.elems() * width(stats[i].dtype())
	}
	p.Per = max(1, size/max(row, 1))
	order := make([]int32, x.Rows)
	if shuffle {
		kernel.Perm(order, kernel.NewStream(0, kernel.DomainShuffle, 0, streamShards))
	} else {
		for i := range order {
			order[i] = int32(i)
		}
	}
	enc, err := newEncoder(zstd.SpeedDefault)
	if err != nil {
		return nil, err
	}
	for i, r := range []*Raw{x, y} {
		t := &PackedTable{Rows: r.Rows, Shape: slices.Clone(r.Shape), DType: int(stats[i].dtype()), Stats: stats[i]}
		if err = t.pack(Kind(i), r, order, p.Per, enc, put, func(n int) error { return done(2*x.Rows + (i*x.Rows+n)/2) }); err != nil {
			break
		}
		*[]*PackedTable{&p.X, &p.Y}[i] = *t
	}
	return p, errors.Join(err, enc.Close())
}

func (t *PackedTable) pack(k Kind, r *Raw, order []int32, per int, enc *zstd.Encoder, put func([sha256.Size]byte, []byte) error, done func(int) error) error {
	buf := make([]byte, min(per, max(r.Rows, 1))*r.rowBytes())
	for from := 0; from < r.Rows; from += per {
		rows := slices.Clone(order[from:min(from+per, r.Rows)])
		slices.Sort(rows) // to read in the order of the file
		s, err := r.table(k, byte(t.DType), rows, buf[:len(rows)*r.rowBytes()])
		if err != nil {
			return err
		}
		blob, err := s.encode(enc)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(blob)
		if err := put(sum, blob); err != nil {
			return err
		}
		t.SHA256, t.Size = append(t.SHA256, sum[:]), append(t.Size, uint32(len(blob)))
		if err := done(from + len(rows)); err != nil {
			return err
		}
	}
	return nil
}

// index returns the index of t for a model with so many classes; 0: values.
func (t *PackedTable) index(k Kind, l Layout, shape []int, classes int) (*Index, error) {
	ix := &Index{
		Kind: k, Layout: l, Shape: shape, Classes: classes, OneHot: t.Stats.OneHot && classes == 0,
		dtype: byte(t.DType), stats: t.Stats, Shards: make([]Shard, len(t.SHA256)),
	}
	if len(t.Size) != len(t.SHA256) || t.DType < typeU8 || t.DType > typeU16 {
		return nil, bad("an index of %d shards with %d sizes and elements of type %d", len(t.SHA256), len(t.Size), t.DType)
	}
	for i, s := range t.SHA256 {
		if len(s) != sha256.Size {
			return nil, bad("shard %d has a digest of %d bytes", i, len(s))
		}
		ix.Shards[i] = Shard{[sha256.Size]byte(s), t.Size[i]}
	}
	return ix, ix.check()
}

// FromShards returns the data set of two parts in shards, of which val may be nil, in the form
// that a model takes: rows of the shape in, which may differ from the data's by axes of length 1,
// and targets as want says. group is the number of shards whose rows are shuffled together.
func FromShards(name string, train, val *Packed, group int, in []int, want *Want) (*Set, error) {
	for _, p := range []*Packed{train, val} {
		if p != nil && (p.X.Stats == nil || p.Y.Stats == nil || p.X.Rows != p.Y.Rows || p.Per < 1) {
			return nil, bad("data set %s: %d rows of inputs, but %d of targets in shards of %d rows", name, p.X.Rows, p.Y.Rows, p.Per)
		}
	}
	if val == nil {
		val = &Packed{Per: 1, X: train.X.empty(), Y: train.Y.empty()}
	}
	// Classes are counted over both parts.
	fields := want.fieldsOf(Targets)
	float := train.Y.Stats.Float || val.Y.Stats.Float || fields != nil
	values, classes := float, 0
	if !values {
		values, classes = want.labels(train.Y.Shape)
	}
	if !values && classes == 0 {
		classes = int(max(train.Y.Stats.Most, val.Y.Stats.Most)) + 1
	}
	if values {
		classes = 0
	}
	var parts [2]Part
	for i, p := range []*Packed{train, val} {
		if s := p.Y.Stats; classes > 0 && p.Y.Rows > 0 && (s.Least < 0 || int(s.Most) >= classes) {
			return nil, bad("data set %s: classes %v to %v; the model has %d outputs, classes are 0..%d", name, s.Least, s.Most, classes, classes-1)
		}
		if err := p.checkFields(fields); err != nil {
			return nil, fmt.Errorf("data set %s: %w", name, err)
		}
		shape := slices.Clone(p.X.Shape)
		if slices.Equal(squeeze(shape), squeeze(in)) {
			shape = slices.Clone(in)
		}
		yshape := slices.Clone(p.Y.Shape)
		if values && len(yshape) == 0 {
			yshape = []int{1}
		}
		l := Layout{Rows: p.X.Rows, Per: p.Per, Group: group}
		x, err := p.X.index(Inputs, l, shape, 0)
		if err != nil {
			return nil, err
		}
		y, err := p.Y.index(Targets, l, yshape, classes)
		if err != nil {
			return nil, err
		}
		parts[i] = Part{x.Head(), y.Head()}
	}
	return NewSet(name, parts[0], parts[1])
}

// empty returns a table like t without rows.
func (t *PackedTable) empty() PackedTable {
	return PackedTable{Shape: t.Shape, DType: t.DType, Stats: &Stats{Float: t.Stats.Float, OneHot: t.Stats.OneHot}}
}

// squeeze returns a shape without its axes of length 1.
func squeeze(shape []int) []int {
	return slices.DeleteFunc(slices.Clone(shape), func(d int) bool { return d == 1 })
}
