// Attention mass of knowledge tokens over plain pointers: the launcher of the kernels.
#pragma once

#include "split.h"

namespace kblam {

struct Mass {
  Dtype dtype;
  int64_t B, Hq, N, M;
  int width;
  Strided rows;                 // (B, Hq, N, width) of `dtype`: knowledge queries, or absorbed ones for latents
  Latents keys;                 // `key` is that of batch row 0 and head 0
  int64_t heads;                // of the keys: Hq, or 1 that all query heads share
  int64_t key_batch, key_head;  // strides in elements; 0 where shared
  const float *constant, *lse, *row_weight;  // (B, Hq, N) contiguous; constant may be null
  const float* bias;                         // as in LatentAttention
  int64_t bias_batch, bias_token;
  const int32_t* knowledge_range;
  int64_t range_rows;
  float scale;
  bool bytes;   // int8 latents were multiplied as bytes
  float* mass;  // (B, M)
};

void evidence_mass(const Mass& problem, const Kernels& kernels, int workers, Parallel parallel);

}  // namespace kblam
