//go:build !purego

// This file exists to run planes_amd64.s over whole groups of eight words; what is
// left is planes.go's.
package codec

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// vector says that the loops may run; tests turn it off.
var vector = cpu.X86.HasAVX2 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT

//go:noescape
func packAVX2(bitmap *byte, w *uint32, groups int, base *uint32, period int) (n int)

//go:noescape
func unpackAVX2(w *uint32, bitmap *byte, groups, n int, base *uint32, period, column int)

//go:noescape
func splitAVX2(p *byte, w *uint32, groups, stride, width int)

//go:noescape
func mergeAVX2(w *uint32, p0, p1, p2, p3 *byte, groups, width int)

// packGroups packs whole groups of w and gives how many words it looked at and how
// many it kept.
func packGroups(bitmap []byte, w []uint32, base *columns) (done, n int) {
	groups := len(w) / 8
	if !vector || groups == 0 {
		return 0, 0
	}
	n = packAVX2(unsafe.SliceData(bitmap[:groups]), unsafe.SliceData(w), groups, &base.words[0], base.period)
	return 8 * groups, n
}

// unpackGroups undoes packGroups for the words before `end`, a multiple of 8, n of
// which are at the front of w, and says whether it did.
func unpackGroups(w []uint32, bitmap []byte, end, n int, base *columns) bool {
	if !vector || end == 0 {
		return false
	}
	bitmap = bitmap[:end/8]
	unpackAVX2(unsafe.SliceData(w[:end]), unsafe.SliceData(bitmap), len(bitmap), n, &base.words[0], base.period, end%base.period)
	return true
}

// splitGroups splits whole groups of w into planes stride bytes apart and gives how
// many words that are.
func splitGroups(p []byte, w []uint32, stride, width int) int {
	groups := len(w) / 8
	if !vector || groups == 0 {
		return 0
	}
	splitAVX2(unsafe.SliceData(p[:stride*width]), unsafe.SliceData(w), groups, stride, width)
	return 8 * groups
}

// mergeGroups merges whole groups of w and gives how many words that are.
func mergeGroups(w []uint32, p *[maxPlanes][]byte, width int) int {
	groups := len(w) / 8
	if !vector || groups == 0 {
		return 0
	}
	mergeAVX2(unsafe.SliceData(w), unsafe.SliceData(p[0]), unsafe.SliceData(p[1]), unsafe.SliceData(p[2]), unsafe.SliceData(p[3]), groups, width)
	return 8 * groups
}
