// Queries and values of a tile in the layout of column operands.
#pragma once

#include "product.h"
#include "tile_scratch.h"

namespace kblam::KBLAM_ISA {

// Steps of four bytes in a packed query: whole ones of any product.
template <class T>
inline int query_steps(int D) {
  if constexpr (!Step<T>::PAIRS)
    return D;
  else
    return Isa::HAS_MATRIX ? int(round_up(D / 2, MATRIX_STEPS)) : D / 2;
}

// Queries of a block as the column operand: [step][BLOCK_ROWS], absent rows 0, and so are steps past D.
template <class T>
inline void pack_queries(const Row* rows, const Block& block, int D, float* to) {
  const int lanes = block.vectors * W;
  for (int r = 0; r < lanes; ++r) {
    const T* query = r < block.count ? static_cast<const T*>(rows[block.begin + r].query) : nullptr;
    if constexpr (Step<T>::PAIRS) {
      for (int step = 0; step < query_steps<T>(D); ++step) {
        T pair[2] = {};
        if (query != nullptr && 2 * step < D) __builtin_memcpy(pair, query + 2 * step, sizeof pair);
        __builtin_memcpy(to + step * BLOCK_ROWS + r, pair, sizeof pair);
      }
    } else {
      for (int d = 0; d < D; d += W) {
        float wide[W];
        const int left = D - d;
        store(wide, query == nullptr ? zero() : left >= W ? load(query + d) : load_first(query + d, left));
        for (int i = 0; i < W && i < left; ++i) to[(d + i) * BLOCK_ROWS + r] = wide[i];
      }
    }
  }
}

template <class T>
inline void widen(const T* from, int64_t stride, int n, int D, float* to, int64_t to_stride) {
  for (int t = 0; t < n; ++t) {
    for (int d = 0; d < D; d += W) {
      const T* p = from + t * stride + d;
      const F x = D - d >= W ? load(p) : load_first(p, D - d);
      // The last vector may be cut: the row ends at to_stride.
      if (to_stride - d >= W) {
        store(to + t * to_stride + d, x);
      } else {
        float wide[W];
        store(wide, x);
        for (int i = 0; i < to_stride - d; ++i) to[t * to_stride + d + i] = wide[i];
      }
    }
  }
}

// Zeros for the packed values of the tokens that sees(t) is false of, which may be NaN: weight 0 would not hide that.
template <class T, class Sees>
inline void clear_unseen(const Sees& sees, int n, int64_t padded, float* values) {
  for (int t = 0; t < n; ++t) {
    if (sees(t)) continue;
    if constexpr (Step<T>::PAIRS) {
      T* pairs = reinterpret_cast<T*>(values + t / 2 * padded);
      for (int64_t d = 0; d < padded; ++d) pairs[2 * d + t % 2] = T{};
    } else {
      for (int64_t d = 0; d < padded; ++d) values[t * padded + d] = 0.f;
    }
  }
}

// Whether no packed value is NaN or infinite.
template <class T>
inline bool all_finite(const float* values, int steps, int64_t padded) {
  F spoilt = zero();
  for (int64_t i = 0; i < steps * padded; i += W) spoilt = Step<T>::multiply(load(values + i), zero(), spoilt);
  return sum(spoilt) == 0.f;
}

// Values of a tile as the column operand of the second product: [steps][padded D].
template <class T>
inline void pack_values(const T* values, int64_t stride, int n, int D, float* to) {
  const int64_t padded = round_up(D, OUTPUT_PAD);
  if constexpr (Step<T>::PAIRS) {
    for (int t = 0; t < n; t += 2) {
      const T* even = values + t * stride;
      const T* odd = t + 1 < n ? even + stride : nullptr;
      int d = 0;
      for (; odd != nullptr && d + 2 * W <= D; d += 2 * W) {
        F low, high;
        interleave_two(even + d, odd + d, low, high);
        store(to + t / 2 * padded + d, low);
        store(to + t / 2 * padded + d + W, high);
      }
      for (; d < D; d += W)
        store(to + t / 2 * padded + d, interleave(even + d, odd == nullptr ? nullptr : odd + d, D - d));
    }
  } else {
    for (int t = 0; t < n; ++t)
      for (int64_t d = round_up(D, W); d < padded; d += W) store(to + t * padded + d, zero());
    widen(values, stride, n, D, to, padded);
  }
}

}  // namespace kblam::KBLAM_ISA
