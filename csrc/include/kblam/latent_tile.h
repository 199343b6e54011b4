// Attention of absorbed queries to latents: every head of every query reads the same tokens.
//
// For each tile of tokens: inner products of SCORE_ROWS queries with four keys at a time, a softmax step over vectors
// of tokens, and a small matrix product of weights and values. Latents stay as they lie in memory, a row a triple.
// Pairs of bfloat16 are multiplied where the processor can and nothing is lost: bfloat16 queries, and latents of
// bfloat16 or int8. Values are then interleaved in pairs of tokens, a panel of columns at a time.
#pragma once

#include "tile.h"

namespace kblam::KBLAM_ISA {

constexpr int LATENT_TILE = 128;
constexpr int SCORE_TOKENS = 4;
constexpr int PANEL = TILE_J * W;  // columns of values that are worked on together
// A query takes up so many elements: whole steps of any product.
inline int64_t query_stride(int P) { return round_up(P, 2 * OUTPUT_PAD); }

struct LatentScratch {
  float* scores;      // [MAX_LATENT_ROWS][LATENT_TILE]; then weights
  float* shrink;      // [MAX_LATENT_ROWS]
  float* of_product;  // [LATENT_TILE]: what each token's product, constant and value are multiplied by
  float* of_constant;
  float* of_value;
  float* panel;     // [LATENT_TILE][PANEL] floats, or [LATENT_TILE / 2][PANEL] pairs
  void* keys;       // [SCORE_TOKENS][query_stride], converted
  void* queries;    // [MAX_LATENT_ROWS][query_stride]
  uint16_t* pairs;  // [MAX_LATENT_ROWS][LATENT_TILE]: weights as bfloat16
};

inline int64_t latent_scratch(int P) {
  return int64_t(sizeof(float)) *
         (MAX_LATENT_ROWS * (LATENT_TILE + LATENT_TILE / 2) + round_up(MAX_LATENT_ROWS, OUTPUT_PAD) + 3 * LATENT_TILE +
          LATENT_TILE * PANEL + (SCORE_TOKENS + MAX_LATENT_ROWS) * query_stride(P));
}

inline LatentScratch lay_out_latent(char* memory, int P) {
  float* next = reinterpret_cast<float*>(memory);
  const auto take = [&](int64_t floats) {
    float* here = next;
    next += floats;
    return here;
  };
  LatentScratch s;
  s.scores = take(MAX_LATENT_ROWS * LATENT_TILE);
  s.shrink = take(round_up(MAX_LATENT_ROWS, OUTPUT_PAD));
  s.of_product = take(LATENT_TILE);
  s.of_constant = take(LATENT_TILE);
  s.of_value = take(LATENT_TILE);
  s.panel = take(LATENT_TILE * PANEL);
  s.keys = take(SCORE_TOKENS * query_stride(P));
  s.queries = take(MAX_LATENT_ROWS * query_stride(P));
  s.pairs = reinterpret_cast<uint16_t*>(take(MAX_LATENT_ROWS * LATENT_TILE / 2));
  return s;
}

// scores[r][j] = queries[r] . keys[j] for up to SCORE_TOKENS keys; the order of additions depends on P alone.
template <class D, class T>
inline void score_keys(const typename D::Query* queries, int rows, const T* keys, int64_t stride, int n, int P,
                       float* scores) {
  const int whole = P / D::STEP * D::STEP, tail = P - whole;
  const int64_t width = query_stride(P);
  const T* key[SCORE_TOKENS];
  for (int j = 0; j < SCORE_TOKENS; ++j) key[j] = keys + (j < n ? j : n - 1) * stride;
  for (int r = 0; r < rows; r += SCORE_ROWS) {
    const typename D::Query* query[SCORE_ROWS];
    F sums[SCORE_ROWS][SCORE_TOKENS];
    for (int i = 0; i < SCORE_ROWS; ++i) {
      query[i] = queries + (r + i < rows ? r + i : rows - 1) * width;
      for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = zero();
    }
    const auto multiply = [&](const F (&k)[SCORE_TOKENS], int d) {
#pragma GCC unroll 4
      for (int i = 0; i < SCORE_ROWS; ++i) {
        const F q = D::load_query(query[i] + d);
#pragma GCC unroll 4
        for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = D::multiply(q, k[j], sums[i][j]);
      }
    };
    F k[SCORE_TOKENS];
    for (int d = 0; d < whole; d += D::STEP) {
#pragma GCC unroll 4
      for (int j = 0; j < SCORE_TOKENS; ++j) k[j] = D::load_key(key[j] + d);
      multiply(k, d);
    }
    if (tail) {
      for (int j = 0; j < SCORE_TOKENS; ++j) k[j] = D::load_first_key(key[j] + whole, tail);
      multiply(k, whole);
    }
    for (int i = 0; i < SCORE_ROWS; ++i)
      store_sums(scores + (r + i) * LATENT_TILE, sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }
}

// What the tile's tokens multiply, scale included.
inline void token_factors(const Latents& latents, int64_t tile, int n, float scale, const LatentScratch& s) {
  for (int t = 0; t < n; ++t) {
    const float norm = latents.norm == nullptr ? scale : latents.norm[tile + t] * scale;
    s.of_constant[t] = norm;
    s.of_product[t] = latents.key_scale == nullptr ? norm : norm * latents.key_scale[tile + t];
    s.of_value[t] = latents.value_scale == nullptr ? 1.f : latents.value_scale[tile + t];
  }
  for (int t = n; t < round_up(n, W); ++t) s.of_product[t] = s.of_constant[t] = s.of_value[t] = 0.f;
}

// Turns the n products of a row into weights relative to its running maximum, and hands those, times what the token's
// value is multiplied by, to `keep(t, weights)` vector by vector. Returns the largest weight.
template <class Keep>
inline float take_products(const LatentRow& row, const LatentScratch& s, float* scores, int64_t tile, int n,
                           float* shrink, const Keep& keep) {
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
  const float before = *row.maximum, of_tile = maximum(top);
  const float now = of_tile > before ? of_tile : before;
  // A row that has seen nothing keeps -inf; subtracting it from itself would be NaN.
  const float level = now > LOWEST ? now : LOWEST;
  F total = zero();
  for (int t = 0; t < padded; t += W) {
    const F weight = exp(add(load(scores + t), set1(-level)));
    total = add(total, weight);
    keep(t, mul(weight, load(s.of_value + t)));
  }
  float factor[W];
  *shrink = 1.f;
  if (now != before) {
    store(factor, exp(set1(before - level)));
    *shrink = factor[0];
  }
  store(factor, exp(set1(of_tile - level)));
  *row.maximum = now;
  *row.total = *row.total * *shrink + sum(total);
  return factor[0];
}

// How one kind of latents is multiplied: scores of up to SCORE_TOKENS keys, and the sums of a panel of values.
template <class T>
struct WideLatents {
  using Query = float;

  static void scores(const LatentScratch& s, int rows, const T* keys, int64_t stride, int n, int P, float* to) {
    const float* queries = static_cast<const float*>(s.queries);
    if (sizeof(T) == sizeof(float) || rows <= SCORE_ROWS) {
      score_keys<WideDot<T>>(queries, rows, keys, stride, n, P, to);
      return;
    }
    // Widened once for all rows.
    float* wide = static_cast<float*>(s.keys);
    widen(keys, stride, n, P, wide, query_stride(P));
    score_keys<WideDot<float>>(queries, rows, wide, query_stride(P), n, P, to);
  }

  static void keep(const LatentScratch& s, int row, int t, F weights) {
    store(s.scores + row * LATENT_TILE + t, weights);
  }

  // A panel that ends inside a vector is copied, so that no load passes the end of a row.
  static bool packs(int columns) { return columns % W != 0; }
  static void pack(const LatentScratch& s, const T* values, int64_t stride, int n, int columns) {
    widen(values, stride, n, columns, s.panel, PANEL);
  }

  template <int I, int J>
  static void add_panel(F (&sums)[I][J], const LatentScratch& s, int row, const T* values, int64_t stride, int n,
                        bool packed, int v) {
    const float* weights = s.scores + row * LATENT_TILE;
    if (packed)
      add_rows(sums, weights, s.panel + v * W, int64_t(PANEL), n);
    else
      add_rows(sums, weights, values, stride, n);
  }

 private:
  template <int I, int J, class V>
  static void add_rows(F (&sums)[I][J], const float* weights, const V* values, int64_t stride, int n) {
    for (int t = 0; t < n; ++t, values += stride) {
      F x[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) x[j] = load(values + j * W);
#pragma GCC unroll 4
      for (int i = 0; i < I; ++i) {
        const F weight = set1(weights[i * LATENT_TILE + t]);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sums[i][j] = fma(weight, x[j], sums[i][j]);
      }
    }
  }
};

#ifdef KBLAM_HAS_PAIRS
inline F pairs_of(const bfloat16* even, const bfloat16* odd, int n) { return interleave(even, odd, n); }
inline F pairs_of(const int8_t* even, const int8_t* odd, int n) {
  const F first = n >= W ? load(even) : load_first(even, n);
  return round_to_pairs(first, odd == nullptr ? zero() : n >= W ? load(odd) : load_first(odd, n));
}

template <class T>
struct PairLatents {
  using Query = bfloat16;

  static void scores(const LatentScratch& s, int rows, const T* keys, int64_t stride, int n, int P, float* to) {
    const bfloat16* queries = static_cast<const bfloat16*>(s.queries);
    if constexpr (sizeof(T) == sizeof(bfloat16)) {
      score_keys<Dot<bfloat16>>(queries, rows, keys, stride, n, P, to);
    } else {
      // Exact: every int8 is a bfloat16.
      bfloat16* rounded = static_cast<bfloat16*>(s.keys);
      for (int t = 0; t < n; ++t)
        for (int d = 0; d < P; d += W) {
          const T* from = keys + t * stride + d;
          store_rounded(rounded + t * query_stride(P) + d, P - d >= W ? load(from) : load_first(from, P - d));
        }
      score_keys<Dot<bfloat16>>(queries, rows, rounded, query_stride(P), n, P, to);
    }
  }

  static void keep(const LatentScratch& s, int row, int t, F weights) {
    store_rounded(reinterpret_cast<bfloat16*>(s.pairs) + row * LATENT_TILE + t, weights);
  }

  static bool packs(int) { return true; }
  static void pack(const LatentScratch& s, const T* values, int64_t stride, int n, int columns) {
    for (int t = 0; t < n; t += 2) {
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

  template <int I, int J>
  static void add_panel(F (&sums)[I][J], const LatentScratch& s, int row, const T*, int64_t, int n, bool, int v) {
    product<bfloat16>(sums, reinterpret_cast<const char*>(s.pairs + row * LATENT_TILE), LATENT_TILE * 2, 4,
                      reinterpret_cast<const char*>(s.panel + v * W), PANEL * 4, (n + 1) / 2);
  }
};
#endif

// Rows of memory still to be asked for, a few at a time.
struct Fetches {
  Ahead ahead;
  int64_t rows, next;

  void fetch(int64_t some) {
    for (; some > 0 && next < rows; --some) ahead.fetch_far(next++);
  }
};

// output[row] = output[row] * shrink[row] + weights[row] . values
template <class L, class T>
inline void sum_values(const LatentScratch& s, const LatentRow* rows, int count, const T* values, int64_t stride, int n,
                       int P, Fetches& next_keys) {
  const int all = int(round_up(P, W) / W);
  const int64_t steps = int64_t((all + TILE_J - 1) / TILE_J) * ((count + TILE_I - 1) / TILE_I);
  const int64_t some = (next_keys.rows + steps - 1) / steps;
  for (int v = 0; v < all; v += TILE_J) {
    const int vectors = all - v < TILE_J ? all - v : TILE_J;
    const int columns = P - v * W < vectors * W ? P - v * W : vectors * W;
    const bool packed = L::packs(columns);
    if (packed) L::pack(s, values + v * W, stride, n, columns);
    for (int r = 0; r < count; r += TILE_I) {
      next_keys.fetch(some);
      sized(count - r < TILE_I ? count - r : TILE_I, vectors, [&](auto i, auto j) {
        constexpr int I = decltype(i)::value, J = decltype(j)::value;
        F sums[I][J];
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) sums[a][b] = mul(load(rows[r + a].output + (v + b) * W), set1(s.shrink[r + a]));
        L::template add_panel<I, J>(sums, s, r, values + v * W, stride, n, packed, 0);
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) store(rows[r + a].output + (v + b) * W, sums[a][b]);
      });
    }
  }
}

template <class L, class T>
inline Skipped absorb_tiles(const Latents& latents, const LatentRow* rows, int count, int64_t begin, int64_t end, int P,
                            float scale, float threshold, const LatentScratch& s) {
  const T* keys = static_cast<const T*>(latents.key);
  const T* values = static_cast<const T*>(latents.value);
  const auto ahead = [&](const T* from, int64_t stride, int64_t token, int64_t n) {
    const Ahead rows{reinterpret_cast<const char*>(from + token * stride), stride * int64_t(sizeof(T)),
                     P * int(sizeof(T))};
    return Fetches{rows, n, 0};
  };
  Skipped tiles{};
  for (int64_t tile = begin; tile < end; tile += LATENT_TILE) {
    const int n = int(end - tile < LATENT_TILE ? end - tile : LATENT_TILE);
    const int64_t after = tile + n, next = end - after < LATENT_TILE ? end - after : LATENT_TILE;
    // Values are on their way while keys are worked on, unless they may not be wanted.
    Fetches next_values = ahead(values, latents.value_stride, tile, threshold > 0 ? 0 : n);
    Fetches next_keys = ahead(keys, latents.key_stride, after, next);
    token_factors(latents, tile, n, scale, s);
    for (int t = 0; t < n; t += SCORE_TOKENS) {
      next_values.fetch(SCORE_TOKENS);
      L::scores(s, count, keys + (tile + t) * latents.key_stride, latents.key_stride,
                n - t < SCORE_TOKENS ? n - t : SCORE_TOKENS, P, s.scores + t);
    }
    float largest = 0.f;
    for (int r = 0; r < count; ++r) {
      const float weight = take_products(rows[r], s, s.scores + r * LATENT_TILE, tile, n, s.shrink + r,
                                         [&](int t, F weights) { L::keep(s, r, t, weights); });
      if (!(weight <= largest)) largest = weight;  // NaN stays
    }
    ++tiles.visited;
    // No row has a new maximum, so the sums so far need no factor either.
    if (largest < threshold) {
      ++tiles.skipped;
      continue;
    }
    sum_values<L>(s, rows, count, values + tile * latents.value_stride, latents.value_stride, n, P, next_keys);
  }
  return tiles;
}

// f(kind, element) for the way in which such queries and latents are multiplied.
template <class Function>
inline auto by_kind(Dtype query, Dtype storage, const Function& f) {
#ifdef KBLAM_HAS_PAIRS
  if (query == Dtype::bfloat16 && storage == Dtype::bfloat16) return f(PairLatents<bfloat16>{}, bfloat16{});
  if (query == Dtype::bfloat16 && storage == Dtype::int8) return f(PairLatents<int8_t>{}, int8_t{});
#endif
  switch (storage) {
    case Dtype::bfloat16: return f(WideLatents<bfloat16>{}, bfloat16{});
    case Dtype::float16: return f(WideLatents<float16>{}, float16{});
    case Dtype::int8: return f(WideLatents<int8_t>{}, int8_t{});
    case Dtype::float8: return f(WideLatents<float8>{}, float8{});
    default: return f(WideLatents<float>{}, float{});
  }
}

// The rows' queries, padded with zeros, as the kind multiplies them.
template <class L, class AnyRow>
inline void copy_queries(Dtype query, const AnyRow* rows, int count, int P, const LatentScratch& s) {
  using Query = typename L::Query;
  const int padded = int(query_stride(P));
  for (int r = 0; r < count; ++r) {
    Query* to = static_cast<Query*>(s.queries) + r * padded;
    if constexpr (sizeof(Query) == sizeof(bfloat16)) {
      copy_query(to, static_cast<const bfloat16*>(rows[r].query), P, padded);
    } else {
      switch (query) {
        case Dtype::bfloat16: copy_query(to, static_cast<const bfloat16*>(rows[r].query), P, padded); break;
        case Dtype::float16: copy_query(to, static_cast<const float16*>(rows[r].query), P, padded); break;
        default: copy_query(to, static_cast<const float*>(rows[r].query), P, padded);
      }
    }
  }
}

inline Skipped latent_absorb(const Latents& latents, Dtype query, const LatentRow* rows, int count, int64_t begin,
                             int64_t end, int P, float scale, float threshold, char* scratch) {
  const LatentScratch s = lay_out_latent(scratch, P);
  return by_kind(query, latents.storage, [&](auto kind, auto element) {
    using L = decltype(kind);
    copy_queries<L>(query, rows, count, P, s);
    return absorb_tiles<L, decltype(element)>(latents, rows, count, begin, end, P, scale, threshold, s);
  });
}

// to += factor * from, whole vectors.
inline void add_scaled(float* to, const float* from, float factor, int64_t n) {
  for (int64_t d = 0; d < n; d += W) store(to + d, fma(set1(factor), load(from + d), load(to + d)));
}

}  // namespace kblam::KBLAM_ISA
