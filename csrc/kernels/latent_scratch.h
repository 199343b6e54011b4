// Where a task on latents keeps its tile: scratch memory, and what the tile's tokens are multiplied by.
#pragma once

#include "tile.h"

namespace kblam::KBLAM_ISA {

constexpr int LATENT_TILE = 128;
constexpr int PANEL = Isa::LANE_J * W;  // columns of values that are worked on together
constexpr int KEY_ROWS = Isa::HAS_MATRIX   ? BLOCK
                         : Isa::LANE_I < 4 ? 4
                                           : Isa::LANE_I;  // keys that are converted together
constexpr int LANES = MAX_LATENT_ROWS;
static_assert(Isa::LANE_J == 2, "a block that is not whole is one vector wide");
// A query takes up so many elements: whole steps of any product.
inline int64_t query_stride(int P) { return round_up(P, 2 * OUTPUT_PAD); }

struct LatentScratch {
  float* scores;      // [LANES][LATENT_TILE], or [LATENT_TILE][LANES] where rows are lanes; then weights
  float* extra;       // [LATENT_TILE][LANES]: biases, where rows are lanes and differ in them
  uint16_t* pairs;    // weights as bfloat16: [LANES][LATENT_TILE], or pairs [LATENT_TILE / 2][LANES]
  float* shrink;      // [LANES]
  float* of_product;  // [LATENT_TILE]: what each token's product, constant and value are multiplied by
  float* of_constant;
  float* of_value;
  float* panel;   // [LATENT_TILE][PANEL] floats, or [LATENT_TILE / 2][PANEL] pairs
  void* keys;     // [KEY_ROWS][query_stride], converted
  void* queries;  // [LANES][query_stride], or [steps][LANES] where rows are lanes
  // Of each row, [LANES]: where rows are lanes,
  float *constant, *offset, *maximum, *total;
  // and where bytes are multiplied.
  float *query_factor, *weight_scale;
  int32_t* query_shift;
  // For a matrix unit.
  float* rows;   // [LANES][LATENT_TILE / 2]: weights as pairs or fours of tokens
  float* block;  // [LANES][PANEL]: sums of one product
};

template <class Take>
inline LatentScratch lay_out_latent(int P, const Take& take) {
  LatentScratch s;
  s.scores = take(LANES * LATENT_TILE);
  s.extra = take(LANES * LATENT_TILE);
  s.pairs = reinterpret_cast<uint16_t*>(take(LANES * LATENT_TILE / 2));
  s.shrink = take(LANES);
  s.of_product = take(LATENT_TILE);
  s.of_constant = take(LATENT_TILE);
  s.of_value = take(LATENT_TILE);
  s.panel = take(LATENT_TILE * PANEL);
  s.keys = take(KEY_ROWS * query_stride(P));
  s.queries = take(LANES * query_stride(P));
  s.constant = take(LANES);
  s.offset = take(LANES);
  s.maximum = take(LANES);
  s.total = take(LANES);
  s.query_factor = take(LANES);
  s.weight_scale = take(LANES);
  s.query_shift = reinterpret_cast<int32_t*>(take(LANES));
  s.rows = take(Isa::HAS_MATRIX ? LANES * LATENT_TILE / 2 : 0);
  s.block = take(Isa::HAS_MATRIX ? LANES * PANEL : 0);
  return s;
}

inline LatentScratch lay_out_latent(char* memory, int P) {
  float* next = reinterpret_cast<float*>(memory);
  return lay_out_latent(P, [&](int64_t floats) {
    float* here = next;
    next += round_up(floats, OUTPUT_PAD);
    return here;
  });
}

inline int64_t latent_scratch(int P) {
  int64_t all = 0;
  lay_out_latent(P, [&](int64_t floats) {
    all += round_up(floats, OUTPUT_PAD);
    return static_cast<float*>(nullptr);
  });
  return all * int64_t(sizeof(float));
}

// What the tile's tokens multiply, scale included.
inline void token_factors(const Latents& latents, int64_t tile, int n, float scale, const LatentScratch& s) {
  for (int t = 0; t < n; ++t) {
    const float norm = latents.norm == nullptr ? scale : latents.norm[tile + t] * scale;
    s.of_constant[t] = norm;
    s.of_product[t] = latents.key_scale == nullptr ? norm : norm * latents.key_scale[tile + t];
    s.of_value[t] = latents.value_scale == nullptr ? 1.f : latents.value_scale[tile + t];
  }
  for (int t = n; t < round_up(n, W); ++t) s.of_product[t] = s.of_constant[t] = s.of_value[t] = 0.f;
}

}  // namespace kblam::KBLAM_ISA
