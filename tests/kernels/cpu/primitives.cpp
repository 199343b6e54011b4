// Each primitive of one instruction set (csrc/isa/contract.h), and the short loops of its kernel table, against plain
// code. Compiled once for each table, which TABLE names: test_primitives.py. Prints what is wrong.
#include TABLE

#include "primitives.h"
#include "primitives_groups.h"

namespace primitives {
namespace {

void check_arithmetic() {
  for (int round = 0; round < 200; ++round) {
    const auto real = [](int) { return std::ldexp(float(int(draw() % 20001) - 10000) / 10000, int(draw() % 30) - 15); };
    const F a = filled(real), b = filled(real), c = filled(real);
    const Lanes<> x(a), y(b), z(c), sums(add(a, b)), products(mul(a, b)), fused(fma(a, b, c));
    for (int i = 0; i < W; ++i) {
      expect_same("add", sums[i], x[i] + y[i]);
      expect_same("mul", products[i], x[i] * y[i]);
      const float once = std::fma(x[i], y[i], z[i]), of_one = fma(x[i], y[i], z[i]);
      const volatile float product = x[i] * y[i];
      const float twice = product + z[i];
      expect("fma", fused[i] == once || (W < 8 && fused[i] == twice), fused[i], once);
      expect("fma of one", of_one == once || (W < 8 && of_one == twice), of_one, once);
    }
  }
  for (int i = 0; i < W; ++i) {
    expect_same("zero", Lanes<>(zero())[i], 0);
    expect_same("set1", Lanes<>(set1(-1.5f))[i], -1.5);
    expect_same("max", Lanes<>(max(set1(2), set1(3)))[i], 3);
    expect_same("max", Lanes<>(max(set1(3), set1(-INF)))[i], 3);
    expect_same("max of NaN and a number", Lanes<>(max(set1(NOT), set1(3)))[i], 3);
    expect_same("max of a number and NaN", Lanes<>(max(set1(3), set1(NOT)))[i], NOT);
  }
}

void check_reductions() {
  for (int round = 0; round < 100; ++round) {
    const F of[4] = {any_lanes(), any_lanes(), any_lanes(), any_lanes()};
    double sums[4] = {}, largest = -INF;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < W; ++i) sums[j] += Lanes<>(of[j])[i];
    for (int i = 0; i < W; ++i) largest = std::max(largest, double(Lanes<>(of[0])[i]));
    expect_same("sum", sum(of[0]), sums[0]);
    expect_same("maximum", maximum(of[0]), largest);
    const AtTheEnd<float> to(4);
    store_sums(to.data, of[0], of[1], of[2], of[3]);
    for (int j = 0; j < 4; ++j) expect_same("store_sums", to[j], sums[j]);
  }
  for (int i = 0; i < W; ++i) {
    const F one = filled([&](int lane) { return lane == i ? 5.f : -INF; });
    expect_same("maximum", maximum(one), 5);
  }
}

template <class T>
void check_loads(const char* name) {
  const AtTheEnd<T> whole(W);
  for (uint32_t i = 0; i < 65536; i += W) {
    for (int j = 0; j < W; ++j) whole[j] = numbered<T>(i + j);
    const Lanes<> got(load(whole.data));
    for (int j = 0; j < W; ++j) expect_same(name, got[j], value(whole[j]));
  }
  for (int n = 0; n < W; ++n) {
    const AtTheEnd<T> first(n);
    const Lanes<> got(load_first(first.data, n));
    for (int j = 0; j < W; ++j) expect_same(name, got[j], j < n ? value(first[j]) : 0);
  }
}

void check_stores() {
  const AtTheEnd<float> to(W + 1);
  to[0] = 77;
  const F a = any_lanes();
  store(to.data + 1, a);
  expect_same("store", to[0], 77);
  for (int i = 0; i < W; ++i) expect_same("store", to[i + 1], Lanes<>(a)[i]);
}

void check_keep_between() {
  const float ends[] = {-INF, -1, 0, 1, 2, INF};
  for (float first : ends)
    for (float last : ends)
      for (float t : {-INF, -1.f, 0.f, 0.5f, 1.f, 2.f, INF, NOT})
        for (float a : {3.f, NOT}) {
          const Lanes<> got(keep_between(set1(a), set1(t), set1(first), set1(last)));
          for (int i = 0; i < W; ++i) expect_same("keep_between", got[i], first <= t && t < last ? a : -INF);
        }
}

void check_where() {
  for (float c : {-INF, -1.f, -0.f, 0.f, 1.f, INF, NOT}) {
    const Lanes<> got(where(set1(c), set1(3.f), set1(NOT))), other(where(set1(c), set1(NOT), set1(4.f)));
    for (int i = 0; i < W; ++i) {
      expect_same("where", got[i], c > 0 ? 3.f : NOT);
      expect_same("where", other[i], c > 0 ? NOT : 4.f);
    }
  }
}

// A row's weights are the same bits whatever maxima its neighbours have; near and far ones are right.
void check_neighbours() {
  float tops[W], alone[W], together[W];
  for (int round = 0; round < 200; ++round) {
    const float top = float(int(draw() % 2001) - 1000) / 100, score = top - float(draw() % 1000) / 100;
    for (int i = 0; i < W; ++i) tops[i] = top;
    LaneStep<true> of_one(load(tops), set1(-INF), 0.25f, set1(0.5f));
    const float raw = (score - 0.5f) / 0.25f;
    store(alone, of_one.weigh(set1(raw)));
    for (int i = 1; i < W; ++i) tops[i] = i % 2 ? 5000.f : NOT;
    LaneStep<true> of_all(load(tops), set1(-INF), 0.25f, set1(0.5f));
    float raws[W];
    for (int i = 0; i < W; ++i) raws[i] = i ? (tops[i] - 1.f - 0.5f) / 0.25f : raw;
    store(together, of_all.weigh(load(raws)));
    expect_same("weight beside far rows", together[0], alone[0]);
    expect_near("weight of a near row", alone[0], std::exp(double(score) - top), 1e-5);
    expect_near("weight of a far row", together[1], std::exp(-1.), 1e-5);
  }
}

void check_exponentials() {
  const auto of_exp = [](float x) { return double(Lanes<>(exp(set1(x)))[W - 1]); };
  const auto of_exp2 = [](float x) { return double(Lanes<>(exp2(set1(x)))[W - 1]); };
  for (float x = -120; x < 88.72f; x += 0.00317f) {
    if (x > -86.97f)
      expect_near("exp", of_exp(x), std::exp(double(x)), 2 * 1.2e-7);
    else
      expect("exp of little", of_exp(x) >= 0 && of_exp(x) <= 1.75e-38, of_exp(x), std::exp(double(x)));
  }
  // Where e^(x ln 2) is all there is, rounding x ln 2 shows.
  for (float x = -125; x < 127.9f; x += 0.00317f)
    expect_near("exp2", of_exp2(x), std::exp2(double(x)), 3e-7 + std::abs(x) * 6e-8);
  for (float x : {88.73f, 100.f, 3e38f, INF}) expect_same("exp of much", of_exp(x), INF);
  for (float x : {128.1f, 3e38f, INF}) expect_same("exp2 of much", of_exp2(x), INF);
  expect_same("exp of -inf", of_exp(-INF), 0);
  expect_same("exp2 of -inf", of_exp2(-INF), 0);
  for (float x : {0.f, -0.f}) expect_same("exp of 0", of_exp(x), 1), expect_near("exp2 of 0", of_exp2(x), 1, 2e-7);
  expect_same("exp of NaN", of_exp(NOT), NOT);
  expect_same("exp2 of NaN", of_exp2(NOT), NOT);
}

// Rows of a matrix that ends where its memory does.
template <class T>
void check_rows(Dtype dtype) {
  for (int P : {1, 5, 16, 24, 37, 64, 100})
    for (int n : {2, 6, 8, 18}) {
      const int64_t stride = P + 3;
      const AtTheEnd<T> matrix((n - 1) * stride + P);
      std::vector<float> weights(n), query(round_up(P, 2 * OUTPUT_PAD)), to(round_up(std::max(P, n), OUTPUT_PAD));
      for (float& x : weights) x = small_number<float>();
      for (int p = 0; p < P; ++p) query[p] = small_number<float>();
      const auto exact = query;  // it may be overwritten
      kernels.mix_rows(matrix.data, dtype, stride, n, P, weights.data(), to.data());
      for (int p = 0; p < P; ++p) {
        double wanted = 0;
        for (int d = 0; d < n; ++d) wanted += weights[d] * value(matrix[d * stride + p]);
        expect_same("mix_rows", to[p], wanted);
      }
      for (int rows = 1; rows <= n; ++rows) {
        query = exact;
        kernels.dot_rows(matrix.data, dtype, stride, rows, P, query.data(), to.data());
        for (int d = 0; d < rows; ++d) {
          double wanted = 0;
          for (int p = 0; p < P; ++p) wanted += exact[p] * value(matrix[d * stride + p]);
          expect_same("dot_rows", to[d], wanted);
        }
      }
      kernels.widen_row(matrix.data + (n - 1) * stride, dtype, P, to.data());
      for (int p = 0; p < P; ++p) expect_same("widen_row", to[p], value(matrix[(n - 1) * stride + p]));
    }
}

void check_add_scaled() {
  for (int n : {0, 16, 48}) {
    const AtTheEnd<float> to(n), from(n);
    const std::vector<float> before(to.data, to.data + n);
    kernels.add_scaled(to.data, from.data, -0.5f, n);
    for (int i = 0; i < n; ++i) expect_same("add_scaled", to[i], before[i] - 0.5f * from[i]);
  }
}

}  // namespace
}  // namespace primitives

int main() {
  using namespace primitives;
  check_arithmetic();
  check_reductions();
  check_loads<float>("load of float32");
  check_loads<bfloat16>("load of bfloat16");
  check_loads<float16>("load of float16");
  check_loads<int8_t>("load of int8");
  check_loads<float8>("load of float8");
  check_stores();
  check_keep_between();
  check_where();
  check_neighbours();
  check_exponentials();
  if constexpr (Isa::HAS_PAIRS) check_pairs();
  if constexpr (Isa::HAS_BYTES) check_bytes();
  if constexpr (Isa::HAS_MATRIX) check_matrix();
  check_rows<float>(Dtype::float32);
  check_rows<bfloat16>(Dtype::bfloat16);
  check_rows<float16>(Dtype::float16);
  check_add_scaled();
  std::printf("%s: %d wrong\n", Isa::NAME, wrong);
  return wrong != 0;
}
