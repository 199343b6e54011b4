// Attention of many rows: for each tile of tokens two small matrix products around a softmax.
//
// Scores are made transposed, tokens x rows, so that keys are read in place as the row operand, and the softmax runs
// over vectors of rows with no horizontal step. A step of the product is 4 bytes of a token: one float, or a pair of
// bfloat16 where the processor multiplies pairs; then values are interleaved in pairs of tokens.
#pragma once

#include "dot.h"
#include "fetch.h"
#include "softmax.h"
#include "tile_pack.h"

namespace kblam::KBLAM_ISA {

// scores[t][row] = keys[t] . queries[row]
template <class T>
inline void score_tile(const char* keys, int64_t key_bytes, int n, const float* queries, const Block& block, int steps,
                       float* scores) {
  for (int t = 0; t < n; t += Isa::TILE_I)
    for (int v = 0; v < block.vectors; v += Isa::TILE_J) {
      const int i = n - t < Isa::TILE_I ? n - t : Isa::TILE_I,
                j = block.vectors - v < Isa::TILE_J ? block.vectors - v : Isa::TILE_J;
      sized(i, j, [&](auto tokens, auto vectors) {
        constexpr int I = decltype(tokens)::value, J = decltype(vectors)::value;
        F sums[I][J];
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) sums[a][b] = zero();
        product<T>(sums, keys + t * key_bytes, key_bytes, 4, reinterpret_cast<const char*>(queries + v * W),
                   BLOCK_ROWS * 4, steps);
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) store(scores + (t + a) * BLOCK_ROWS + (v + b) * W, sums[a][b]);
      });
    }
}

// output[row][d] = output[row][d] * shrink[row] + sum over tokens of weights[token][row] * values[token][d]
template <class T>
inline void value_tile(const float* weights, const float* values, const Row* rows, const Block& block, int steps,
                       const float* shrink, int D) {
  const int padded = int(round_up(D, OUTPUT_PAD)), all = padded / W;
  for (int r = 0; r < block.count; r += Isa::TILE_I)
    for (int v = 0; v < all; v += Isa::TILE_J) {
      const int i = block.count - r < Isa::TILE_I ? block.count - r : Isa::TILE_I,
                j = all - v < Isa::TILE_J ? all - v : Isa::TILE_J;
      sized(i, j, [&](auto some, auto vectors) {
        constexpr int I = decltype(some)::value, J = decltype(vectors)::value;
        F sums[I][J];
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) sums[a][b] = zero();
        product<T>(sums, reinterpret_cast<const char*>(weights + r), 4, BLOCK_ROWS * 4,
                   reinterpret_cast<const char*>(values + v * W), int64_t(padded) * 4, steps);
        // A tile's sum at once: thousands of tokens one by one would each be rounded to what all before them sum to.
        for (int a = 0; a < I; ++a) {
          float* out = rows[block.begin + r + a].output + v * W;
          for (int b = 0; b < J; ++b) store(out + b * W, fma(load(out + b * W), set1(shrink[r + a]), sums[a][b]));
        }
      });
    }
}

// Bias of the tile's tokens for one row into extra[t * stride]; -inf where the mask hides them.
inline void fill_extra(const Row& row, int64_t tile, int n, float* extra, int stride) {
  for (int t = 0; t < n; ++t) {
    const float bias = row.bias == nullptr ? 0.f : row.bias[tile + t];
    extra[t * stride] = row.visible == nullptr || row.visible[tile + t] ? bias : -__builtin_inff();
  }
}

// Scores of a tile into weights, relative to each row's running maximum.
template <class T>
inline void softmax_tile(const TileScratch& s, const Row* rows, const Block& block, int64_t tile, int n, float scale) {
  const bool partly = tile < block.all_first || tile + n > block.all_last;
  bool masked = false;
  if (block.extra) {
    for (int r = block.begin; r < block.begin + block.count; ++r) masked = masked || rows[r].visible != nullptr;
    if (block.same_extra)
      fill_extra(rows[block.begin], tile, n, s.extra, 1);
    else
      for (int r = 0; r < block.count; ++r) fill_extra(rows[block.begin + r], tile, n, s.extra + r, BLOCK_ROWS);
  }
  if (partly) {
    for (int r = block.begin; r < block.begin + block.count; ++r) {
      const int64_t first = rows[r].first - tile, last = rows[r].last - tile;
      s.first[r] = float(first < 0 ? 0 : first > n ? n : first);
      s.last[r] = float(last < 0 ? 0 : last > n ? n : last);
    }
  }
  for (int v = 0; v < block.vectors; ++v) {
    const int lane = block.begin + v * W;
    float* scores = s.scores + v * W;
    const F scales = set1(scale), offset = load(s.offset + lane);
    const F first = load(s.first + lane), last = load(s.last + lane);
    // A positive scale changes no order: the second pass may apply it.
    const bool raw = Step<T>::PAIRS && !block.extra && scale > 0.f;
    F top = set1(-__builtin_inff());
    for (int t = 0; t < n; ++t) {
      F x = load(scores + t * BLOCK_ROWS);
      if (!raw) x = fma(x, scales, offset);
      if (block.extra) {
        const F extra = block.same_extra ? set1(s.extra[t]) : load(s.extra + t * BLOCK_ROWS + v * W);
        x = add(x, extra);
        // What is hidden may be NaN, which an addition would leave.
        if (masked) x = keep_between(x, extra, set1(LOWEST), set1(__builtin_inff()));
      }
      if (partly) x = keep_between(x, set1(float(t)), first, last);
      if (!raw || partly) store(scores + t * BLOCK_ROWS, x);
      top = max(top, x);
    }
    LaneStep<Step<T>::PAIRS> step(raw ? fma(top, scales, offset) : top, load(s.maximum + lane), raw ? scale : 1.f,
                                  raw ? offset : zero());
    float* weights = s.weights + v * W;
    const auto weight_of = [&](int t) { return step.weigh(load(scores + t * BLOCK_ROWS)); };
    if constexpr (Step<T>::PAIRS) {
      for (int t = 0; t < n; t += 2) {
        const F even = weight_of(t);
        store(weights + t / 2 * BLOCK_ROWS, round_to_pairs(even, t + 1 < n ? weight_of(t + 1) : zero()));
      }
    } else {
      for (int t = 0; t < n; ++t) store(weights + t * BLOCK_ROWS, weight_of(t));
    }
    step.finish(s.maximum + lane, s.total + lane, s.shrink + lane);
  }
}

}  // namespace kblam::KBLAM_ISA
