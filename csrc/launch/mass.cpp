// A task handles some tokens and loops over all heads and queries: no partial results, and the same bits for any number
// of threads. Batch rows of few queries that share keys are one task, and read them once.
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
  Launch(const Mass& problem, const Kernels& chosen, int workers)
      : p(problem),
        kernels(chosen),
        of_head(p.of_head()),
        together(p.key_batch == 0 ? std::clamp<int64_t>(MAX_LATENT_ROWS / std::max<int64_t>(of_head, 1), 1, p.B) : 1),
        groups((p.B + together - 1) / together) {
    scratch_bytes = round_up(kernels.latent_scratch(p.width), 64);
    scratch = lines<char>(scratch_bytes * workers);
  }

  int64_t tasks() const { return (p.M + TOKENS - 1) / TOKENS * groups; }

  // One block of tokens for one batch row.
  void run_block(int64_t b, int64_t block, float* mass, int worker) {
    std::fill(mass, mass + SCORE_BLOCK, 0.f);
    const auto seen = p.tokens_of(b);
    const int64_t first = block * SCORE_BLOCK, begin = std::max(first, seen.first);
    const int64_t end = std::min({p.M, first + SCORE_BLOCK, seen.second});
    if (begin < end) weigh(b, b + 1, begin, end, mass + (begin - first), worker);
  }

  void run(int64_t index, int worker) {
    const int64_t begin = index / groups * TOKENS, end = std::min(p.M, begin + TOKENS);
    const int64_t last = std::min(p.B, (index % groups + 1) * together);
    for (int64_t b = index % groups * together, next; b < last; b = next) {
      const auto seen = p.tokens_of(b);
      for (next = b; next < last && p.tokens_of(next) == seen; ++next)
        std::fill(p.mass + next * p.M + begin, p.mass + next * p.M + end, 0.f);
      const int64_t from = std::max(begin, seen.first), to = std::min(end, seen.second);
      if (from < to) weigh(b, next, from, to, p.mass + b * p.M + from, worker);
    }
  }

 private:
  // Batch rows [first, last), which see the same of the tokens [begin, end); more than one only where all rows of a
  // head fit into one call, so that the rows that are added up together are the same in any batch. `mass` is that of
  // row `first` and token `begin`; the next row's is M further.
  void weigh(int64_t first, int64_t last, int64_t begin, int64_t end, float* mass, int worker) {
    for (int64_t head = 0; head < p.heads; ++head) {
      const Latents keys = p.keys_of(first, head, begin);
      for (int64_t from = 0; from < of_head; from += MAX_LATENT_ROWS) {
        MassRow taken[MAX_LATENT_ROWS];
        int count = 0;
        for (int64_t b = first; b < last; ++b)
          for (int64_t i = from; i < std::min<int64_t>(of_head, from + MAX_LATENT_ROWS); ++i)
            count += take(b, head * (p.Hq / p.heads) + i / p.N, i % p.N, begin, mass + (b - first) * p.M, taken[count]);
        if (count == 0) continue;
        kernels.mass(keys, {p.dtype, p.bytes}, taken, count, 0, end - begin, p.width, p.scale,
                     scratch.get() + worker * scratch_bytes);
      }
    }
  }

  // False for a row of padding, which saw nothing, and for one of weight 0, which is left out: both may be NaN.
  bool take(int64_t b, int64_t h, int64_t n, int64_t begin, float* mass, MassRow& to) const {
    const int64_t row = p.row(b, h, n);
    if (p.lse[row] == -INFINITE || p.row_weight[row] == 0.f) return false;
    const auto [bias, offset] = p.bias_of(b, begin);
    to = {p.rows.at(element_size(p.dtype), b, h, n),
          p.constant == nullptr ? 0.f : p.constant[row],
          bias,
          offset,
          p.lse[row],
          p.row_weight[row],
          mass};
    return true;
  }

  const Mass& p;
  const Kernels& kernels;
  const int64_t of_head;   // rows of a batch row that read one head's keys
  const int64_t together;  // batch rows whose rows read the same keys in one call
  const int64_t groups;
  int64_t scratch_bytes;
  Lines<char> scratch;
};

}  // namespace

Latents Scores::keys_of(int64_t b, int64_t head, int64_t first) const {
  Latents from = keys;
  const int64_t elements = b * key_batch + head * key_head + first * keys.key_stride;
  from.key = static_cast<const char*>(keys.key) + elements * element_size(keys.storage);
  if (keys.norm != nullptr) from.norm += first;
  if (keys.key_scale != nullptr) from.key_scale += first;
  return from;
}

std::pair<int64_t, int64_t> Scores::tokens_of(int64_t b) const {
  if (knowledge_range == nullptr) return {0, M};
  const int32_t* range = knowledge_range + 2 * (range_rows == 1 ? 0 : b);
  return {range[0], range[1]};
}

std::pair<const float*, float> Scores::bias_of(int64_t b, int64_t first) const {
  if (bias == nullptr) return {nullptr, 0.f};
  const float* here = bias + b * bias_batch;
  return bias_token == 0 ? std::pair<const float*, float>{nullptr, *here} : std::pair{here + first, 0.f};
}

void evidence_mass(const Mass& problem, const Kernels& kernels, int workers, Parallel parallel) {
  if (problem.B * problem.M == 0) return;
  Launch launch(problem, kernels, workers);
  const auto weigh = [&](int64_t index, int worker) { launch.run(index, worker); };
  run_steps({step_of(launch.tasks(), weigh)}, problem.B * problem.Hq * problem.N * problem.M * problem.width, workers,
            parallel);
}

void evidence_blocks(const Mass& problem, const int64_t* rows, const int64_t* blocks, int64_t count,
                     const Kernels& kernels, int workers, Parallel parallel) {
  if (count == 0) return;
  Launch launch(problem, kernels, workers);
  const auto weigh = [&](int64_t index, int worker) {
    launch.run_block(rows[index], blocks[index], problem.mass + index * SCORE_BLOCK, worker);
  };
  run_steps({step_of(count, weigh)}, count * problem.Hq * problem.N * SCORE_BLOCK * problem.width, workers, parallel);
}

}  // namespace kblam
