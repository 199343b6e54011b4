// AVX-512 vectors of 16 floats; with AVX512-BF16 also the dot product of bfloat16 pairs.
#pragma once

#include <immintrin.h>

#include "types.h"

namespace kblam::KBLAM_ISA {

using F = __m512;
constexpr int W = 16;
constexpr int STREAM_VECTORS = 8;  // accumulators of one row in the weighted sum of values
constexpr int TILE_I = 4, TILE_J = 4;
constexpr int LANE_I = 8, LANE_J = 2;  // keys by vectors of absorbed queries, where those are lanes
constexpr int SCORE_ROWS = 4;  // absorbed queries that go against four keys at a time

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
// If either is NaN the second comes back.
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

// The sums of four vectors to four floats.
inline void store_sums(float* to, F a, F b, F c, F d) {
  const F ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const F cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const F lanes = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

// The first n < W elements, zeros after them.
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
inline F load_first(const float8* p, int n) {
  return widen_float8(_mm_maskz_loadu_epi8(__mmask16((1u << n) - 1), p));
}

// a where first <= t < last, else -inf.
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

#ifdef __AVX512BF16__
#define KBLAM_HAS_PAIRS 1

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
  const __m512i step = _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b, 0x002a000a,
                                        0x00290009, 0x00280008, 0x00270007, 0x00260006, 0x00250005, 0x00240004,
                                        0x00230003, 0x00220002, 0x00210001, 0x00200000);
  low = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, step, odd));
  high = _mm512_castsi512_ps(
      _mm512_permutex2var_epi16(even, _mm512_add_epi16(step, _mm512_set1_epi16(16)), odd));
}

// Pairs (a[i], b[i]) for i in [0, 16).
inline F interleave(const bfloat16* a, const bfloat16* b, int n) {
  const __mmask16 mask = n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, a));
  if (b == nullptr) return _mm512_castsi512_ps(low);
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, b));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#endif

#ifdef __AVX512VNNI__
#define KBLAM_HAS_BYTES 1

// Whole numbers travel in the same registers as floats, as bits.
inline __m512i bits(F a) { return _mm512_castps_si512(a); }
inline F as_vector(__m512i a) { return _mm512_castsi512_ps(a); }

// sum + the products of four unsigned and four signed bytes, for 16 groups of four.
inline F multiply_bytes(F without_sign, F with_sign, F sum) {
  return as_vector(_mm512_dpbusd_epi32(bits(sum), bits(without_sign), bits(with_sign)));
}
// Signed bytes plus 128, without sign.
inline F without_sign(F a) { return as_vector(_mm512_xor_si512(bits(a), _mm512_set1_epi8(-128))); }

inline F load_bytes(const int8_t* p) { return as_vector(_mm512_loadu_si512(p)); }
// The first n <= 64 bytes, zeros after them.
inline F load_first_bytes(const int8_t* p, int n) {
  const __mmask64 mask = n >= 64 ? ~__mmask64(0) : (__mmask64(1) << n) - 1;
  return as_vector(_mm512_maskz_loadu_epi8(mask, p));
}

// (sum - shift) * factor as floats: what a row's sums of bytes stand for.
inline F scaled(F sum, F shift, F factor) {
  return mul(_mm512_cvtepi32_ps(_mm512_sub_epi32(bits(sum), bits(shift))), factor);
}
inline __m128i sums_of_four(F a, F b, F c, F d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(bits(a), bits(b)), _mm512_unpackhi_epi32(bits(a), bits(b)));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(bits(c), bits(d)), _mm512_unpackhi_epi32(bits(c), bits(d)));
  const __m512i lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
// The same for the sums of four vectors, to four floats: of one row and four tokens,
inline void store_scaled_sums(float* to, F a, F b, F c, F d, int32_t shift, float factor) {
  const __m128i sums = _mm_sub_epi32(sums_of_four(a, b, c, d), _mm_set1_epi32(shift));
  _mm_storeu_ps(to, _mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_set1_ps(factor)));
}
// or of four rows and one token.
inline void store_scaled_sums(float* to, const F (&of)[4], const int32_t* shifts, const float* factors) {
  const __m128i shift = _mm_loadu_si128(reinterpret_cast<const __m128i*>(shifts));
  const __m128i sums = _mm_sub_epi32(sums_of_four(of[0], of[1], of[2], of[3]), shift);
  _mm_storeu_ps(to, _mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_loadu_ps(factors)));
}

// 16 numbers in [-128, 127], or [0, 255], rounded to bytes.
inline void store_rounded(int8_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}
inline void store_rounded(uint8_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(a)));
}
// Four such vectors in [0, 255] as the bytes of one: lane i is (a[i], b[i], c[i], d[i]).
inline F round_to_bytes(F a, F b, F c, F d) {
  const __m512i ab = _mm512_or_si512(_mm512_cvtps_epi32(a), _mm512_slli_epi32(_mm512_cvtps_epi32(b), 8));
  const __m512i cd = _mm512_or_si512(_mm512_cvtps_epi32(c), _mm512_slli_epi32(_mm512_cvtps_epi32(d), 8));
  return as_vector(_mm512_or_si512(ab, _mm512_slli_epi32(cd, 16)));
}

// Four rows of 64 bytes, column by column, four bytes a lane; unpacking stays within 128 bits: a lane of to[j] has the
// column 16 (lane / 4) + 4 j + lane % 4.
inline void interleave_bytes(F a, F b, F c, F d, F (&to)[4]) {
  const __m512i low = _mm512_unpacklo_epi8(bits(a), bits(b)), high = _mm512_unpackhi_epi8(bits(a), bits(b));
  const __m512i next_low = _mm512_unpacklo_epi8(bits(c), bits(d)), next_high = _mm512_unpackhi_epi8(bits(c), bits(d));
  to[0] = as_vector(_mm512_unpacklo_epi16(low, next_low));
  to[1] = as_vector(_mm512_unpackhi_epi16(low, next_low));
  to[2] = as_vector(_mm512_unpacklo_epi16(high, next_high));
  to[3] = as_vector(_mm512_unpackhi_epi16(high, next_high));
}
// Such lanes in the order of columns.
inline void sort_columns(F (&v)[4]) {
  const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const __m512 c = _mm512_shuffle_f32x4(v[2], v[3], 0x44), d = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_f32x4(a, c, 0x88), v[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
  v[2] = _mm512_shuffle_f32x4(b, d, 0x88), v[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}
// The same with lane i of to[j] for column 16 j + i.
inline void interleave_four(F a, F b, F c, F d, F (&to)[4]) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const auto sorted = [&](F x) { return as_vector(_mm512_permutexvar_epi32(order, bits(x))); };
  interleave_bytes(sorted(a), sorted(b), sorted(c), sorted(d), to);
}
#endif

}  // namespace kblam::KBLAM_ISA
