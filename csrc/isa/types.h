// Element types, for every floor.
#pragma once

#include <cstdint>

namespace kblam {

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

struct float8 {  // e4m3fn: no infinity, largest 448
  uint8_t bits;
};

// Queries and dense tensors are of the first three; latents may be stored in any.
enum class Dtype : int { float32, bfloat16, float16, int8, float8 };

constexpr int64_t element_size(Dtype dtype) {
  return dtype == Dtype::float32 ? 4 : dtype == Dtype::int8 || dtype == Dtype::float8 ? 1 : 2;
}

// A size known to the compiler, passed as a value.
template <int N>
struct Size {
  static constexpr int value = N;
};

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace kblam
