// Attention to latents and its evidence, over a grid, against a plain double loop.
#include "launch/latent.h"
#include "sanitize.h"

namespace sanitize {
namespace {

struct Shape {
  int64_t B, Hq, Hkv, N, T, M;
  int D, P;
  int64_t gap;
};

struct Results {
  std::unique_ptr<float[]> prompt, share, lse, mass;
  std::unique_ptr<unsigned char[]> latent;
};

// False, and a line, if the kernels are wrong.
bool run(const Shape& s, Dtype dtype, Dtype storage, int options, const kblam::Kernels& kernels) {
  std::mt19937 draw(unsigned(s.N * 7919 + s.P * 31 + options));
  const Tensor q(dtype, s.B, s.Hq, s.N, s.D, s.gap, draw), a(dtype, s.B, s.Hq, s.N, s.P, s.gap, draw);
  const Tensor k(dtype, s.B, s.Hkv, s.T, s.D, 0, draw), v(dtype, s.B, s.Hkv, s.T, s.D, s.gap, draw);
  const Tensor e(storage, 1, 1, s.M, s.P, s.gap, draw), f(storage, 1, 1, s.M, s.P, 0, draw);
  const bool shared_range = options & 16;
  const int64_t biases = options & 64 ? 1 : s.M;  // of a batch row
  const int64_t rows = s.B * s.Hq * s.N, range_rows = shared_range ? 1 : s.B;
  auto norm = exactly<float>(s.M), key_scale = exactly<float>(s.M), value_scale = exactly<float>(s.M);
  auto constant = exactly<float>(rows), weight = exactly<float>(rows), bias = exactly<float>(s.B * biases);
  auto mask = exactly<uint8_t>(s.B * s.T);
  auto range = exactly<int32_t>(2 * range_rows);
  // Float8 numbers reach 448: their scores must stay near the others'.
  const float small = storage == Dtype::float8 ? 1.f / 2048 : 1.f / 64;
  for (int64_t m = 0; m < s.M; ++m) {
    norm[m] = float(1 + draw() % 4) / 4;
    key_scale[m] = small * float(1 + draw() % 4);
    value_scale[m] = small * float(1 + draw() % 4);
  }
  for (int64_t i = 0; i < rows; ++i) constant[i] = float(draw() % 8) / 8, weight[i] = float(draw() % 5) / 4;
  for (int64_t i = 0; i < s.B * biases; ++i)
    bias[i] = draw() % 9 ? float(draw() % 8) / 8 : -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < s.B * s.T; ++i) mask[i] = draw() % 3 != 0;
  for (int64_t i = 0; i < 2 * range_rows; ++i) range[i] = s.M ? int32_t(draw() % (s.M + 1)) : 0;

  kblam::LatentAttention p{};
  p.dtype = dtype;
  p.B = s.B, p.Hq = s.Hq, p.Hkv = s.Hkv, p.N = s.N, p.T = s.T, p.M = s.M, p.D = s.D, p.P = s.P;
  p.query = q.strided(), p.key = k.strided(), p.value = v.strided(), p.absorbed_query = a.strided();
  p.latents = {e.data.get(), f.data.get(), s.P + s.gap, s.P, norm.get(), key_scale.get(), value_scale.get(), storage};
  p.constant = constant.get();
  if (options & 1) p.bias = bias.get(), p.bias_batch = biases, p.bias_token = options & 64 ? 0 : 1;
  if (options & 2) p.prompt_mask = mask.get(), p.mask_batch = s.T;
  if (options & 4) p.knowledge_range = range.get(), p.range_rows = range_rows;
  p.window = options & 8 ? 5 : std::numeric_limits<int64_t>::max() / 2;
  p.scale = 0.125f;
  p.bytes = options & 32;
  const int64_t size = kblam::element_size(dtype);
  Results got;
  got.prompt = exactly<float>(rows * s.D), got.share = exactly<float>(rows), got.lse = exactly<float>(rows);
  got.latent = exactly<unsigned char>(rows * s.P * size), got.mass = exactly<float>(s.B * s.M);
  p.prompt = got.prompt.get(), p.share = got.share.get(), p.lse = got.lse.get(), p.latent = got.latent.get();
  kblam::latent_forward(p, kernels, 3, parallel);

  kblam::Mass m{};
  m.dtype = dtype, m.B = s.B, m.Hq = s.Hq, m.N = s.N, m.M = s.M, m.width = s.P;
  m.rows = a.strided(), m.keys = p.latents, m.heads = 1;
  m.constant = constant.get(), m.lse = p.lse, m.row_weight = weight.get();
  m.bias = p.bias, m.bias_batch = p.bias_batch, m.bias_token = p.bias_token;
  m.knowledge_range = p.knowledge_range, m.range_rows = p.range_rows;
  m.scale = p.scale, m.bytes = p.bytes, m.mass = got.mass.get();
  kblam::evidence_mass(m, kernels, 3, parallel);
  const Levels levels = levels_of(m, kernels);

  // The whole attention in one call; that it is right is for other tests, here it must be finite.
  const Tensor r(dtype, s.B, s.Hq, s.N, s.D, s.gap, draw), weights(dtype, 1, s.Hq, s.D, s.P, 0, draw);
  const Tensor added(dtype, 1, 1, s.Hq, s.D, 0, draw);
  auto output = exactly<unsigned char>(rows * s.D * size);
  auto lse = exactly<float>(rows);
  kblam::LatentAttention whole = p;
  whole.prompt = whole.share = nullptr, whole.latent = nullptr, whole.lse = lse.get();
  const kblam::Projection projection{weights.data.get(), added.data.get(), weights.data.get(), added.data.get()};
  // Of hidden states with every other choice of options.
  const int width = 2 * s.P;
  const Tensor hidden(dtype, 1, s.B, s.N, width, s.gap, draw), head_weight(dtype, 1, s.Hq, s.D, width, 0, draw);
  kblam::QueryHead head{};
  if (options & 1) {
    head = {head_weight.data.get(), width, hidden.strided()};
    head.hidden.batch = head.hidden.head, head.hidden.head = 0;
  }
  kblam::latent_attention(whole, r.strided(), head, projection, output.get(), kernels, 3, parallel);

