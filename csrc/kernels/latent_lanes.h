// Latents against many rows: rows are the lanes of a vector. Scores are made transposed, tokens x rows: keys are
// broadcast from where they lie, four bytes at a time, and neither the products nor the softmax have a horizontal step.
#pragma once

#include "latent_values.h"
#include "softmax.h"

namespace kblam::KBLAM_ISA {

// `ROUNDS`: weights are rounded to eight bits next, and may be so much less exact.
template <class L, bool ROUNDS = L::PAIRS>
struct Lanes {
  using Query = typename L::Query;
  static constexpr int TOKENS = Isa::LANE_I;
  static constexpr int64_t ROW = 4, STEP = LANES * 4;  // bytes between weights
  static int64_t score_steps(int rows, int n, int P) {
    return int64_t((n + TOKENS - 1) / TOKENS) * ((rows + W * Isa::LANE_J - 1) / (W * Isa::LANE_J)) * L::steps(P);
  }

  // Queries as the column operand: [step][LANES], absent rows 0, and so is what is left of query_stride.
  static void take_queries(Dtype query, const LatentRow* rows, int count, int P, const LatentScratch& s) {
    const int steps = int(query_stride(P) * int64_t(sizeof(Query)) / 4);
    float* queries = static_cast<float*>(s.queries);
    Query* one = static_cast<Query*>(s.keys);  // free until the first tile
    for (int r = 0; r < round_up(count, W); ++r) {
      if (r < count) take_query(one, rows[r].query, query, P);
      for (int step = 0; step < steps; ++step) {
        float bits = 0.f;
        if (r < count) __builtin_memcpy(&bits, reinterpret_cast<const char*>(one) + step * 4, 4);
        __builtin_memcpy(queries + step * LANES + r, &bits, 4);
      }
    }
  }

  static void begin(const LatentRow* rows, int count, const LatentScratch& s) {
    for (int r = 0; r < LANES; ++r) {
      s.constant[r] = r < count ? rows[r].constant : 0.f;
      s.offset[r] = r < count ? rows[r].offset : 0.f;
      s.maximum[r] = r < count ? *rows[r].maximum : -__builtin_inff();
      s.total[r] = r < count ? *rows[r].total : 0.f;
    }
  }

  // scores[t + i][row] for n <= TOKENS keys; the order of additions depends on P alone.
  template <class T>
  static void scores(const LatentScratch& s, int rows, const T* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    int64_t bytes;
    const char* from = L::keys(s, keys + t * stride, stride, n, P, bytes);
    const int vectors = int(round_up(rows, W) / W);
    for (int v = 0; v < vectors; v += Isa::LANE_J) {
      const float* queries = static_cast<const float*>(s.queries) + v * W;
      float* to = s.scores + t * LANES + v * W;
      if (n == TOKENS && vectors - v >= Isa::LANE_J) {
        multiply<TOKENS, Isa::LANE_J>(from, bytes, queries, L::steps(P), to, ahead);
      } else if (n == TOKENS) {
        multiply<TOKENS, 1>(from, bytes, queries, L::steps(P), to, ahead);
      } else {
        for (int i = 0; i < n; ++i)
          for (int j = 0; j < Isa::LANE_J && v + j < vectors; ++j)
            multiply<1, 1>(from + i * bytes, bytes, queries + j * W, L::steps(P), to + i * LANES + j * W, ahead);
      }
    }
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches&) {
    weigh(s, rows, count, tile, n, [](int) {});
  }

  // Scores into weights relative to each row's running maximum, times what the token's value is multiplied by. Calls
  // between(t) for every even token of each vector of rows.
  template <class Between>
  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n,
                    const Between& between) {
    const float* bias = rows[0].bias;
    bool same_bias = true;
    for (int r = 1; r < count; ++r) same_bias = same_bias && rows[r].bias == bias;
    if (!same_bias)
      for (int r = 0; r < LANES; ++r)
        for (int t = 0; t < n; ++t)
          s.extra[t * LANES + r] = r < count && rows[r].bias != nullptr ? rows[r].bias[tile + t] : 0.f;
    for (int v = 0; v < round_up(count, W); v += W) {
      const auto add_bias = [&](F x, int t) {
        if (!same_bias) return add(x, load(s.extra + t * LANES + v));
        return bias == nullptr ? x : add(x, set1(bias[tile + t]));
      };
      float* scores = s.scores + v;
      const F constant = load(s.constant + v), offset = load(s.offset + v);
      F top = set1(-__builtin_inff());
      for (int t = 0; t < n; ++t) {
        F x = fma(set1(s.of_constant[t]), constant, offset);
        x = add_bias(fma(load(scores + t * LANES), set1(s.of_product[t]), x), t);
        store(scores + t * LANES, x);
        top = max(top, x);
      }
      LaneStep<ROUNDS> step(top, load(s.maximum + v));
      const auto weight_of = [&](int t) { return mul(step.weigh(load(scores + t * LANES)), set1(s.of_value[t])); };
      if constexpr (L::PAIRS) {
        float* pairs = reinterpret_cast<float*>(s.pairs) + v;
        for (int t = 0; t < n; t += 2) {
          between(t);
          const F even = weight_of(t);
          store(pairs + t / 2 * LANES, round_to_pairs(even, t + 1 < n ? weight_of(t + 1) : zero()));
        }
      } else {
        for (int t = 0; t < n; ++t) {
          if (t % 2 == 0) between(t);
          store(scores + t * LANES, weight_of(t));
        }
      }
      step.finish(s.maximum + v, s.total + v, s.shrink + v);
    }
  }

  static const char* weights(const LatentScratch& s) { return L::weights(s); }

  template <class T>
  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const T* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    sum_values<Lanes, L>(s, rows, count, values, stride, n, P, next, bytes);
  }

  static void end(const LatentRow* rows, int count, const LatentScratch& s) {
    for (int r = 0; r < count; ++r) *rows[r].maximum = s.maximum[r], *rows[r].total = s.total[r];
  }

 private:
  template <int I, int J>
  static void multiply(const char* keys, int64_t bytes, const float* queries, int steps, float* to, Fetches& ahead) {
    F sums[I][J];
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < J; ++j) sums[i][j] = zero();
    product<Query>(sums, keys, bytes, 4, reinterpret_cast<const char*>(queries), LANES * 4, steps, Fetches(ahead));
    ahead.pass(steps);
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < J; ++j) store(to + i * LANES + j * W, sums[i][j]);
  }
};

}  // namespace kblam::KBLAM_ISA
