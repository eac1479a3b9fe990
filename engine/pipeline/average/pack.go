package average

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrPacked is wrapped by errors about packed sums that are not what the rule allows.
var ErrPacked = errors.New("malformed packed sums")

// Width is how many bits a sum takes on the wire, for changes whose weights add up to at
// most total: sums are between -total*levels and total*levels.
func (r Rule) Width(total int64) int {
	return bits.Len64(2 * uint64(total) * uint64(r.levels()))
}

// PackedLen is the length of n packed sums in bytes.
func (r Rule) PackedLen(n int, total int64) int { return (n*r.Width(total) + 7) / 8 }

// Pack appends sums to dst, Width bits each, least significant bit first, as offsets from
// the least possible sum. Unused bits of the last byte are zero.
func (r Rule) Pack(dst []byte, sums []int64, total int64) []byte {
	w, low := r.Width(total), total*r.levels()
	var acc uint64
	have := 0
	for _, s := range sums {
		v := uint64(s + low)
		// At most 7 bits wait, so 57 bits fit; wider sums go in two steps.
		for left := w; left > 0; {
			n := min(left, 57)
			acc |= (v & (1<<n - 1)) << have
			v >>= n
			left -= n
			for have += n; have >= 8; have -= 8 {
				dst = append(dst, byte(acc))
				acc >>= 8
			}
		}
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

// Unpack reads len(sums) sums and passes each to put, refusing anything that Pack does not
// write.
func (r Rule) Unpack(b []byte, n int, total int64, put func(i int, sum int64)) error {
	if want := r.PackedLen(n, total); len(b) != want {
		return fmt.Errorf("%w: %d bytes for %d sums, want %d", ErrPacked, len(b), n, want)
	}
	w, low := r.Width(total), total*r.levels()
	var acc uint64
	have := 0
	for i := range n {
		var v uint64
		for got := 0; got < w; {
			k := min(w-got, 57)
			for have < k {
				acc |= uint64(b[0]) << have
				b = b[1:]
				have += 8
			}
			v |= (acc & (1<<k - 1)) << got
			acc >>= k
			have -= k
			got += k
		}
		if v > 2*uint64(low) {
			return fmt.Errorf("%w: sum %d is out of range", ErrPacked, i)
		}
		put(i, int64(v)-low)
	}
	if acc != 0 {
		return fmt.Errorf("%w: the last byte has bits beyond the last sum", ErrPacked)
	}
	return nil
}
