// Attention mass of tokens, from scores and the lse of the attention: for each tile the scores of up to MAX_LATENT_ROWS
// rows, and a weighted sum of their exponentials. Dense keys and latents are one formula.
#pragma once

#include "latent_dots.h"

namespace kblam::KBLAM_ISA {

inline void add_mass(const Latents& keys, Dtype query, const MassRow* rows, int count, int64_t begin, int64_t end,
                     int width, float scale, const float* bias, float offset, float* mass, char* scratch) {
  const LatentScratch s = lay_out_latent(scratch, width);
  by_kind(query, keys.storage, [&](auto kind, auto element) {
    using L = decltype(kind);
    using T = decltype(element);
    const T* all = static_cast<const T*>(keys.key);
    Dots<L>::take_queries(query, rows, count, width, s);
    for (int64_t tile = begin; tile < end; tile += LATENT_TILE) {
      const int n = int(end - tile < LATENT_TILE ? end - tile : LATENT_TILE);
      token_factors(keys, tile, n, scale, s);
      Fetches none(nullptr, 0, 0);
      for (int t = 0; t < n; t += SCORE_TOKENS)
        Dots<L>::scores(s, count, all + tile * keys.key_stride, keys.key_stride, t,
                        n - t < SCORE_TOKENS ? n - t : SCORE_TOKENS, width, none);
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
  });
}

}  // namespace kblam::KBLAM_ISA
