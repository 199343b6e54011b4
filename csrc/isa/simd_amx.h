// AMX beside the vectors of AVX-512: eight registers of 16 rows of 64 bytes, and matrix products of them.
#pragma once

#include "simd_avx512bf16.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace kblam::KBLAM_ISA {

struct Amx : Avx512Bf16 {
  static constexpr const char* NAME = "amx";
  static constexpr bool HAS_MATRIX = true;
};

// All registers whole; what a thread that multiplies matrices begins and ends with.
inline void matrix_begin() {
  alignas(64) uint8_t shape[64] = {1};
  for (int i = 0; i < 8; ++i) shape[16 + 2 * i] = Traits::MATRIX_BYTES, shape[48 + i] = Traits::MATRIX_ROWS;
  asm volatile("ldtilecfg %0" ::"m"(shape));
}
inline void matrix_end() { asm volatile("tilerelease"); }

// Written as assembly: a register's number is part of the instruction, and compilers' own intrinsics take it as a
// literal only; theirs do not say that memory is read, either. `stride`: bytes between rows.
template <int R>
inline void matrix_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(R));
}
template <int R>
inline void matrix_load(const void* from, int64_t stride) {
#ifdef __SANITIZE_ADDRESS__  // which does not see into assembly
  for (int i = 0; i < Traits::MATRIX_ROWS; ++i)
    if (__asan_region_is_poisoned(const_cast<char*>(static_cast<const char*>(from)) + i * stride, Traits::MATRIX_BYTES))
      __builtin_trap();
#endif
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(R) : "memory");
}
template <int R>
inline void matrix_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(R) : "memory");
}

template <Multiply KIND, int SUM, int A, int B>
inline void matrix_multiply() {
  if constexpr (KIND == Multiply::PAIRS)
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
  else if constexpr (KIND == Multiply::BYTES)
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
  else
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
}

inline void transpose(const F (&from)[16], F (&to)[16]) {
  __m512 pairs[16], fours[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(from[i], from[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(from[i], from[i + 1]);
  }
  // fours[4 g + c]: of rows 4 g to 4 g + 3, columns c, c + 4, c + 8, c + 12.
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {
    fours[g] = _mm512_shuffle_ps(pairs[g], pairs[g + 2], 0x44);
    fours[g + 1] = _mm512_shuffle_ps(pairs[g], pairs[g + 2], 0xee);
    fours[g + 2] = _mm512_shuffle_ps(pairs[g + 1], pairs[g + 3], 0x44);
    fours[g + 3] = _mm512_shuffle_ps(pairs[g + 1], pairs[g + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
    to[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    to[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    to[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    to[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

}  // namespace kblam::KBLAM_ISA
