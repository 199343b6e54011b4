// One row through a matrix of weights: what absorbs a query, and what makes an output of mixed latents.
#pragma once

#include "stream.h"

namespace kblam::KBLAM_ISA {

// f(element) for the elements of a dense tensor.
template <class Function>
inline void by_element(Dtype dtype, const Function& f) {
  switch (dtype) {
    case Dtype::bfloat16: return f(bfloat16{});
    case Dtype::float16: return f(float16{});
    default: return f(float{});
  }
}

// to[p] = sum over n rows of weights[d] * matrix[d][p]; to is padded to OUTPUT_PAD.
inline void mix_rows(const void* matrix, Dtype dtype, int64_t stride, int n, int P, const float* weights, float* to) {
  for (int64_t p = 0; p < round_up(P, OUTPUT_PAD); p += W) store(to + p, zero());
  by_element(dtype, [&](auto element) {
    add_weighted_values<1>(&to, &weights, static_cast<const decltype(element)*>(matrix), stride, n, P, Ahead{});
  });
}

// to[d] = matrix[d] . query for n rows; the query is padded with zeros to 2 * OUTPUT_PAD.
inline void dot_rows(const void* matrix, Dtype dtype, int64_t stride, int n, int P, const float* query, float* to) {
  by_element(dtype, [&](auto element) {
    using T = decltype(element);
    dot_products<WideDot<T>>(query, static_cast<const T*>(matrix), stride, n, P, Ahead{}, to);
  });
}

// n elements to floats.
inline void widen_row(const void* from, Dtype dtype, int n, float* to) {
  by_element(dtype, [&](auto element) {
    const auto* p = static_cast<const decltype(element)*>(from);
    for (int d = 0; d < n; d += W) store(to + d, n - d >= W ? load(p + d) : load_first(p + d, n - d));
  });
}

}  // namespace kblam::KBLAM_ISA
