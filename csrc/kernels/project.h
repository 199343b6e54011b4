// One row through a matrix of weights: what absorbs a query, and what makes an output of mixed latents.
#pragma once

#include "stream.h"
#include "tile.h"

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

constexpr int MIXED = 8;  // rows of the matrix that are read side by side: memory in one stream, sums loaded rarely

constexpr int ROWS_AHEAD = 16;  // weights come from memory, each once: asked for so many rows before they are wanted

template <int ROWS, class T>
inline void fetch_mixed(const T* from, int64_t stride) {
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i) __builtin_prefetch(from + (i + ROWS_AHEAD) * stride, 0, 2);
}

// to[p] += sum over ROWS rows of weights[d] * matrix[d][p]
template <int ROWS, class T>
inline void add_mixed_wide(float* to, const float* weights, const T* matrix, int64_t stride, int P) {
  F weight[ROWS];
  for (int i = 0; i < ROWS; ++i) weight[i] = set1(weights[i]);
  for (int p = 0; p < P; p += W) {
    if (p % (64 / int(sizeof(T))) == 0) fetch_mixed<ROWS>(matrix + p, stride);
    F sum = load(to + p);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const T* from = matrix + i * stride + p;
      sum = fma(weight[i], P - p >= W ? load(from) : load_first(from, P - p), sum);
    }
    store(to + p, sum);
  }
}

// The same for pairs of rows.
template <int ROWS>
inline void add_mixed_pairs(float* to, const float* weights, const bfloat16* matrix, int64_t stride, int P) {
  static_assert(ROWS % 2 == 0);
  F weight[ROWS / 2];
  for (int i = 0; i < ROWS; i += 2) weight[i / 2] = round_to_pairs(set1(weights[i]), set1(weights[i + 1]));
  int p = 0;
  for (; p + 2 * W <= P; p += 2 * W) {
    fetch_mixed<ROWS>(matrix + p, stride);
    F low = load(to + p), high = load(to + p + W);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i += 2) {
      F pairs_low, pairs_high;
      interleave_two(matrix + i * stride + p, matrix + (i + 1) * stride + p, pairs_low, pairs_high);
      low = multiply_pairs(weight[i / 2], pairs_low, low);
      high = multiply_pairs(weight[i / 2], pairs_high, high);
    }
    store(to + p, low);
    store(to + p + W, high);
  }
  for (; p < P; p += W) {
    F sum = load(to + p);
    for (int i = 0; i < ROWS; i += 2)
      sum =
          multiply_pairs(weight[i / 2], interleave(matrix + i * stride + p, matrix + (i + 1) * stride + p, P - p), sum);
    store(to + p, sum);
  }
}

template <int ROWS, class T>
inline void add_mixed(float* to, const float* weights, const T* matrix, int64_t stride, int P) {
  if constexpr (Step<T>::PAIRS)
    add_mixed_pairs<ROWS>(to, weights, matrix, stride, P);
  else
    add_mixed_wide<ROWS>(to, weights, matrix, stride, P);
}

// to[p] = sum over n rows, n even, of weights[d] * matrix[d][p]. Weights are numbers of `dtype`; to is padded to
// OUTPUT_PAD.
inline void mix_rows(const void* matrix, Dtype dtype, int64_t stride, int n, int P, const float* weights, float* to) {
  for (int64_t p = 0; p < round_up(P, OUTPUT_PAD); p += W) store(to + p, zero());
  by_element(dtype, [&](auto element) {
    const auto* rows = static_cast<const decltype(element)*>(matrix);
    int d = 0;
    for (; d + MIXED <= n; d += MIXED) add_mixed<MIXED>(to, weights + d, rows + d * stride, stride, P);
    for (; d < n; d += 2) add_mixed<2>(to, weights + d, rows + d * stride, stride, P);
  });
}

// to[d] = matrix[d] . query for n rows. The query is padded with zeros to 2 * OUTPUT_PAD, and overwritten: where pairs
// of bfloat16 are multiplied it is rounded to them.
inline void dot_rows(const void* matrix, Dtype dtype, int64_t stride, int n, int P, float* query, float* to) {
  by_element(dtype, [&](auto element) {
    using T = decltype(element);
    using Product = Dot<T>;
    if constexpr (Step<T>::PAIRS)
      for (int64_t p = 0; p < round_up(P, 2 * OUTPUT_PAD); p += W)
        store_rounded(reinterpret_cast<bfloat16*>(query) + p, load(query + p));
    const auto* multiplied = reinterpret_cast<const typename Product::Query*>(query);
    dot_products<Product>(multiplied, static_cast<const T*>(matrix), stride, n, P, to);
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
