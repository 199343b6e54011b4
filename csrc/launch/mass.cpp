// A task handles some tokens of one batch row and loops over all heads and queries: no partial results, and the same
// bits for any number of threads. Batch rows that share keys are neighbours, so that the keys are in a cache.
#include "mass.h"

#include <algorithm>
#include <limits>
#include <memory>

namespace kblam {
namespace {

constexpr int64_t TOKENS = 512;  // of a task
constexpr float INFINITE = std::numeric_limits<float>::infinity();

class Launch {
 public:
  Launch(const Mass& problem, const Kernels& chosen, int workers) : p(problem), kernels(chosen) {
    scratch_bytes = round_up(kernels.latent_scratch(p.width), 64);
    scratch = lines<char>(scratch_bytes * workers);
  }

  int64_t tasks() const { return (p.M + TOKENS - 1) / TOKENS * p.B; }

  void run(int64_t index, int worker) {
    const int64_t b = index % p.B;
    int64_t begin = index / p.B * TOKENS, end = std::min(p.M, begin + TOKENS);
    float* mass = p.mass + b * p.M;
    std::fill(mass + begin, mass + end, 0.f);
    if (p.knowledge_range != nullptr) {
      const int32_t* range = p.knowledge_range + 2 * (p.range_rows == 1 ? 0 : b);
      begin = std::max<int64_t>(begin, range[0]), end = std::min<int64_t>(end, range[1]);
    }
    if (begin >= end || p.heads == 0) return;
    const float* bias = p.bias == nullptr ? nullptr : p.bias + b * p.bias_batch;
    const float offset = bias != nullptr && p.bias_token == 0 ? *bias : 0.f;
    if (p.bias_token == 0) bias = nullptr;
    const int64_t rows = p.Hq / p.heads * p.N, size = element_size(p.keys.storage);
    for (int64_t head = 0; head < p.heads; ++head) {
      Latents keys = p.keys;
      keys.key = static_cast<const char*>(keys.key) + (b * p.key_batch + head * p.key_head) * size;
      for (int64_t first = 0; first < rows; first += MAX_LATENT_ROWS) {
        MassRow taken[MAX_LATENT_ROWS];
        int count = 0;
        for (int64_t i = first; i < std::min<int64_t>(rows, first + MAX_LATENT_ROWS); ++i) {
          const int64_t h = head * (p.Hq / p.heads) + i / p.N, n = i % p.N;
          const int64_t row = (b * p.Hq + h) * p.N + n;
          // A row of padding saw nothing, one of weight 0 is left out: both may be NaN.
          if (p.lse[row] == -INFINITE || p.row_weight[row] == 0.f) continue;
          taken[count++] = {p.rows.at(element_size(p.dtype), b, h, n), p.constant == nullptr ? 0.f : p.constant[row],
                            p.lse[row], p.row_weight[row]};
        }
        if (count == 0) continue;
        kernels.mass(keys, {p.dtype, p.bytes}, taken, count, begin, end, p.width, p.scale, bias, offset, mass,
                     scratch.get() + worker * scratch_bytes);
      }
    }
  }

 private:
  const Mass& p;
  const Kernels& kernels;
  int64_t scratch_bytes;
  Lines<char> scratch;
};

}  // namespace

void evidence_mass(const Mass& problem, const Kernels& kernels, int workers, Parallel parallel) {
  if (problem.B * problem.M == 0) return;
  Launch launch(problem, kernels, workers);
  const auto weigh = [&](int64_t index, int worker) { launch.run(index, worker); };
  run_steps({step_of(launch.tasks(), weigh)}, problem.B * problem.Hq * problem.N * problem.M * problem.width, workers,
            parallel);
}

}  // namespace kblam
