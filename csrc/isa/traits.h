// What instruction sets differ in, beyond the vectors that all have. The struct of each one derives from this.
#pragma once

#include "types.h"

namespace kblam {

// The products of a matrix unit, see contract.h.
enum class Multiply { PAIRS, BYTES, LEVELS };

struct Traits {
  // Groups of primitives, see contract.h: without its group a primitive is only declared.
  static constexpr bool HAS_PAIRS = false;   // products of pairs of bfloat16
  static constexpr bool HAS_BYTES = false;   // products of bytes
  static constexpr bool HAS_MATRIX = false;  // products on a matrix unit; with it the other two

  // A register of a matrix unit.
  static constexpr int MATRIX_ROWS = 16;
  static constexpr int MATRIX_BYTES = 64;  // of a row

  // To be said by each, as many as there are registers for:
  //   NAME            the name of the table
  //   STREAM_VECTORS  accumulators of one row in a weighted sum of values, at most 8
  //   TILE_I, TILE_J  rows by vectors of a tile's products, at most 4 each
  //   LANE_I, LANE_J  keys by vectors of absorbed queries, where those are lanes
  //   SCORE_ROWS      absorbed queries that go against four keys at a time
};

}  // namespace kblam
