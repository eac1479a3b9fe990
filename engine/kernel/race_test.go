//go:build race

package kernel

const gemmTRace = true
