// Attention of absorbed queries to latents: every head of every query reads the same tokens.
//
// For each tile of tokens: products of queries and keys, a softmax step, and a small matrix product of weights and
// values. Latents stay as they lie in memory, a row a triple.
#pragma once

#include "latent_byte_dots.h"
#include "latent_dots.h"
#include "latent_lanes.h"
#include "latent_matrix.h"

namespace kblam::KBLAM_ISA {

// `Layout`: how rows meet tokens, `Dots` or `ByteDots`, `Many` or `ManyBytes`.
template <class Layout, class T>
inline void absorb_tiles(const Latents& latents, const LatentQueries& queries, const LatentRow* rows, int count,
                         int64_t begin, int64_t end, int P, float scale, const LatentScratch& s) {
  const T* keys = static_cast<const T*>(latents.key);
  const T* values = static_cast<const T*>(latents.value);
  const int64_t key_bytes = latents.key_stride * sizeof(T), value_bytes = latents.value_stride * sizeof(T);
  if (!queries.taken) Layout::take_queries(queries.dtype, rows, count, P, s);
  Layout::begin(rows, count, s);
  for (int64_t tile = begin; tile < end; tile += LATENT_TILE) {
    const int n = int(end - tile < LATENT_TILE ? end - tile : LATENT_TILE);
    const int64_t left = end + queries.after - tile - n, next = left < LATENT_TILE ? left : LATENT_TILE;
    const T* these_keys = keys + tile * latents.key_stride;
    const T* next_keys = these_keys + n * latents.key_stride;
    const T* these_values = values == nullptr ? nullptr : values + tile * latents.value_stride;
    // Values are on their way while keys are worked on; then the next keys.
    Fetches ahead = values == nullptr ? Fetches(next_keys, next * key_bytes, Layout::score_steps(count, n, P))
                                      : Fetches(these_values, n * value_bytes, Layout::score_steps(count, n, P));
    token_factors(latents, tile, n, scale, s);
    for (int t = 0; t < n; t += Layout::TOKENS)
      Layout::scores(s, count, these_keys, latents.key_stride, t, n - t < Layout::TOKENS ? n - t : Layout::TOKENS, P,
                     ahead);
    Layout::weigh(s, rows, count, tile, n, ahead);
    if (values != nullptr)
      Layout::mix(s, rows, count, these_values, latents.value_stride, n, P, next_keys, next * key_bytes);
  }
  Layout::end(rows, count, s);
}

inline void latent_absorb(const Latents& latents, const LatentQueries& queries, const LatentRow* rows, int count,
                          int64_t begin, int64_t end, int P, float scale, char* scratch) {
  const LatentScratch s = lay_out_latent(scratch, P);
  if constexpr (Isa::HAS_BYTES) {
    if (queries.bytes && latents.storage == Dtype::int8) {
      const auto absorb = queries.lanes ? absorb_tiles<ManyBytes, int8_t> : absorb_tiles<ByteDots, int8_t>;
      return absorb(latents, queries, rows, count, begin, end, P, scale, s);
    }
  }
  by_kind(queries.dtype, latents.storage, [&](auto kind, auto element) {
    using L = decltype(kind);
    using T = decltype(element);
    const auto absorb = queries.lanes ? absorb_tiles<Many<L>, T> : absorb_tiles<Dots<L>, T>;
    absorb(latents, queries, rows, count, begin, end, P, scale, s);
  });
}

// Vectors of rows want to be full; a matrix unit multiplies 16 rows in the time of one.
inline int64_t lane_rows(Dtype query, Dtype storage, bool bytes) {
  const bool pairs = by_kind(query, storage, [](auto kind, auto) { return decltype(kind)::PAIRS; });
  return Isa::HAS_MATRIX && (pairs || (bytes && storage == Dtype::int8)) ? 5 : 24;
}

// to += factor * from, whole vectors.
inline void add_scaled(float* to, const float* from, float factor, int64_t n) {
  for (int64_t d = 0; d < n; d += W) store(to + d, fma(set1(factor), load(from + d), load(to + d)));
}

}  // namespace kblam::KBLAM_ISA
