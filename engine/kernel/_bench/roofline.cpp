// What the machine can do at all: fused multiply-adds that wait for nothing, and streams
// through memory that compute nothing.

#include "peers.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

const size_t floats = 16 << 20; // of a stream: more than a cache has
const int rounds = 7;

// chains is n steps of 24 independent sums, enough to hide the latency of one.
__attribute__((target("avx512f"))) float chains512(long n) {
	__m512 s[24], x = _mm512_set1_ps(0.999f);
	for (auto &v : s) v = _mm512_set1_ps(1);
	for (long i = 0; i < n; i++) {
#pragma GCC unroll 24
		for (auto &v : s) v = _mm512_fmadd_ps(v, x, x);
	}
	float f[16], sum = 0;
	for (auto &v : s) {
		_mm512_storeu_ps(f, v);
		sum += f[0];
	}
	return sum;
}

__attribute__((target("avx2,fma"))) float chains256(long n) {
	__m256 s[12], x = _mm256_set1_ps(0.999f);
	for (auto &v : s) v = _mm256_set1_ps(1);
	for (long i = 0; i < n; i++) {
#pragma GCC unroll 12
		for (auto &v : s) v = _mm256_fmadd_ps(v, x, x);
	}
	float f[8], sum = 0;
	for (auto &v : s) {
		_mm256_storeu_ps(f, v);
		sum += f[0];
	}
	return sum;
}

__attribute__((target("avx2,fma"))) float sum256(const float *a, size_t n) {
	__m256 s[4] = {};
	for (size_t i = 0; i + 32 <= n; i += 32) {
		for (int j = 0; j < 4; j++) s[j] = _mm256_add_ps(s[j], _mm256_loadu_ps(a + i + 8 * j));
	}
	float f[8];
	_mm256_storeu_ps(f, _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
	return f[0];
}

volatile float sink;

// best is the highest of some rounds' work per second, in units of 1e9.
template <class F> double best(double work, F f) {
	double top = 0;
	for (int r = 0; r < rounds; r++) {
		double t = omp_get_wtime();
		f();
		top = std::max(top, work / (omp_get_wtime() - t) / 1e9);
	}
	return top;
}

} // namespace

extern "C" roof roofline(void) {
	roof r{};
	const long n = 1 << 20;
	int threads = 1;
#pragma omp parallel
#pragma omp single
	threads = omp_get_num_threads();
	r.wide = best(2.0 * 24 * 16 * n * threads, [=] {
		if (!__builtin_cpu_supports("avx512f")) return;
#pragma omp parallel
		sink = chains512(n);
	});
	if (!__builtin_cpu_supports("avx512f")) r.wide = 0;
	r.narrow = best(2.0 * 12 * 8 * n * threads, [=] {
#pragma omp parallel
		sink = chains256(n);
	});
	std::vector<float> va(floats, 1), vb(floats, 1), vc(floats, 1);
	float *a = va.data(), *b = vb.data(), *c = vc.data();
	r.read = best(4.0 * floats, [=] {
#pragma omp parallel
		{
			size_t part = floats / omp_get_num_threads();
			sink = sum256(a + omp_get_thread_num() * part, part);
		}
	});
	r.update = best(8.0 * floats, [=] {
#pragma omp parallel for simd
		for (size_t i = 0; i < floats; i++) a[i] *= 0.5f;
	});
	r.triad = best(12.0 * floats, [=] {
#pragma omp parallel for simd
		for (size_t i = 0; i < floats; i++) a[i] = b[i] + 0.5f * c[i];
	});
	r.copy = best(8.0 * floats, [=] {
#pragma omp parallel
		{
			size_t k = omp_get_num_threads(), part = floats / k, at = omp_get_thread_num() * part;
			std::memcpy(b + at, a + at, 4 * part);
		}
	});
	return r;
}
