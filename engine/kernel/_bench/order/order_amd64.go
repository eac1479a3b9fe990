package main

import (
	"syscall"

	"golang.org/x/sys/cpu"
)

// pairs is VDPBF16PS on 16 sums, and on 23 times as many that nobody reads, n times.
//
//go:noescape
func pairs(n int, sums *[256]float32, a, b *[256]uint32)

// tile is TDPBF16PS on tiles as configured, and on three more sums that nobody reads, n times.
//
//go:noescape
func tile(n int, config *[64]byte, sums *[256]float32, a, b *[256]uint32)

// instructions are those of this machine.
func instructions() (all []instruction) {
	if cpu.X86.HasAVX512BF16 {
		all = append(all, instruction{name: "VDPBF16PS", terms: 2, rows: 1, cols: 16, run: pairs, ours: 24 * 16 * 2, orders: []order{ascending, swapped}})
	}
	// Linux keeps tiles for who asks: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
	if _, _, err := syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, 0x1023, 18, 0); err != 0 || !cpu.X86.HasAMXBF16 {
		return all
	}
	one := tiles(2)
	return append(
		all,
		instruction{name: "TDPBF16PS", terms: 32, rows: 16, cols: 16, run: tiles(32), ours: 4 * 16 * 16 * 32, orders: []order{ascending, swapped, apart}},
		instruction{
			name: "TDPBF16PS of one term and zeros", terms: 2, rows: 16, cols: 16, ours: 4 * 16 * 16, orders: []order{ascending},
			run: func(n int, sums *[256]float32, a, b *[256]uint32) {
				for i := range a {
					a[i] &= 0xffff
				}
				one(n, sums, a, b)
			},
		})
}

// tiles configures tile for 16 by 16 sums of that many terms.
func tiles(terms int) func(n int, sums *[256]float32, a, b *[256]uint32) {
	config := [64]byte{0: 1}
	for i, t := range [][2]int{{16, 64}, {16, 2 * terms}, {terms / 2, 64}, {16, 64}, {16, 64}, {16, 64}} {
		config[48+i], config[16+2*i] = byte(t[0]), byte(t[1])
	}
	return func(n int, sums *[256]float32, a, b *[256]uint32) { tile(n, &config, sums, a, b) }
}
