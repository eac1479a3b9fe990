package average

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// ErrPacked is wrapped by errors about packed sums that are not what the rule allows.
var ErrPacked = errors.New("malformed packed sums")

// Width is how many bits a sum takes on the wire, for changes whose weights add up to at
// most total: sums are between -total*levels and total*levels. It is 0 where total is.
func (r Rule) Width(total int64) int {
	return bits.Len64(2 * uint64(total) * uint64(r.levels()))
}

// PackedLen is the length of n packed sums in bytes.
func (r Rule) PackedLen(n int, total int64) int { return (n*r.Width(total) + 7) / 8 }

// Pack appends sums to dst, Width bits each, least significant bit first, as offsets from
// the least possible sum. Unused bits of the last byte are zero.
func (r Rule) Pack(dst []byte, sums []int64, total int64) []byte {
	w, low := uint(r.Width(total)), total*r.levels()
	if w == 0 {
		return dst
	}
	at, n := len(dst), r.PackedLen(len(sums), total)
	dst = slices.Grow(dst, n)[:at+n]
	out := dst[at:]
	var acc uint64
	have := uint(0) // bits in acc
	for _, s := range sums {
		v := uint64(s + low)
		acc |= v << (have & 63)
		if have += w; have >= 64 {
			binary.LittleEndian.PutUint64(out, acc)
			out = out[8:]
			have -= 64
			acc = v >> (w - have)
		}
	}
	for i := range out {
		out[i] = byte(acc)
		acc >>= 8
	}
	return dst
}

// Unpack reads len(sums) sums into sums, or adds them where add is set. It refuses anything
// that Pack does not write; what it had read by then is in sums.
func (r Rule) Unpack(sums []int64, b []byte, total int64, add bool) error {
	if want := r.PackedLen(len(sums), total); len(b) != want {
		return fmt.Errorf("%w: %d bytes for %d sums, want %d", ErrPacked, len(b), len(sums), want)
	}
	w, low := uint(r.Width(total)), total*r.levels()
	fast := 0 // sums that lie within eight bytes that are all there
	if 0 < w && w <= 57 && len(b) >= 8 {
		fast = min(len(sums), (8*(len(b)-8)+7)/int(w)+1)
	}
	if !add {
		clear(sums)
	}
	bad := addFast(sums[:fast], b, w, low)
	for i := fast; i < len(sums); i++ {
		v := int64(field(b, uint(i)*w, w))
		bad = bad || v > 2*low
		sums[i] += v - low
	}
	if bad {
		for i := range sums {
			if field(b, uint(i)*w, w) > 2*uint64(low) {
				return fmt.Errorf("%w: sum %d is out of range", ErrPacked, i)
			}
		}
	}
	bit := uint(len(sums)) * w
	if rest := 8*uint(len(b)) - bit; rest > 0 && b[len(b)-1]>>(8-rest) != 0 {
		return fmt.Errorf("%w: the last byte has bits beyond the last sum", ErrPacked)
	}
	return nil
}

// addFast adds what is packed to sums, each of which lies within eight bytes that are all there, and
// reports whether one is out of range. Within Unpack it would lack registers.
//
//go:noinline
func addFast(sums []int64, b []byte, w uint, low int64) (bad bool) {
	mask, most := uint64(1)<<w-1, 2*low
	sign, bit := int64(0), uint(0)
	for i := range sums {
		at := bit >> 3
		v := int64(binary.LittleEndian.Uint64(b[at:at+8]) >> (bit & 7) & mask)
		sign |= most - v
		sums[i] += v - low
		bit += w
	}
	return sign < 0
}

// field is the w bits of b from a bit on.
func field(b []byte, bit, w uint) uint64 {
	var v uint64
	for got := uint(0); got < w; {
		v |= uint64(b[(bit+got)/8]) >> ((bit + got) % 8) << got
		got += 8 - (bit+got)%8
	}
	if w < 64 {
		v &= 1<<w - 1
	}
	return v
}
