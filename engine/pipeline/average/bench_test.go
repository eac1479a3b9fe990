package average

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkRule measures what an average does with each element, in nanoseconds an element.
func BenchmarkRule(b *testing.B) {
	const n = 1 << 14
	const total = 8
	r := rand.New(rand.NewPCG(1, 2))
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	scale := make([]float32, Blocks(n))
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
		})
	}
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	run("scale", func() { check(Scale(scale, x)) })
	for _, bits := range []int{8, ExactBits} {
		rule := Rule{Bits: bits}
		sum, into := make([]int64, n), make([]int64, n)
		run(fmt.Sprintf("add/%d", bits), func() { check(rule.Add(into, x, scale, 1, draws(1), 0)) })
		check(rule.Add(sum, x, scale, 1, draws(1), 0))
		packed := rule.Pack(nil, sum, total)
		run(fmt.Sprintf("pack/%d", bits), func() { packed = rule.Pack(packed[:0], sum, total) })
		run(fmt.Sprintf("unpack/%d", bits), func() { check(rule.Unpack(into, packed, total, false)) })
		run(fmt.Sprintf("unpack-add/%d", bits), func() { check(rule.Unpack(into, packed, total, true)) })
		run(fmt.Sprintf("mean/%d", bits), func() { rule.Mean(y, sum, scale, total) })
	}
}
