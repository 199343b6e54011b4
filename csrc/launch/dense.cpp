// Dense knowledge: a task is some rows against a chunk of the columns of one head. Batch rows may share knowledge, and
// the query heads of a group share the prompt.
#include "dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace kblam {
namespace {

constexpr int64_t ENOUGH_TASKS = 64;  // with so many, row blocks alone fill the cores

int64_t chunks_wanted(const Prompt& p, const Kernels& kernels) {
  if (streams(p, kernels)) return MAX_CHUNKS;
  const int64_t row_tasks = p.Hq * ((p.N + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS);
  return std::max<int64_t>(1, ENOUGH_TASKS / row_tasks);
}

class Launch {
 public:
  Launch(const DenseAttention& problem, const Kernels& kernels, int workers)
      : p(problem),
        size(element_size(problem.dtype)),
        streaming(streams(problem, kernels)),
        folding(!streaming && problem.N < kernels.tile_queries[int(problem.dtype)]),
        absorb((streaming ? kernels.stream : kernels.tile)[int(problem.dtype)]),
        absorb_folded(kernels.latent),
        shared(problem.B > 1 && problem.knowledge_key.batch == 0 && problem.knowledge_value.batch == 0 &&
               // Rows that are folded see the same tokens.
               !(folding && problem.knowledge_range != nullptr)),
        knowledge(p.M, chunks_wanted(p, kernels)),
        prompt(p.T, chunks_wanted(p, kernels)),
        states(p.rows(), knowledge.chunks + prompt.chunks, p.D),
        prompt_tasks(p, kernels, states, knowledge.chunks, prompt) {
    rows = shared ? p.B * p.N : p.N;
    block_rows = streaming ? rows : folding ? MAX_LATENT_ROWS : MAX_TILE_ROWS;
    blocks = (rows + block_rows - 1) / block_rows;
    knowledge_tasks = (shared ? 1 : p.B) * p.Hq * blocks * knowledge.chunks;
    const int64_t own = streaming ? kernels.stream_scratch(p.D, int(rows))
                        : folding ? kernels.latent_scratch(p.D)
                                  : kernels.tile_scratch(p.D);
    scratch_bytes = round_up(std::max(own, prompt_tasks.scratch_bytes()), 64);
    scratch = lines<char>(scratch_bytes * workers);
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
  void finish(int64_t index) {
    const int64_t n = index % p.N, h = index / p.N % p.Hq, b = index / p.N / p.Hq;
    char* out = static_cast<char*>(p.output) + ((b * p.N + n) * p.Hq + h) * p.D * size;
    const int64_t first = states.index(index, 0), parts = states.parts;
    float top = -std::numeric_limits<float>::infinity();
    bool sees = false;
    for (int64_t part = 0; part < parts; ++part) {
      top = std::max(top, states.maximum[first + part]);
      sees = sees || ((p.alone() || part >= knowledge.chunks) && states.total[first + part] != 0.f);
    }
    float* lse = p.lse + index;
    // A padding row sees no prompt column, so it sees no knowledge either.
    if (!sees) {
      std::memset(out, 0, p.D * size);
      *lse = -std::numeric_limits<float>::infinity();
      return;
    }
    float sum = 0.f;
    float* merged = states.output.get() + first * states.padded;
    const float first_weight = std::exp(states.maximum[first] - top);
    sum += states.total[first] * first_weight;
    for (int64_t d = 0; d < p.D; ++d) merged[d] *= first_weight;
    for (int64_t part = 1; part < parts; ++part) {
      const float weight = std::exp(states.maximum[first + part] - top);
      const float* from = merged + part * states.padded;
      sum += states.total[first + part] * weight;
      for (int64_t d = 0; d < p.D; ++d) merged[d] += from[d] * weight;
    }
    for (int64_t d = 0; d < p.D; ++d) merged[d] /= sum;
    write_rounded(merged, out, p.D, p.dtype);
    *lse = top + std::log(sum);
  }

 private:
  void run_knowledge(int64_t index, char* memory) {
    // Blocks of rows are neighbours, so that what they all read is in a cache.
    const int64_t block = index % blocks, part = index / blocks % knowledge.chunks;
    const int64_t h = index / knowledge.chunks / blocks % p.Hq, own_b = index / knowledge.chunks / blocks / p.Hq;
    std::vector<Row> taken;
    for (int64_t i = block * block_rows; i < std::min(rows, (block + 1) * block_rows); ++i) {
      const int64_t b = shared ? i / p.N : own_b, n = i % p.N;
      const int64_t state = states.index(p.row(b, h, n), part);
      Row r{};
      r.query = p.knowledge_query.at(size, b, h, n);
      r.maximum = &states.maximum[state];
      r.total = &states.total[state];
      r.output = states.fresh(state);
      r.last = p.M;
      if (p.knowledge_range != nullptr) {
        r.first = std::max<int64_t>(0, p.knowledge_range[2 * b]);
        r.last = std::min<int64_t>(p.M, p.knowledge_range[2 * b + 1]);
      }
      if (p.bias != nullptr) {
        const float* bias = p.bias + b * p.bias_batch;
        if (p.bias_token == 0)
          r.offset = *bias;
        else
          r.bias = bias;
      }
      taken.push_back(r);
    }
    const Columns columns{p.knowledge_key.at(size, own_b, h, 0), p.knowledge_value.at(size, own_b, h, 0),
                          p.knowledge_key.token, p.knowledge_value.token};
    if (folding) return run_folded(columns, taken, part, memory);
    absorb(columns, taken.data(), int(taken.size()), knowledge.begin(part), knowledge.end(part), p.D, p.scale, memory);
  }

  void run_folded(const Columns& columns, const std::vector<Row>& rows, int64_t part, char* memory) {
    const Latents keys{columns.key, columns.value, columns.key_stride, columns.value_stride, nullptr, nullptr,
                       nullptr,     p.dtype};
    const int64_t begin = std::max(knowledge.begin(part), rows[0].first);
    const int64_t end = std::min(knowledge.end(part), rows[0].last);
    if (begin >= end) return;
    LatentRow folded[MAX_LATENT_ROWS];
    for (size_t i = 0; i < rows.size(); ++i)
      folded[i] = {rows[i].query, 0.f, rows[i].bias, rows[i].offset, rows[i].maximum, rows[i].total, rows[i].output};
    absorb_folded(keys, {p.dtype, p.N >= LANE_QUERIES, false, false}, folded, int(rows.size()), begin, end, p.D,
                  p.scale, memory);
  }

  const DenseAttention& p;
  const int64_t size;
  const bool streaming, folding;
  const Absorb absorb;
  const AbsorbLatents absorb_folded;
  const bool shared;
  const Cut knowledge, prompt;
  States states;
  PromptTasks prompt_tasks;
  int64_t rows, block_rows, blocks, knowledge_tasks, scratch_bytes;
  Lines<char> scratch;
};

}  // namespace

void dense_forward(const DenseAttention& problem, const Kernels& kernels, int workers, Parallel parallel) {
  if (problem.rows() == 0) return;
  Launch launch(problem, kernels, workers);
  const auto attend = [&](int64_t index, int worker) { launch.run(index, worker); };
  constexpr int64_t ROWS = 64;  // of a merging task
  const auto finish = [&](int64_t index, int) {
    for (int64_t row = index * ROWS; row < std::min(problem.rows(), (index + 1) * ROWS); ++row) launch.finish(row);
  };
  run_steps({step_of(launch.tasks(), attend), step_of((problem.rows() + ROWS - 1) / ROWS, finish)},
            2 * problem.rows() * (problem.M + problem.T) * problem.D, workers, parallel);
}

}  // namespace kblam
