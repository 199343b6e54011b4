// Latents against many rows where the processor has a matrix unit: 32 tokens by 32 absorbed queries at a time. Laid out
// as in latent_lanes.h: keys are the row operand, where they lie; so are weights of the second product, once they are
// turned from lanes to rows.
#pragma once

#include <type_traits>

#include "latent_byte_lanes.h"
#include "matrix.h"

namespace kblam::KBLAM_ISA {

static_assert(!Isa::HAS_MATRIX || (LANES == BLOCK && PANEL == BLOCK && LATENT_TILE % (4 * MATRIX_STEPS) == 0),
              "whole blocks");

// scores[t][row] of n <= BLOCK keys, rows of `bytes`, which there are BLOCK of.
template <Multiply KIND>
inline void score_block(const LatentScratch& s, int rows, const char* keys, int64_t bytes, int t, int steps,
                        Fetches& ahead) {
  registers(2, rows > MATRIX_ROWS ? 2 : 1, [&](auto i, auto j) {
    matrix_product<KIND, decltype(i)::value, decltype(j)::value>(keys, bytes, static_cast<const char*>(s.queries),
                                                                 LANES * 4, steps, s.scores + t * LANES, LANES,
                                                                 Fetches(ahead));
  });
  ahead.pass(BETWEEN * steps);
}

// Between tokens that are weighed or packed, so often that the time between two fetches is about that in a product.
constexpr int SPARSE = 4;
inline void fetch_sparsely(Fetches& ahead, int t) {
  if (t % SPARSE == 0) ahead.once();
}
inline int64_t score_fetches(int rows, int n, int steps) {
  return int64_t((n + BLOCK - 1) / BLOCK) * steps * BETWEEN + (rows > W ? 2 : 1) * ((n + SPARSE - 1) / SPARSE);
}

// output[row] = output[row] * shrink[row] + weights[row] . values for a panel of up to PANEL columns from `first` on,
// packed as the column operand; `of_sums(sums, row)` makes floats of them.
template <Multiply KIND, class OfSums>
inline void mix_block(const LatentScratch& s, const LatentRow* rows, int count, int first, int P, const float* panel,
                      int64_t panel_row, int steps, Fetches& ahead, const OfSums& of_sums) {
  const int vectors = P - first > W ? 2 : 1;
  registers(count > MATRIX_ROWS ? 2 : 1, vectors, [&](auto i, auto j) {
    matrix_product<KIND, decltype(i)::value, decltype(j)::value>(
        reinterpret_cast<const char*>(s.rows), LATENT_TILE / 2 * 4, reinterpret_cast<const char*>(panel), panel_row * 4,
        steps, s.block, PANEL, Fetches(ahead));
  });
  ahead.pass(BETWEEN * steps);
  for (int r = 0; r < count; ++r)
    for (int v = 0; v < vectors; ++v) {
      float* out = rows[r].output + first + v * W;
      store(out, fma(load(out), set1(s.shrink[r]), of_sums(load(s.block + r * PANEL + v * W), r)));
    }
}

template <class L>
struct MatrixLanes : Lanes<L> {
  static constexpr int TOKENS = BLOCK;
  static int steps(int P) { return int(query_stride(P) * 2 / MATRIX_BYTES); }
  static int64_t score_steps(int rows, int n, int P) { return score_fetches(rows, n, steps(P)); }

  static void begin(const LatentRow* rows, int count, const LatentScratch& s) {
    Lanes<L>::begin(rows, count, s);
    matrix_begin();
  }
  static void end(const LatentRow* rows, int count, const LatentScratch& s) {
    matrix_end();
    Lanes<L>::end(rows, count, s);
  }

  template <class T>
  static void scores(const LatentScratch& s, int rows, const T* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    keys += t * stride;
    const int64_t width = query_stride(P);
    if (sizeof(T) == sizeof(bfloat16) && n == TOKENS && P == width)
      return score_block<Multiply::PAIRS>(s, rows, reinterpret_cast<const char*>(keys), stride * 2, t, steps(P), ahead);
    // Exact: every int8 is a bfloat16.
    bfloat16* whole = static_cast<bfloat16*>(s.keys);
    for (int i = 0; i < TOKENS; ++i)
      for (int d = 0; d < width; d += W) {
        const T* here = keys + i * stride + d;
        const bool absent = i >= n || d >= P;
        store_rounded(whole + i * width + d, absent ? zero() : P - d >= W ? load(here) : load_first(here, P - d));
      }
    score_block<Multiply::PAIRS>(s, rows, static_cast<const char*>(s.keys), width * 2, t, steps(P), ahead);
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches& ahead) {
    Lanes<L>::weigh(s, rows, count, tile, n, [&](int t) { fetch_sparsely(ahead, t); });
  }

