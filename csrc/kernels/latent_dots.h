// Latents against few rows: scores are inner products of Isa::SCORE_ROWS queries with SCORE_TOKENS keys at a time, each
// summed across its vector; a softmax step runs over vectors of tokens.
#pragma once

#include "latent_values.h"
#include "softmax.h"

namespace kblam::KBLAM_ISA {

constexpr int SCORE_TOKENS = 4;

// scores[r][j] = queries[r] . keys[j] for up to SCORE_TOKENS keys; the order of additions depends on P alone.
template <class D, class T>
inline void score_keys(const typename D::Query* queries, int rows, const T* keys, int64_t stride, int n, int P,
                       float* scores, Fetches& ahead) {
  const int whole = P / D::STEP * D::STEP, tail = P - whole;
  const int64_t width = query_stride(P);
  const T* key[SCORE_TOKENS];
  for (int j = 0; j < SCORE_TOKENS; ++j) key[j] = keys + (j < n ? j : n - 1) * stride;
  for (int r = 0; r < rows; r += Isa::SCORE_ROWS) {
    const typename D::Query* query[Isa::SCORE_ROWS];
    F sums[Isa::SCORE_ROWS][SCORE_TOKENS];
    for (int i = 0; i < Isa::SCORE_ROWS; ++i) {
      query[i] = queries + (r + i < rows ? r + i : rows - 1) * width;
      for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = zero();
    }
    const auto multiply = [&](const F(&k)[SCORE_TOKENS], int d) {
#pragma GCC unroll 4
      for (int i = 0; i < Isa::SCORE_ROWS; ++i) {
        const F q = D::load_query(query[i] + d);
#pragma GCC unroll 4
        for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = D::multiply(q, k[j], sums[i][j]);
      }
    };
    F k[SCORE_TOKENS];
    for (int d = 0; d < whole; d += D::STEP) {
      ahead(d / D::STEP);
#pragma GCC unroll 4
      for (int j = 0; j < SCORE_TOKENS; ++j) k[j] = D::load_key(key[j] + d);
      multiply(k, d);
    }
    if (tail) {
      for (int j = 0; j < SCORE_TOKENS; ++j) k[j] = D::load_first_key(key[j] + whole, tail);
      multiply(k, whole);
    }
    ahead.pass(P / D::STEP);
    for (int i = 0; i < Isa::SCORE_ROWS; ++i)
      store_sums(scores + (r + i) * LATENT_TILE, sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }
}

// Turns the n products of a row into weights relative to its running maximum, and hands those, times what the token's
// value is multiplied by, to `keep(t, weights)` vector by vector. Returns the factor of the row's output so far.
template <class Keep>
inline float take_products(const LatentRow& row, const LatentScratch& s, float* scores, int64_t tile, int n,
                           const Keep& keep) {
  const float infinity = __builtin_inff();
  const int padded = int(round_up(n, W));
  F top = set1(-infinity);
  for (int t = 0; t < padded; t += W) {
    F x = fma(load(s.of_constant + t), set1(row.constant), set1(row.offset));
    x = fma(load(scores + t), load(s.of_product + t), x);
    if (row.bias != nullptr) {
      const float* bias = row.bias + tile + t;
      x = add(x, n - t >= W ? load(bias) : load_first(bias, n - t));
    }
    store(scores + t, x);
    if (t + W > n) {
      for (int i = n; i < padded; ++i) scores[i] = -infinity;
      x = load(scores + t);
    }
    top = max(top, x);
  }
  return take_row<false>(row, scores, padded, top,
                         [&](int t, F weights) { keep(t, mul(weights, load(s.of_value + t))); });
}

template <class L>
struct Dots {
  using Query = typename L::Query;
  static constexpr int TOKENS = SCORE_TOKENS;
  static constexpr int64_t ROW = LATENT_TILE * (L::PAIRS ? 2 : 4), STEP = 4;  // bytes between weights
  static int64_t score_steps(int rows, int n, int P) {
    return int64_t((n + TOKENS - 1) / TOKENS) * ((rows + Isa::SCORE_ROWS - 1) / Isa::SCORE_ROWS) *
           (P / Dot<Query>::STEP);
  }

  template <class AnyRow>
  static void take_queries(Dtype query, const AnyRow* rows, int count, int P, const LatentScratch& s) {
    for (int r = 0; r < count; ++r)
      take_query(static_cast<Query*>(s.queries) + r * query_stride(P), rows[r].query, query, P);
  }

  template <class T>
  static void scores(const LatentScratch& s, int rows, const T* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    const Query* queries = static_cast<const Query*>(s.queries);
    keys += t * stride;
    if constexpr (!L::PAIRS) {
      if (rows <= Isa::SCORE_ROWS)
        return score_keys<WideDot<T>>(queries, rows, keys, stride, n, P, s.scores + t, ahead);
    }
    int64_t bytes;
    const Query* wide = reinterpret_cast<const Query*>(L::keys(s, keys, stride, n, P, bytes));
    score_keys<Dot<Query>>(queries, rows, wide, bytes / int64_t(sizeof(Query)), n, P, s.scores + t, ahead);
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches&) {
    for (int r = 0; r < count; ++r) {
      float* scores = s.scores + r * LATENT_TILE;
      s.shrink[r] = take_products(rows[r], s, scores, tile, n, [&](int t, F weights) {
        if constexpr (L::PAIRS)
          store_rounded(reinterpret_cast<bfloat16*>(s.pairs) + r * LATENT_TILE + t, weights);
        else
          store(scores + t, weights);
      });
    }
  }

  static const char* weights(const LatentScratch& s) { return L::weights(s); }

  template <class T>
  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const T* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    sum_values<Dots, L>(s, rows, count, values, stride, n, P, next, bytes);
  }

  static void begin(const LatentRow*, int, const LatentScratch&) {}
  static void end(const LatentRow*, int, const LatentScratch&) {}
};

}  // namespace kblam::KBLAM_ISA
