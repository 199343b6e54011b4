// Attention mass of tokens, from scores and the lse of the attention: for each tile the scores of up to MAX_LATENT_ROWS
// rows, and a weighted sum of their exponentials. Dense keys and latents are one formula. Scores are rounded as those
// of the attention were: else a token's share of an lse that was rounded another way is no share.
#pragma once

#include "latent_byte_dots.h"
#include "latent_dots.h"

namespace kblam::KBLAM_ISA {

// `Layout`: `Dots` or `ByteDots`.
template <class Layout, class T>
inline void add_mass_tiles(const Latents& keys, const MassQueries& queries, const MassRow* rows, int count,
                           int64_t begin, int64_t end, int width, float scale, const float* bias, float offset,
                           float* mass, const LatentScratch& s) {
  const T* all = static_cast<const T*>(keys.key);
  Layout::take_queries(queries.dtype, rows, count, width, s);
  for (int64_t tile = begin; tile < end; tile += LATENT_TILE) {
    const int n = int(end - tile < LATENT_TILE ? end - tile : LATENT_TILE);
    token_factors(keys, tile, n, scale, s);
    Fetches none(nullptr, 0, 0);
    for (int t = 0; t < n; t += Layout::TOKENS)
      Layout::scores(s, count, all + tile * keys.key_stride, keys.key_stride, t,
                     n - t < Layout::TOKENS ? n - t : Layout::TOKENS, width, none);
    for (int t = 0; t < n; t += W) {
      F shift = set1(offset), total = zero();
      if (bias != nullptr) {
        const float* here = bias + tile + t;
        shift = add(shift, n - t >= W ? load(here) : load_first(here, n - t));
      }
      for (int r = 0; r < count; ++r) {
        const F x = fma(load(s.of_constant + t), set1(rows[r].constant), add(shift, set1(-rows[r].level)));
        const F score = fma(load(s.scores + r * LATENT_TILE + t), load(s.of_product + t), x);
        total = fma(set1(rows[r].weight), exp(score), total);
      }
      float sums[W];
      store(sums, total);
      for (int i = 0; i < W && t + i < n; ++i) mass[tile + t + i] += sums[i];
    }
  }
}

inline void add_mass(const Latents& keys, const MassQueries& queries, const MassRow* rows, int count, int64_t begin,
                     int64_t end, int width, float scale, const float* bias, float offset, float* mass, char* scratch) {
  const LatentScratch s = lay_out_latent(scratch, width);
  if constexpr (Isa::HAS_BYTES) {
    if (queries.bytes && keys.storage == Dtype::int8)
      return add_mass_tiles<ByteDots, int8_t>(keys, queries, rows, count, begin, end, width, scale, bias, offset, mass,
                                              s);
  }
  by_kind(queries.dtype, keys.storage, [&](auto kind, auto element) {
    add_mass_tiles<Dots<decltype(kind)>, decltype(element)>(keys, queries, rows, count, begin, end, width, scale, bias,
                                                            offset, mass, s);
  });
}

}  // namespace kblam::KBLAM_ISA
