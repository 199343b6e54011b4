// Where a task of many rows keeps its tile, and the blocks that its rows are cut into.
#pragma once

#include "interface.h"
#include "matrix.h"

namespace kblam::KBLAM_ISA {

constexpr int TILE_TOKENS = 128;
constexpr int BLOCK_ROWS = 64;

struct TileScratch {
  float* scores;   // [TILE_TOKENS][BLOCK_ROWS]
  float* weights;  // [steps][BLOCK_ROWS]
  float* extra;    // what is added to the scores: [TILE_TOKENS], or [TILE_TOKENS][BLOCK_ROWS]
  float* keys;     // the tile widened to floats: [TILE_TOKENS][D]
  float* values;   // [steps][padded D]
  float* queries;  // [blocks][steps of D][BLOCK_ROWS]
  float *maximum, *total, *shrink, *offset, *first, *last;  // [MAX_TILE_ROWS]
  // For a matrix unit.
  float* rows;   // [BLOCK_ROWS][TILE_TOKENS / 2]: weights, pairs of tokens
  float* block;  // [BLOCK][BLOCK]: sums of one product
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
  s.rows = take(Isa::HAS_MATRIX ? BLOCK_ROWS * TILE_TOKENS / 2 : 0);
  s.block = take(Isa::HAS_MATRIX ? BLOCK * BLOCK : 0);
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
  int64_t first, last;          // tokens that some row sees
  int64_t all_first, all_last;  // tokens that every row sees
  bool extra, same_extra;       // whether scores get a bias or mask, and whether it is one for all rows
};

inline Block block_of(const Row* rows, int begin, int count) {
  Block b{begin,
          count,
          int(round_up(count, W) / W),
          rows[begin].first,
          rows[begin].last,
          rows[begin].first,
          rows[begin].last,
          false,
          true};
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

}  // namespace kblam::KBLAM_ISA
