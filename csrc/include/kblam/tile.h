// Attention of many rows: for each tile of tokens two small matrix products around a softmax.
//
// Scores are made transposed, tokens x rows, so that keys are read in place as the row operand, and the softmax runs
// over vectors of rows with no horizontal step. A step of the product is 4 bytes of a token: one float, or a pair of
// bfloat16 where the processor multiplies pairs; then values are interleaved in pairs of tokens.
#pragma once

#include "dot.h"
#include "fetch.h"
#include "matrix.h"

namespace kblam::KBLAM_ISA {

constexpr int TILE_TOKENS = 128;
constexpr int BLOCK_ROWS = 64;

template <class T>
struct Step {
  static constexpr bool PAIRS = false;
  static F multiply(F a, F b, F c) { return fma(a, b, c); }
};
#ifdef KBLAM_HAS_PAIRS
template <>
struct Step<bfloat16> {
  static constexpr bool PAIRS = true;
  static F multiply(F a, F b, F c) { return multiply_pairs(a, b, c); }
};
#endif

inline F broadcast(const char* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof x);
  return set1(x);
}

// sums[i][j] += a[i][k] * b[k][j vectors]; strides in bytes, a step of a and a lane of b are 4 bytes. Calls between(k)
// before each step.
template <class T, int I, int J, class Between>
inline void product(F (&sums)[I][J], const char* a, int64_t a_row, int64_t a_step, const char* b, int64_t b_step,
                    int steps, const Between& between) {
  for (int k = 0; k < steps; ++k) {
    between(k);
    F right[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) right[j] = load(reinterpret_cast<const float*>(b) + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
      const F left = broadcast(a + i * a_row);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sums[i][j] = Step<T>::multiply(left, right[j], sums[i][j]);
    }
    a += a_step;
    b += b_step;
  }
}

template <class T, int I, int J>
inline void product(F (&sums)[I][J], const char* a, int64_t a_row, int64_t a_step, const char* b, int64_t b_step,
                    int steps) {
  product<T>(sums, a, a_row, a_step, b, b_step, steps, [](int) {});
}

// f(Size<i>, Size<j>) for i in [1, TILE_I] and j in [1, TILE_J].
template <class Function>
inline void sized(int i, int j, const Function& f) {
  const auto columns = [&](auto rows) {
    switch (j) {
      case 1: return f(rows, Size<1>{});
      case 2: return f(rows, Size<2>{});
#if defined(__AVX512F__)
      case 3: return f(rows, Size<3>{});
      case 4: return f(rows, Size<4>{});
#endif
      default: return;
    }
  };
  switch (i) {
    case 1: return columns(Size<1>{});
    case 2: return columns(Size<2>{});
    case 3: return columns(Size<3>{});
    case 4: return columns(Size<4>{});
    default: return;
  }
}

struct TileScratch {
  float* scores;   // [TILE_TOKENS][BLOCK_ROWS]
  float* weights;  // [steps][BLOCK_ROWS]
  float* extra;    // what is added to the scores: [TILE_TOKENS], or [TILE_TOKENS][BLOCK_ROWS]
  float* keys;     // the tile widened to floats: [TILE_TOKENS][D]
  float* values;   // [steps][padded D]
  float* queries;  // [blocks][steps of D][BLOCK_ROWS]
  float *maximum, *total, *shrink, *offset, *first, *last;  // [MAX_TILE_ROWS]
#ifdef KBLAM_HAS_MATRIX
  float* rows;   // [BLOCK_ROWS][TILE_TOKENS / 2]: weights, pairs of tokens
  float* block;  // [BLOCK][BLOCK]: sums of one product
#endif
};

template <class Take>
inline TileScratch lay_out(int D, const Take& take) {
  TileScratch s;
  const int64_t padded = round_up(D, OUTPUT_PAD);
  s.scores = take(TILE_TOKENS * BLOCK_ROWS);
  s.weights = take(TILE_TOKENS * BLOCK_ROWS);
  s.extra = take(TILE_TOKENS * BLOCK_ROWS);
  s.keys = take(TILE_TOKENS * padded);
  s.values = take(TILE_TOKENS * padded);
  s.queries = take(MAX_TILE_ROWS * padded);
  s.maximum = take(MAX_TILE_ROWS);
  s.total = take(MAX_TILE_ROWS);
  s.shrink = take(MAX_TILE_ROWS);
  s.offset = take(MAX_TILE_ROWS);
  s.first = take(MAX_TILE_ROWS);
  s.last = take(MAX_TILE_ROWS);
#ifdef KBLAM_HAS_MATRIX
  s.rows = take(BLOCK_ROWS * TILE_TOKENS / 2);
  s.block = take(BLOCK * BLOCK);
#endif
  return s;
}

