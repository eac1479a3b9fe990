// Package kernel is the arithmetic of the tensor engine over plain float32 slices.
//
// # Numerics
//
// The portable Go code is the specification. Every fast form gives the same bits on every
// input, whatever the blocking and the number of threads, because each output element is
// defined as one sequence of rounded operations:
//
//   - a dot product starts at +0 (or at the value it continues) and takes its terms in
//     ascending order of the contracted index, each by one fused multiply-add;
//   - other sums use the fixed scheme of vec_sum.go;
//   - everything else is elementwise, products rounded before they are added.
//
// Terms from padding are products with zero or left out: the bits are the same for finite
// weights, except for the sign of a sum that underflows to -0. NaN stays NaN; its payload is
// not specified. Processes whose dot products cannot be fused have another [Class].
//
// Products of operands that [RoundBF16] has rounded to bfloat16 have the same bits in every
// class.
//
// # Conventions
//
// Tensors are contiguous in row-major order, and shapes in comments are given like [N,C,H,W].
// Slices may be longer than needed; one that is too short panics. Kernels do not allocate:
// what they need beyond their arguments is scratch, whose size in floats [GemmScratch],
// [ConvScratch] and [AttentionScratch] tell. Gradients named dx, dw, dgamma belong to x, w, gamma. Functions say
// where an output may be an input (in place). An argument acc continues sums that are in the
// output, so that micro-batches give the bits of the whole batch.
//
// # What there is
//
// Threads: a [Team] runs the tiles of a [Task]; kernels that can share work take one, and nil
// is the calling thread alone.
//
// Products (gemm_): [Gemm] multiplies matrices with any strides, then adds biases and applies
// ReLU.
//
// Convolutions (conv_): [ConvForward], [ConvBackwardData], [ConvBackwardWeight] over a
// geometry [Conv] with strides, paddings, dilations and groups.
//
// Attention (attn_): [AttentionForward] and [AttentionBackward] over an [Attention];
// [Softmax], [SoftmaxGrad].
//
// Normalisation (norm_): [BatchNormForward] and [BatchNormBackward] over a [BatchNorm], the
// passes they consist of, and [BatchNormRunning]; [LayerNorm], [LayerNormGradInput],
// [LayerNormGradParams].
//
// Pooling (pool_): [MaxPool], [AvgPool] over a [Pool], [AdaptiveAvgPool] over an
// [AdaptivePool], and their gradients.
//
// Elementwise and sums (vec_): [Add], [AddReLU], [AddTo], [Scale], [Fill], [ReLU], [Sigmoid],
// [TanhForward], [GELU], [GELUTanh], [Dropout] and their gradients; [Embed], [AddRows];
// [Sum], [Dot], [SumChannels]; [Exp], [Log], [Tanh], [Erf], [Sqrt], [Sinpi], [Cospi], [FMA] of
// one number.
//
// Conversions (vec_half.go, vec_bf16.go, vec_bf16_pack.go): [RoundBF16]; [PackBF16] and
// [UnpackBF16], which keep operands in half the memory; [ToHalf], [ToBFloat16], [Quantise8],
// [AbsMax], the way back, and [CountZeros], [CountEqual], [TakeEqual] for coders.
//
// Losses (loss.go): [MSE], [CrossEntropy], [CrossEntropyProb] with gradients; [Argmax].
//
// Optimisers (optim.go): [SGD], [Adam], [AdamW], [NAdam].
//
// Random numbers (rand.go): a [Stream] of [Philox] numbers, addressed by seed, [Domain], step
// and node; [DropoutMask], [Uniform], [Normal], [Perm].
//
// README.md in this directory tells how the kernels are built and generated.
package kernel
