// The index of a table that is stored in shards: what a machine needs to fetch rows and to verify
// them.

package data

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Index lists the shards of a table. Shard k is a blob with the rows k*Per to (k+1)*Per-1.
type Index struct {
	Kind    Kind
	Layout  Layout
	Shape   []int // of a row
	Classes int   // 0: values
	OneHot  bool  // the last axis of the values is one-hot everywhere
	Shards  []Shard

	dtype byte   // of the elements, as in blobs
	stats *Stats // nil where they are not known, as on a provider
}

// Shard identifies the blob of a shard.
type Shard struct {
	SHA256 [sha256.Size]byte
	Size   uint32
}

// Layout of an index, little-endian:
//
//	 0  4  magic "RVNI"
//	 4  1  version
//	 5  1  kind: 0 inputs, 1 targets
//	 6  1  type of the elements, as in blobs
//	 7  1  1: one-hot, 0: not
//	 8  4  classes, 0: values
//	12  4  rows
//	16  4  rows of a shard
//	20  4  shards of a group
//	24  1  rank of a row
//	25  3  zero
//	28  4  each axis of a row
//	..     each shard, to the end: 32 bytes of SHA-256, 4 of size
//
// Version history: 1, first form.
const (
	indexMagic   = "RVNI"
	indexVersion = 1
	indexHead    = 28
	indexShard   = sha256.Size + 4
)

// MaxShard is the most bytes that the elements of a shard may take.
const MaxShard = 1 << 28

// IsIndex reports whether a blob of a data set is an index rather than the table itself.
func IsIndex(b []byte) bool { return len(b) >= 4 && string(b[:4]) == indexMagic }

// Head returns the table that ix is the index of, without its elements.
func (ix *Index) Head() *Table {
	t := &Table{Kind: ix.Kind, Rows: ix.Layout.Rows, Shape: ix.Shape, Classes: ix.Classes, Index: ix}
	t.oneHot.Do(func() { t.oneHot.yes = ix.OneHot })
	return t
}

// RowBytes returns the size of a row in memory.
func (ix *Index) RowBytes() int { return product(ix.Shape) * width(ix.dtype) }

// ShardBytes returns the size of the elements of a full shard.
func (ix *Index) ShardBytes() int { return min(ix.Layout.Per, ix.Layout.Rows) * ix.RowBytes() }

// Bounds are the least and the greatest element, where they are known: not on a provider.
func (ix *Index) Bounds() (least, most float64, known bool) {
	if ix.stats == nil {
		return 0, 0, false
	}
	return ix.stats.Least, ix.stats.Most, true
}

// Encode returns ix as a blob.
func (ix *Index) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, indexHead+4*len(ix.Shape)+indexShard*len(ix.Shards))
	b = append(b, indexMagic...)
	hot := byte(0)
	if ix.OneHot {
		hot = 1
	}
	b = append(b, indexVersion, byte(ix.Kind), ix.dtype, hot)
	for _, v := range []int{ix.Classes, ix.Layout.Rows, ix.Layout.Per, ix.Layout.Group} {
		b = le.AppendUint32(b, uint32(v))
	}
	b = append(b, byte(len(ix.Shape)), 0, 0, 0)
	for _, d := range ix.Shape {
		b = le.AppendUint32(b, uint32(d))
	}
	for _, s := range ix.Shards {
		b = le.AppendUint32(append(b, s.SHA256[:]...), s.Size)
	}
	return b
}

// DecodeIndex reads an index.
func DecodeIndex(b []byte) (*Index, error) {
	if len(b) < indexHead || !IsIndex(b) {
		return nil, bad("%d bytes that are not the index of a data set", len(b))
	}
	if b[4] != indexVersion {
		return nil, bad("an index of version %d, this program reads version %d", b[4], indexVersion)
	}
	le := binary.LittleEndian
	var n [4]int
	for i := range n {
		v := le.Uint32(b[8+4*i:])
		if v > MaxElems {
			return nil, bad("an index with the number %d, at most %d are read", v, MaxElems)
		}
		n[i] = int(v)
	}
	rank := int(b[24])
	if b[5] > byte(Targets) || b[7] > 1 || b[25]|b[26]|b[27] != 0 || rank > maxRank || len(b) < indexHead+4*rank {
		return nil, bad("an index of kind %d, form %d, %d axes in %d bytes", b[5], b[7], rank, len(b))
	}
	ix := &Index{
		Kind: Kind(b[5]), dtype: b[6], OneHot: b[7] == 1, Classes: n[0],
		Layout: Layout{Rows: n[1], Per: n[2], Group: n[3]}, Shape: make([]int, rank),
	}
	for i := range ix.Shape {
		d := le.Uint32(b[indexHead+4*i:])
		if d > MaxElems {
			return nil, bad("an index with an axis of %d", d)
		}
		ix.Shape[i] = int(d)
	}
	b = b[indexHead+4*rank:]
	if len(b)%indexShard != 0 {
		return nil, bad("an index with %d bytes of shards, each has %d", len(b), indexShard)
	}
	ix.Shards = make([]Shard, len(b)/indexShard)
	for k := range ix.Shards {
		s := b[k*indexShard:]
		ix.Shards[k] = Shard{[sha256.Size]byte(s), le.Uint32(s[sha256.Size:])}
	}
	return ix, ix.check()
}

