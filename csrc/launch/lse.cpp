// The lse of knowledge scores: attention whose output nobody reads. A task is a block of rows of one head, of all batch
// rows that read the same keys, against a chunk of tokens; blocks of a chunk are neighbours. Where the largest score of
// each block of tokens is asked for, a chunk is whole blocks, taken in one after the other.
#include <algorithm>
#include <cmath>
#include <limits>

#include "mass.h"

namespace kblam {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

class Launch {
 public:
  Launch(const Scores& problem, float* result, float* of_blocks, const Kernels& chosen, int workers)
      : p(problem),
        lse(result),
        block_max(of_blocks),
        kernels(chosen),
        // Neither depends on the batch size, because they set the order of additions.
        lanes(p.of_head() >= (p.heads == p.Hq ? LANE_QUERIES : chosen.lane_rows(p.dtype, p.keys.storage, p.bytes))),
        cut(p.M, std::max<int64_t>(1, MAX_CHUNKS / ((p.Hq * p.N + MAX_LATENT_ROWS - 1) / MAX_LATENT_ROWS))),
        states(p.B * p.Hq * p.N, cut.chunks, 0),
        // A row reads no token outside its own range, so rows with other ranges cannot be folded with it.
        groups(p.key_batch != 0 || (p.knowledge_range != nullptr && p.range_rows > 1) ? p.B : 1),
        rows(p.B / groups * p.of_head()),
        blocks((rows + MAX_LATENT_ROWS - 1) / MAX_LATENT_ROWS),
        scratch_bytes(round_up(chosen.latent_scratch(p.width), 64)),
        scratch(lines<char>(scratch_bytes * workers)) {}

  int64_t tasks() const { return blocks * p.heads * groups * cut.chunks; }

  void run(int64_t index, int worker) {
    const int64_t block = index % blocks, head = index / blocks % p.heads, group = index / blocks / p.heads % groups;
    const int64_t part = index / blocks / p.heads / groups, first_b = p.B / groups * group;
    const auto seen = p.tokens_of(first_b);
    const int64_t begin = std::max(cut.begin(part), seen.first), end = std::min(cut.end(part), seen.second);
    if (begin >= end) return;
    LatentRow taken[MAX_LATENT_ROWS];
    Seen of_block[MAX_LATENT_ROWS];
    int64_t row_of[MAX_LATENT_ROWS];
    int count = 0;
    for (int64_t i = block * MAX_LATENT_ROWS; i < std::min(rows, (block + 1) * MAX_LATENT_ROWS); ++i) {
      const int64_t b = first_b + i / p.of_head(), h = head * (p.Hq / p.heads) + i % p.of_head() / p.N, n = i % p.N;
      const int64_t row = p.row(b, h, n), state = states.index(row, part);
      const auto [bias, offset] = p.bias_of(b);
      row_of[count] = row;
      taken[count] = {p.rows.at(element_size(p.dtype), b, h, n),
                      p.constant == nullptr ? 0.f : p.constant[row],
                      bias,
                      offset,
                      block_max == nullptr ? &states.maximum[state] : &of_block[count].maximum,
                      block_max == nullptr ? &states.total[state] : &of_block[count].total,
                      nullptr};
      ++count;
    }
    Latents keys = p.keys_of(first_b, head);
    keys.value = nullptr;  // rows have no output
    const auto take = [&](int64_t from, int64_t to) {
      kernels.latent(keys, {p.dtype, lanes, p.bytes, from > begin, std::min(end - to, SCORE_BLOCK)}, taken, count, from,
                     to, p.width, p.scale, scratch.get() + worker * scratch_bytes);
    };
    if (block_max == nullptr) return take(begin, end);
    for (int64_t from = begin, to; from < end; from = to) {
      const int64_t token_block = from / SCORE_BLOCK;
      to = std::min(end, (token_block + 1) * SCORE_BLOCK);
      std::fill(of_block, of_block + count, Seen{});
      take(from, to);
      for (int r = 0; r < count; ++r) {
        const Seen& found = of_block[r];
        block_max[row_of[r] * p.blocks() + token_block] = std::isnan(found.total) ? found.total : found.maximum;
        const int64_t state = states.index(row_of[r], part);
        add(found, states.maximum[state], states.total[state]);
      }
    }
  }

  void finish(int64_t row) {
    const int64_t first = states.index(row, 0);
    float top = -INFINITE, sum = 0.f;
    for (int64_t state = first; state < first + states.parts; ++state) top = std::max(top, states.maximum[state]);
    for (int64_t state = first; state < first + states.parts; ++state)
      if (states.total[state] != 0.f) sum += states.total[state] * std::exp(states.maximum[state] - top);
    lse[row] = sum == 0.f ? -INFINITE : top + std::log(sum);
  }

 private:
  // What a row has seen of a block of tokens.
  struct Seen {
    float maximum = -INFINITE, total = 0.f;
  };

  static void add(const Seen& found, float& maximum, float& total) {
    if (found.total == 0.f) return;
    const float top = std::max(maximum, found.maximum);
    total = (total == 0.f ? 0.f : total * std::exp(maximum - top)) + found.total * std::exp(found.maximum - top);
    maximum = top;
  }

  const Scores& p;
  float *lse, *block_max;
  const Kernels& kernels;
  const bool lanes;
  const Cut cut;
  States states;
  const int64_t groups, rows, blocks, scratch_bytes;
  Lines<char> scratch;
};

}  // namespace

void knowledge_lse(const Scores& problem, float* lse, float* block_max, const Kernels& kernels, int workers,
                   Parallel parallel) {
  const int64_t rows = problem.B * problem.Hq * problem.N;
  if (rows == 0) return;
  if (block_max != nullptr) std::fill(block_max, block_max + rows * problem.blocks(), -INFINITE);
  Launch launch(problem, lse, block_max, kernels, workers);
  const auto score = [&](int64_t index, int worker) { launch.run(index, worker); };
  constexpr int64_t TOGETHER = 64;  // rows of a merging task
  const auto finish = [&](int64_t index, int) {
    for (int64_t row = index * TOGETHER; row < std::min(rows, (index + 1) * TOGETHER); ++row) launch.finish(row);
  };
  run_steps({step_of(launch.tasks(), score), step_of((rows + TOGETHER - 1) / TOGETHER, finish)},
            rows * problem.M * problem.width, workers, parallel);
}

}  // namespace kblam