  double worst = blocks_are_alike(m, got.mass.get(), kernels) ? 0 : INFINITE;
  std::vector<double> mass(s.B * s.M, 0.);
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t h = 0; h < s.Hq; ++h)
      for (int64_t n = 0; n < s.N; ++n) {
        const int64_t g = h / (s.Hq / s.Hkv), last = s.T - s.N + n, row = (b * s.Hq + h) * s.N + n;
        std::vector<double> scores(s.T + s.M, -INFINITE), prompt(s.D, 0.), latent(s.P, 0.);
        bool sees_prompt = false;
        for (int64_t t = 0; t <= last; ++t) {
          if (t <= last - p.window || ((options & 2) && !mask[b * s.T + t])) continue;
          sees_prompt = true;
          scores[t] = 0;
          for (int d = 0; d < s.D; ++d) scores[t] += 0.125 * q.at(b, h, n, d) * k.at(b, g, t, d);
        }
        const int32_t* ends = range.get() + (shared_range ? 0 : 2 * b);
        const int64_t from = options & 4 ? ends[0] : 0, to = options & 4 ? ends[1] : s.M;
        for (int64_t t = from; t < to; ++t) {
          double dot = 0;
          for (int d = 0; d < s.P; ++d) dot += a.at(b, h, n, d) * e.at(0, 0, t, d);
          scores[s.T + t] = 0.125 * norm[t] * (key_scale[t] * dot + constant[row]);
          if (options & 1) scores[s.T + t] += bias[b * biases + (options & 64 ? 0 : t)];
        }
        double top = -INFINITE, total = 0, share = 0;
        keep_worst(worst, levels.error(row, scores.data() + s.T, s.M));
        for (double x : scores) top = std::max(top, x);
        const bool sees = s.T == 0 ? top > -INFINITE : sees_prompt;
        if (!sees) {
          if (got.lse[row] != -std::numeric_limits<float>::infinity()) worst = INFINITE;
        } else {
          for (double x : scores) total += x == -INFINITE ? 0 : std::exp(x - top);
          for (int64_t i = 0; i < s.T + s.M; ++i) {
            if (scores[i] == -INFINITE) continue;
            const double weigh = std::exp(scores[i] - top) / total;
            if (i < s.T) {
              for (int d = 0; d < s.D; ++d) prompt[d] += weigh * v.at(b, g, i, d);
            } else {
              share += weigh;
              mass[b * s.M + i - s.T] += weight[row] * weigh;
              for (int d = 0; d < s.P; ++d) latent[d] += weigh * value_scale[i - s.T] * f.at(0, 0, i - s.T, d);
            }
          }
          keep_worst(worst, std::abs(got.lse[row] - (top + std::log(total))));
        }
        keep_worst(worst, std::abs(got.share[row] - share));
        if (sees ? !std::isfinite(lse[row]) : lse[row] != -INFINITE) worst = INFINITE;
        for (int d = 0; d < s.D; ++d)
          if (!std::isfinite(Tensor::value(output.get(), dtype, row * s.D + d))) worst = INFINITE;
        for (int d = 0; d < s.D; ++d) keep_worst(worst, std::abs(got.prompt[row * s.D + d] - prompt[d]));
        for (int d = 0; d < s.P; ++d)
          keep_worst(worst,
                     std::abs(Tensor::value(got.latent.get(), dtype, ((h * s.B + b) * s.N + n) * s.P + d) - latent[d]));
      }
  for (int64_t i = 0; i < s.B * s.M; ++i) keep_worst(worst, std::abs(got.mass[i] - mass[i]));
  const bool right = worst < (p.bytes ? 1e-1 : dtype == Dtype::float32 ? 2e-4 : 3e-2);
  if (!right)
    std::printf("latents, %s dtype %d storage %d B%ld Hq%ld N%ld T%ld M%ld D%d P%d options %d: off by %g\n",
                kernels.name, int(dtype), int(storage), long(s.B), long(s.Hq), long(s.N), long(s.T), long(s.M), s.D,
                s.P, options, worst);
  return right;
}

}  // namespace

void run_latents(int& runs, int& wrong) {
  const Shape shapes[] = {
      {1, 1, 1, 1, 1, 0, 2, 5, 0},     {2, 4, 2, 1, 9, 70, 24, 37, 2},  {3, 12, 3, 1, 70, 131, 8, 96, 0},
      {2, 2, 1, 5, 30, 600, 6, 64, 4}, {1, 6, 2, 7, 20, 517, 10, 1, 3}, {2, 4, 2, 1, 0, 70, 24, 37, 2},
      {1, 6, 2, 7, 0, 131, 8, 96, 0},
  };
  for (const char* name : TABLES) {
    const kblam::Kernels* kernels = kblam::select_kernels(name);
    if (kernels == nullptr) continue;
    for (const Shape& shape : shapes)
      for (Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16})
        for (Dtype storage : {Dtype::float32, Dtype::bfloat16, Dtype::float16, Dtype::int8, Dtype::float8})
          for (int options : {0, 1, 6, 15, 29, 33, 47, 71, 97}) {
            if (options & 32 && storage != Dtype::int8) continue;
            ++runs;
            wrong += !run(shape, dtype, storage, options, *kernels);
          }
  }
}

}  // namespace sanitize
