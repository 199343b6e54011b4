// Takes a chunk of tokens into the states of many rows, tile by tile.
#pragma once

#include "tile.h"
#include "tile_matrix.h"

namespace kblam::KBLAM_ISA {

template <class T>
constexpr bool multiplies_matrices() {
  return Isa::HAS_MATRIX && Step<T>::PAIRS;
}

// Where products are of vectors, a key or value is worth less than a pass through memory up to 4 rows, and tiles, made
// for 64 rows and more, are the slower kernel up to 32. A matrix unit waits for memory with any number.
template <class T>
constexpr int stream_queries() {
  return multiplies_matrices<T>() ? 0 : 4;
}
template <class T>
constexpr int tile_queries() {
  return multiplies_matrices<T>() ? 1 : 33;
}

template <class T>
void tile_absorb(const Columns& columns, const Row* rows, int count, int64_t begin, int64_t end, int D, float scale,
                 char* scratch) {
  const TileScratch s = lay_out(scratch, D);
  const bool narrow = sizeof(T) < sizeof(float) && !Step<T>::PAIRS;  // elements that must be widened first
  const int64_t packed_query = int64_t(query_steps<T>(D)) * BLOCK_ROWS;
  const uint8_t* visible = rows[0].visible;  // the mask of a batch row, where all are of one
  for (int r = 1; r < count; ++r)
    if (rows[r].visible != visible) visible = nullptr;
  Block blocks[MAX_TILE_ROWS / BLOCK_ROWS];
  int n_blocks = 0;
  for (int r = 0; r < MAX_TILE_ROWS; ++r) {
    s.maximum[r] = r < count ? *rows[r].maximum : -__builtin_inff();
    s.total[r] = r < count ? *rows[r].total : 0.f;
    s.offset[r] = r < count ? rows[r].offset : 0.f;
    s.first[r] = s.last[r] = 0.f;
  }
  for (int r = 0; r < count; r += BLOCK_ROWS, ++n_blocks) {
    blocks[n_blocks] = block_of(rows, r, count - r < BLOCK_ROWS ? count - r : BLOCK_ROWS);
    pack_queries<T>(rows, blocks[n_blocks], D, s.queries + n_blocks * packed_query);
  }
  if constexpr (multiplies_matrices<T>()) matrix_begin();
  for (int64_t tile = begin; tile < end; tile += TILE_TOKENS) {
    const int n = int(end - tile < TILE_TOKENS ? end - tile : TILE_TOKENS);
    const T* values = static_cast<const T*>(columns.value) + tile * columns.value_stride;
    const T* key_rows = static_cast<const T*>(columns.key) + tile * columns.key_stride;
    const char* keys = reinterpret_cast<const char*>(key_rows);
    int64_t key_bytes = columns.key_stride * int64_t(sizeof(T));
    const int steps = Step<T>::PAIRS ? (n + 1) / 2 : n;
    const int64_t padded = round_up(D, OUTPUT_PAD);
    const auto pack = [&] {
      pack_values(values, columns.value_stride, n, D, s.values);
      if (visible != nullptr) clear_unseen<T>([&](int t) { return visible[tile + t]; }, n, padded, s.values);
    };
    bool packed = false, finite = true, looked = false;
    for (int b = 0; b < n_blocks; ++b) {
      const Block& block = blocks[b];
      if (block.last <= tile || block.first >= tile + n) continue;
      if (!packed) {
        packed = true;
        pack();
        if (narrow) {
          widen(key_rows, columns.key_stride, n, D, s.keys, D);
          keys = reinterpret_cast<const char*>(s.keys);
          key_bytes = int64_t(D) * sizeof(float);
        }
        if constexpr (multiplies_matrices<T>()) keys = whole_keys(key_rows, key_bytes, n, D, s.keys);
      }
      // Where rows are few memory is the limit: the next tile is asked for while this one's first block is worked on.
      [[maybe_unused]] const int64_t left = b == 0 ? end - tile - n : 0, next = left < TILE_TOKENS ? left : TILE_TOKENS;
      const float* queries = s.queries + b * packed_query;
      if constexpr (multiplies_matrices<T>()) {
        Fetches next_values(values + n * columns.value_stride, next * columns.value_stride * 2,
                            score_fetches(block, n, D));
        score_blocks(keys, key_bytes, n, queries, block, D, s.scores, next_values);
      } else {
        score_tile<T>(keys, key_bytes, n, queries, block, query_steps<T>(D), s.scores);
      }
      softmax_tile<T>(s, rows, block, tile, n, scale);
      const auto mix = [&](const TileScratch& of, const Block& part) {
        if constexpr (multiplies_matrices<T>()) {
          Fetches next_keys(key_rows + n * columns.key_stride, next * columns.key_stride * 2,
                            value_fetches(part, n, D));
          value_blocks(of, rows, part, steps, s.shrink + part.begin, D, next_keys);
        } else {
          value_tile<T>(of.weights, of.values, rows, part, steps, s.shrink + part.begin, D);
        }
      };
      const bool partly = tile < block.all_first || tile + n > block.all_last;
      if (partly && !looked) looked = true, finite = all_finite<T>(s.values, steps, padded);
      if (!partly || finite) {
        mix(s, block);
        continue;
      }
      // Weight 0 does not hide NaN or infinity: each row is given the values that it sees, and no other.
      for (int r = 0; r < block.count; ++r) {
        const Row& row = rows[block.begin + r];
        pack();
        clear_unseen<T>([&](int t) { return tile + t >= row.first && tile + t < row.last; }, n, padded, s.values);
        TileScratch of_row = s;
        of_row.weights += r;
        Block one = block;
        one.begin += r, one.count = one.vectors = 1;
        mix(of_row, one);
      }
      pack();
    }
  }
  if constexpr (multiplies_matrices<T>()) matrix_end();
  for (int r = 0; r < count; ++r) {
    *rows[r].maximum = s.maximum[r];
    *rows[r].total = s.total[r];
  }
}

}  // namespace kblam::KBLAM_ISA
