// Latent knowledge: a task is a block of rows (heads, new tokens and, where they see the same tokens, batch rows)
// against a chunk of the list. Tasks of a chunk follow each other: its latents are in a cache for all but the first.
#include "kblam/latent.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

namespace kblam {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

class Launch {
 public:
  Launch(const LatentAttention& problem, const Kernels& chosen, int workers)
      : p(problem),
        kernels(chosen),
        knowledge(p.M, MAX_CHUNKS),
        prompt(p.T, MAX_CHUNKS),
        mixed(p.rows(), knowledge.chunks, p.P),
        attended(p.rows(), prompt.chunks, p.D),
        prompt_tasks(p, kernels, attended, 0, prompt) {
    // A row reads no token outside its own range, so rows of other ranges cannot be folded with it.
    groups = p.knowledge_range != nullptr ? p.range_rows : 1;
    rows = p.B / groups * p.Hq * p.N;
    blocks = (rows + MAX_LATENT_ROWS - 1) / MAX_LATENT_ROWS;
    knowledge_tasks = knowledge.chunks * groups * blocks;
    scratch_bytes = round_up(std::max(kernels.latent_scratch(p.P), prompt_tasks.scratch_bytes()), 64);
    scratch.reset(new char[scratch_bytes * workers]);
  }

  int64_t tasks() const { return knowledge_tasks + prompt_tasks.count(); }

  void run(int64_t index, int worker) {
    char* memory = scratch.get() + worker * scratch_bytes;
    if (index < knowledge_tasks)
      run_knowledge(index, memory);
    else
      prompt_tasks.run(index - knowledge_tasks, memory);
  }

  // Merges the partial states of one row.
  void finish(int64_t row) {
    const int64_t n = row % p.N, h = row / p.N % p.Hq, b = row / p.N / p.Hq;
    char* latent = static_cast<char*>(p.latent) + ((h * p.B + b) * p.N + n) * p.P * element_size(p.dtype);
    float top = -INFINITE;
    bool sees_prompt = false;
    for (int64_t part = 0; part < prompt.chunks; ++part) {
      const int64_t state = attended.index(row, part);
      top = std::max(top, attended.maximum[state]);
      sees_prompt = sees_prompt || attended.total[state] != 0.f;
    }
    // A padding row sees no prompt column, so it sees no knowledge either.
    if (!sees_prompt) {
      std::fill(p.prompt + row * p.D, p.prompt + (row + 1) * p.D, 0.f);
      std::memset(latent, 0, p.P * element_size(p.dtype));
      p.share[row] = 0.f;
      p.lse[row] = -INFINITE;
      return;
    }
    for (int64_t part = 0; part < knowledge.chunks; ++part) top = std::max(top, mixed.maximum[mixed.index(row, part)]);
    std::unique_ptr<float[]> sums(new float[attended.padded + mixed.padded]());
    float* of_prompt = sums.get();
    float* of_knowledge = of_prompt + attended.padded;
    const float prompt_total = merge(attended, row, top, of_prompt), share = merge(mixed, row, top, of_knowledge);
    const float total = prompt_total + share;
    for (int64_t d = 0; d < p.D; ++d) p.prompt[row * p.D + d] = of_prompt[d] / total;
    for (int64_t d = 0; d < p.P; ++d) of_knowledge[d] /= total;
    write_rounded(of_knowledge, latent, p.P, p.dtype);
    p.share[row] = share / total;
    p.lse[row] = top + std::log(total);
  }

  const LatentAttention& p;
  std::atomic<int64_t> skipped{0}, visited{0};

 private:
  void run_knowledge(int64_t index, char* memory) {
    const int64_t block = index % blocks, group = index / blocks % groups, part = index / blocks / groups;
    int64_t begin = knowledge.begin(part), end = knowledge.end(part);
    if (p.knowledge_range != nullptr) {
      begin = std::max(begin, p.knowledge_range[2 * group]);
      end = std::min(end, p.knowledge_range[2 * group + 1]);
    }
    if (begin >= end) return;
    LatentRow taken[MAX_LATENT_ROWS];
    int count = 0;
    for (int64_t i = block * MAX_LATENT_ROWS; i < std::min(rows, (block + 1) * MAX_LATENT_ROWS); ++i) {
      const int64_t row = group * rows + i, n = row % p.N, h = row / p.N % p.Hq, b = row / p.N / p.Hq;
      const int64_t state = mixed.index(row, part);
      LatentRow& r = taken[count++] = {};
      r.query = p.absorbed_query.at(element_size(p.dtype), b, h, n);
      r.constant = p.constant[row];
      r.maximum = &mixed.maximum[state];
      r.total = &mixed.total[state];
      r.output = mixed.fresh(state);
      if (p.bias != nullptr) {
        const float* bias = p.bias + b * p.bias_batch;
        if (p.bias_token == 0)
          r.offset = *bias;
        else
          r.bias = bias;
      }
    }
    const Skipped tiles =
        kernels.latent(p.latents, p.dtype, taken, count, begin, end, p.P, p.scale, p.threshold, memory);
    skipped += tiles.skipped;
    visited += tiles.visited;
  }

  // Adds a row's states, relative to `top`; returns their total.
  float merge(const States& states, int64_t row, float top, float* sums) const {
    float sum = 0.f;
    for (int64_t part = 0; part < states.parts; ++part) {
      const int64_t state = states.index(row, part);
      if (states.total[state] == 0.f) continue;  // saw nothing: its output may not be written
      const float weight = std::exp(states.maximum[state] - top);
      sum += states.total[state] * weight;
      kernels.add_scaled(sums, states.output.get() + state * states.padded, weight, states.padded);
    }
    return sum;
  }

  const Kernels& kernels;
  const Cut knowledge, prompt;
  States mixed, attended;
  PromptTasks prompt_tasks;
  int64_t groups, rows, blocks, knowledge_tasks, scratch_bytes;
  std::unique_ptr<char[]> scratch;
};

}  // namespace

void latent_forward(const LatentAttention& problem, const Kernels& kernels, int workers, Parallel parallel) {
  if (problem.rows() != 0) {
    Launch launch(problem, kernels, workers);
    parallel(launch.tasks(), workers, [](void* l, int64_t i, int w) { static_cast<Launch*>(l)->run(i, w); }, &launch);
    constexpr int64_t ROWS = 4;  // of a merging task
    parallel((problem.rows() + ROWS - 1) / ROWS, workers,
             [](void* l, int64_t i, int) {
               Launch& launch = *static_cast<Launch*>(l);
               for (int64_t row = i * ROWS; row < std::min(launch.p.rows(), (i + 1) * ROWS); ++row) launch.finish(row);
             },
             &launch);
    if (problem.tiles != nullptr) problem.tiles[0] = launch.skipped, problem.tiles[1] = launch.visited;
  } else if (problem.tiles != nullptr) {
    problem.tiles[0] = problem.tiles[1] = 0;
  }
}

}  // namespace kblam