  template <class T>
  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const T* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    const int pairs = (n + 1) / 2, steps = (pairs + MATRIX_STEPS - 1) / MATRIX_STEPS;
    lanes_to_rows(reinterpret_cast<const float*>(s.pairs), LANES, count > W ? 2 : 1, pairs, s.rows, LATENT_TILE / 2);
    Fetches ahead(next, bytes, int64_t((P + PANEL - 1) / PANEL) * (BETWEEN * steps + (n + SPARSE - 1) / SPARSE));
    for (int t = pairs; t < steps * MATRIX_STEPS; ++t)
      for (int d = 0; d < PANEL; d += W) store(s.panel + t * PANEL + d, zero());
    for (int first = 0; first < P; first += PANEL) {
      L::pack(s, values + first, stride, n, P - first < PANEL ? P - first : PANEL,
              [&](int t) { fetch_sparsely(ahead, t); });
      mix_block<Multiply::PAIRS>(s, rows, count, first, P, s.panel, PANEL, steps, ahead,
                                 [](F sums, int) { return sums; });
    }
  }
};

struct MatrixByteLanes : ByteLanes {
  static constexpr int TOKENS = BLOCK;
  static int steps(int P) { return (P + MATRIX_BYTES - 1) / MATRIX_BYTES; }
  static int64_t score_steps(int rows, int n, int P) { return score_fetches(rows, n, steps(P)); }

  static void begin(const LatentRow* rows, int count, const LatentScratch& s) {
    ByteLanes::begin(rows, count, s);
    matrix_begin();
  }
  static void end(const LatentRow* rows, int count, const LatentScratch& s) {
    matrix_end();
    ByteLanes::end(rows, count, s);
  }

  static void scores(const LatentScratch& s, int rows, const int8_t* keys, int64_t stride, int t, int n, int P,
                     Fetches& ahead) {
    const int8_t* from = keys + t * stride;
    int64_t bytes = stride;
    if (n < TOKENS || P % MATRIX_BYTES != 0) {
      int8_t* whole = static_cast<int8_t*>(s.keys);
      bytes = int64_t(steps(P)) * MATRIX_BYTES;
      for (int i = 0; i < TOKENS; ++i)
        for (int p = 0; p < bytes; p += MATRIX_BYTES)
          store(reinterpret_cast<float*>(whole + i * bytes + p),
                i < n ? load_first_bytes(from + i * stride + p, P - p) : zero());
      from = whole;
    }
    score_block<Multiply::BYTES>(s, rows, reinterpret_cast<const char*>(from), bytes, t, steps(P), ahead);
    for (int v = 0; v < rows; v += W) {
      const F factor = load(s.query_factor + v);
      for (int i = 0; i < n; ++i) {
        float* score = s.scores + (t + i) * LANES + v;
        store(score, scaled(load(score), zero(), factor));
      }
    }
  }

  static void weigh(const LatentScratch& s, const LatentRow* rows, int count, int64_t tile, int n, Fetches& ahead) {
    ByteLanes::weigh(s, rows, count, tile, n, [&](int t) { fetch_sparsely(ahead, t); });
  }

  static void mix(const LatentScratch& s, const LatentRow* rows, int count, const int8_t* values, int64_t stride, int n,
                  int P, const void* next, int64_t bytes) {
    const int fours = (n + 3) / 4, steps = (fours + MATRIX_STEPS - 1) / MATRIX_STEPS;
    lanes_to_rows(reinterpret_cast<const float*>(s.pairs), LANES, count > W ? 2 : 1, fours, s.rows, LATENT_TILE / 2);
    Fetches ahead(next, bytes,
                  int64_t((P + PANEL - 1) / PANEL) * BETWEEN * steps + (P + BYTE_PANEL - 1) / BYTE_PANEL * fours);
    for (int t = fours; t < steps * MATRIX_STEPS; ++t)
      for (int d = 0; d < BYTE_PANEL; d += W) store(s.panel + t * BYTE_PANEL + d, zero());
    for (int panel = 0; panel < P; panel += BYTE_PANEL) {
      pack_bytes(s, values + panel, stride, n, P - panel, [&](int) { ahead.once(); });
      for (int first = panel; first < P && first < panel + BYTE_PANEL; first += PANEL)
        mix_block<Multiply::LEVELS>(s, rows, count, first, P, s.panel + (first - panel), BYTE_PANEL, steps, ahead,
                                    [&](F sums, int r) { return scaled(sums, zero(), set1(s.weight_scale[r])); });
    }
  }
};

// With many rows, as the processor can.
using ManyBytes = std::conditional_t<Isa::HAS_MATRIX, MatrixByteLanes, ByteLanes>;
template <class L>
using Many = std::conditional_t<Isa::HAS_MATRIX && L::PAIRS, MatrixLanes<L>, Lanes<L>>;

}  // namespace kblam::KBLAM_ISA
