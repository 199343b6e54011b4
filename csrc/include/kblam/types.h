// Element types and the plain structures that kernels and launchers share. No torch, no intrinsics.
#pragma once

#include <cstdint>

namespace kblam {

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

enum class Dtype : int { float32, bfloat16, float16 };

// Keys and values of one head: token m starts at `key + m * key_stride` elements.
struct Columns {
  const void* key;
  const void* value;
  int64_t key_stride;
  int64_t value_stride;
};

// One query and what it has seen so far: the softmax numerator and denominator relative to `maximum`.
// Nothing seen: maximum -inf, total 0, output 0.
struct Row {
  const void* query;       // D contiguous elements
  const float* bias;       // added to the score of token m: bias[m]; or null
  const uint8_t* visible;  // token m counts where visible[m] != 0; or null
  float offset;            // added to every score
  int64_t first, last;     // the tokens this row sees, [first, last)
  float* maximum;
  float* total;
  float* output;  // D floats, padded to a multiple of OUTPUT_PAD
};

constexpr int OUTPUT_PAD = 16;

// Stands in for the maximum of a row that has seen nothing: e^(-inf - LOWEST) is 0.
constexpr float LOWEST = -3.4e38f;

// Rows that a tile task takes at most: what its scratch memory is sized for.
constexpr int MAX_TILE_ROWS = 256;

// A size known to the compiler, passed as a value.
template <int N>
struct Size {
  static constexpr int value = N;
};

// Rows of memory to ask for while others are worked on; null `data` asks for nothing.
struct Ahead {
  const char* data;
  int64_t stride;  // bytes
  int bytes;       // of a row

  void fetch(int64_t row) const {
    if (data == nullptr) return;
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(data + row * stride + i);
  }
};

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Takes tokens [begin, end) into the state of every row.
using Absorb = void (*)(const Columns& columns, const Row* rows, int count, int64_t begin, int64_t end, int head_dim,
                        float scale, char* scratch);

// The kernels of one instruction set; indexed by Dtype.
struct Kernels {
  const char* name;
  Absorb stream[3];  // few rows: reads each key and value once, bound by memory
  Absorb tile[3];    // many rows, at most MAX_TILE_ROWS: two small matrix products for each tile
  int64_t (*stream_scratch)(int head_dim, int count);  // bytes
  int64_t (*tile_scratch)(int head_dim);
};

}  // namespace kblam
