// The inner product of a query with a key, for every element type and instruction set.
#pragma once

namespace kblam::KBLAM_ISA {

// Queries are kept as floats, and keys widened, unless the processor multiplies pairs of bfloat16.
template <class T>
struct Dot {
  using Query = float;
  static constexpr int STEP = W;
  static F load_query(const float* q) { return load(q); }
  static F step(F sum, F q, const T* k) { return fma(q, load(k), sum); }
  static F step_first(F sum, F q, const T* k, int n) { return fma(q, load_first(k, n), sum); }
};

#ifdef KBLAM_HAS_PAIRS
template <>
struct Dot<bfloat16> {
  using Query = bfloat16;
  static constexpr int STEP = 2 * W;
  static F load_query(const bfloat16* q) { return load_pairs(q); }
  static F step(F sum, F q, const bfloat16* k) { return multiply_pairs(q, load_pairs(k), sum); }
  static F step_first(F sum, F q, const bfloat16* k, int n) { return multiply_pairs(q, load_first_pairs(k, n), sum); }
};
#endif

// Copies n elements and zeros up to `padded`.
template <class T>
inline void copy_query(float* to, const T* from, int n, int padded) {
  for (int d = 0; d < padded; d += W) {
    const int left = n - d;
    store(to + d, left >= W ? load(from + d) : left > 0 ? load_first(from + d, left) : zero());
  }
}
#ifdef KBLAM_HAS_PAIRS
inline void copy_query(bfloat16* to, const bfloat16* from, int n, int padded) {
  for (int d = 0; d < padded; ++d) to[d] = d < n ? from[d] : bfloat16{0};
}
#endif

// scores[t] = query . keys[t] for t in [0, n); the order of additions depends on D alone. Fetches row t of `ahead`.
template <class T>
inline void dot_products(const typename Dot<T>::Query* query, const T* keys, int64_t stride, int n, int D,
                         const Ahead& ahead, float* scores) {
  constexpr int STEP = Dot<T>::STEP, TOKENS = 4;
  const int whole = D / STEP * STEP, tail = D - whole;
  int t = 0;
  for (; t + TOKENS <= n; t += TOKENS) {
    const T* k[TOKENS];
    F sums[TOKENS];
    for (int j = 0; j < TOKENS; ++j) {
      k[j] = keys + (t + j) * stride;
      sums[j] = zero();
      ahead.fetch(t + j);
    }
    for (int d = 0; d < whole; d += STEP) {
      const F q = Dot<T>::load_query(query + d);
#pragma GCC unroll 4
      for (int j = 0; j < TOKENS; ++j) sums[j] = Dot<T>::step(sums[j], q, k[j] + d);
    }
    if (tail) {
      const F q = Dot<T>::load_query(query + whole);
      for (int j = 0; j < TOKENS; ++j) sums[j] = Dot<T>::step_first(sums[j], q, k[j] + whole, tail);
    }
    for (int j = 0; j < TOKENS; ++j) scores[t + j] = sum(sums[j]);
  }
  for (; t < n; ++t) {
    ahead.fetch(t);
    const T* k = keys + t * stride;
    F s = zero();
    for (int d = 0; d < whole; d += STEP) s = Dot<T>::step(s, Dot<T>::load_query(query + d), k + d);
    if (tail) s = Dot<T>::step_first(s, Dot<T>::load_query(query + whole), k + whole, tail);
    scores[t] = sum(s);
  }
}

}  // namespace kblam::KBLAM_ISA
