// AVX-512 with products of bytes and of pairs of bfloat16.
#pragma once

#include "simd_avx512vnni.h"

namespace kblam::KBLAM_ISA {

struct Avx512Bf16 : Avx512Vnni {
  static constexpr const char* NAME = "avx512bf16";
  static constexpr bool HAS_PAIRS = true;
};

// c + a.even * b.even + a.odd * b.odd for 16 pairs of bfloat16.
inline F multiply_pairs(F a, F b, F c) {
  return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}

inline F load_pairs(const bfloat16* p) { return _mm512_loadu_ps(reinterpret_cast<const float*>(p)); }
inline F load_first_pairs(const bfloat16* p, int n) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(__mmask32((1ull << n) - 1), p));
}

// Lane i of the result is the pair (even[i], odd[i]), rounded to bfloat16.
inline F round_to_pairs(F even, F odd) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

inline void store_rounded(bfloat16* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
}

// Pairs (a[i], b[i]) for i in [0, 32), in two vectors.
inline void interleave_two(const bfloat16* a, const bfloat16* b, F& low, F& high) {
  const __m512i even = _mm512_loadu_si512(a), odd = _mm512_loadu_si512(b);
  const __m512i step =
      _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b, 0x002a000a, 0x00290009, 0x00280008,
                       0x00270007, 0x00260006, 0x00250005, 0x00240004, 0x00230003, 0x00220002, 0x00210001, 0x00200000);
  low = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, step, odd));
  high = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, _mm512_add_epi16(step, _mm512_set1_epi16(16)), odd));
}

// Pairs (a[i], b[i]) for i in [0, 16).
inline F interleave(const bfloat16* a, const bfloat16* b, int n) {
  const __mmask16 mask = n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, a));
  if (b == nullptr) return _mm512_castsi512_ps(low);
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, b));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

}  // namespace kblam::KBLAM_ISA