inline TileScratch lay_out(char* memory, int D) {
  float* next = reinterpret_cast<float*>(memory);
  return lay_out(D, [&](int64_t floats) {
    float* here = next;
    next += floats;
    return here;
  });
}

inline int64_t tile_scratch(int D) {
  int64_t all = 0;
  lay_out(D, [&](int64_t floats) {
    all += floats;
    return static_cast<float*>(nullptr);
  });
  return all * int64_t(sizeof(float));
}

// Rows [begin, begin + count) of a task that go through the products together.
struct Block {
  int begin, count, vectors;
  int64_t first, last;            // tokens that some row sees
  int64_t all_first, all_last;    // tokens that every row sees
  bool extra, same_extra;         // whether scores get a bias or mask, and whether it is one for all rows
};

inline Block block_of(const Row* rows, int begin, int count) {
  Block b{begin, count, int(round_up(count, W) / W), rows[begin].first, rows[begin].last, rows[begin].first,
          rows[begin].last, false, true};
  for (int r = begin; r < begin + count; ++r) {
    const Row& row = rows[r];
    if (row.first < b.first) b.first = row.first;
    if (row.last > b.last) b.last = row.last;
    if (row.first > b.all_first) b.all_first = row.first;
    if (row.last < b.all_last) b.all_last = row.last;
    b.extra = b.extra || row.bias != nullptr || row.visible != nullptr;
    b.same_extra = b.same_extra && row.bias == rows[begin].bias && row.visible == rows[begin].visible;
  }
  return b;
}

// Steps of four bytes in a packed query: whole ones of any product.
template <class T>
inline int query_steps(int D) {
  if constexpr (!Step<T>::PAIRS) return D;
#ifdef KBLAM_HAS_MATRIX
  return int(round_up(D / 2, MATRIX_STEPS));
#endif
  return D / 2;
}

// Queries of a block as the column operand: [step][BLOCK_ROWS], absent rows 0, and so are steps past D.
template <class T>
inline void pack_queries(const Row* rows, const Block& block, int D, float* to) {
  const int lanes = block.vectors * W;
  for (int r = 0; r < lanes; ++r) {
    const T* query = r < block.count ? static_cast<const T*>(rows[block.begin + r].query) : nullptr;
    if constexpr (Step<T>::PAIRS) {
      for (int step = 0; step < query_steps<T>(D); ++step) {
        T pair[2] = {};
        if (query != nullptr && 2 * step < D) __builtin_memcpy(pair, query + 2 * step, sizeof pair);
        __builtin_memcpy(to + step * BLOCK_ROWS + r, pair, sizeof pair);
      }
    } else {
      for (int d = 0; d < D; d += W) {
        float wide[W];
        const int left = D - d;
        store(wide, query == nullptr ? zero() : left >= W ? load(query + d) : load_first(query + d, left));
        for (int i = 0; i < W && i < left; ++i) to[(d + i) * BLOCK_ROWS + r] = wide[i];
      }
    }
  }
}

template <class T>
inline void widen(const T* from, int64_t stride, int n, int D, float* to, int64_t to_stride) {
  for (int t = 0; t < n; ++t) {
    for (int d = 0; d < D; d += W) {
      const T* p = from + t * stride + d;
      const F x = D - d >= W ? load(p) : load_first(p, D - d);
      // The last vector may be cut: the row ends at to_stride.
      if (to_stride - d >= W) {
        store(to + t * to_stride + d, x);
      } else {
        float wide[W];
        store(wide, x);
        for (int i = 0; i < to_stride - d; ++i) to[t * to_stride + d + i] = wide[i];
      }
    }
  }
}

