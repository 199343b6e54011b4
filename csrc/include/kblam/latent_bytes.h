// int8 latents multiplied as bytes, four to a step, where the caller allows it: absorbed queries are rounded to int8, one
// scale for each, and weights to [0, 255], one scale for each row and tile. The processor multiplies bytes without sign
// by bytes with sign: keys get 128 added on the way, and 128 times the sum of the query is taken off the result.
#pragma once

#include "latent_dots.h"
#include "latent_lanes.h"

#ifdef KBLAM_HAS_BYTES
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
    for (int i = 0; i < 4; ++i)
      four[i] = t + i < n ? load_first_bytes(values + (t + i) * stride, columns) : zero();
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

struct ByteLanes : Lanes<WideLatents<int8_t>, true> {
  static int steps(int P) { return (P + 3) / 4; }
  static int64_t score_steps(int rows, int n, int P) {
    return int64_t((n + TOKENS - 1) / TOKENS) * ((rows + W * LANE_J - 1) / (W * LANE_J)) * steps(P);
  }

  static void take_queries(Dtype query, const LatentRow* rows, int count, int P, const LatentScratch& s) {
    float* queries = static_cast<float*>(s.queries);
    float* one = static_cast<float*>(s.keys);  // free until the first tile
    for (int r = 0; r < round_up(count, W); ++r) {
      const int8_t* rounded = nullptr;
      s.query_shift[r] = 0, s.query_factor[r] = 0.f;
      if (r < count) {
        take_query(one, rows[r].query, query, P);
        rounded = round_query(one, P, s.query_shift[r], s.query_factor[r]);
      }
      for (int64_t step = 0; step < query_stride(P) / 2; ++step) {
        float four = 0.f;
        if (r < count) __builtin_memcpy(&four, rounded + step * 4, 4);
        __builtin_memcpy(queries + step * LANES + r, &four, 4);
      }
    }
  }

  static void scores(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    const int8_t* from = keys + t * stride;
    int64_t bytes = stride;
    if (P % 4) {  // a row ends within a step
      int8_t* copied = static_cast<int8_t*>(s.keys);
      bytes = round_up(P, 64);
      for (int i = 0; i < n; ++i)
        for (int p = 0; p < P; p += 64)
          store(reinterpret_cast<float*>(copied + i * bytes + p), load_first_bytes(from + i * stride + p, P - p));
      from = copied;
    }
    const int vectors = int(round_up(rows, W) / W);
    const char* at = reinterpret_cast<const char*>(from);
    for (int v = 0; v < vectors; v += LANE_J) {
      if (n == TOKENS && vectors - v >= LANE_J) {
        multiply<TOKENS, LANE_J>(s, at, bytes, P, t, v, ahead);
      } else {
        for (int i = 0; i < n; ++i)
          for (int j = v; j < vectors && j < v + LANE_J; ++j) multiply<1, 1>(s, at + i * bytes, bytes, P, t + i, j, ahead);
      }
    }
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches&) {
    weigh(s, rows, count, tile, n, [](int) {});
  }
  template <class Between>
  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n,
                     const Between& between) {
    Lanes::weigh(s, rows, count, tile, n, between);
    for (int v = 0; v < round_up(count, W); v += W) {
      const float* weights = s.scores + v;
      F top = zero(), spoilt = zero();
      for (int t = 0; t < n; ++t) {
        const F weight = load(weights + t * LANES);
        top = max(top, weight);
        spoilt = fma(weight, zero(), spoilt);
      }
      float scale[W], levels[W];
      store(scale, mul(add(top, spoilt), set1(1.f / WEIGHT_LEVELS)));
      for (int i = 0; i < W; ++i) levels[i] = scale[i] > 0.f ? 1.f / scale[i] : 0.f;
      store(s.weight_scale + v, load(scale));
      const F level = load(levels);
      const auto at = [&](int t) { return t < n ? mul(load(weights + t * LANES), level) : zero(); };
      for (int t = 0; t < n; t += 4)
        store(reinterpret_cast<float*>(s.pairs) + t / 4 * LANES + v,
              round_to_bytes(at(t), at(t + 1), at(t + 2), at(t + 3)));
    }
  }

  static const char* weights(const LatentScratch& s) { return reinterpret_cast<const char*>(s.pairs); }
  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const int8_t* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    sum_bytes<ByteLanes>(s, rows, count, values, stride, n, P, next, bytes);
  }

 private:
  template <int I, int J>
  static void multiply(const LatentScratch& s, const char* keys, int64_t bytes, int P, int t, int v, Fetches& ahead) {
    F sums[I][J];
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < J; ++j) sums[i][j] = zero();
    const float* queries = static_cast<const float*>(s.queries) + v * W;
    product<KeyBytes>(sums, keys, bytes, 4, reinterpret_cast<const char*>(queries), LANES * 4, steps(P),
                      Fetches(ahead));
    ahead.pass(steps(P));