// check validates everything that can be validated without the shards.
func (ix *Index) check() error {
	l := ix.Layout
	if ix.dtype < typeU8 || ix.dtype > typeU16 {
		return bad("an index of elements of type %d", ix.dtype)
	}
	if l.Per < 1 || l.Group < 1 || l.Rows < 0 || l.Rows > MaxRows || ix.Classes < 0 || ix.Classes > 0 && ix.dtype == typeF32 {
		return bad("an index of %d rows in shards of %d, %d of which make a group, with %d classes of type %d", l.Rows, l.Per, l.Group, ix.Classes, ix.dtype)
	}
	// A shard is a table, so the limits of tables apply.
	t := &Table{Kind: ix.Kind, Rows: min(l.Rows, l.Per), Shape: ix.Shape, Classes: ix.Classes}
	if err := t.checkShape(); err != nil {
		return err
	}
	if ix.ShardBytes() > MaxShard {
		return bad("shards of %d bytes, at most %d are read", ix.ShardBytes(), MaxShard)
	}
	if len(ix.Shards) != l.Shards() {
		return bad("an index of %d shards, %d rows at %d a shard have %d", len(ix.Shards), l.Rows, l.Per, l.Shards())
	}
	for k, s := range ix.Shards {
		if int64(s.Size) > int64(ix.ShardBytes())+blobHead+4*maxRank {
			return bad("shard %d is a blob of %d bytes, its rows have at most %d", k, s.Size, ix.ShardBytes())
		}
	}
	return nil
}

// open checks that a blob is shard k of ix and appends its elements, as they are stored, to
// dst[:0].
func (ix *Index) open(dst, blob []byte, k int) ([]byte, error) {
	if sum := sha256.Sum256(blob); sum != ix.Shards[k].SHA256 {
		return nil, bad("shard %d has the SHA-256 %x, want %x", k, sum, ix.Shards[k].SHA256)
	}
	t, h, err := head(blob)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", k, err)
	}
	if t.Kind != ix.Kind || h.dtype != ix.dtype || t.Rows != ix.Layout.Len(k) || !slices.Equal(squeeze(t.Shape), squeeze(ix.Shape)) {
		return nil, bad("shard %d is %v of %d rows of %v of type %d, the index says %v of %d rows of %v of type %d",
			k, t.Kind, t.Rows, t.Shape, h.dtype, ix.Kind, ix.Layout.Len(k), ix.Shape, ix.dtype)
	}
	raw, err := h.unpack(dst)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", k, err)
	}
	return raw, ix.checkRaw(raw, k)
}

// checkRaw is Table.Check for stored elements.
func (ix *Index) checkRaw(raw []byte, k int) error {
	le, n := binary.LittleEndian, max(product(ix.Shape), 1)
	row := func(i int) int { return k*ix.Layout.Per + i/n }
	switch ix.dtype {
	case typeU8:
		if ix.Classes == 0 || ix.Classes > 255 {
			return nil
		}
		for i, v := range raw {
			if int(v) >= ix.Classes {
				return bad("row %d: class %d is not one of %d", row(i), v, ix.Classes)
			}
		}
	case typeU16:
		for i := range len(raw) / 2 {
			if v := le.Uint16(raw[2*i:]); ix.Classes > 0 && int(v) >= ix.Classes {
				return bad("row %d: class %d is not one of %d", row(i), v, ix.Classes)
			}
		}
	case typeI32:
		for i := range len(raw) / 4 {
			v := int32(le.Uint32(raw[4*i:]))
			if ix.Classes > 0 && v != NoClass && (v < 0 || int(v) >= ix.Classes) {
				return bad("row %d: class %d is not one of %d", row(i), v, ix.Classes)
			}
			if v < -exact || v > exact {
				return bad("row %d: %d is not exact in float32 (at most %d)", row(i), v, exact)
			}
		}
	default:
		for i := range len(raw) / 4 {
			if le.Uint32(raw[4*i:])>>23&0xff == 0xff {
				return bad("row %d: a number that is not finite", row(i))
			}
		}
	}
	return nil
}
