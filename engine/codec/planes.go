// This file exists for the lossless rearrangements between words and the
// sections of a body: bitmap and packed words, words and byte planes. All are
// plain loops; their inverses sit beside them.
package codec

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/ravnest/ravnest/engine/kernel"
)

// columns are the words that repeat, seen as rows of a matrix: one of each column.
type columns struct {
	words  [maxPeriod + 16]uint32 // the period again, so that 8 from any column on are there
	period int                    // a multiple of the matrix's, at least 8
}

// repeat makes rows of the first p words.
func (c *columns) repeat(p int) {
	c.period = (p + 7) / p * p
	for i := p; i < c.period+8; i++ {
		c.words[i] = c.words[i-p]
	}
}

// zeros makes rows of zeros.
func (c *columns) zeros() {
	c.words[0] = 0
	c.repeat(1)
}

// pack moves the words of w that are not their column's to its front, keeping
// their order, sets their bits in bitmap (ceil(len(w)/8) bytes) and gives their
// number. In rows of zeros -0 is not one of them, so it survives.
func pack(bitmap []byte, w []uint32, rows *columns) int {
	done, n := packGroups(bitmap, w, rows)
	j := done % rows.period
	// No branch on the data: which elements are zero is what nobody can predict
	// after dropout.
	for i := done / 8; i < len(bitmap); i++ {
		var b uint32
		for k, v := range w[8*i : min(8*i+8, len(w))] {
			w[n] = v // at or below where it was
			d := v ^ rows.words[j]
			one := (d | -d) >> 31
			n += int(one)
			b |= one << k
			if j++; j == rows.period {
				j = 0
			}
		}
		bitmap[i] = byte(b)
	}
	return n
}

// unpack undoes pack: the n words at the front of w go to where bitmap has its
// n bits, those of rows elsewhere.
func unpack(w []uint32, bitmap []byte, n int, rows *columns) {
	j := len(w) % rows.period
	for i := len(w) - 1; i >= 0; i-- { // from the back: a word never moves down
		if i&7 == 7 && unpackGroups(w, bitmap, i+1, n, rows) {
			return
		}
		if j--; j < 0 {
			j = rows.period - 1
		}
		one := uint32(bitmap[i>>3]) >> (i & 7) & 1
		n -= int(one)
		// Below the first set bit n is 0 and one is 0: w[0] is read, masked.
		w[i] = w[n]&-one | rows.words[j]&(one-1)
	}
}

// finder looks for columns that repeat a value: what batch normalisation makes of
// the zeros of ReLU and dropout. Nothing but the values tells how long a row is.
type finder struct {
	last [4096]uint16 // hash of a value -> 1 + where it was last
	gaps [maxPeriod + 1]uint16
}

// period gives the most common distance between a value and its last occurrence
// in the first elements of x, or 0 where repeating is not common. It looks at
// the tensor itself: among INT8's 255 words any would repeat.
func (f *finder) period(x []float32) int {
	x = x[:min(len(x), 2*maxPeriod)]
	clear(f.last[:])
	clear(f.gaps[:])
	for i, v := range x {
		b := math.Float32bits(v)
		slot := &f.last[b*0x9e3779b1>>20]
		if j := int(*slot) - 1; j >= 0 && math.Float32bits(x[j]) == b && i-j <= maxPeriod {
			f.gaps[i-j]++
		}
		*slot = uint16(i + 1)
	}
	best := 0
	for p, c := range f.gaps {
		if c > f.gaps[best] {
			best = p
		}
	}
	if int(f.gaps[best]) < len(x)/8 {
		return 0
	}
	return best
}

// baseRow fills base with, for each column of w as a matrix of rows of
// len(base) words, the first word that the next row repeats, and gives how many
// words of w equal their column's.
func baseRow(base, w []uint32) int {
	p := len(base)
	copy(base, w)
	for r := (len(w) - 1) / p; r > 0; r-- { // the last row may be a part of one
		kernel.TakeEqual(base, w[(r-1)*p:], w[r*p:min(r*p+p, len(w))])
	}
	hits := 0
	for r := 0; r < len(w); r += p {
		hits += kernel.CountEqual(base, w[r:min(r+p, len(w))])
	}
	return hits
}

