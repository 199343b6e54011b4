// Products of blocks on a matrix unit, and the layout of what it multiplies: rows of 64 bytes on the left, steps of
// four bytes by columns on the right.
#pragma once

#include "isa/contract.h"

namespace kblam::KBLAM_ISA {

constexpr int MATRIX_ROWS = Isa::MATRIX_ROWS, MATRIX_BYTES = Isa::MATRIX_BYTES;
constexpr int MATRIX_STEPS = MATRIX_BYTES / 4;  // four bytes each, of one product
constexpr int BLOCK = 2 * MATRIX_ROWS;          // rows, and columns, of a block: four registers of sums
constexpr int BETWEEN = 4;                      // times in a step of a product that other work may come between

// to[i][j] = sum over steps of a[i] and b[j], for I x J registers of sums; `to` holds whole numbers where bytes are
// multiplied. Strides in bytes, but of `to`. `steps`: of MATRIX_STEPS. Calls between(i) for i in [0, BETWEEN * steps),
// evenly.
template <Multiply KIND, int I, int J, class Between>
inline void matrix_product(const char* a, int64_t a_row, const char* b, int64_t b_step, int steps, float* to,
                           int64_t to_row, const Between& between) {
  matrix_zero<0>();
  if constexpr (J == 2) matrix_zero<1>();
  if constexpr (I == 2) matrix_zero<2>();
  if constexpr (I == 2 && J == 2) matrix_zero<3>();
  for (int k = 0; k < steps; ++k) {
    between(BETWEEN * k);
    matrix_load<4>(a, a_row);
    matrix_load<6>(b, b_step);
    between(BETWEEN * k + 1);
    matrix_multiply<KIND, 0, 4, 6>();
    if constexpr (J == 2) {
      matrix_load<7>(b + MATRIX_BYTES, b_step);
      matrix_multiply<KIND, 1, 4, 7>();
    }
    between(BETWEEN * k + 2);
    if constexpr (I == 2) {
      matrix_load<5>(a + MATRIX_ROWS * a_row, a_row);
      matrix_multiply<KIND, 2, 5, 6>();
      if constexpr (J == 2) matrix_multiply<KIND, 3, 5, 7>();
    }
    between(BETWEEN * k + 3);
    a += MATRIX_BYTES;
    b += MATRIX_STEPS * b_step;
  }
  matrix_store<0>(to, to_row * 4);
  if constexpr (J == 2) matrix_store<1>(to + MATRIX_ROWS, to_row * 4);
  if constexpr (I == 2) matrix_store<2>(to + MATRIX_ROWS * to_row, to_row * 4);
  if constexpr (I == 2 && J == 2) matrix_store<3>(to + MATRIX_ROWS * to_row + MATRIX_ROWS, to_row * 4);
}

// f(Size<i>, Size<j>) for so many registers of sums; more than two are two.
template <class Function>
inline void registers(int i, int j, const Function& f) {
  if (i > 1) return j > 1 ? f(Size<2>{}, Size<2>{}) : f(Size<2>{}, Size<1>{});
  return j > 1 ? f(Size<1>{}, Size<2>{}) : f(Size<1>{}, Size<1>{});
}

// to[row][step] = from[step][row] for `vectors` vectors of rows: weights, four bytes each, as the row operand. Zeros
// from step n to the next whole product.
inline void lanes_to_rows(const float* from, int64_t lanes, int vectors, int n, float* to, int64_t to_row) {
  for (int v = 0; v < vectors; ++v)
    for (int step = 0; step < n; step += MATRIX_STEPS) {
      F of_step[W], of_row[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) of_step[i] = step + i < n ? load(from + (step + i) * lanes + v * W) : zero();
      transpose(of_step, of_row);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + (v * W + i) * to_row + step, of_row[i]);
    }
}

}  // namespace kblam::KBLAM_ISA
