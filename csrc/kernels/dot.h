// The inner product of a query with a key, for every element type and instruction set.
#pragma once

#include "product.h"

namespace kblam::KBLAM_ISA {

// Queries are floats, and keys are widened to floats.
template <class T>
struct WideDot {
  using Query = float;
  static constexpr int STEP = W;
  static F load_query(const float* q) { return load(q); }
  static F load_key(const T* k) { return load(k); }
  static F load_first_key(const T* k, int n) { return load_first(k, n); }
  static F multiply(F q, F k, F sum) { return fma(q, k, sum); }
};

struct PairDot {
  using Query = bfloat16;
  static constexpr int STEP = 2 * W;
  static F load_query(const bfloat16* q) { return load_pairs(q); }
  static F load_key(const bfloat16* k) { return load_pairs(k); }
  static F load_first_key(const bfloat16* k, int n) { return load_first_pairs(k, n); }
  static F multiply(F q, F k, F sum) { return multiply_pairs(q, k, sum); }
};

// Of pairs where the processor multiplies them.
template <class T>
struct Dot : std::conditional_t<Step<T>::PAIRS, PairDot, WideDot<T>> {};

// Copies n elements and zeros up to `padded`.
template <class T>
inline void copy_query(float* to, const T* from, int n, int padded) {
  for (int d = 0; d < padded; d += W) {
    const int left = n - d;
    store(to + d, left >= W ? load(from + d) : left > 0 ? load_first(from + d, left) : zero());
  }
}
inline void copy_query(bfloat16* to, const bfloat16* from, int n, int padded) {
  for (int d = 0; d < padded; ++d) to[d] = d < n ? from[d] : bfloat16{0};
}

// scores[t] = query . keys[t] for t in [0, n); the order of additions depends on D alone. Keys are read one after the
// other, as they lie: memory in one stream is what a processor fetches ahead by itself.
template <class Product, class T>
inline void dot_products(const typename Product::Query* query, const T* keys, int64_t stride, int n, int D,
                         float* scores) {
  constexpr int STEP = Product::STEP, TOKENS = 4;  // so many sums are added up across their vectors together
  const int whole = D / STEP * STEP, tail = D - whole;
  const auto product = [&](int t) {
    const T* key = keys + t * stride;
    F s = zero();
    for (int d = 0; d < whole; d += STEP)
      s = Product::multiply(Product::load_query(query + d), Product::load_key(key + d), s);
    if (tail) s = Product::multiply(Product::load_query(query + whole), Product::load_first_key(key + whole, tail), s);
    return s;
  };
  int t = 0;
  for (; t + TOKENS <= n; t += TOKENS) {
    F sums[TOKENS];
#pragma GCC unroll 4
    for (int j = 0; j < TOKENS; ++j) sums[j] = product(t + j);
    store_sums(scores + t, sums[0], sums[1], sums[2], sums[3]);
  }
  for (; t < n; ++t) {
    float one[TOKENS];
    store_sums(one, product(t), zero(), zero(), zero());
    scores[t] = one[0];
  }
}

}  // namespace kblam::KBLAM_ISA
