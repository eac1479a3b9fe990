//go:build !race

package kernel

// gemmTRace says that the race detector is on, under which loops are ten times slower.
const gemmTRace = false