#pragma GCC unroll 2
    for (int j = 0; j < J; ++j) {
      const F shift = load(reinterpret_cast<const float*>(s.query_shift) + (v + j) * W);
      const F factor = load(s.query_factor + (v + j) * W);
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) store(s.scores + (t + i) * LANES + (v + j) * W, scaled(sums[i][j], shift, factor));
    }
  }
};

struct ByteDots : Dots<WideLatents<int8_t>> {
  static constexpr int TOKENS = LATENT_TILE;
  static constexpr int64_t ROW = LATENT_TILE, STEP = 4;
  // Queries of four rows of up to so many bytes are kept in registers.
  static constexpr int MAX_STEPS = 6;
  static_assert(SCORE_ROWS == 4, "so many sums of a token are stored at once");

  static int64_t score_steps(int rows, int n, int P) {
    const int64_t steps = (P + 63) / 64;
    if (rows <= SCORE_ROWS && steps <= MAX_STEPS) return n;
    return int64_t((n + SCORE_TOKENS - 1) / SCORE_TOKENS) * ((rows + SCORE_ROWS - 1) / SCORE_ROWS) * steps;
  }

  static void take_queries(Dtype query, const LatentRow* rows, int count, int P, const LatentScratch& s) {
    for (int r = 0; r < count; ++r) {
      float* to = static_cast<float*>(s.queries) + r * query_stride(P);
      take_query(to, rows[r].query, query, P);
      round_query(to, P, s.query_shift[r], s.query_factor[r]);
    }
  }

  static void scores(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    if (rows <= SCORE_ROWS) {
      switch ((P + 63) / 64) {
        case 1: return score_few<1>(s, rows, keys, stride, n, P, ahead);
        case 2: return score_few<2>(s, rows, keys, stride, n, P, ahead);
        case 3: return score_few<3>(s, rows, keys, stride, n, P, ahead);
        case 4: return score_few<4>(s, rows, keys, stride, n, P, ahead);
        case 5: return score_few<5>(s, rows, keys, stride, n, P, ahead);
        case 6: return score_few<6>(s, rows, keys, stride, n, P, ahead);
        default: break;
      }
    }
    for (; t < n; t += SCORE_TOKENS)
      score_four(s, rows, keys, stride, t, n - t < SCORE_TOKENS ? n - t : SCORE_TOKENS, P, ahead);
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches& ahead) {
    Dots::weigh(s, rows, count, tile, n, ahead);
    for (int r = 0; r < count; ++r) {
      const float* weights = s.scores + r * LATENT_TILE;
      F top = zero(), spoilt = zero();
      for (int t = 0; t < n; t += W) {
        const F weight = load(weights + t);
        top = max(top, weight);
        spoilt = fma(weight, zero(), spoilt);
      }
      const float scale = (maximum(top) + sum(spoilt)) / WEIGHT_LEVELS;
      s.weight_scale[r] = scale;
      const F level = set1(scale > 0.f ? 1.f / scale : 0.f);
      uint8_t* to = reinterpret_cast<uint8_t*>(s.pairs) + r * LATENT_TILE;
      for (int t = 0; t < n; t += W) store_rounded(to + t, mul(load(weights + t), level));
    }
  }