// popcount gives the set bits of bitmap, or -1 if one is set at or after n.
func popcount(bitmap []byte, n int) int {
	sum := 0
	for _, b := range bitmap {
		sum += bits.OnesCount8(b)
	}
	if n&7 != 0 && bitmap[n>>3]>>(n&7) != 0 {
		return -1
	}
	return sum
}

// split lays byte i of each word of w in plane i of p, most significant first;
// the words have width bytes, and plane i is p[i*len(w):][:len(w)].
func split(p []byte, w []uint32, width int) {
	n := len(w)
	done := splitGroups(p, w, n, width)
	w = w[done:]
	switch width {
	case 4:
		p0, p1, p2, p3 := p[done:n], p[n+done:][:len(w)], p[2*n+done:][:len(w)], p[3*n+done:][:len(w)]
		i := 0
		for ; i+8 <= len(w); i += 8 { // two 4 by 4 transpositions side by side
			v := w[i:][:8]
			a, b := uint64(v[0])|uint64(v[4])<<32, uint64(v[1])|uint64(v[5])<<32
			c, d := uint64(v[2])|uint64(v[6])<<32, uint64(v[3])|uint64(v[7])<<32
			const even, low = 0x00ff00ff00ff00ff, 0x0000ffff0000ffff
			ab0, ab1 := a&even|b&even<<8, a>>8&even|b&^even // bytes 0 and 2, 1 and 3
			cd0, cd1 := c&even|d&even<<8, c>>8&even|d&^even
			binary.LittleEndian.PutUint64(p0[i:], ab1>>16&low|cd1&^low)
			binary.LittleEndian.PutUint64(p1[i:], ab0>>16&low|cd0&^low)
			binary.LittleEndian.PutUint64(p2[i:], ab1&low|cd1&low<<16)
			binary.LittleEndian.PutUint64(p3[i:], ab0&low|cd0&low<<16)
		}
		for ; i < len(w); i++ {
			v := w[i]
			p0[i], p1[i], p2[i], p3[i] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
		}
	case 2:
		p0, p1 := p[done:n], p[n+done:][:len(w)]
		for i, v := range w {
			p0[i], p1[i] = byte(v>>8), byte(v)
		}
	case 1:
		p0 := p[done:n]
		for i, v := range w {
			p0[i] = byte(v)
		}
	}
}

// merge undoes split; each plane has len(w) bytes, and comes from where it lies.
func merge(w []uint32, p *[maxPlanes][]byte, width int) {
	for i := range width {
		p[i] = p[i][:len(w)]
	}
	done := mergeGroups(w, p, width)
	switch w = w[done:]; width {
	case 4:
		p0, p1, p2, p3 := p[0][done:], p[1][done:], p[2][done:], p[3][done:]
		for i := range w {
			w[i] = uint32(p0[i])<<24 | uint32(p1[i])<<16 | uint32(p2[i])<<8 | uint32(p3[i])
		}
	case 2:
		p0, p1 := p[0][done:], p[1][done:]
		for i := range w {
			w[i] = uint32(p0[i])<<8 | uint32(p1[i])
		}
	case 1:
		p0 := p[0][done:]
		for i := range w {
			w[i] = uint32(p0[i])
		}
	}
}

// worth guesses whether an entropy coder can make p smaller: in about a
// thousand of its bytes, do pairs of equal ones come up clearly more often than
// in noise? Integers only, so every platform answers alike.
func worth(p []byte) bool {
	if len(p) < 64 { // a frame and its table cost about that much
		return false
	}
	// An odd stride visits every column of a matrix whose rows are a power of two.
	step := len(p)/1024 | 1
	var count [256]int32
	n := 0
	for i := 0; i < len(p); i += step {
		count[p[i]]++
		n++
	}
	sum := 0
	for _, c := range count {
		sum += int(c) * int(c)
	}
	// Noise gives n + n(n-1)/256 in the mean; a quarter more is 7.7 bits a byte.
	return sum > n+n*(n-1)/256*5/4
}
