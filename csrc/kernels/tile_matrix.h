// The two products of a tile of tokens where the processor has a matrix unit, for bfloat16: 32 by 32 sums at a time.
// Shapes and layouts are those of tile.h, but that weights of the second product are turned from lanes to rows.
#pragma once

#include "tile.h"

namespace kblam::KBLAM_ISA {

constexpr int KEY_WIDTH = MATRIX_BYTES / 2;  // elements of a step
static_assert(!Isa::HAS_MATRIX || (TILE_TOKENS % BLOCK == 0 && BLOCK_ROWS % BLOCK == 0), "whole blocks");

// Keys of a tile as whole steps of whole blocks: where they lie, or copied to `to` with zeros after them.
inline const char* whole_keys(const bfloat16* keys, int64_t& bytes, int n, int D, float* to) {
  const int64_t width = round_up(D, KEY_WIDTH);
  if (n % BLOCK == 0 && width == D) return reinterpret_cast<const char*>(keys);
  const int64_t stride = bytes / 2;
  bfloat16* whole = reinterpret_cast<bfloat16*>(to);
  for (int t = 0; t < round_up(n, BLOCK); ++t)
    copy_query(whole + t * width, keys + t * stride, t < n ? D : 0, int(width));
  bytes = width * 2;
  return reinterpret_cast<const char*>(whole);
}

inline void score_blocks(const char* keys, int64_t key_bytes, int n, const float* queries, const Block& block, int D,
                         float* scores, Fetches& ahead) {
  const int steps = int(round_up(D, KEY_WIDTH) / KEY_WIDTH);
  for (int t = 0; t < n; t += BLOCK)
    for (int v = 0; v < block.vectors; v += 2)
      registers(2, block.vectors - v, [&](auto i, auto j) {
        matrix_product<Multiply::PAIRS, decltype(i)::value, decltype(j)::value>(
            keys + t * key_bytes, key_bytes, reinterpret_cast<const char*>(queries + v * W), BLOCK_ROWS * 4, steps,
            scores + t * BLOCK_ROWS + v * W, BLOCK_ROWS, Fetches(ahead));
        ahead.pass(BETWEEN * steps);
      });
}

inline void value_blocks(const TileScratch& s, const Row* rows, const Block& block, int pairs, const float* shrink,
                         int D, Fetches& ahead) {
  const int padded = int(round_up(D, OUTPUT_PAD)), vectors = padded / W;
  const int steps = (pairs + MATRIX_STEPS - 1) / MATRIX_STEPS;
  for (int64_t i = int64_t(pairs) * padded; i < int64_t(steps) * MATRIX_STEPS * padded; i += W)
    store(s.values + i, zero());
  lanes_to_rows(s.weights, BLOCK_ROWS, block.vectors, pairs, s.rows, TILE_TOKENS / 2);
  for (int r = 0; r < block.count; r += BLOCK)
    for (int v = 0; v < vectors; v += 2)
      registers(block.count - r > MATRIX_ROWS ? 2 : 1, vectors - v, [&](auto i, auto j) {
        constexpr int I = decltype(i)::value, J = decltype(j)::value;
        matrix_product<Multiply::PAIRS, I, J>(reinterpret_cast<const char*>(s.rows + r * (TILE_TOKENS / 2)),
                                              TILE_TOKENS / 2 * 4, reinterpret_cast<const char*>(s.values + v * W),
                                              int64_t(padded) * 4, steps, s.block, BLOCK, Fetches(ahead));
        ahead.pass(BETWEEN * steps);
        for (int a = 0; a < I * MATRIX_ROWS && r + a < block.count; ++a)
          for (int b = 0; b < J; ++b) {
            float* out = rows[block.begin + r + a].output + (v + b) * W;
            store(out, fma(load(out), set1(shrink[r + a]), load(s.block + a * BLOCK + b * W)));
          }
      });
}

// Products' parts between which memory is asked for: of the scores of a block of rows, and of its values.
inline int64_t score_fetches(const Block& block, int n, int D) {
  return round_up(n, BLOCK) / BLOCK * ((block.vectors + 1) / 2) * (round_up(D, KEY_WIDTH) / KEY_WIDTH) * BETWEEN;
}
inline int64_t value_fetches(const Block& block, int n, int D) {
  return round_up(n, 2 * MATRIX_STEPS) / (2 * MATRIX_STEPS) * ((block.count + BLOCK - 1) / BLOCK) *
         (round_up(D, BLOCK) / BLOCK) * BETWEEN;
}

}  // namespace kblam::KBLAM_ISA
