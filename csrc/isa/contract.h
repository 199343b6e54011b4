// What an instruction set gives to the kernels: F, a vector of W floats; Isa, its traits (traits.h); and these
// functions. Included after the header that defines them, so that the compiler holds the two together. Functions of a
// group that an instruction set lacks stay declarations: kernels reach them under `if constexpr` only, and one that
// does not fails to link. tests/kernels/cpu/primitives.cpp compares each with a plain loop, on each table.
#pragma once

#include "types.h"

namespace kblam::KBLAM_ISA {

// -- Vectors: all have these.

F zero();
F set1(float x);
F fma(F a, F b, F c);  // a * b + c, rounded once where the processor can
float fma(float a, float b, float c);
F add(F a, F b);
F mul(F a, F b);
F max(F a, F b);  // if either is NaN, b
float sum(F a);   // in an order of its own
float maximum(F a);

F load(const float* p);  // W elements, from any address
F load(const bfloat16* p);
F load(const float16* p);
F load(const int8_t* p);
F load(const float8* p);
F load_first(const float* p, int n);  // the first n < W elements, zeros after them; nothing past them is read
F load_first(const bfloat16* p, int n);
F load_first(const float16* p, int n);
F load_first(const int8_t* p, int n);
F load_first(const float8* p, int n);
void store(float* p, F a);
void store_sums(float* to, F a, F b, F c, F d);  // the sums of four vectors to four floats

F keep_between(F a, F t, F first, F last);  // a where first <= t < last, else -inf
F where(F positive, F a, F b);              // a where positive > 0, else b
F exp(F x);   // e^x: 2 ulp, 0 for what is below 1.7e-38 at most, inf from 88.73 on, NaN for NaN
F exp2(F x);  // 2^x: 2 ulp (e^(x ln 2) where that is all there is), 0 for -inf, inf from 128.1 on, NaN for NaN

// -- Pairs of bfloat16, Isa::HAS_PAIRS: a lane has an even and an odd one.

F multiply_pairs(F a, F b, F c);  // c + a.even * b.even + a.odd * b.odd; subnormals are zeros
F load_pairs(const bfloat16* p);
F load_first_pairs(const bfloat16* p, int n);               // the first n < 2 W elements, zeros after them
F round_to_pairs(F even, F odd);                            // to nearest, ties to even
void store_rounded(bfloat16* p, F a);                       // W elements
F interleave(const bfloat16* a, const bfloat16* b, int n);  // (a[i], b[i]) for i < n and n <= W; b null is zeros
void interleave_two(const bfloat16* a, const bfloat16* b, F& low, F& high);  // (a[i], b[i]) for i < 2 W

// -- Bytes, Isa::HAS_BYTES: a lane has four of them, or a whole number.

F multiply_bytes(F without_sign, F with_sign, F sum);  // sum + the products of a lane's four, whole numbers
F without_sign(F a);                                   // bytes with sign plus 128
F load_bytes(const int8_t* p);                         // 4 W
F load_first_bytes(const int8_t* p, int n);            // the first n, zeros after them; from 4 W on all
F scaled(F sum, F shift, F factor);                    // (sum - shift) * factor of whole numbers, as floats
// The same of the sums of vectors, to as many floats: of one row and four tokens,
void store_scaled_sums(float* to, F a, F b, F c, F d, int32_t shift, float factor);
// or of SCORE_ROWS rows and one token.
void store_scaled_sums(float* to, const F (&of)[Isa::SCORE_ROWS], const int32_t* shifts, const float* factors);
void store_rounded(int8_t* p, F a);    // numbers in [-128, 127] to the nearest, ties to even
void store_rounded(uint8_t* p, F a);   // numbers in [0, 255]
F round_to_bytes(F a, F b, F c, F d);  // in [0, 255]; a lane has the bytes (a, b, c, d)
// Four rows of 64 bytes to columns, four bytes a lane: in whatever order is quickest,
void interleave_bytes(F a, F b, F c, F d, F (&to)[64 / W]);
void sort_columns(F (&v)[64 / W]);                          // which this puts right: lane i of v[j] is column W j + i
void interleave_four(F a, F b, F c, F d, F (&to)[64 / W]);  // or in that order at once

// -- Matrix unit, Isa::HAS_MATRIX: eight registers of MATRIX_ROWS rows of MATRIX_BYTES bytes.

void matrix_begin();  // what a thread that multiplies begins and ends with
void matrix_end();
template <int R>
void matrix_zero();
template <int R>
void matrix_load(const void* from, int64_t stride);  // bytes between rows
template <int R>
void matrix_store(void* to, int64_t stride);
// Register SUM += A * B. Of B, row k has what step k of a row of A meets, four bytes for each column: pairs of
// bfloat16, summed as floats; four bytes with sign and four with sign, summed as whole numbers; or four without and
// four with.
template <Multiply KIND, int SUM, int A, int B>
void matrix_multiply();
void transpose(const F (&from)[W], F (&to)[W]);  // lane j of to[i] is lane i of from[j]

}  // namespace kblam::KBLAM_ISA
