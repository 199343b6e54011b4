// Attention of a few rows: keys and values pass once through the core, tile after tile; bound by memory.
#pragma once

#include "dot.h"
#include "softmax.h"

namespace kblam::KBLAM_ISA {

constexpr int STREAM_TILE = 128;  // keys, then as many values, each in one stream

// output[r][d] += sum over t of weights[r][t] * values[t][d], for NV vectors of d.
template <int ROWS, int NV, class T>
inline void add_weighted(float* const* output, const float* const* weights, const T* values, int64_t stride, int n) {
  F sums[ROWS][NV];
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < NV; ++v) sums[r][v] = zero();
  for (int t = 0; t < n; ++t) {
    const T* value = values + t * stride;
    F w[ROWS];
    for (int r = 0; r < ROWS; ++r) w[r] = set1(weights[r][t]);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const F x = load(value + v * W);
      for (int r = 0; r < ROWS; ++r) sums[r][v] = fma(w[r], x, sums[r][v]);
    }
  }
  // A tile's sum at once, as in tile.h.
  for (int r = 0; r < ROWS; ++r)
    for (int v = 0; v < NV; ++v) store(output[r] + v * W, add(load(output[r] + v * W), sums[r][v]));
}

template <int ROWS, class T>
inline void add_weighted_vectors(float* const* output, const float* const* weights, const T* values, int64_t stride,
                                 int n, int vectors) {
  switch (vectors) {
    case 1: return add_weighted<ROWS, 1>(output, weights, values, stride, n);
    case 2: return add_weighted<ROWS, 2>(output, weights, values, stride, n);
    case 3: return add_weighted<ROWS, 3>(output, weights, values, stride, n);
    case 4: return add_weighted<ROWS, 4>(output, weights, values, stride, n);
    default: break;
  }
  if constexpr (Isa::STREAM_VECTORS > 4) {
    switch (vectors) {
      case 5: return add_weighted<ROWS, 5>(output, weights, values, stride, n);
      case 6: return add_weighted<ROWS, 6>(output, weights, values, stride, n);
      case 7: return add_weighted<ROWS, 7>(output, weights, values, stride, n);
      case 8: return add_weighted<ROWS, 8>(output, weights, values, stride, n);
      default: break;
    }
  }
}

template <int ROWS, class T>
inline void add_weighted_values(float* const* output, const float* const* weights, const T* values, int64_t stride,
                                int n, int D) {
  const int vectors = D / W;
  float* at[ROWS];
  for (int v = 0; v < vectors; v += Isa::STREAM_VECTORS) {
    const int here = vectors - v < Isa::STREAM_VECTORS ? vectors - v : Isa::STREAM_VECTORS;
    for (int r = 0; r < ROWS; ++r) at[r] = output[r] + v * W;
    add_weighted_vectors<ROWS>(at, weights, values + v * W, stride, n, here);
  }
  const int tail = D - vectors * W;
  if (tail == 0) return;
  for (int r = 0; r < ROWS; ++r) {
    float* out = output[r] + vectors * W;
    F sums = zero();
    for (int t = 0; t < n; ++t)
      sums = fma(set1(weights[r][t]), load_first(values + t * stride + vectors * W, tail), sums);
    store(out, add(load(out), sums));
  }
}

// run(first, last) for what is visible of [first, last): a hidden value may be NaN, and weight 0 would not hide that.
template <class Run>
inline void visible_runs(const uint8_t* visible, int64_t first, int64_t last, const Run& run) {
  if (visible == nullptr) return run(first, last);
  for (int64_t next = first; first < last; first = next) {
    while (first < last && !visible[first]) ++first;
    for (next = first; next < last && visible[next];) ++next;
    if (first < next) run(first, next);
  }
}

