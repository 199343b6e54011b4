// int8 latents multiplied as bytes, four to a step, where the caller allows it: absorbed queries are rounded to int8,
// one scale for each, and weights to [0, 255], one scale for each row and tile. The processor multiplies bytes without
// sign by bytes with sign: keys get 128 added on the way, and 128 times the sum of the query is taken off the result.
#pragma once

#include "latent_kinds.h"

namespace kblam::KBLAM_ISA {

struct KeyBytes {};
struct ValueBytes {};
template <>
struct Step<KeyBytes> {
  static F multiply(F keys, F queries, F sum) { return multiply_bytes(without_sign(keys), queries, sum); }
};
template <>
struct Step<ValueBytes> {
  static F multiply(F weights, F values, F sum) { return multiply_bytes(weights, values, sum); }
};

constexpr float WEIGHT_LEVELS = 255.f;
constexpr int BYTE_PANEL = 64;  // columns of values that are interleaved together

// A query rounded to bytes in place, zeros up to 2 * query_stride; what its sums are shifted by and multiplied with.
inline int8_t* round_query(float* wide, int P, int32_t& shift, float& factor) {
  F largest = zero(), spoilt = zero();
  for (int p = 0; p < query_stride(P); p += W) {
    const F x = load(wide + p);
    largest = max(largest, max(x, mul(x, set1(-1.f))));
    spoilt = fma(x, zero(), spoilt);  // NaN and infinity go into every score
  }
  const float top = maximum(largest), levels = top > 0.f ? 127.f / top : 0.f;
  int8_t* rounded = reinterpret_cast<int8_t*>(wide);
  for (int p = 0; p < query_stride(P); p += W) store_rounded(rounded + p, mul(load(wide + p), set1(levels)));
  for (int64_t p = query_stride(P); p < 2 * query_stride(P); ++p) rounded[p] = 0;
  shift = 0;
  for (int p = 0; p < P; ++p) shift += 128 * rounded[p];
  factor = top / 127.f + sum(spoilt);
  return rounded;
}

// The first `columns` of n values, up to BYTE_PANEL, as fours of tokens: [n / 4][BYTE_PANEL].
// Calls between(t) for every fourth token.
template <class Between>
inline void pack_bytes(const LatentScratch& s, const int8_t* values, int64_t stride, int n, int columns,
                       const Between& between) {
  for (int t = 0; t < n; t += 4) {
    between(t);
    F four[4], packed[BYTE_PANEL / W];
    for (int i = 0; i < 4; ++i) four[i] = t + i < n ? load_first_bytes(values + (t + i) * stride, columns) : zero();
    interleave_four(four[0], four[1], four[2], four[3], packed);
    for (int j = 0; j < BYTE_PANEL / W; ++j) store(s.panel + t / 4 * BYTE_PANEL + j * W, packed[j]);
  }
}

// output[row] = output[row] * shrink[row] + weights[row] . values, of any layout.
template <class Layout>
inline void sum_bytes(const LatentScratch& s, const LatentRow* rows, int count, const int8_t* values, int64_t stride,
                      int n, int P, const void* next, int64_t bytes) {
  constexpr int J = BYTE_PANEL / W;
  const int steps = (n + 3) / 4;
  Fetches ahead(next, bytes, int64_t((P + BYTE_PANEL - 1) / BYTE_PANEL) * (count / 4 + count % 4) * steps);
  for (int first = 0; first < P; first += BYTE_PANEL) {
    const int columns = P - first < BYTE_PANEL ? P - first : BYTE_PANEL;
    pack_bytes(s, values + first, stride, n, columns, [](int) {});
    const auto add = [&](auto i, int r) {
      constexpr int I = decltype(i)::value;
      F sums[I][J];
#pragma GCC unroll 4
      for (int a = 0; a < I; ++a)
#pragma GCC unroll 4
        for (int b = 0; b < J; ++b) sums[a][b] = zero();
      product<ValueBytes>(sums, Layout::weights(s) + r * Layout::ROW, Layout::ROW, Layout::STEP,
                          reinterpret_cast<const char*>(s.panel), BYTE_PANEL * 4, steps, ahead);
      ahead.pass(steps);
#pragma GCC unroll 4
      for (int a = 0; a < I; ++a)
#pragma GCC unroll 4
        for (int b = 0; b < J; ++b) {
          if (b * W >= columns) continue;  // rows of output end there
          float* out = rows[r + a].output + first + b * W;
          store(out, fma(load(out), set1(s.shrink[r + a]), scaled(sums[a][b], zero(), set1(s.weight_scale[r + a]))));
        }
      return r + I;
    };
    int r = 0;
    while (r + 4 <= count) r = add(Size<4>{}, r);
    while (r < count) r = add(Size<1>{}, r);
  }
}

// The same for up to four rows, whose products are too few to wait for a panel in memory.
template <class Layout, int I>
inline void sum_few_bytes(const LatentScratch& s, const LatentRow* rows, const int8_t* values, int64_t stride, int n,
                          int P, const void* next, int64_t bytes) {
  constexpr int J = BYTE_PANEL / W;
  const int steps = (n + 3) / 4;
  Fetches ahead(next, bytes, int64_t((P + BYTE_PANEL - 1) / BYTE_PANEL) * steps);
  for (int first = 0; first < P; first += BYTE_PANEL, ahead.pass(steps)) {
    const int columns = P - first < BYTE_PANEL ? P - first : BYTE_PANEL;
    F sums[I][J];
#pragma GCC unroll 4
    for (int a = 0; a < I; ++a)
#pragma GCC unroll 4
      for (int b = 0; b < J; ++b) sums[a][b] = zero();
    const auto add = [&](int step, int tokens) {
      const int8_t* from = values + step * 4 * stride + first;
      const auto row = [&](int i) { return i < tokens ? load_first_bytes(from + i * stride, columns) : zero(); };
      F packed[J];
      interleave_bytes(row(0), row(1), row(2), row(3), packed);
#pragma GCC unroll 4
      for (int a = 0; a < I; ++a) {
        const F weights = broadcast(Layout::weights(s) + a * Layout::ROW + step * Layout::STEP);
#pragma GCC unroll 4
        for (int b = 0; b < J; ++b) sums[a][b] = multiply_bytes(weights, packed[b], sums[a][b]);
      }
    };
    for (int step = 0; step < n / 4; ++step) {
      ahead(step);
      add(step, 4);
    }
    if (n % 4) add(n / 4, n % 4);
#pragma GCC unroll 4
    for (int a = 0; a < I; ++a) {
      sort_columns(sums[a]);
#pragma GCC unroll 4
      for (int b = 0; b < J; ++b) {
        if (b * W >= columns) continue;  // rows of output end there
        float* out = rows[a].output + first + b * W;
        store(out, fma(load(out), set1(s.shrink[a]), scaled(sums[a][b], zero(), set1(s.weight_scale[a]))));
      }
    }
  }
}

}  // namespace kblam::KBLAM_ISA
