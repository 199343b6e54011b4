// Latent knowledge: a task is a block of rows (heads, new tokens and, where they see the same tokens, batch rows)
// against a chunk of the list. Tasks of a chunk follow each other, so its latents are in a cache for all but the first.
#include "latent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

namespace kblam {
namespace {

// Where one batch row has many row blocks, these alone fill the cores, and partial states would only take memory.
int64_t chunks_wanted(const LatentAttention& p) {
  const int64_t blocks = (p.Hq * p.N + MAX_LATENT_ROWS - 1) / MAX_LATENT_ROWS;
  return std::max<int64_t>(1, MAX_CHUNKS / blocks);
}

constexpr float INFINITE = std::numeric_limits<float>::infinity();

class Launch {
 public:
  Launch(const LatentAttention& problem, const Kernels& chosen, int workers)
      : p(problem),
        kernels(chosen),
        // Does not depend on the batch size, because it sets the order of additions.
        lanes(p.Hq * p.N >= kernels.lane_rows(p.dtype, p.latents.storage, p.bytes)),
        knowledge(p.M, chunks_wanted(p)),
        prompt(p.T, chunks_wanted(p)),
        mixed(p.rows(), knowledge.chunks, p.P),
        attended(p.rows(), prompt.chunks, p.D),
        prompt_tasks(p, kernels, attended, 0, prompt) {
    // A row reads no token outside its own range, so rows with other ranges cannot be folded with it.
    groups = p.knowledge_range != nullptr ? p.range_rows : 1;
    rows = p.B / groups * p.Hq * p.N;
    blocks = (rows + MAX_LATENT_ROWS - 1) / MAX_LATENT_ROWS;
    knowledge_tasks = knowledge.chunks * groups * blocks;
    scratch_bytes = round_up(std::max(kernels.latent_scratch(p.P), prompt_tasks.scratch_bytes()), 64);
    scratch = lines<char>(scratch_bytes * workers);
    held.assign(workers, -1);
  }

  int64_t tasks() const { return knowledge_tasks + prompt_tasks.count(); }

  void run(int64_t index, int worker) {
    char* memory = scratch.get() + worker * scratch_bytes;
    if (index < knowledge_tasks) return run_knowledge(index, memory, held[worker]);
    held[worker] = -1;
    prompt_tasks.run(index - knowledge_tasks, memory);
  }

  // Merges the partial states of one row into its lse and share, and passes the two float sums to
  // `write(prompt, latent)`. Returns false without a call if the row sees no prompt: it sees no knowledge either,
  // unless there is no prompt at all.
  template <class Write>
  bool finish(int64_t row, float* lse, float* share, const Write& write) const {
    float top = -INFINITE;
    bool sees = false;
    for (int64_t part = 0; part < prompt.chunks; ++part) {
      const int64_t state = attended.index(row, part);
      top = std::max(top, attended.maximum[state]);
      sees = sees || attended.total[state] != 0.f;
    }
    for (int64_t part = 0; part < knowledge.chunks; ++part) {
      const int64_t state = mixed.index(row, part);
      top = std::max(top, mixed.maximum[state]);
      sees = sees || (p.alone() && mixed.total[state] != 0.f);
    }
    *share = 0.f, *lse = -INFINITE;
    if (!sees) return false;
    // Both are padded with zeros, as products with them need it.
    std::unique_ptr<float[]> sums(new float[attended.padded + round_up(p.P, 2 * OUTPUT_PAD)]());
    float* of_prompt = sums.get();
    float* of_knowledge = of_prompt + attended.padded;
    const float prompt_total = merge(attended, row, top, of_prompt);
    const float knowledge_total = merge(mixed, row, top, of_knowledge), total = prompt_total + knowledge_total;
    for (int64_t d = 0; d < p.D; ++d) of_prompt[d] /= total;
    for (int64_t d = 0; d < p.P; ++d) of_knowledge[d] /= total;
    *share = knowledge_total / total;
    *lse = top + std::log(total);
    write(of_prompt, of_knowledge);
    return true;
  }

