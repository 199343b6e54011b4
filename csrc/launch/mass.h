// Attention mass of knowledge tokens, and the lse of their scores, over plain pointers: the launchers of the kernels.
#pragma once

#include <utility>

#include "split.h"

namespace kblam {

// Tokens whose largest score stands for all of theirs.
constexpr int64_t SCORE_BLOCK = 128;

// What gives the scores of knowledge tokens.
struct Scores {
  Dtype dtype;
  int64_t B, Hq, N, M;
  int width;
  Strided rows;                 // (B, Hq, N, width) of `dtype`: knowledge queries, or absorbed ones for latents
  Latents keys;                 // `key` is that of batch row 0 and head 0
  int64_t heads;                // of the keys: Hq, or 1 that all query heads share
  int64_t key_batch, key_head;  // strides in elements; 0 where shared
  const float* constant;        // (B, Hq, N) contiguous, or null
  const float* bias;            // as in LatentAttention
  int64_t bias_batch, bias_token;
  const int32_t* knowledge_range;
  int64_t range_rows;
  float scale;
  bool bytes;  // int8 latents are, or were, multiplied as bytes

  int64_t of_head() const { return heads == 0 ? 0 : Hq / heads * N; }  // rows of a batch row that read one head's keys
  int64_t row(int64_t b, int64_t h, int64_t n) const { return (b * Hq + h) * N + n; }
  int64_t blocks() const { return (M + SCORE_BLOCK - 1) / SCORE_BLOCK; }
  // Of batch row `b` and a head of the keys, from token `first` on.
  Latents keys_of(int64_t b, int64_t head, int64_t first = 0) const;
  // The tokens [first, second) that a batch row sees.
  std::pair<int64_t, int64_t> tokens_of(int64_t b) const;
  // What is added to a row's scores from token `first` on: a bias for each token, or one number.
  std::pair<const float*, float> bias_of(int64_t b, int64_t first = 0) const;
};

struct Mass : Scores {
  const float *lse, *row_weight;  // (B, Hq, N) contiguous
  float* mass;                    // (B, M)
};

void evidence_mass(const Mass& problem, const Kernels& kernels, int workers, Parallel parallel);
// The same of chosen blocks alone: `mass` is (count, SCORE_BLOCK), of block blocks[i] for batch row rows[i]; 0 past M.
void evidence_blocks(const Mass& problem, const int64_t* rows, const int64_t* blocks, int64_t count,
                     const Kernels& kernels, int workers, Parallel parallel);
// lse: (B, Hq, N), of the scores alone; -inf where a row sees no token. block_max: (B, Hq, N, blocks()), the largest
// score of each block, -inf of one that a row does not see, NaN of one that has NaN; or null.
void knowledge_lse(const Scores& problem, float* lse, float* block_max, const Kernels& kernels, int workers,
                   Parallel parallel);

}  // namespace kblam
