// Shared by the launchers: how work is cut into tasks, where partial softmax states are kept, and the prompt's part.
//
// A task is some rows against a chunk of columns. Chunks depend on the shape of one batch row alone, never on the batch
// size or the number of threads, and partial states merge in their order, so results are the same bit for bit.
#pragma once

#include <initializer_list>
#include <vector>

#include "kernels/interface.h"
#include "memory.h"

namespace kblam {

// Runs task(context, index, worker) for every index in [0, tasks), in any order, worker < workers.
using Task = void (*)(void* context, int64_t index, int worker);
using Parallel = void (*)(int64_t tasks, int workers, Task task, void* context);

// One step of an op: task(index, worker) for every index in [0, tasks), in any order.
struct Step {
  int64_t tasks;
  Task task;
  void* context;
};

template <class Function>
Step step_of(int64_t tasks, const Function& f) {
  return {tasks, [](void* f, int64_t i, int worker) { (*static_cast<const Function*>(f))(i, worker); },
          const_cast<Function*>(&f)};
}

// Runs steps one after the other on the same threads. A thread that wakes late joins in where the others are, and none
// waits for one that has not begun: waking takes as long as a small step. `multiplications` is the work of all steps;
// too little wakes no thread.
void run_steps(std::initializer_list<Step> steps, int64_t multiplications, int workers, Parallel parallel);

struct Strided {  // (batch, heads, tokens, D): strides in elements, the last dimension contiguous
  const void* data;
  int64_t batch, head, token;

  const void* at(int64_t size, int64_t b, int64_t h, int64_t n) const {
    return static_cast<const char*>(data) + (b * batch + h * head + n * token) * size;
  }
};

// The prompt block of every op.
struct Prompt {
  Dtype dtype;
  int64_t B, Hq, Hkv, N, T;
  int D;
  Strided query, key, value;
  const uint8_t* prompt_mask;  // (B, T) or null
  int64_t mask_batch;
  float scale;
  int64_t window;  // tokens; T or more is unlimited

  bool alone() const { return T == 0; }  // attention to knowledge alone
  int64_t rows() const { return B * Hq * N; }
  int64_t row(int64_t b, int64_t h, int64_t n) const { return (b * Hq + h) * N + n; }
};

// The columns of one block (knowledge or prompt), cut into chunks.
struct Cut {
  int64_t columns, chunk, chunks;

  Cut(int64_t columns, int64_t wanted_chunks);
  int64_t begin(int64_t part) const { return part * chunk; }
  int64_t end(int64_t part) const { return part + 1 < chunks ? begin(part + 1) : columns; }
};

// New tokens from which the rows of a dense head are the lanes of vectors where the kernel of latents takes them. Not
// fewer in a batch: a row has the same bits in any.
constexpr int64_t LANE_QUERIES = 12;
constexpr int64_t MAX_CHUNKS = 64;  // of one head: bounds the memory of partial states

// Partial softmax states: `parts` for each row, with `width` numbers of output.
class States {
 public:
  States(int64_t rows, int64_t parts, int64_t width);
  int64_t index(int64_t row, int64_t part) const { return row * parts + part; }
  // Clears the output of a state and returns it.
  float* fresh(int64_t state);

  const int64_t parts, padded;
  std::vector<float> maximum, total;  // -inf and 0 where a row has seen nothing; then the output is not written
  Lines<float> output;
};

// Whether there are so few new tokens that each key and value goes through the core once, for one row after the other.
inline bool streams(const Prompt& p, const Kernels& kernels) { return p.N <= kernels.stream_queries[int(p.dtype)]; }

// Attention to the prompt: the query heads of a group share a task, because they read the same keys.
class PromptTasks {
 public:
  // The states of chunk i are `states`' part `first_part` + i.
  PromptTasks(const Prompt& problem, const Kernels& kernels, States& states, int64_t first_part, const Cut& cut);
  int64_t count() const { return tasks; }
  int64_t scratch_bytes() const { return scratch; }
  void run(int64_t index, char* memory);

 private:
  const Prompt& p;
  States& states;
  const int64_t first_part;
  const Cut cut;
  const bool streaming;
  const Absorb absorb;
  int64_t rows, block_rows, blocks, tasks, scratch;
};

// Rounds `n` floats to `dtype`: nearest, ties to even.
void write_rounded(const float* from, void* to, int64_t n, Dtype dtype);

}  // namespace kblam