// Turns n scores of tokens from `token` on into weights, after folding them into the row's maximum and total.
inline void take_scores(const Row& row, float* scores, int64_t token, int n, int D, float scale) {
  const float infinity = __builtin_inff();
  const int padded = int(round_up(n, W));
  for (int t = 0; t < padded; t += W) {
    F s = fma(load(scores + t), set1(scale), set1(row.offset));
    if (row.bias != nullptr) {
      const float* bias = row.bias + token + t;
      s = add(s, n - t >= W ? load(bias) : load_first(bias, n - t));
    }
    store(scores + t, s);
  }
  if (row.visible != nullptr) {
    for (int t = 0; t < n; ++t)
      if (!row.visible[token + t]) scores[t] = -infinity;
  }
  for (int t = n; t < padded; ++t) scores[t] = -infinity;
  F top = set1(-infinity);
  for (int t = 0; t < padded; t += W) top = max(top, load(scores + t));
  const float shrink = take_row<true>(row, scores, padded, top, [&](int t, F weights) { store(scores + t, weights); });
  if (shrink != 1.f)
    for (int d = 0; d < D; d += W) store(row.output + d, mul(load(row.output + d), set1(shrink)));
}

inline int64_t stream_scratch(int head_dim, int count) {
  return count * round_up(head_dim, 2 * OUTPUT_PAD) * int64_t(sizeof(float)) + 2 * STREAM_TILE * sizeof(float);
}

template <class T>
void stream_absorb(const Columns& columns, const Row* rows, int count, int64_t begin, int64_t end, int D, float scale,
                   char* scratch) {
  using Query = typename Dot<T>::Query;
  const T* keys = static_cast<const T*>(columns.key);
  const T* values = static_cast<const T*>(columns.value);
  const int padded = int(round_up(D, 2 * OUTPUT_PAD));
  float* scores[2] = {reinterpret_cast<float*>(scratch), reinterpret_cast<float*>(scratch) + STREAM_TILE};
  Query* queries = reinterpret_cast<Query*>(scores[1] + STREAM_TILE);
  for (int r = 0; r < count; ++r) copy_query(queries + r * padded, static_cast<const T*>(rows[r].query), D, padded);

  struct Piece {  // the part of a tile that a row sees
    int row;
    int64_t first, last;
  };
  const auto piece_of = [&](int r, int64_t tile_begin, int64_t tile_end) {
    Piece piece{r, rows[r].first > tile_begin ? rows[r].first : tile_begin,
                rows[r].last < tile_end ? rows[r].last : tile_end};
    return piece;
  };
  const auto weigh = [&](const Piece& piece, float* out) {
    const int n = int(piece.last - piece.first);
    const T* from = keys + piece.first * columns.key_stride;
    dot_products<Dot<T>>(queries + piece.row * padded, from, columns.key_stride, n, D, out);
    take_scores(rows[piece.row], out, piece.first, n, D, scale);
  };
  const auto finish = [&](auto how_many, const Piece* pieces, const float* const* weights) {
    constexpr int ROWS = decltype(how_many)::value;
    float* out[ROWS];
    for (int r = 0; r < ROWS; ++r) out[r] = rows[pieces[r].row].output;
    visible_runs(rows[pieces->row].visible, pieces->first, pieces->last, [&](int64_t first, int64_t last) {
      const float* here[ROWS];
      for (int r = 0; r < ROWS; ++r) here[r] = weights[r] + (first - pieces->first);
      add_weighted_values<ROWS>(out, here, values + first * columns.value_stride, columns.value_stride,
                                int(last - first), D);
    });
  };
  for (int64_t tile = begin; tile < end; tile += STREAM_TILE) {
    const int64_t tile_end = tile + STREAM_TILE < end ? tile + STREAM_TILE : end;
    Piece waiting[2];  // weighed, values not yet added: two rows share one pass over them
    bool one_waits = false;
    for (int r = 0; r < count; ++r) {
      const Piece piece = piece_of(r, tile, tile_end);
      if (piece.first >= piece.last) continue;
      weigh(piece, scores[one_waits ? 1 : 0]);
      waiting[one_waits ? 1 : 0] = piece;
      if (!one_waits) {
        one_waits = true;
        continue;
      }
      one_waits = false;
      if (waiting[0].first == waiting[1].first && waiting[0].last == waiting[1].last &&
          rows[waiting[0].row].visible == rows[waiting[1].row].visible) {
        finish(Size<2>{}, waiting, scores);
      } else {
        finish(Size<1>{}, waiting, scores);
        finish(Size<1>{}, waiting + 1, scores + 1);
      }
    }
    if (one_waits) finish(Size<1>{}, waiting, scores);
  }
}

}  // namespace kblam::KBLAM_ISA
