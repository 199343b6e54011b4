// Latents multiplied as bytes against many rows: rows are the lanes of a vector, as in latent_lanes.h.
#pragma once

#include "latent_bytes.h"
#include "latent_lanes.h"

namespace kblam::KBLAM_ISA {

struct ByteLanes : Lanes<WideLatents<int8_t>, true> {
  static int steps(int P) { return (P + 3) / 4; }
  static int64_t score_steps(int rows, int n, int P) {
    return int64_t((n + TOKENS - 1) / TOKENS) * ((rows + W * Isa::LANE_J - 1) / (W * Isa::LANE_J)) * steps(P);
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
    for (int v = 0; v < vectors; v += Isa::LANE_J) {
      if (n == TOKENS && vectors - v >= Isa::LANE_J) {
        multiply<TOKENS, Isa::LANE_J>(s, at, bytes, P, t, v, ahead);
      } else {
        for (int i = 0; i < n; ++i)
          for (int j = v; j < vectors && j < v + Isa::LANE_J; ++j)
            multiply<1, 1>(s, at + i * bytes, bytes, P, t + i, j, ahead);
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

}  // namespace kblam::KBLAM_ISA
