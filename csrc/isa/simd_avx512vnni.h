// AVX-512 with products of bytes.
#pragma once

#include "simd_avx512.h"

namespace kblam::KBLAM_ISA {

struct Avx512Vnni : Avx512 {
  static constexpr const char* NAME = "avx512vnni";
  static constexpr bool HAS_BYTES = true;
};

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

}  // namespace kblam::KBLAM_ISA
