// Runs the kernels over a grid of shapes for the sanitizers: every tensor is its own allocation of exactly its size,
// every table that the processor runs, several threads; results are compared with a plain double loop.
#include "sanitize.h"

#include "launch/dense.h"

namespace sanitize {
namespace {

struct Shape {
  int64_t B, Hq, Hkv, N, T, M;
  int D;
  int64_t gap;
};

// The evidence of `p`, which has run.
kblam::Mass evidence_of(const kblam::DenseAttention& p, const float* row_weight, float* mass) {
  kblam::Mass m{};
  m.dtype = p.dtype, m.B = p.B, m.Hq = p.Hq, m.N = p.N, m.M = p.M, m.width = p.D;
  m.rows = p.knowledge_query, m.heads = p.Hq;
  m.keys.key = p.knowledge_key.data, m.keys.key_stride = p.knowledge_key.token, m.keys.storage = p.dtype;
  m.key_batch = p.knowledge_key.batch, m.key_head = p.knowledge_key.head;
  m.lse = p.lse, m.row_weight = row_weight;
  m.bias = p.bias, m.bias_batch = p.bias_batch, m.bias_token = p.bias_token;
  m.knowledge_range = p.knowledge_range, m.range_rows = p.B;
  m.scale = p.scale, m.mass = mass;
  return m;
}

// False, and a line, if the kernels are wrong.
bool run(const Shape& s, Dtype dtype, bool shared, int options, const kblam::Kernels& kernels) {
  std::mt19937 draw(unsigned(s.N * 7919 + s.D * 31 + options));
  const Tensor q(dtype, s.B, s.Hq, s.N, s.D, s.gap, draw), r(dtype, s.B, s.Hq, s.N, s.D, 0, draw);
  const Tensor k(dtype, s.B, s.Hkv, s.T, s.D, 0, draw), v(dtype, s.B, s.Hkv, s.T, s.D, s.gap, draw);
  const int64_t kb_batch = shared ? 1 : s.B;
  const Tensor kk(dtype, kb_batch, s.Hq, s.M, s.D, s.gap, draw), kv(dtype, kb_batch, s.Hq, s.M, s.D, 0, draw);
  const int64_t rows = s.B * s.Hq * s.N, biases = options & 16 ? 1 : s.M;  // of a batch row
  std::vector<float> bias(s.B * biases), row_weight(rows);
  std::vector<uint8_t> mask(s.B * s.T);
  std::vector<int32_t> range(2 * s.B);
  for (float& x : bias) x = draw() % 9 ? float(draw() % 8) / 8 : -std::numeric_limits<float>::infinity();
  for (float& x : row_weight) x = float(draw() % 5) / 4;
  for (uint8_t& x : mask) x = draw() % 3 != 0;
  for (int32_t& x : range) x = s.M ? int32_t(draw() % (s.M + 1)) : 0;

  kblam::DenseAttention p{};
  p.dtype = dtype;
  p.B = s.B, p.Hq = s.Hq, p.Hkv = s.Hkv, p.N = s.N, p.T = s.T, p.M = s.M, p.D = s.D;
  p.query = q.strided(), p.key = k.strided(), p.value = v.strided();
  p.knowledge_query = r.strided(), p.knowledge_key = kk.strided(shared), p.knowledge_value = kv.strided(shared);
  if (options & 1) p.bias = bias.data(), p.bias_batch = biases, p.bias_token = options & 16 ? 0 : 1;
  if (options & 2) p.prompt_mask = mask.data(), p.mask_batch = s.T;
  if (options & 4) p.knowledge_range = range.data();
  p.window = options & 8 ? 5 : std::numeric_limits<int64_t>::max() / 2;
  p.scale = 0.125f;
  const int64_t size = dtype == Dtype::float32 ? 4 : 2;
  auto output = exactly<unsigned char>(rows * s.D * size);
  auto lse = exactly<float>(rows);
  p.output = output.get(), p.lse = lse.get();
  kblam::dense_forward(p, kernels, 3, parallel);
  const auto mass = exactly<float>(s.B * s.M);
  const kblam::Mass evidence = evidence_of(p, row_weight.data(), mass.get());
  kblam::evidence_mass(evidence, kernels, 3, parallel);
  const Levels levels = levels_of(evidence, kernels);

  double worst = blocks_are_alike(evidence, mass.get(), kernels) ? 0 : INFINITE;
  std::vector<double> exact_mass(s.B * s.M, 0.);
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t h = 0; h < s.Hq; ++h)
      for (int64_t n = 0; n < s.N; ++n) {
        const int64_t g = h / (s.Hq / s.Hkv), last = s.T - s.N + n;
        std::vector<double> scores(s.T + s.M, -INFINITE), exact(s.D, 0.);
        bool sees_prompt = false;
        for (int64_t t = 0; t <= last; ++t) {
          if (t <= last - p.window || ((options & 2) && !mask[b * s.T + t])) continue;
          sees_prompt = true;
          scores[t] = 0;
          for (int d = 0; d < s.D; ++d) scores[t] += 0.125 * q.at(b, h, n, d) * k.at(b, g, t, d);
        }
        const int64_t from = options & 4 ? range[2 * b] : 0, to = options & 4 ? range[2 * b + 1] : s.M;
        const int64_t kb = shared ? 0 : b;
        for (int64_t m = from; m < to; ++m) {
          double x = options & 1 ? bias[b * biases + (options & 16 ? 0 : m)] : 0;
          for (int d = 0; d < s.D; ++d) x += 0.125 * r.at(b, h, n, d) * kk.at(kb, h, m, d);
          scores[s.T + m] = x;
        }
        const int64_t row = (b * s.Hq + h) * s.N + n;
        const float got_lse = lse[row];
        keep_worst(worst, levels.error(row, scores.data() + s.T, s.M));
        double top = -INFINITE, total = 0;
        for (double x : scores) top = std::max(top, x);
        if (s.T == 0 ? top > -INFINITE : sees_prompt) {
          for (int64_t i = 0; i < s.T + s.M; ++i) {
            if (scores[i] == -INFINITE) continue;
            const double weight = std::exp(scores[i] - top);
            total += weight;
            for (int d = 0; d < s.D; ++d) exact[d] += weight * (i < s.T ? v.at(b, g, i, d) : kv.at(kb, h, i - s.T, d));
          }
          for (double& x : exact) x /= total;
          for (int64_t m = 0; m < s.M; ++m)
            exact_mass[b * s.M + m] += row_weight[row] * std::exp(scores[s.T + m] - top) / total;
          keep_worst(worst, std::abs(got_lse - (top + std::log(total))));
        } else if (got_lse != -std::numeric_limits<float>::infinity()) {
          worst = INFINITE;
        }
        for (int d = 0; d < s.D; ++d)
          keep_worst(worst,
                     std::abs(exact[d] - Tensor::value(output.get(), dtype, ((b * s.N + n) * s.Hq + h) * s.D + d)));
      }
  for (int64_t i = 0; i < s.B * s.M; ++i) keep_worst(worst, std::abs(mass[i] - exact_mass[i]));
  const bool right = worst < (dtype == Dtype::float32 ? 1e-4 : 3e-2);
  if (!right)
    std::printf("%s dtype %d B%ld Hq%ld Hkv%ld N%ld T%ld M%ld D%d shared %d options %d: off by %g\n", kernels.name,
                int(dtype), long(s.B), long(s.Hq), long(s.Hkv), long(s.N), long(s.T), long(s.M), s.D, int(shared),
                options, worst);
  return right;
}

}  // namespace
}  // namespace sanitize

