// The small matrix product in vectors, of which tiles are made. A step of it is 4 bytes: one float, or a pair of
// bfloat16 where the processor multiplies pairs, or four bytes.
#pragma once

#include <type_traits>

#include "isa/contract.h"

namespace kblam::KBLAM_ISA {

template <class T>
struct Step {
  static constexpr bool PAIRS = Isa::HAS_PAIRS && std::is_same_v<T, bfloat16>;
  static F multiply(F a, F b, F c) {
    if constexpr (PAIRS)
      return multiply_pairs(a, b, c);
    else
      return fma(a, b, c);
  }
};

inline F broadcast(const char* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof x);
  return set1(x);
}

// sums[i][j] += a[i][k] * b[k][j vectors]; strides in bytes, a step of a and a lane of b are 4 bytes. Calls between(k)
// before each step.
template <class T, int I, int J, class Between>
inline void product(F (&sums)[I][J], const char* a, int64_t a_row, int64_t a_step, const char* b, int64_t b_step,
                    int steps, const Between& between) {
  for (int k = 0; k < steps; ++k) {
    between(k);
    F right[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) right[j] = load(reinterpret_cast<const float*>(b) + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
      const F left = broadcast(a + i * a_row);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sums[i][j] = Step<T>::multiply(left, right[j], sums[i][j]);
    }
    a += a_step;
    b += b_step;
  }
}

template <class T, int I, int J>
inline void product(F (&sums)[I][J], const char* a, int64_t a_row, int64_t a_step, const char* b, int64_t b_step,
                    int steps) {
  product<T>(sums, a, a_row, a_step, b, b_step, steps, [](int) {});
}

// f(Size<i>, Size<j>) for i in [1, Isa::TILE_I] and j in [1, Isa::TILE_J].
template <class Function>
inline void sized(int i, int j, const Function& f) {
  const auto columns = [&](auto rows) {
    switch (j) {
      case 1: return f(rows, Size<1>{});
      case 2: return f(rows, Size<2>{});
      case 3:
        if constexpr (Isa::TILE_J >= 3) return f(rows, Size<3>{});
        return;
      case 4:
        if constexpr (Isa::TILE_J >= 4) return f(rows, Size<4>{});
        return;
      default: return;
    }
  };
  switch (i) {
    case 1: return columns(Size<1>{});
    case 2: return columns(Size<2>{});
    case 3: return columns(Size<3>{});
    case 4: return columns(Size<4>{});
    default: return;
  }
}

}  // namespace kblam::KBLAM_ISA
