// Command order tells which instructions for bfloat16 add in the order that products need, and so
// could compute them with the same bits as every other machine: it counts the sums in which one
// differs from the specification on random operands, and how fast it is.
//
//	go run ./order
//	GOARCH=arm64 go build -o order.arm64 ./order && qemu-aarch64 order.arm64
package main

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
)

// instruction adds the products of pairs of bfloat16 values to sums.
type instruction struct {
	name  string
	terms int // of a sum
	// rows of the first operand by columns of the second, terms of each in ascending order in
	// words: the first of two in the lower half.
	rows, cols int
	// run does it n times to the sums [rows,cols], with a [rows,terms/2] and b [terms/2,cols].
	run func(n int, sums *[256]float32, a, b *[256]uint32)
	// ours is the operations of one run that a product could use: those that are not with zeros.
	ours int
	// order is how a sum comes about otherwise.
	orders []order
}

// order is a way to add x[k]*y[k] to c.
type order struct {
	name string
	sum  func(c float32, x, y []float32) float32
}

// ascending is the specification.
var ascending = order{"ascending terms, each sum rounded (ours)", func(c float32, x, y []float32) float32 {
	for k := range x {
		c = kernel.FMA(x[k], y[k], c)
	}
	return c
}}

// swapped is what the specification becomes where the two terms of a word change places.
var swapped = order{"the same, the two terms of a word swapped", func(c float32, x, y []float32) float32 {
	for k := 0; k < len(x); k += 2 {
		c = kernel.FMA(x[k], y[k], kernel.FMA(x[k+1], y[k+1], c))
	}
	return c
}}

// apart adds even and odd terms by themselves, and then both to c: Intel's manual, TDPBF16PS.
var apart = order{"even and odd terms apart, from 0, then both (Intel's manual)", func(c float32, x, y []float32) float32 {
	var even, odd float32
	for k := 0; k < len(x); k += 2 {
		even, odd = kernel.FMA(x[k], y[k], even), kernel.FMA(x[k+1], y[k+1], odd)
	}
	return c + (even + odd)
}}

func main() {
	n := flag.Int("n", 200, "thousands of sums of each instruction")
	flag.Parse()
	all := instructions()
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "order: this machine has no instruction for bfloat16 that is known here")
		os.Exit(1)
	}
	for _, i := range all {
		i.count(1000 * *n)
		i.time()
	}
}

// draw makes an operand between -4 and 4, seven bits after the first.
func draw(r *rand.Rand) uint32 {
	return math.Float32bits(float32(math.Ldexp(r.Float64()*2-1, r.IntN(16)-13))) >> 16
}

func value(half uint32) float32 { return math.Float32frombits(half << 16) }

func (i *instruction) count(n int) {
	r := rand.New(rand.NewPCG(1, 2))
	words := i.terms / 2
	other := make([]int, len(i.orders))
	tried := 0
	for tried < n {
		var a, b [256]uint32
		var sums [256]float32
		for k := range i.rows * words {
			a[k] = draw(r) | draw(r)<<16
		}
		for k := range i.cols * words {
			b[k] = draw(r) | draw(r)<<16
		}
		for k := range i.rows * i.cols {
			sums[k] = float32(r.NormFloat64())
		}
		began := sums
		i.run(1, &sums, &a, &b)
		x, y := make([]float32, i.terms), make([]float32, i.terms)
		for row := range i.rows {
			for col := range i.cols {
				for k := range words {
					v, w := a[row*words+k], b[k*i.cols+col]
					x[2*k], x[2*k+1], y[2*k], y[2*k+1] = value(v&0xffff), value(v>>16), value(w&0xffff), value(w>>16)
				}
				at := row*i.cols + col
				for k, o := range i.orders {
					if o.sum(began[at], x, y) != sums[at] {
						other[k]++
					}
				}
				tried++
			}
		}
	}
	fmt.Printf("%s, %d sums of %d terms; unequal:\n", i.name, tried, i.terms)
	for k, o := range i.orders {
		fmt.Printf("  %8d  %s\n", other[k], o.name)
	}
}

func (i *instruction) time() {
	const n = 1 << 20
	var a, b [256]uint32
	var sums [256]float32
	least := time.Duration(math.MaxInt64)
	for range 7 {
		begin := time.Now()
		i.run(n, &sums, &a, &b)
		least = min(least, time.Since(begin))
	}
	fmt.Printf("  %8.3g  GFLOP/s that a product could use\n", 2*float64(n*i.ours)/float64(least))
}
