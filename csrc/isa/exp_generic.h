// e^x where the instruction set has no scaling by a power of two.
#pragma once

namespace kblam::KBLAM_ISA {

// e^x: 1-2 ulp, exactly 0 below -86.98 (1.7e-38), inf above 88.72, NaN for NaN.
inline F exp(F x) {
  // At the upper end the result overflows; past it the power of two would not be one.
  const float smallest = -86.98f, largest = 89.f;
  const F clamped = min(set1(largest), max(set1(smallest), x));
  const F n = round(mul(clamped, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  // Twice the polynomial of e^r, so that n - 1 is in the range of power_of_two at both ends.
  F p = set1(2 * 1.9875691500e-4f);
  p = fma(p, r, set1(2 * 1.3981999507e-3f));
  p = fma(p, r, set1(2 * 8.3334519073e-3f));
  p = fma(p, r, set1(2 * 4.1665795894e-2f));
  p = fma(p, r, set1(2 * 1.6666665459e-1f));
  p = fma(p, r, set1(2 * 5.0000001201e-1f));
  p = add(fma(p, mul(r, r), add(r, r)), set1(2.f));
  return zero_below(mul(p, power_of_two(add(n, set1(-1.f)))), x, smallest);
}

// Nothing is gained by powers of 2 here.
inline F exp2(F x) { return exp(mul(x, set1(0.693147181f))); }

}  // namespace kblam::KBLAM_ISA