 private:
  // `holds`: the rows whose queries `memory` has.
  void run_knowledge(int64_t index, char* memory, int64_t& holds) {
    const int64_t block = index % blocks, group = index / blocks % groups, part = index / blocks / groups;
    int64_t begin = knowledge.begin(part), end = knowledge.end(part);
    if (p.knowledge_range != nullptr) {
      begin = std::max<int64_t>(begin, p.knowledge_range[2 * group]);
      end = std::min<int64_t>(end, p.knowledge_range[2 * group + 1]);
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
    const int64_t these = group * blocks + block;
    const LatentQueries queries{p.dtype, lanes, p.bytes, holds == these};
    holds = these;
    kernels.latent(p.latents, queries, taken, count, begin, end, p.P, p.scale, memory);
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

  const LatentAttention& p;
  const Kernels& kernels;
  const bool lanes;
  const Cut knowledge, prompt;
  States mixed, attended;
  PromptTasks prompt_tasks;
  int64_t groups, rows, blocks, knowledge_tasks, scratch_bytes;
  Lines<char> scratch;
  std::vector<int64_t> held;
};

// Calls f(row) for every row; where there are many, a task takes a few, because merging is short.
template <class Function>
struct RowTasks {
  int64_t rows;
  Function f;

  int64_t together() const { return rows < 64 ? 1 : 4; }
  int64_t count() const { return (rows + together() - 1) / together(); }
  void operator()(int64_t index, int) const {
    const int64_t first = index * together();
    for (int64_t row = first; row < std::min(rows, first + together()); ++row) f(row);
  }
};

template <class Function>
RowTasks<Function> for_rows(int64_t rows, const Function& f) {
  return {rows, f};
}

}  // namespace

void latent_forward(const LatentAttention& p, const Kernels& kernels, int workers, Parallel parallel) {
  if (p.rows() == 0) return;
  Launch launch(p, kernels, workers);
  const auto attend = [&](int64_t index, int worker) { launch.run(index, worker); };
  const auto finish = for_rows(p.rows(), [&](int64_t row) {
    const int64_t n = row % p.N, h = row / p.N % p.Hq, b = row / p.N / p.Hq, size = element_size(p.dtype);
    float* prompt = p.prompt + row * p.D;
    char* latent = static_cast<char*>(p.latent) + ((h * p.B + b) * p.N + n) * p.P * size;
    const bool sees = launch.finish(row, p.lse + row, p.share + row, [&](const float* of_prompt, const float* mixed) {
      std::copy(of_prompt, of_prompt + p.D, prompt);
      write_rounded(mixed, latent, p.P, p.dtype);
    });
    if (!sees) std::fill(prompt, prompt + p.D, 0.f), std::memset(latent, 0, p.P * size);
  });
  run_steps({step_of(launch.tasks(), attend), step_of(finish.count(), finish)}, p.multiplications(), workers, parallel);
}

void latent_attention(LatentAttention p, const Strided& knowledge_query, const QueryHead& head,
                      const Projection& projection, void* output, const Kernels& kernels, int workers,
                      Parallel parallel) {
  if (p.rows() == 0) return;
  const int64_t size = element_size(p.dtype), padded = round_up(p.D, OUTPUT_PAD);
  const auto of_head = [&](const void* weights, int64_t h, int64_t width) {
    return static_cast<const char*>(weights) + h * p.D * width * size;
  };
  std::unique_ptr<char[]> absorbed(new char[p.rows() * p.P * size]);
  std::unique_ptr<float[]> constant(new float[p.rows()]);
  p.absorbed_query = {absorbed.get(), p.Hq * p.N * p.P, p.N * p.P, p.P};
  p.constant = constant.get();
  Launch launch(p, kernels, workers);
  const auto absorb = for_rows(p.rows(), [&](int64_t row) {
    const int64_t n = row % p.N, h = row / p.N % p.Hq, b = row / p.N / p.Hq;
    std::unique_ptr<float[]> memory(new float[2 * padded + round_up(p.P, OUTPUT_PAD)]);
    float *query = memory.get(), *bias = query + padded, *mixed = bias + padded;
    const void* asked = knowledge_query.at(size, b, h, n);
    if (head.weight != nullptr) {
      std::unique_ptr<float[]> hidden(new float[round_up(head.width, 2 * OUTPUT_PAD)]());
      kernels.widen_row(head.hidden.at(size, b, 0, n), p.dtype, head.width, hidden.get());
      kernels.dot_rows(of_head(head.weight, h, head.width), p.dtype, head.width, p.D, head.width, hidden.get(), query);
      write_rounded(query, const_cast<void*>(asked), p.D, p.dtype);
    }
    kernels.widen_row(asked, p.dtype, p.D, query);
    kernels.widen_row(of_head(projection.key_bias, h, 1), p.dtype, p.D, bias);
    constant[row] = 0.f;
    for (int d = 0; d < p.D; ++d) constant[row] += query[d] * bias[d];
    kernels.mix_rows(of_head(projection.key_weight, h, p.P), p.dtype, p.P, p.D, p.P, query, mixed);
    // Rounded as `latent_forward` gets it.
    write_rounded(mixed, absorbed.get() + row * p.P * size, p.P, p.dtype);
  });
  const auto attend = [&](int64_t index, int worker) { launch.run(index, worker); };
  const auto project = for_rows(p.rows(), [&](int64_t row) {
    const int64_t n = row % p.N, h = row / p.N % p.Hq, b = row / p.N / p.Hq;
    char* out = static_cast<char*>(output) + ((b * p.N + n) * p.Hq + h) * p.D * size;
    std::unique_ptr<float[]> memory(new float[2 * padded]);
    float *result = memory.get(), *bias = result + padded, share;
    const bool sees = launch.finish(row, p.lse + row, &share, [&](const float* of_prompt, float* mixed) {
      kernels.dot_rows(of_head(projection.value_weight, h, p.P), p.dtype, p.P, p.D, p.P, mixed, result);
      kernels.widen_row(of_head(projection.value_bias, h, 1), p.dtype, p.D, bias);
      for (int d = 0; d < p.D; ++d) result[d] += of_prompt[d] + share * bias[d];
      write_rounded(result, out, p.D, p.dtype);
    });
    if (!sees) std::memset(out, 0, p.D * size);
  });
  run_steps({step_of(absorb.count(), absorb), step_of(launch.tasks(), attend), step_of(project.count(), project)},
            p.multiplications() + p.rows() * p.D * (2 * p.P + head.width), workers, parallel);
}

}  // namespace kblam
