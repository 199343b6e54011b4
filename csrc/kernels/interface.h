// What launchers hand to kernels: plain structures, and the table of the kernels of one instruction set.
#pragma once

#include "isa/types.h"

namespace kblam {

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

// Latents of all tokens, and what turns their products into scores and sums. Token m starts at `key + m * key_stride`.
struct Latents {
  const void* key;
  const void* value;
  int64_t key_stride, value_stride;      // elements
  const float* norm;                     // null is 1
  const float *key_scale, *value_scale;  // one for each token; or null
  Dtype storage;
};

// One absorbed query, and what it has seen so far, as in Row. The tokens it sees are the task's.
struct LatentRow {
  const void* query;  // P contiguous elements
  float constant;     // added to the product with every key
  const float* bias;  // as in Row
  float offset;
  float* maximum;
  float* total;
  float* output;  // P floats, padded to a multiple of OUTPUT_PAD
};

constexpr int OUTPUT_PAD = 16;

// Rows that a tile task takes at most: what its scratch memory is sized for.
constexpr int MAX_TILE_ROWS = 256;

// Absorbed queries that a latent task takes at most: 32 of 384 numbers fit a first-level cache beside a few keys.
constexpr int MAX_LATENT_ROWS = 32;

// Takes tokens [begin, end) into the state of every row.
using Absorb = void (*)(const Columns& columns, const Row* rows, int count, int64_t begin, int64_t end, int head_dim,
                        float scale, char* scratch);

// How the queries of a task on latents are multiplied.
struct LatentQueries {
  Dtype dtype;
  bool lanes;         // rows are the lanes of vectors: for many of them, and another order of additions
  bool bytes;         // int8 latents may be multiplied as bytes, queries and weights rounded to them
  bool taken;         // they are those of the call before on the same scratch memory, which still has them
  int64_t after = 0;  // tokens behind the last one that the next call will read: they may be fetched ahead
};

// Takes tokens [begin, end) into the state of every row, at most MAX_LATENT_ROWS; all rows see all these tokens.
// Without values, and rows without output, into their maximum and total alone.
using AbsorbLatents = void (*)(const Latents& latents, const LatentQueries& queries, const LatentRow* rows, int count,
                               int64_t begin, int64_t end, int P, float scale, char* scratch);

// One query of an attention that is over, and the weight of its share.
struct MassRow {
  const void* query;  // contiguous elements
  float constant;     // as in LatentRow
  const float* bias;  // as in Row
  float offset;
  float level;  // lse; +inf for a row that saw nothing
  float weight;
  float* mass;  // what its share is added to; rows of one batch row have one, and are neighbours
};

// How their queries are multiplied, as in LatentQueries.
struct MassQueries {
  Dtype dtype;
  bool bytes;
};

// mass[m] += sum over its rows of weight * e^(score - level) for tokens [begin, end) and at most MAX_LATENT_ROWS rows.
// Dense keys have no norm and no scale; values are not looked at.
using AddMass = void (*)(const Latents& keys, const MassQueries& queries, const MassRow* rows, int count, int64_t begin,
                         int64_t end, int width, float scale, char* scratch);

// The kernels of one instruction set; `stream` and `tile` are indexed by Dtype.
struct Kernels {
  const char* name;
  Absorb stream[3];       // few rows: reads each key and value once, bound by memory
  Absorb tile[3];         // many rows, at most MAX_TILE_ROWS: two small matrix products for each tile
  int stream_queries[3];  // new tokens up to which `stream` is quicker,
  int tile_queries[3];    // and from which `tile` is; between them `latent` is, on dense knowledge
  AbsorbLatents latent;
  int64_t (*lane_rows)(Dtype query, Dtype storage, bool bytes);  // heads and new tokens from which rows are lanes
  AddMass mass;
  void (*add_scaled)(float* to, const float* from, float factor, int64_t n);  // to += factor * from; n is whole vectors
  // Rows of a (n, P) matrix: mixed by n weights, or multiplied with one row. Paddings are said where they are defined.
  void (*mix_rows)(const void* matrix, Dtype dtype, int64_t stride, int n, int P, const float* weights, float* to);
  void (*dot_rows)(const void* matrix, Dtype dtype, int64_t stride, int n, int P, float* query, float* to);
  void (*widen_row)(const void* from, Dtype dtype, int n, float* to);  // to has room for whole vectors
  int64_t (*stream_scratch)(int head_dim, int count);                  // bytes
  int64_t (*tile_scratch)(int head_dim);
  int64_t (*latent_scratch)(int P);  // of `latent` and `mass`
};

}  // namespace kblam
