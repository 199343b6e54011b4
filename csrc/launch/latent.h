// Attention to latents over plain pointers: the launcher of the kernels.
#pragma once

#include "split.h"

namespace kblam {

struct LatentAttention : Prompt {
  int64_t M;
  int P;
  Latents latents;
  Strided absorbed_query;          // (B, Hq, N, P) of `dtype`
  const float* constant;           // (B, Hq, N) contiguous
  const float* bias;               // (B or 1, M) or null
  int64_t bias_batch, bias_token;  // bias_batch is 0 for one row; bias_token is 0 or 1
  const int32_t* knowledge_range;  // (range_rows, 2) contiguous, or null
  int64_t range_rows;              // 1 or B
  bool bytes;                      // int8 latents may be multiplied as bytes
  float *prompt, *share, *lse;     // (B, Hq, N, D), (B, Hq, N) twice; contiguous
  void* latent;                    // (Hq, B, N, P) contiguous, of `dtype`

  int64_t multiplications() const { return 2 * rows() * (M * P + T * D); }
};

void latent_forward(const LatentAttention& problem, const Kernels& kernels, int workers, Parallel parallel);

// How a layer reads latents, of the query's dtype. Weights are (Hq, D, P) and biases (Hq, D), each contiguous.
struct Projection {
  const void *key_weight, *key_bias, *value_weight, *value_bias;
};

// How to compute a knowledge query: weight (Hq * D, width) contiguous times hidden states (B, N, width), rounded to
// `dtype` into the memory of the query, (B, Hq, N, D) contiguous.
struct QueryHead {
  const void* weight;  // null: the query is given
  int width;
  Strided hidden;
};

// The whole attention of a few new tokens: absorbs `knowledge_query` (B, Hq, N, D), attends, projects to `output`
// (B, N, Hq, D), contiguous, of `dtype`. Ignores the fields of `problem` that are computed here: absorbed_query,
// constant, prompt, share, latent.
void latent_attention(LatentAttention problem, const Strided& knowledge_query, const QueryHead& head,
                      const Projection& projection, void* output, const Kernels& kernels, int workers,
                      Parallel parallel);

}  // namespace kblam
