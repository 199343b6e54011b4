// How one kind of latents is multiplied: as floats, or as pairs of bfloat16 where the processor can and nothing is lost
// (bfloat16 queries; latents of bfloat16 or int8). Keys are read where they lie, or converted a few at a time; values
// of pairs are interleaved in pairs of tokens, a panel of columns at a time.
#pragma once

#include "latent_scratch.h"

namespace kblam::KBLAM_ISA {

template <class T>
struct WideLatents {
  using Query = float;
  static constexpr bool PAIRS = false;
  static int steps(int P) { return P; }
  static const char* weights(const LatentScratch& s) { return reinterpret_cast<const char*>(s.scores); }

  // Up to KEY_ROWS keys as they are multiplied, and the bytes from one to the next.
  static const char* keys(const LatentScratch& s, const T* from, int64_t stride, int n, int P, int64_t& bytes) {
    if constexpr (sizeof(T) == sizeof(float)) {
      bytes = stride * int64_t(sizeof(float));
      return reinterpret_cast<const char*>(from);
    } else {
      float* wide = static_cast<float*>(s.keys);
      widen(from, stride, n, P, wide, query_stride(P));
      bytes = query_stride(P) * int64_t(sizeof(float));
      return reinterpret_cast<const char*>(wide);
    }
  }

  // A panel that ends inside a vector is copied, so that no load passes the end of a row.
  static bool packs(int columns) { return columns % W != 0; }
  static void pack(const LatentScratch& s, const T* values, int64_t stride, int n, int columns) {
    widen(values, stride, n, columns, s.panel, PANEL);
  }

  // sums[i] += weights[i] . values; a weight of row i and token t is at weights + i * Layout::ROW + t * Layout::STEP.
  template <class Layout, int I, int J>
  static void add_panel(F (&sums)[I][J], const LatentScratch& s, const char* weights, const T* values, int64_t stride,
                        int n, bool packed, const Fetches& ahead) {
    if (packed)
      add_rows<Layout>(sums, weights, s.panel, int64_t(PANEL), n, ahead);
    else
      add_rows<Layout>(sums, weights, values, stride, n, ahead);
  }
  static int panel_steps(int n) { return n; }

 private:
  template <class Layout, int I, int J, class V>
  static void add_rows(F (&sums)[I][J], const char* weights, const V* values, int64_t stride, int n,
                       const Fetches& ahead) {
    for (int t = 0; t < n; ++t, values += stride, weights += Layout::STEP) {
      ahead(t);
      F x[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) x[j] = load(values + j * W);
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) {
        const F w = broadcast(weights + i * Layout::ROW);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sums[i][j] = fma(w, x[j], sums[i][j]);
      }
    }
  }
};

inline F pairs_of(const bfloat16* even, const bfloat16* odd, int n) { return interleave(even, odd, n); }
inline F pairs_of(const int8_t* even, const int8_t* odd, int n) {
  const F first = n >= W ? load(even) : load_first(even, n);
  return round_to_pairs(first, odd == nullptr ? zero() : n >= W ? load(odd) : load_first(odd, n));
}

template <class T>
struct PairLatents {
  using Query = bfloat16;
  static constexpr bool PAIRS = true;
  static int steps(int P) { return (P + 1) / 2; }
  static const char* weights(const LatentScratch& s) { return reinterpret_cast<const char*>(s.pairs); }

  static const char* keys(const LatentScratch& s, const T* from, int64_t stride, int n, int P, int64_t& bytes) {
    if constexpr (sizeof(T) == sizeof(bfloat16)) {
      // A row of odd width ends within a pair.
      if (P % 2 == 0) {
        bytes = stride * int64_t(sizeof(bfloat16));
        return reinterpret_cast<const char*>(from);
      }
    }
    // Exact: every int8 is a bfloat16.
    bfloat16* rounded = static_cast<bfloat16*>(s.keys);
    for (int t = 0; t < n; ++t)
      for (int d = 0; d < P; d += W) {
        const T* here = from + t * stride + d;
        store_rounded(rounded + t * query_stride(P) + d, P - d >= W ? load(here) : load_first(here, P - d));
      }
    bytes = query_stride(P) * int64_t(sizeof(bfloat16));
    return reinterpret_cast<const char*>(rounded);
  }

  static bool packs(int) { return true; }
  static void pack(const LatentScratch& s, const T* values, int64_t stride, int n, int columns) {
    pack(s, values, stride, n, columns, [](int) {});
  }
  // Calls between(t) for every even token.
  template <class Between>
  static void pack(const LatentScratch& s, const T* values, int64_t stride, int n, int columns,
                   const Between& between) {
    for (int t = 0; t < n; t += 2) {
      between(t);
      const T* even = values + t * stride;
      const T* odd = t + 1 < n ? even + stride : nullptr;
      float* to = s.panel + t / 2 * PANEL;
      int d = 0;
      if constexpr (sizeof(T) == sizeof(bfloat16)) {
        for (; odd != nullptr && d + 2 * W <= columns; d += 2 * W) {
          F low, high;
          interleave_two(even + d, odd + d, low, high);
          store(to + d, low);
          store(to + d + W, high);
        }
      }
      for (; d < columns; d += W) store(to + d, pairs_of(even + d, odd == nullptr ? nullptr : odd + d, columns - d));
    }
  }

  template <class Layout, int I, int J>
  static void add_panel(F (&sums)[I][J], const LatentScratch& s, const char* weights, const T*, int64_t, int n, bool,
                        const Fetches& ahead) {
    product<bfloat16>(sums, weights, Layout::ROW, Layout::STEP, reinterpret_cast<const char*>(s.panel), PANEL * 4,
                      panel_steps(n), ahead);
  }
  static int panel_steps(int n) { return (n + 1) / 2; }
};

// f(kind, element) for the way in which such queries and latents are multiplied.
template <class Function>
inline auto by_kind(Dtype query, Dtype storage, const Function& f) {
  if constexpr (Isa::HAS_PAIRS) {
    if (query == Dtype::bfloat16 && storage == Dtype::bfloat16) return f(PairLatents<bfloat16>{}, bfloat16{});
    if (query == Dtype::bfloat16 && storage == Dtype::int8) return f(PairLatents<int8_t>{}, int8_t{});
  }
  switch (storage) {
    case Dtype::bfloat16: return f(WideLatents<bfloat16>{}, bfloat16{});
    case Dtype::float16: return f(WideLatents<float16>{}, float16{});
    case Dtype::int8: return f(WideLatents<int8_t>{}, int8_t{});
    case Dtype::float8: return f(WideLatents<float8>{}, float8{});
    default: return f(WideLatents<float>{}, float{});
  }
}

// P elements of any query dtype to the kind's, zeros up to query_stride.
template <class Query>
inline void take_query(Query* to, const void* from, Dtype dtype, int P) {
  const int padded = int(query_stride(P));
  if constexpr (sizeof(Query) == sizeof(bfloat16)) {
    copy_query(to, static_cast<const bfloat16*>(from), P, padded);
  } else {
    switch (dtype) {
      case Dtype::bfloat16: return copy_query(to, static_cast<const bfloat16*>(from), P, padded);
      case Dtype::float16: return copy_query(to, static_cast<const float16*>(from), P, padded);
      default: return copy_query(to, static_cast<const float*>(from), P, padded);
    }
  }
}

}  // namespace kblam::KBLAM_ISA
