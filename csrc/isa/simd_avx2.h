// AVX2 vectors of 8 floats, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "traits.h"

namespace kblam::KBLAM_ISA {

using F = __m256;
constexpr int W = 8;

struct Avx2 : Traits {
  static constexpr const char* NAME = "avx2";
  static constexpr int STREAM_VECTORS = 4;
  static constexpr int TILE_I = 4, TILE_J = 2;
  static constexpr int LANE_I = 4, LANE_J = 2;
  static constexpr int SCORE_ROWS = 2;
};

inline F zero() { return _mm256_setzero_ps(); }
inline F set1(float x) { return _mm256_set1_ps(x); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }

inline float sum(F a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float maximum(F a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load(const bfloat16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline F load(const float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline F load(const float8* p) {
  // The bits of a float16 that is 256 times smaller; 0x7f is NaN, which these bits would not be.
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
  const __m128i nan = _mm_slli_epi16(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), 10);
  const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.f));
}
inline void store(float* p, F a) { _mm256_storeu_ps(p, a); }

inline void store_sums(float* to, F a, F b, F c, F d) {
  const F lanes = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1)));
}

template <class T>
inline F load_padded(const T* p, int n) {
  T padded[W] = {};
  for (int i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline F load_first(const float* p, int n) { return load_padded(p, n); }
inline F load_first(const bfloat16* p, int n) { return load_padded(p, n); }
inline F load_first(const float16* p, int n) { return load_padded(p, n); }
inline F load_first(const int8_t* p, int n) { return load_padded(p, n); }
inline F load_first(const float8* p, int n) { return load_padded(p, n); }

inline F where(F positive, F a, F b) { return _mm256_blendv_ps(b, a, _mm256_cmp_ps(positive, zero(), _CMP_GT_OQ)); }

inline F keep_between(F a, F t, F first, F last) {
  const F inside = _mm256_and_ps(_mm256_cmp_ps(first, t, _CMP_LE_OQ), _mm256_cmp_ps(t, last, _CMP_LT_OQ));
  return _mm256_blendv_ps(set1(-__builtin_inff()), a, inside);
}

// 2^n for integral n in [-126, 127].
inline F power_of_two(F n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F zero_below(F a, F x, float limit) { return _mm256_andnot_ps(_mm256_cmp_ps(x, set1(limit), _CMP_LT_OQ), a); }

}  // namespace kblam::KBLAM_ISA

#include "exp_generic.h"
