// AVX-512 vectors of 16 floats.
#pragma once

#include <immintrin.h>

#include "traits.h"

namespace kblam::KBLAM_ISA {

using F = __m512;
constexpr int W = 16;

struct Avx512 : Traits {
  static constexpr const char* NAME = "avx512";
  static constexpr int STREAM_VECTORS = 8;
  static constexpr int TILE_I = 4, TILE_J = 4;
  static constexpr int LANE_I = 8, LANE_J = 2;
  static constexpr int SCORE_ROWS = 4;
};

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float maximum(F a) { return _mm512_reduce_max_ps(a); }

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const bfloat16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline F load(const float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F widen_float8(__m128i bytes) {
  // The bits of a float16 that is 256 times smaller; 0x7f is NaN, which these bits would not be.
  const __m256i wide = _mm256_cvtepu8_epi16(bytes), magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
  const __m256i nan = _mm256_slli_epi16(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f)), 10);
  const __m256i half = _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign), nan);
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.f));
}
inline F load(const float8* p) { return widen_float8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }

inline void store_sums(float* to, F a, F b, F c, F d) {
  const F ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const F cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const F lanes = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

inline F load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p); }
inline F load_first(const bfloat16* p, int n) {
  const __m256i half = _mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline F load_first(const float16* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
}
inline F load_first(const int8_t* p, int n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(__mmask16((1u << n) - 1), p)));
}
inline F load_first(const float8* p, int n) { return widen_float8(_mm_maskz_loadu_epi8(__mmask16((1u << n) - 1), p)); }

inline F where(F positive, F a, F b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(positive, zero(), _CMP_GT_OQ), b, a);
}

inline F keep_between(F a, F t, F first, F last) {
  const __mmask16 inside = _mm512_cmp_ps_mask(first, t, _CMP_LE_OQ) & _mm512_cmp_ps_mask(t, last, _CMP_LT_OQ);
  return _mm512_mask_blend_ps(inside, set1(-__builtin_inff()), a);
}

// e^x: 1-2 ulp, exactly 0 for -inf, inf above 88.72 (for x = inf, r is NaN and scalef by 2^inf is inf), NaN for NaN.
inline F exp(F x) {
  x = max(set1(-104.f), x);
  const F n = _mm512_roundscale_ps(mul(x, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  F r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.f));
  return _mm512_scalef_ps(p, n);
}

// 2^x: 2 ulp, exactly 0 for -inf, inf from 128 on, NaN for NaN. Half the work of `exp`: a polynomial of what is left
// above a whole number, which scalef takes from x itself.
inline F exp2(F x) {
  constexpr int BELOW_WHOLE = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const F f = _mm512_reduce_ps(x, BELOW_WHOLE);  // 0 for an infinity
  F p = set1(1.877576658e-3f);
  p = fma(p, f, set1(8.989340131e-3f));
  p = fma(p, f, set1(5.582631802e-2f));
  p = fma(p, f, set1(2.401536171e-1f));
  p = fma(p, f, set1(6.931530732e-1f));
  p = fma(p, f, set1(9.999999251e-1f));
  return _mm512_scalef_ps(p, x);
}

}  // namespace kblam::KBLAM_ISA
