// What a digest is made of: tensors are compressed 64 to 1 by a keyed hash that costs a
// multiplication every 16 bytes, and SHA-256 takes what is left.

package stage

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"
	"math/bits"
	"unsafe"
)

// KeySize is how many bytes a stage's key of digests has.
const KeySize = 16

const (
	blockWords = 128
	blockBytes = 8 * blockWords
)

// compressor compresses messages by NH with words of 64 bits (Black, Halevi, Krawczyk, Krovetz and
// Rogaway, "UMAC: Fast and Secure Message Authentication", CRYPTO 1999; with these words in VMAC,
// Krovetz and Dai, 2007): over each block, the sum modulo 2^128 of the products of neighbouring
// words, to each of which a word of the key is added modulo 2^64. Whoever does not know the key
// finds another message of the same length and the same sums with probability 2^-64 at most,
// however long it computes. Who knows the key finds one at once.
type compressor struct {
	key  [blockWords]uint64
	tail [blockBytes]byte
	sums []byte
}

// newCompressor makes a compressor whose words are SHA-256 of the key and a counter.
func newCompressor(key []byte) *compressor {
	c := &compressor{sums: make([]byte, 0, 1024)}
	for i := 0; i < blockWords; i += 4 {
		s := sha256.Sum256(binary.LittleEndian.AppendUint32(key[:len(key):len(key)], uint32(i)))
		for j := range 4 {
			c.key[i+j] = binary.LittleEndian.Uint64(s[8*j:])
		}
	}
	return c
}

// write adds a message to h: the sums of its blocks, the last of which is filled up with zeros, and
// its length.
func (c *compressor) write(h hash.Hash, b []byte) {
	c.sums = c.sums[:0]
	n := len(b)
	for ; len(b) >= blockBytes; b = b[blockBytes:] {
		c.add(h, (*[blockBytes]byte)(b))
	}
	if len(b) > 0 {
		clear(c.tail[copy(c.tail[:], b):])
		c.add(h, &c.tail)
	}
	_, _ = h.Write(binary.LittleEndian.AppendUint64(c.sums, uint64(n))) // never fails
}

func (c *compressor) add(h hash.Hash, b *[blockBytes]byte) {
	if len(c.sums)+24 > cap(c.sums) {
		_, _ = h.Write(c.sums) // never fails
		c.sums = c.sums[:0]
	}
	hi, lo := nh(&c.key, b)
	c.sums = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(c.sums, lo), hi)
}

// nh is the sum of a block.
func nh(key *[blockWords]uint64, b *[blockBytes]byte) (hi, lo uint64) {
	var c uint64
	for i := 0; i < blockWords; i += 4 {
		w := (*[32]byte)(b[8*i:])
		h0, l0 := bits.Mul64(binary.LittleEndian.Uint64(w[0:])+key[i], binary.LittleEndian.Uint64(w[8:])+key[i+1])
		h1, l1 := bits.Mul64(binary.LittleEndian.Uint64(w[16:])+key[i+2], binary.LittleEndian.Uint64(w[24:])+key[i+3])
		lo, c = bits.Add64(lo, l0, 0)
		hi, _ = bits.Add64(hi, h0, c)
		lo, c = bits.Add64(lo, l1, 0)
		hi, _ = bits.Add64(hi, h1, c)
	}
	return hi, lo
}

// littleEndian tells whether a float32 lies in memory as it is hashed.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// tensor adds a tensor to h, as little-endian float32.
func (c *compressor) tensor(h hash.Hash, x []float32) {
	if littleEndian {
		c.write(h, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x)))
		return
	}
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	c.write(h, b)
}
