// Attention mass of tokens, from scores and the lse of the attention: for each tile the scores of up to MAX_LATENT_ROWS
// rows, and for each batch row of these a weighted sum of their exponentials. Dense keys and latents are one formula.
// Scores are rounded as those of the attention were: else a token's share of an lse that was rounded another way is no
// share.
#pragma once

#include "latent_byte_dots.h"
#include "latent_dots.h"

namespace kblam::KBLAM_ISA {

// `Layout`: `Dots` or `ByteDots`.
template <class Layout, class T>
inline void add_mass_tiles(const Latents& keys, const MassQueries& queries, const MassRow* rows, int count,
                           int64_t begin, int64_t end, int width, float scale, const LatentScratch& s) {
  const T* all = static_cast<const T*>(keys.key);
  Layout::take_queries(queries.dtype, rows, count, width, s);
  for (int64_t tile = begin; tile < end; tile += LATENT_TILE) {
    const int64_t left = end - tile, after = left - LATENT_TILE;
    const int n = int(left < LATENT_TILE ? left : LATENT_TILE);
    const T* these = all + tile * keys.key_stride;
    // The next tile's keys are on their way while these are worked on.
    const int64_t next = after < 0 ? 0 : after < LATENT_TILE ? after : LATENT_TILE;
    Fetches ahead(these + n * keys.key_stride, next * keys.key_stride * int64_t(sizeof(T)),
                  Layout::score_steps(count, n, width));
    token_factors(keys, tile, n, scale, s);
    for (int t = 0; t < n; t += Layout::TOKENS)
      Layout::scores(s, count, these, keys.key_stride, t, n - t < Layout::TOKENS ? n - t : Layout::TOKENS, width,
                     ahead);
    for (int t = 0; t < n; t += W) {
      const bool whole = n - t >= W;
      F total = zero();
      for (int r = 0; r < count; ++r) {
        const MassRow& row = rows[r];
        F shift = set1(row.offset);
        if (row.bias != nullptr) {
          const float* here = row.bias + tile + t;
          shift = add(shift, whole ? load(here) : load_first(here, n - t));
        }
        const F x = fma(load(s.of_constant + t), set1(row.constant), add(shift, set1(-row.level)));
        const F score = fma(load(s.scores + r * LATENT_TILE + t), load(s.of_product + t), x);
        total = fma(set1(row.weight), exp(score), total);
        if (r + 1 < count && rows[r + 1].mass == row.mass) continue;
        float* mass = row.mass + tile + t;
        if (whole) {
          store(mass, add(load(mass), total));
        } else {
          float sums[W];
          store(sums, total);
          for (int i = 0; t + i < n; ++i) mass[i] += sums[i];
        }
        total = zero();
      }
    }
  }
}

inline void add_mass(const Latents& keys, const MassQueries& queries, const MassRow* rows, int count, int64_t begin,
                     int64_t end, int width, float scale, char* scratch) {
  const LatentScratch s = lay_out_latent(scratch, width);
  if constexpr (Isa::HAS_BYTES) {
    if (queries.bytes && keys.storage == Dtype::int8)
      return add_mass_tiles<ByteDots, int8_t>(keys, queries, rows, count, begin, end, width, scale, s);
  }
  by_kind(queries.dtype, keys.storage, [&](auto kind, auto element) {
    add_mass_tiles<Dots<decltype(kind)>, decltype(element)>(keys, queries, rows, count, begin, end, width, scale, s);
  });
}

}  // namespace kblam::KBLAM_ISA
