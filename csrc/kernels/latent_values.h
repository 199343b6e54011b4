// The second product of a tile: weights by values, a panel of columns at a time.
#pragma once

#include "latent_kinds.h"

namespace kblam::KBLAM_ISA {

// output[row] = output[row] * shrink[row] + weights[row] . values. Asks for `bytes` from `next` on meanwhile.
template <class Layout, class L, class T>
inline void sum_values(const LatentScratch& s, const LatentRow* rows, int count, const T* values, int64_t stride, int n,
                       int P, const void* next, int64_t bytes) {
  const int all = int(round_up(P, W) / W), steps = L::panel_steps(n);
  const int blocks = count / Isa::LANE_I + count % Isa::LANE_I / 4 + count % 4;
  Fetches ahead(next, bytes, int64_t((all + Isa::LANE_J - 1) / Isa::LANE_J) * blocks * steps);
  for (int v = 0; v < all; v += Isa::LANE_J) {
    const int vectors = all - v < Isa::LANE_J ? all - v : Isa::LANE_J;
    const int columns = P - v * W < vectors * W ? P - v * W : vectors * W;
    const bool packed = L::packs(columns);
    if (packed) L::pack(s, values + v * W, stride, n, columns);
    const auto add = [&](auto i, auto j, int r) {
      constexpr int I = decltype(i)::value, J = decltype(j)::value;
      F sums[I][J];
#pragma GCC unroll 8
      for (int a = 0; a < I; ++a)
#pragma GCC unroll 2
        for (int b = 0; b < J; ++b) sums[a][b] = zero();
      L::template add_panel<Layout>(sums, s, Layout::weights(s) + r * Layout::ROW, values + v * W, stride, n, packed,
                                    ahead);
      ahead.pass(steps);
      // A tile's sum at once, as in tile.h.
#pragma GCC unroll 8
      for (int a = 0; a < I; ++a)
#pragma GCC unroll 2
        for (int b = 0; b < J; ++b) {
          float* out = rows[r + a].output + (v + b) * W;
          store(out, fma(load(out), set1(s.shrink[r + a]), sums[a][b]));
        }
      return r + I;
    };
    const auto add_all = [&](auto j) {
      int r = 0;
      while (r + Isa::LANE_I <= count) r = add(Size<Isa::LANE_I>{}, j, r);
      while (r + 4 <= count) r = add(Size<4>{}, j, r);
      while (r < count) r = add(Size<1>{}, j, r);
    };
    if (vectors == Isa::LANE_J)
      add_all(Size<Isa::LANE_J>{});
    else
      add_all(Size<1>{});
  }
}

}  // namespace kblam::KBLAM_ISA
