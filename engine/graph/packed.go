// Lists of numbers that are part of a model: constants, and the positions of elements.

package graph

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"unsafe"
)

// Packed is a list of 32-bit words, in JSON compressed and in base64.
type Packed []uint32

// MarshalJSON implements json.Marshaler.
func (p Packed) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(p))
	for _, w := range p {
		raw = binary.LittleEndian.AppendUint32(raw, w)
	}
	var b bytes.Buffer
	z, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return json.Marshal(b.Bytes())
}

// maxList is the most words of one list: those of a mask of 4096 by 4096.
const maxList = 1 << 24

// UnmarshalJSON implements json.Unmarshaler.
func (p *Packed) UnmarshalJSON(b []byte) error {
	var c []byte
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(c)), 4*maxList+1))
	switch {
	case err != nil:
		return fmt.Errorf("packed words: %w", err)
	case len(raw) > 4*maxList || len(raw)%4 != 0:
		return fmt.Errorf("packed words of %d bytes or more, at most %d words are read", len(raw), maxList)
	}
	*p = make(Packed, len(raw)/4)
	for i := range *p {
		(*p)[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return nil
}

// PackFloats is the form of constants.
func PackFloats(v []float32) Packed {
	p := make(Packed, len(v))
	for i, f := range v {
		p[i] = math.Float32bits(f)
	}
	return p
}

// Floats are the words as bits of numbers. They are the words themselves, and must not be written to.
func (p Packed) Floats() []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), len(p))
}

// packer is implemented by an Op that has lists of numbers.
type packer interface{ packed() []*Packed }

// maxLists is the most words of all lists of a model that Parse reads; equal ones count once.
const maxLists = 1 << 26

// lists are those of the nodes that have been read.
type lists struct {
	seed  maphash.Seed
	known map[uint64][]Packed
	words int
}

func newLists() lists { return lists{seed: maphash.MakeSeed(), known: map[uint64][]Packed{}} }

// take has an op share lists with the ops before that have the same: each layer of a decoder has the
// mask of all.
func (l *lists) take(op Op) error {
	p, ok := op.(packer)
	if !ok {
		return nil
	}
	for _, own := range p.packed() {
		if len(*own) == 0 {
			continue
		}
		h := l.hash(*own)
		if k := slices.IndexFunc(l.known[h], func(o Packed) bool { return slices.Equal(o, *own) }); k >= 0 {
			*own = l.known[h][k]
			continue
		}
		if l.words += len(*own); l.words > maxLists {
			return fmt.Errorf("the constants and indices of the model are more than %d, which is the most that is read", maxLists)
		}
		l.known[h] = append(l.known[h], *own)
	}
	return nil
}

func (l *lists) hash(p Packed) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	var b [1 << 10]byte
	for part := range slices.Chunk(p, len(b)/4) {
		for i, w := range part {
			binary.LittleEndian.PutUint32(b[4*i:], w)
		}
		_, _ = h.Write(b[:4*len(part)])
	}
	return h.Sum64()
}

// PackedBytes is the memory of the lists of all nodes; what nodes share counts once.
func (g *Graph) PackedBytes() int {
	seen, n := map[*uint32]bool{}, 0
	for i := range g.Nodes {
		p, ok := g.Nodes[i].Op.(packer)
		if !ok {
			continue
		}
		for _, own := range p.packed() {
			if len(*own) == 0 || seen[&(*own)[0]] {
				continue
			}
			seen[&(*own)[0]] = true
			n += 4 * len(*own)
		}
	}
	return n
}
