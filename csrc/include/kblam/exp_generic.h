// e^x where the instruction set has no scaling by a power of two.
#pragma once

namespace kblam::KBLAM_ISA {

// e^x for x <= 0 (and a little above): 1-2 ulp, exactly 0 below the normal numbers, NaN for NaN.
inline F exp(F x) {
  const float smallest = -87.33654f;
  const F clamped = max(set1(smallest), x);
  const F n = round(mul(clamped, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.f));
  return zero_below(mul(p, power_of_two(n)), x, smallest);
}

}  // namespace kblam::KBLAM_ISA
