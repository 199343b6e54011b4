// Rectangular attention over plain pointers: the launcher of the kernels.
#pragma once

#include "types.h"

namespace kblam {

struct Strided {  // (batch, heads, tokens, D): strides in elements, the last dimension contiguous
  const void* data;
  int64_t batch, head, token;
};

struct Rectangular {
  Dtype dtype;
  int64_t B, Hq, Hkv, N, T, M;
  int D;
  Strided query, key, value;
  Strided knowledge_query, knowledge_key, knowledge_value;  // knowledge batch strides are 0 where it is shared
  const float* bias;                                        // (B, M) or null
  int64_t bias_batch, bias_token;                           // bias_token is 0 (one number for each row) or 1
  const uint8_t* prompt_mask;                               // (B, T) or null
  int64_t mask_batch;
  const int64_t* knowledge_range;  // (B, 2) contiguous, or null
  float scale;
  int64_t window;  // tokens; T or more is unlimited
  void* output;    // (B, N, Hq, D) contiguous, of `dtype`
  float* lse;      // (B, Hq, N)
};

// Runs task(context, index, worker) for every index in [0, tasks), in any order, worker < workers.
using Task = void (*)(void* context, int64_t index, int worker);
using Parallel = void (*)(int64_t tasks, int workers, Task task, void* context);

void rectangular_forward(const Rectangular& problem, const Kernels& kernels, int workers, Parallel parallel);

}  // namespace kblam
