// The primitives that only some instruction sets have: pairs of bfloat16, bytes, and the matrix unit. Compiled for all:
// where a group is missing nothing calls its check, and the check calls what is only declared.
#pragma once

#include <unistd.h>

#include "primitives.h"

namespace primitives {

// To nearest, ties to even; what is subnormal counts as zero.
inline double to_bfloat16(float x) {
  if (!std::isfinite(x)) return x;
  if (std::abs(x) < std::numeric_limits<float>::min()) return std::copysign(0., x);
  const uint32_t bits = as<uint32_t>(x);
  return as<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

inline void check_pairs() {
  const auto pair = [](int) { return small_number<bfloat16>(); };
  for (int round = 0; round < 200; ++round) {
    const F a = filled<bfloat16>(pair), b = filled<bfloat16>(pair), c = any_lanes();
    const Lanes<bfloat16> x(a), y(b);
    const Lanes<> got(multiply_pairs(a, b, c));
    for (int i = 0; i < W; ++i)
      expect_same("multiply_pairs", got[i],
                  Lanes<>(c)[i] + value(x[2 * i]) * value(y[2 * i]) + value(x[2 * i + 1]) * value(y[2 * i + 1]));

    const F even = filled([](int) { return numbered<float>(0); }), odd = filled([](int) { return numbered<float>(0); });
    const Lanes<bfloat16> rounded(round_to_pairs(even, odd));
    const AtTheEnd<bfloat16> stored(W);
    store_rounded(stored.data, even);
    for (int i = 0; i < W; ++i) {
      expect_same("round_to_pairs, even", value(rounded[2 * i]), to_bfloat16(Lanes<>(even)[i]));
      expect_same("round_to_pairs, odd", value(rounded[2 * i + 1]), to_bfloat16(Lanes<>(odd)[i]));
      expect_same("store_rounded to bfloat16", value(stored[i]), to_bfloat16(Lanes<>(even)[i]));
    }
  }
  for (int n = 0; n <= 2 * W; ++n) {
    const AtTheEnd<bfloat16> from(n), other(n);
    const Lanes<bfloat16> got(n < 2 * W ? load_first_pairs(from.data, n) : load_pairs(from.data));
    for (int i = 0; i < 2 * W; ++i) expect_same("load_pairs", value(got[i]), i < n ? value(from[i]) : 0);
    if (n <= W) {
      const Lanes<bfloat16> both(interleave(from.data, other.data, n)), one(interleave(from.data, nullptr, n));
      for (int i = 0; i < W; ++i) {
        expect_same("interleave, even", value(both[2 * i]), i < n ? value(from[i]) : 0);
        expect_same("interleave, odd", value(both[2 * i + 1]), i < n ? value(other[i]) : 0);
        expect_same("interleave of one, even", value(one[2 * i]), i < n ? value(from[i]) : 0);
        expect_same("interleave of one, odd", value(one[2 * i + 1]), 0);
      }
    }
    if (n == 2 * W) {
      F low, high;
      interleave_two(from.data, other.data, low, high);
      for (int i = 0; i < 2 * W; ++i) {
        const Lanes<bfloat16> half(i < W ? low : high);
        expect_same("interleave_two, even", value(half[2 * (i % W)]), value(from[i]));
        expect_same("interleave_two, odd", value(half[2 * (i % W) + 1]), value(other[i]));
      }
    }
  }
}

inline void check_bytes() {
  const auto any = [](int) { return int8_t(draw()); };
  for (int round = 0; round < 200; ++round) {
    const auto whole = [](int) { return int32_t(draw() % 2000001) - 1000000; };
    F rows[4];
    for (F& row : rows) row = filled<int8_t>(any);
    const F sums = filled<int32_t>(whole), shifts = filled<int32_t>(whole), factors = any_lanes();
    const Lanes<uint8_t> levels(rows[0]), raised(without_sign(rows[0]));
    const Lanes<int8_t> with_sign(rows[0]), other(rows[1]);
    const Lanes<int32_t> products(multiply_bytes(rows[0], rows[1], sums));
    const Lanes<> floats(scaled(sums, shifts, factors));
    for (int i = 0; i < W; ++i) {
      int wanted = Lanes<int32_t>(sums)[i];
      for (int j = 4 * i; j < 4 * i + 4; ++j) {
        wanted += levels[j] * other[j];
        expect_same("without_sign", raised[j], with_sign[j] + 128);
      }
      expect_same("multiply_bytes", products[i], wanted);
      const int shifted = Lanes<int32_t>(sums)[i] - Lanes<int32_t>(shifts)[i];
      expect_same("scaled", floats[i], float(shifted) * Lanes<>(factors)[i]);
    }

    const F four_sums[4] = {filled<int32_t>(whole), sums, shifts, filled<int32_t>(whole)};
    F of[Isa::SCORE_ROWS];
    for (int j = 0; j < Isa::SCORE_ROWS; ++j) of[j] = four_sums[j];
    int totals[4] = {};
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < W; ++i) totals[j] += Lanes<int32_t>(four_sums[j])[i];
    const AtTheEnd<float> to(4);
    const int32_t four_shifts[4] = {7, -9, 1000, 0};
    const float four_factors[4] = {0.5f, -2, 1, 0.125f};
    store_scaled_sums(to.data, four_sums[0], four_sums[1], four_sums[2], four_sums[3], 7, 0.5f);
    for (int j = 0; j < 4; ++j) expect_same("store_scaled_sums of a row", to[j], float(totals[j] - 7) * 0.5f);
    store_scaled_sums(to.data, of, four_shifts, four_factors);
    for (int j = 0; j < 4; ++j)
      expect_same("store_scaled_sums of a token", to[j], float(totals[j] - four_shifts[j]) * four_factors[j]);

    const auto level = [](int) { return float(draw() % 511) / 2; };  // halves: ties
    const F four[4] = {filled(level), filled(level), filled(level), filled(level)};
    const Lanes<uint8_t> rounded(round_to_bytes(four[0], four[1], four[2], four[3]));
    const AtTheEnd<uint8_t> stored(W, [] { return uint8_t(0); });
    const AtTheEnd<int8_t> stored_with_sign(W);
    store_rounded(stored.data, four[0]);
    store_rounded(stored_with_sign.data, add(four[0], set1(-128)));
    for (int i = 0; i < W; ++i) {
      for (int j = 0; j < 4; ++j)
        expect_same("round_to_bytes", rounded[4 * i + j], std::nearbyint(Lanes<>(four[j])[i]));
      expect_same("store_rounded to bytes without sign", stored[i], std::nearbyint(Lanes<>(four[0])[i]));
      expect_same("store_rounded to bytes", stored_with_sign[i], std::nearbyint(Lanes<>(four[0])[i] - 128));
    }

    F sorted[64 / W], packed[64 / W];
    interleave_bytes(rows[0], rows[1], rows[2], rows[3], sorted);
    sort_columns(sorted);
    interleave_four(rows[0], rows[1], rows[2], rows[3], packed);
    for (int column = 0; column < 64; ++column)
      for (int row = 0; row < 4; ++row) {
        const int8_t wanted = Lanes<int8_t>(rows[row])[column];
        const int lane = 4 * (column % W) + row;
        expect_same("sort_columns of interleave_bytes", Lanes<int8_t>(sorted[column / W])[lane], wanted);
        expect_same("interleave_four", Lanes<int8_t>(packed[column / W])[lane], wanted);
      }
  }
  for (int n = 0; n <= 4 * W; ++n) {
    const AtTheEnd<int8_t> from(n);
    const Lanes<int8_t> got(load_first_bytes(from.data, n));
    for (int i = 0; i < 4 * W; ++i) expect_same("load_first_bytes", got[i], i < n ? from[i] : 0);
    if (n < 4 * W) continue;
    const Lanes<int8_t> all(load_bytes(from.data)), more(load_first_bytes(from.data, n + 9));
    for (int i = 0; i < 4 * W; ++i)
      expect_same("load_bytes", all[i], from[i]), expect_same("load_first_bytes of more", more[i], from[i]);
  }
}

// One product of whole registers, rows of `left` and steps of `right` as many bytes apart as a row has and 64.
template <Multiply KIND, class A, class B, class Sum>
void check_matrix_product(const char* name, A (*left)(), B (*right)()) {
  constexpr int ROWS = Isa::MATRIX_ROWS, BYTES = Isa::MATRIX_BYTES, EACH = 4 / int(sizeof(A)), GAP = 64;
  const AtTheEnd<A> a((ROWS * (BYTES + GAP) - GAP) / sizeof(A), left);
  const AtTheEnd<B> b(ROWS * BYTES / sizeof(B), right);
  const AtTheEnd<float> to(ROWS * BYTES / 4);
  matrix_zero<0>();
  matrix_load<4>(a.data, BYTES + GAP);
  matrix_load<6>(b.data, BYTES);
  matrix_multiply<KIND, 0, 4, 6>();
  matrix_multiply<KIND, 0, 4, 6>();
  matrix_store<0>(to.data, BYTES);
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < BYTES / 4; ++j) {
      double wanted = 0;
      for (int k = 0; k < BYTES / 4; ++k)
        for (int e = 0; e < EACH; ++e)
          wanted += 2 * value(a[i * (BYTES + GAP) / int(sizeof(A)) + k * EACH + e]) *
                    value(b[k * BYTES / int(sizeof(B)) + j * EACH + e]);
      expect_same(name, as<Sum>(to[i * BYTES / 4 + j]), wanted);
    }
}

inline void check_matrix() {
  constexpr long ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of Linux on x86-64
  syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA);
  matrix_begin();
  const auto with_sign = [] { return int8_t(draw()); };
  check_matrix_product<Multiply::PAIRS, bfloat16, bfloat16, float>("matrix_multiply of pairs", small_number<bfloat16>,
                                                                   small_number<bfloat16>);
  check_matrix_product<Multiply::BYTES, int8_t, int8_t, int32_t>("matrix_multiply of bytes", with_sign, with_sign);
  check_matrix_product<Multiply::LEVELS, uint8_t, int8_t, int32_t>(
      "matrix_multiply of levels", [] { return uint8_t(draw()); }, with_sign);
  matrix_end();

  F from[W], to[W];
  for (F& x : from) x = any_lanes();
  transpose(from, to);
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) expect_same("transpose", Lanes<>(to[i])[j], Lanes<>(from[j])[i]);
}

}  // namespace primitives