  static const char* weights(const LatentScratch& s) { return reinterpret_cast<const char*>(s.pairs); }
  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const int8_t* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    switch (count) {
      case 1: return sum_few_bytes<ByteDots, 1>(s, rows, values, stride, n, P, next, bytes);
      case 2: return sum_few_bytes<ByteDots, 2>(s, rows, values, stride, n, P, next, bytes);
      case 3: return sum_few_bytes<ByteDots, 3>(s, rows, values, stride, n, P, next, bytes);
      case 4: return sum_few_bytes<ByteDots, 4>(s, rows, values, stride, n, P, next, bytes);
      default: return sum_bytes<ByteDots>(s, rows, count, values, stride, n, P, next, bytes);
    }
  }

 private:
  // Up to four rows: keys are read one after the other, as they lie, so that the processor fetches ahead too.
  template <int STEPS>
  static void score_few(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int n, int P,
                        Fetches& ahead) {
    F query[SCORE_ROWS][STEPS];
#pragma GCC unroll 4
    for (int i = 0; i < SCORE_ROWS; ++i) {
      const float* of_row = static_cast<const float*>(s.queries) + (i < rows ? i : rows - 1) * query_stride(P);
#pragma GCC unroll 6
      for (int k = 0; k < STEPS; ++k) query[i][k] = load_bytes(reinterpret_cast<const int8_t*>(of_row) + 64 * k);
    }
    for (int t = 0; t < n; ++t) {
      ahead(t);
      const int8_t* key = keys + t * stride;
      F sums[SCORE_ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < SCORE_ROWS; ++i) sums[i] = zero();
#pragma GCC unroll 6
      for (int k = 0; k < STEPS; ++k) {
        const F four = without_sign(k + 1 < STEPS ? load_bytes(key + 64 * k) : load_first_bytes(key + 64 * k, P - 64 * k));
#pragma GCC unroll 4
        for (int i = 0; i < SCORE_ROWS; ++i) sums[i] = multiply_bytes(four, query[i][k], sums[i]);
      }
      float scores[SCORE_ROWS];
      store_scaled_sums(scores, sums, s.query_shift, s.query_factor);
      for (int i = 0; i < rows; ++i) s.scores[i * LATENT_TILE + t] = scores[i];
    }
    ahead.pass(n);
  }

  static void score_four(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                         Fetches& ahead) {
    const int8_t* key[SCORE_TOKENS];
    for (int j = 0; j < SCORE_TOKENS; ++j) key[j] = keys + (t + (j < n ? j : n - 1)) * stride;
    for (int r = 0; r < rows; r += SCORE_ROWS) {
      const int8_t* query[SCORE_ROWS];
      F sums[SCORE_ROWS][SCORE_TOKENS];
#pragma GCC unroll 4
      for (int i = 0; i < SCORE_ROWS; ++i) {
        const int row = r + i < rows ? r + i : rows - 1;
        query[i] = reinterpret_cast<const int8_t*>(static_cast<const float*>(s.queries) + row * query_stride(P));
#pragma GCC unroll 4
        for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = zero();
      }
      for (int p = 0; p < P; p += 64) {
        ahead(p / 64);
        F k[SCORE_TOKENS];
#pragma GCC unroll 4
        for (int j = 0; j < SCORE_TOKENS; ++j) k[j] = without_sign(load_first_bytes(key[j] + p, P - p));
#pragma GCC unroll 4
        for (int i = 0; i < SCORE_ROWS; ++i) {
          const F q = load_bytes(query[i] + p);
#pragma GCC unroll 4
          for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = multiply_bytes(k[j], q, sums[i][j]);
        }
      }
      ahead.pass((P + 63) / 64);
      for (int i = 0; i < SCORE_ROWS && r + i < rows; ++i)
        store_scaled_sums(s.scores + (r + i) * LATENT_TILE + t, sums[i][0], sums[i][1], sums[i][2], sums[i][3],
                          s.query_shift[r + i], s.query_factor[r + i]);
    }
  }
};

}  // namespace kblam::KBLAM_ISA
#endif
