// The libraries that the engine is measured against, behind plain C.

#pragma once

#ifdef __cplusplus
extern "C" {
#endif

void peer_threads(int n);

// C[m,n] = A[m,k] B[k,n], row by row; ta and tb say that an operand lies transposed.
void openblas_gemm(int ta, int tb, int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c);
void onednn_gemm(int ta, int tb, int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c);

// roof is what the machine can do on the threads that were set: GFLOP/s of fused
// multiply-adds in vectors of 16 (0: it has none) and of 8, GB/s of streams that read one
// array, update one, read two and write a third, and of memcpy.
struct roof {
	double wide, narrow, read, update, triad, copy;
};
struct roof roofline(void);

struct conv {
	int n, c, h, w, o, oh, ow, kh, kw, sh, sw, pt, pl, pb, pr, dh, dw, groups;
};

enum direction { forward, backward_data, backward_weights };

// conv_new prepares a convolution in the layouts that oneDNN likes best, on tensors of
// its own; NULL if oneDNN refuses. With half set its operands are bfloat16, its result float32.
void *conv_new(const struct conv *c, int direction, int half);

// product_new prepares a product as above with operands in bfloat16, on tensors of its own;
// NULL if oneDNN refuses.
void *product_new(int ta, int tb, int m, int n, int k);

void primitive_run(void *);
void primitive_free(void *);

#ifdef __cplusplus
}
#endif