// Values of a tile as the column operand of the second product: [steps][padded D].
template <class T>
inline void pack_values(const T* values, int64_t stride, int n, int D, float* to) {
  const int64_t padded = round_up(D, OUTPUT_PAD);
  if constexpr (Step<T>::PAIRS) {
#ifdef KBLAM_HAS_PAIRS
    for (int t = 0; t < n; t += 2) {
      const T* even = values + t * stride;
      const T* odd = t + 1 < n ? even + stride : nullptr;
      int d = 0;
      for (; odd != nullptr && d + 2 * W <= D; d += 2 * W) {
        F low, high;
        interleave_two(even + d, odd + d, low, high);
        store(to + t / 2 * padded + d, low);
        store(to + t / 2 * padded + d + W, high);
      }
      for (; d < D; d += W)
        store(to + t / 2 * padded + d, interleave(even + d, odd == nullptr ? nullptr : odd + d, D - d));
    }
#endif
  } else {
    for (int t = 0; t < n; ++t)
      for (int64_t d = round_up(D, W); d < padded; d += W) store(to + t * padded + d, zero());
    widen(values, stride, n, D, to, padded);
  }
}

// scores[t][row] = keys[t] . queries[row]
template <class T>
inline void score_tile(const char* keys, int64_t key_bytes, int n, const float* queries, const Block& block, int steps,
                       float* scores) {
  for (int t = 0; t < n; t += TILE_I)
    for (int v = 0; v < block.vectors; v += TILE_J) {
      const int i = n - t < TILE_I ? n - t : TILE_I, j = block.vectors - v < TILE_J ? block.vectors - v : TILE_J;
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
  for (int r = 0; r < block.count; r += TILE_I)
    for (int v = 0; v < all; v += TILE_J) {
      const int i = block.count - r < TILE_I ? block.count - r : TILE_I, j = all - v < TILE_J ? all - v : TILE_J;
      sized(i, j, [&](auto some, auto vectors) {
        constexpr int I = decltype(some)::value, J = decltype(vectors)::value;
        F sums[I][J];
        float* out[I];
        for (int a = 0; a < I; ++a) {
          out[a] = rows[block.begin + r + a].output + v * W;
          for (int b = 0; b < J; ++b) sums[a][b] = mul(load(out[a] + b * W), set1(shrink[r + a]));
        }
        product<T>(sums, reinterpret_cast<const char*>(weights + r), 4, BLOCK_ROWS * 4,
                   reinterpret_cast<const char*>(values + v * W), int64_t(padded) * 4, steps);
        for (int a = 0; a < I; ++a)
          for (int b = 0; b < J; ++b) store(out[a] + b * W, sums[a][b]);
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
    const F scales = set1(scale), offset = load(s.offset + lane), before = load(s.maximum + lane);
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
    top = max(raw ? fma(top, scales, offset) : top, before);
    // A row that has seen nothing keeps -inf; subtracting it from itself would be NaN.
    const F level = mul(max(set1(LOWEST), top), set1(-1.f));
    F total = zero();
    float* weights = s.weights + v * W;
    if constexpr (Step<T>::PAIRS) {
#ifdef KBLAM_HAS_PAIRS
      // Rounded to bfloat16 next: powers of 2 do.
      const F level2 = max(set1(LOWEST / 2), top);
      const F factor = set1(raw ? scale * LOG2_E : LOG2_E);
      const F shift = mul(add(raw ? offset : zero(), mul(level2, set1(-1.f))), set1(LOG2_E));
      const auto weight_of = [&](int t) { return exp2(fma(load(scores + t * BLOCK_ROWS), factor, shift)); };
      for (int t = 0; t < n; t += 2) {
        const F even = weight_of(t), odd = t + 1 < n ? weight_of(t + 1) : zero();
        total = add(add(total, even), odd);
        store(weights + t / 2 * BLOCK_ROWS, round_to_pairs(even, odd));
      }
#endif
    } else {
      for (int t = 0; t < n; ++t) {
        const F weight = exp(add(load(scores + t * BLOCK_ROWS), level));
        total = add(total, weight);
        store(weights + t * BLOCK_ROWS, weight);
      }
    }
    const F shrink = exp(add(before, level));
    store(s.shrink + lane, shrink);
    store(s.total + lane, fma(load(s.total + lane), shrink, total));
    store(s.maximum + lane, top);
  }
}

}  // namespace kblam::KBLAM_ISA
