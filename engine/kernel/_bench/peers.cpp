#include "peers.h"

#include <cblas.h>
#include <dnnl.hpp>
#include <omp.h>

#include <cstdint>
#include <cstring>
#include <unordered_map>

using namespace dnnl;

namespace {

engine &cpu() {
	static engine e(engine::kind::cpu, 0);
	return e;
}

stream &line() {
	static stream s(cpu());
	return s;
}

struct prepared {
	primitive p;
	std::unordered_map<int, memory> args;

	void add(int arg, const memory::desc &d) {
		memory m(d, cpu());
		auto *f = static_cast<float *>(m.get_data_handle());
		auto *h = static_cast<uint16_t *>(m.get_data_handle());
		bool half = d.data_type() == memory::data_type::bf16;
		for (size_t i = 0; i < d.get_size() / (half ? sizeof *h : sizeof *f); i++) {
			float v = static_cast<float>(i % 31) / 16 - 1;
			if (half) {
				uint32_t bits;
				memcpy(&bits, &v, sizeof bits);
				h[i] = static_cast<uint16_t>(bits >> 16);
			} else {
				f[i] = v;
			}
		}
		args.emplace(arg, m);
	}
};

} // namespace

extern "C" {

void peer_threads(int n) {
	omp_set_num_threads(n);
	openblas_set_num_threads(n);
}

void openblas_gemm(int ta, int tb, int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c) {
	cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, 1, a, lda, b, ldb, 0, c, n);
}

void onednn_gemm(int ta, int tb, int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c) {
	dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, lda, b, ldb, 0, c, n);
}

void *conv_new(const conv *c, int direction, int half) {
	using tag = memory::format_tag;
	using type = memory::data_type;
	auto any = [&](memory::dims d, int result) {
		return memory::desc(d, half && direction != result ? type::bf16 : type::f32, tag::any);
	};
	auto x = any({c->n, c->c, c->h, c->w}, backward_data), y = any({c->n, c->o, c->oh, c->ow}, forward);
	auto w = c->groups == 1 ? any({c->o, c->c, c->kh, c->kw}, backward_weights)
	                        : any({c->groups, c->o / c->groups, c->c / c->groups, c->kh, c->kw}, backward_weights);
	memory::dims stride{c->sh, c->sw}, dilation{c->dh - 1, c->dw - 1}, before{c->pt, c->pl}, after{c->pb, c->pr};
	try {
		auto kind = direction == forward ? prop_kind::forward_inference : prop_kind::forward_training;
		// The forward pass of a gradient is a hint, and has no operands in float32.
		auto hint = [&](memory::desc d) { return half && direction != forward ? memory::desc(d.dims(), type::bf16, tag::any) : d; };
		convolution_forward::primitive_desc fw({kind, algorithm::convolution_direct, hint(x), hint(w), hint(y), stride, dilation, before, after}, cpu());
		auto *r = new prepared;
		switch (direction) {
		case forward:
			r->p = convolution_forward(fw);
			r->add(DNNL_ARG_SRC, fw.src_desc());
			r->add(DNNL_ARG_WEIGHTS, fw.weights_desc());
			r->add(DNNL_ARG_DST, fw.dst_desc());
			break;
		case backward_data: {
			convolution_backward_data::primitive_desc d({algorithm::convolution_direct, x, w, y, stride, dilation, before, after}, cpu(), fw);
			r->p = convolution_backward_data(d);
			r->add(DNNL_ARG_DIFF_SRC, d.diff_src_desc());
			r->add(DNNL_ARG_WEIGHTS, d.weights_desc());
			r->add(DNNL_ARG_DIFF_DST, d.diff_dst_desc());
			break;
		}
		case backward_weights: {
			convolution_backward_weights::primitive_desc d({algorithm::convolution_direct, x, w, y, stride, dilation, before, after}, cpu(), fw);
			r->p = convolution_backward_weights(d);
			r->add(DNNL_ARG_SRC, d.src_desc());
			r->add(DNNL_ARG_DIFF_WEIGHTS, d.diff_weights_desc());
			r->add(DNNL_ARG_DIFF_DST, d.diff_dst_desc());
			break;
		}
		}
		return r;
	} catch (const error &) {
		return nullptr;
	}
}

void *product_new(int ta, int tb, int m, int n, int k) {
	auto lies = [](int transposed, int rows, int cols) {
		return memory::desc({rows, cols}, memory::data_type::bf16, transposed ? memory::dims{1, rows} : memory::dims{cols, 1});
	};
	try {
		matmul::primitive_desc d({lies(ta, m, k), lies(tb, k, n), memory::desc({m, n}, memory::data_type::f32, memory::dims{n, 1})}, cpu());
		auto *r = new prepared;
		r->p = matmul(d);
		r->add(DNNL_ARG_SRC, d.src_desc());
		r->add(DNNL_ARG_WEIGHTS, d.weights_desc());
		r->add(DNNL_ARG_DST, d.dst_desc());
		return r;
	} catch (const error &) {
		return nullptr;
	}
}

void primitive_run(void *h) {
	auto *p = static_cast<prepared *>(h);
	p->p.execute(line(), p->args);
	line().wait();
}

void primitive_free(void *h) {
	delete static_cast<prepared *>(h);
}
}
