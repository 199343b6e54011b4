// The step of the online softmax: what the scores of a tile do to the running maximum and total of the rows that see
// them, and by what the sums of earlier tiles shrink. There are two forms of it, because scores lie in memory in two
// ways, and neither form could take the other's without turning the tile:
//
// - `take_row`: one row at a time, tokens are the lanes. A maximum and a total are taken across a vector, once a tile.
// - `LaneStep`: as many rows at a time as a vector has lanes. Nothing is taken across a vector.
#pragma once

#include "interface.h"

namespace kblam::KBLAM_ISA {

// Stands in for the maximum of a row that has seen nothing: e^(-inf - LOWEST) is 0, where -inf less itself were NaN. A
// score below it counts as -inf, on every backend (`common/softmax.py`): LOWEST / ln 2 is the least that float32 holds.
constexpr float LOWEST = -2.3586e38f;

constexpr float LOG2_E = 1.44269504f;

// Weights of `padded` scores (whole vectors; what is no token is -inf) relative to the row's running maximum, handed to
// keep(t, weights) vector by vector. `top` has the largest score. Returns the factor of the row's output so far, 1
// where the maximum stays. `FUSED`: the new total is rounded once, not twice. Results keep their bits, so each kernel
// keeps the one it has always had.
template <bool FUSED, class AnyRow, class Keep>
inline float take_row(const AnyRow& row, const float* scores, int padded, F top, const Keep& keep) {
  const float before = *row.maximum, of_tile = maximum(top);
  const float now = of_tile > before ? of_tile : before;
  const float level = now > LOWEST ? now : LOWEST;
  F total = zero();
  for (int t = 0; t < padded; t += W) {
    const F weights = exp(add(load(scores + t), set1(-level)));
    total = add(total, weights);
    keep(t, weights);
  }
  float shrink = 1.f;
  if (now != before) {
    float factors[W];
    store(factors, exp(set1(before - level)));
    shrink = factors[0];
  }
  *row.maximum = now;
  *row.total = FUSED ? fma(*row.total, shrink, sum(total)) : *row.total * shrink + sum(total);
  return shrink;
}

// One tile for W rows. `ROUNDS`: weights are rounded to eight bits next, so the cheaper powers of 2 do, and scores may
// still lack `scale` and `offset`.
template <bool ROUNDS>
class LaneStep {
 public:
  // `top`: each row's largest score in the tile, scale and offset included.
  LaneStep(F top, F running_maximum, float scale = 1.f, F offset = zero())
      : before(running_maximum),
        now(max(top, running_maximum)),
        level(mul(max(set1(LOWEST), now), set1(-1.f))),
        factor(set1(scale * LOG2_E)),
        shift(mul(add(offset, mul(max(set1(LOWEST / 2), now), set1(-1.f))), set1(LOG2_E))),
        scales(set1(scale)),
        offsets(offset),
        total(zero()),
        is_far(zero()) {
    if constexpr (ROUNDS) {
      float maximums[W], distant[W];
      store(maximums, now);
      for (int i = 0; i < W; ++i) {
        const float one = maximums[i];
        distant[i] = float(one > FAR || (one < -FAR && one > LOWEST));
        far = far || distant[i] > 0.f;
      }
      is_far = load(distant);
    }
  }

  // Weights of one token, counted in the total.
  F weigh(F score) {
    F weight;
    if constexpr (!ROUNDS)
      weight = exp(add(score, level));
    else
      weight = exp2(fma(score, factor, shift));
    // Only the rows concerned: a row's bits do not depend on its neighbours.
    if (ROUNDS && far) weight = where(is_far, exp2(mul(add(fma(score, scales, offsets), level), set1(LOG2_E))), weight);
    total = add(total, weight);
    return weight;
  }

  // After the last token: the new state of the rows, and the factors of their outputs so far.
  void finish(float* maximums, float* totals, float* shrinks) const {
    const F shrink = exp(add(before, level));
    store(shrinks, shrink);
    store(totals, fma(load(totals), shrink, total));
    store(maximums, now);
  }

 private:
  // Of maximums beyond this a shift that was rounded by itself is off by more than weights may be, and of very large
  // ones, which a finite bias can make, by hundreds: then e^0 would be infinite.
  static constexpr float FAR = 1024.f;
  const F before, now, level, factor, shift, scales, offsets;
  F total, is_far;
  bool far = false;
};

}  // namespace kblam::KBLAM_ISA
