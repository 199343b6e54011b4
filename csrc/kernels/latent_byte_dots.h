// Latents multiplied as bytes against few rows: inner products, as in latent_dots.h.
#pragma once

#include "latent_bytes.h"
#include "latent_dots.h"

namespace kblam::KBLAM_ISA {

struct ByteDots : Dots<WideLatents<int8_t>> {
  static constexpr int TOKENS = LATENT_TILE;
  static constexpr int64_t ROW = LATENT_TILE, STEP = 4;
  // Queries of four rows of up to so many bytes are kept in registers.
  static constexpr int MAX_STEPS = 6;
  static_assert(!Isa::HAS_BYTES || Isa::SCORE_ROWS == 4, "so many sums of a token are stored at once");

  static int64_t score_steps(int rows, int n, int P) {
    const int64_t steps = (P + 63) / 64;
    if (rows <= Isa::SCORE_ROWS && steps <= MAX_STEPS) return n;
    return int64_t((n + SCORE_TOKENS - 1) / SCORE_TOKENS) * ((rows + Isa::SCORE_ROWS - 1) / Isa::SCORE_ROWS) * steps;
  }

  template <class AnyRow>
  static void take_queries(Dtype query, const AnyRow* rows, int count, int P, const LatentScratch& s) {
    for (int r = 0; r < count; ++r) {
      float* to = static_cast<float*>(s.queries) + r * query_stride(P);
      take_query(to, rows[r].query, query, P);
      round_query(to, P, s.query_shift[r], s.query_factor[r]);
    }
  }

  static void scores(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    if (rows <= Isa::SCORE_ROWS) {
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
    F query[Isa::SCORE_ROWS][STEPS];
#pragma GCC unroll 4
    for (int i = 0; i < Isa::SCORE_ROWS; ++i) {
      const float* of_row = static_cast<const float*>(s.queries) + (i < rows ? i : rows - 1) * query_stride(P);
#pragma GCC unroll 6
      for (int k = 0; k < STEPS; ++k) query[i][k] = load_bytes(reinterpret_cast<const int8_t*>(of_row) + 64 * k);
    }
    for (int t = 0; t < n; ++t) {
      ahead(t);
      const int8_t* key = keys + t * stride;
      F sums[Isa::SCORE_ROWS];
#pragma GCC unroll 4
      for (int i = 0; i < Isa::SCORE_ROWS; ++i) sums[i] = zero();
#pragma GCC unroll 6
      for (int k = 0; k < STEPS; ++k) {
        const F four =
            without_sign(k + 1 < STEPS ? load_bytes(key + 64 * k) : load_first_bytes(key + 64 * k, P - 64 * k));
#pragma GCC unroll 4
        for (int i = 0; i < Isa::SCORE_ROWS; ++i) sums[i] = multiply_bytes(four, query[i][k], sums[i]);
      }
      float scores[Isa::SCORE_ROWS];
      store_scaled_sums(scores, sums, s.query_shift, s.query_factor);
      for (int i = 0; i < rows; ++i) s.scores[i * LATENT_TILE + t] = scores[i];
    }
    ahead.pass(n);
  }

  static void score_four(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                         Fetches& ahead) {
    const int8_t* key[SCORE_TOKENS];
    for (int j = 0; j < SCORE_TOKENS; ++j) key[j] = keys + (t + (j < n ? j : n - 1)) * stride;
    for (int r = 0; r < rows; r += Isa::SCORE_ROWS) {
      const int8_t* query[Isa::SCORE_ROWS];
      F sums[Isa::SCORE_ROWS][SCORE_TOKENS];
#pragma GCC unroll 4
      for (int i = 0; i < Isa::SCORE_ROWS; ++i) {
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
        for (int i = 0; i < Isa::SCORE_ROWS; ++i) {
          const F q = load_bytes(query[i] + p);
#pragma GCC unroll 4
          for (int j = 0; j < SCORE_TOKENS; ++j) sums[i][j] = multiply_bytes(k[j], q, sums[i][j]);
        }
      }
      ahead.pass((P + 63) / 64);
      for (int i = 0; i < Isa::SCORE_ROWS && r + i < rows; ++i)
        store_scaled_sums(s.scores + (r + i) * LATENT_TILE + t, sums[i][0], sums[i][1], sums[i][2], sums[i][3],
                          s.query_shift[r + i], s.query_factor[r + i]);
    }
  }
};

}  // namespace kblam::KBLAM_ISA
