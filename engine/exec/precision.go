// Precision of products: of matrices, of convolutions and in attention, forward and both
// gradients.

package exec

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Precision is that of the operands of products. Sums and everything else are float32.
type Precision uint8

// The precisions.
const (
	Float32 Precision = iota
	// BF16 rounds operands as [kernel.RoundBF16] does. The bits do not depend on whether the
	// machine fuses multiply-adds.
	BF16
)

// ParsePrecision finds a precision by its job name: "" and "fp32", or "bf16".
func ParsePrecision(name string) (Precision, error) {
	switch name {
	case "", "fp32":
		return Float32, nil
	case "bf16":
		return BF16, nil
	}
	return 0, fmt.Errorf("%w: precision %q", ErrConfig, name)
}

// operand is x as an operand of products: x itself, or a rounded copy at the front of
// scratch. rest is the scratch that is left.
func (p Precision) operand(f *frame, x, scratch []float32) (operand, rest []float32) {
	if p == Float32 {
		return x, scratch
	}
	y := scratch[:len(x)]
	kernel.RoundBF16(f.sharing(len(x)), y, x)
	return y, scratch[pad(len(x)):]
}

// copies is the floats of scratch for operands of the given sizes.
func (p Precision) copies(sizes ...int) int {
	n := 0
	if p != Float32 {
		for _, s := range sizes {
			n += pad(s)
		}
	}
	return n
}