int main() {
  using namespace sanitize;
  const Shape shapes[] = {
      {1, 2, 1, 1, 1, 0, 2, 0},     {2, 2, 1, 1, 9, 70, 24, 2},   {3, 2, 2, 2, 70, 131, 80, 0},
      {2, 4, 2, 4, 33, 600, 6, 4},  {2, 2, 1, 5, 5, 0, 64, 0},    {2, 2, 1, 17, 30, 129, 24, 2},
      {1, 1, 1, 70, 75, 65, 96, 0}, {3, 1, 1, 90, 90, 33, 18, 6}, {1, 2, 2, 6, 6, 600, 128, 0},
      {2, 2, 1, 1, 0, 70, 24, 2},   {1, 2, 1, 20, 0, 129, 24, 0}, {2, 2, 2, 9, 0, 0, 16, 0},
  };
  int runs = 0, wrong = 0;
  for (const char* name : TABLES) {
    const kblam::Kernels* kernels = kblam::select_kernels(name);
    if (kernels == nullptr) {
      std::printf("%s: not on this processor\n", name);
      continue;
    }
    for (const Shape& shape : shapes)
      for (Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16})
        for (bool shared : {true, false})
          for (int options : {0, 1, 6, 15, 23}) {
            ++runs;
            wrong += !run(shape, dtype, shared, options, *kernels);
          }
  }
  run_latents(runs, wrong);
  std::printf("%d runs, %d wrong\n", runs, wrong);
  return wrong != 0;
}
