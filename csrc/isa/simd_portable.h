// Vectors of 4 floats in the compilers' vector extension: NEON on aarch64, SSE2 on x86-64, plain code elsewhere.
#pragma once

#include "traits.h"

namespace kblam::KBLAM_ISA {

typedef float F __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
constexpr int W = 4;

struct Portable : Traits {
  static constexpr const char* NAME = "portable";
  static constexpr int STREAM_VECTORS = 4;
  static constexpr int TILE_I = 4, TILE_J = 2;
  static constexpr int LANE_I = 4, LANE_J = 2;
  static constexpr int SCORE_ROWS = 2;
};

inline F zero() { return F{}; }
inline F set1(float x) { return F{x, x, x, x}; }
inline F fma(F a, F b, F c) { return a * b + c; }
inline float fma(float a, float b, float c) { return a * b + c; }
inline F add(F a, F b) { return a + b; }
inline F mul(F a, F b) { return a * b; }
inline F select(I32 mask, F a, F b) { return (F)((mask & (I32)a) | (~mask & (I32)b)); }
inline F max(F a, F b) { return select((I32)(a > b), a, b); }
inline F min(F a, F b) { return select((I32)(a < b), a, b); }
inline float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float maximum(F a) {
  const float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
  return x > y ? x : y;
}

inline float as_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return as_float(uint32_t(x.bits) << 16); }
inline float to_float(float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // inf, NaN
  // The exponent is rebiased by a multiplication, which also normalises subnormals.
  return as_float(sign | (rest << 13)) * as_float(0x77800000);
}

inline float to_float(int8_t x) { return float(x); }
inline float to_float(float8 x) {
  const uint32_t sign = uint32_t(x.bits & 0x80) << 24, rest = x.bits & 0x7f;
  if (rest == 0x7f) return as_float(sign | 0x7fc00000);
  // As for float16: 2^120 rebiases.
  return as_float(sign | rest << 20) * as_float(0x7b800000);
}

inline F load(const float* p) {
  F a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
template <class T>
inline F widen_four(const T* p) {
  return F{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline F load(const bfloat16* p) { return widen_four(p); }
inline F load(const float16* p) { return widen_four(p); }
inline F load(const int8_t* p) { return widen_four(p); }
inline F load(const float8* p) { return widen_four(p); }
inline void store(float* p, F a) { __builtin_memcpy(p, &a, sizeof a); }

inline void store_sums(float* to, F a, F b, F c, F d) { store(to, F{sum(a), sum(b), sum(c), sum(d)}); }

template <class T>
inline F widen_first(const T* p, int n) {
  F a = {};
  for (int i = 0; i < n; ++i) a[i] = to_float(p[i]);
  return a;
}
inline F load_first(const float* p, int n) { return widen_first(p, n); }
inline F load_first(const bfloat16* p, int n) { return widen_first(p, n); }
inline F load_first(const float16* p, int n) { return widen_first(p, n); }
inline F load_first(const int8_t* p, int n) { return widen_first(p, n); }
inline F load_first(const float8* p, int n) { return widen_first(p, n); }

inline F where(F positive, F a, F b) { return select((I32)(positive > zero()), a, b); }

inline F keep_between(F a, F t, F first, F last) {
  return select((I32)(first <= t) & (I32)(t < last), a, set1(-__builtin_inff()));
}

inline F round(F x) {
  const F magic = set1(12582912.f);  // 1.5 * 2^23: adding it leaves no room for a fraction
  return (x + magic) - magic;
}
// 2^n for integral n in [-126, 127].
inline F power_of_two(F n) { return (F)((__builtin_convertvector(n, I32) + 127) << 23); }
inline F zero_below(F a, F x, float limit) { return (F)(~(I32)(x < set1(limit)) & (I32)a); }

}  // namespace kblam::KBLAM_ISA

#include "exp_generic.h"
