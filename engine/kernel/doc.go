// Package kernel is the arithmetic of the tensor engine over plain float32 slices.
//
// The portable Go code is the specification. Every fast form gives the same bits on
// every input, whatever the blocking and the number of threads, because each output
// element is defined as one sequence of rounded operations:
//
//   - a dot product starts at +0 (or at the value it continues) and takes its terms in
//     ascending order of the contracted index, each by one fused multiply-add;
//   - other sums use the fixed scheme of vec_sum.go;
//   - everything else is elementwise, products rounded before they are added.
//
// Terms that padding contributes are products with zero or left out: the bits are those
// of finite weights, but for the sign of a sum that has underflowed to -0. NaN stays NaN,
// its payload is not specified.
package kernel
