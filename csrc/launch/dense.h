// Attention to dense knowledge over plain pointers: the launcher of the kernels.
#pragma once

#include "split.h"

namespace kblam {

struct DenseAttention : Prompt {
  int64_t M;
  Strided knowledge_query, knowledge_key, knowledge_value;  // knowledge batch strides are 0 where it is shared
  const float* bias;                                        // (B, M) or null
  int64_t bias_batch, bias_token;                           // bias_token is 0 (one number for each row) or 1
  const int32_t* knowledge_range;                           // (B, 2) contiguous, or null
  void* output;                                             // (B, N, Hq, D) contiguous, of `dtype`
  float* lse;                                               // (B, Hq, N)
};

void dense_forward(const DenseAttention& problem, const Kernels& kernels, int workers, Parallel parallel);

}  // namespace kblam
