#include "split.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <thread>

namespace kblam {
namespace {

constexpr int64_t CHUNK = 512;             // columns of a task at least
constexpr int64_t WORTH_WAKING = 1 << 20;  // multiplications, about as long as a thread takes to wake

// How far the threads of a step are.
struct alignas(64) Progress {
  std::atomic<int64_t> next{0}, done{0};
};

struct Course {
  const Step* steps;
  size_t count;
  std::unique_ptr<Progress[]> progress;
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // of the first task that failed

  // What a task throws, such as std::bad_alloc, ends all threads: none waits for the tasks that are left.
  void run(int worker) {
    try {
      run_all(worker);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }

  void run_all(int worker) {
    for (size_t s = 0; s < count; ++s) {
      const Step& step = steps[s];
      Progress& p = progress[s];
      for (int64_t i = p.next++; i < step.tasks; i = p.next++) {
        if (failed.load(std::memory_order_relaxed)) return;
        step.task(step.context, i, worker);
        p.done.fetch_add(1, std::memory_order_release);
      }
      // Other threads finish its last tasks. This is short, unless one of them has lost its core.
      for (int spins = 0; p.done.load(std::memory_order_acquire) < step.tasks; ++spins) {
        if (failed.load(std::memory_order_relaxed)) return;
        if (spins > 4096) std::this_thread::yield();
      }
    }
  }
};

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);  // no branch: a loop over it is vectorised
}

uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more
  if (magnitude < 0x38800000) {                                 // subnormal: an addition rounds at the right bit
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    return uint16_t(sign | (bits_of(shifted + 0.5f) - bits_of(0.5f)));
  }
  return uint16_t(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace

void run_steps(std::initializer_list<Step> steps, int64_t multiplications, int workers, Parallel parallel) {
  int64_t most = 1;
  for (const Step& step : steps) most = std::max(most, step.tasks);
  workers = multiplications < WORTH_WAKING ? 1 : int(std::min<int64_t>(workers, most));
  Course course{steps.begin(), steps.size(), std::unique_ptr<Progress[]>(new Progress[steps.size()])};
  if (workers == 1)
    course.run(0);
  else
    parallel(workers, workers, [](void* c, int64_t, int worker) { static_cast<Course*>(c)->run(worker); }, &course);
  if (course.error) std::rethrow_exception(course.error);
}

Cut::Cut(int64_t columns_, int64_t wanted_chunks) : columns(columns_) {
  chunk = std::max(CHUNK, round_up((columns + wanted_chunks - 1) / wanted_chunks, CHUNK));
  chunks = (columns + chunk - 1) / chunk;
}

States::States(int64_t rows, int64_t parts_, int64_t width) : parts(parts_), padded(round_up(width, OUTPUT_PAD)) {
  maximum.assign(rows * parts, -std::numeric_limits<float>::infinity());
  total.assign(rows * parts, 0.f);
  output = lines<float>(rows * parts * padded);
}

float* States::fresh(int64_t state) {
  float* here = output.get() + state * padded;
  std::fill(here, here + padded, 0.f);
  return here;
}

PromptTasks::PromptTasks(const Prompt& problem, const Kernels& kernels, States& states_, int64_t first_part_,
                         const Cut& cut_)
    : p(problem),
      states(states_),
      first_part(first_part_),
      cut(cut_),
      streaming(streams(p, kernels)),
      absorb((streaming ? kernels.stream : kernels.tile)[int(p.dtype)]),
      rows(p.Hq / p.Hkv * p.N),
      block_rows(streaming ? rows : MAX_TILE_ROWS),
      blocks(streaming ? 1 : (rows + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS),
      tasks(p.B * p.Hkv * blocks * cut.chunks),
      scratch(streaming ? kernels.stream_scratch(p.D, int(rows)) : kernels.tile_scratch(p.D)) {}

void PromptTasks::run(int64_t index, char* memory) {
  const int64_t size = element_size(p.dtype);
  const int64_t part = index % cut.chunks, block = index / cut.chunks % blocks;
  const int64_t head = index / cut.chunks / blocks % p.Hkv, b = index / cut.chunks / blocks / p.Hkv;
  std::vector<Row> taken;
  for (int64_t i = block * block_rows; i < std::min(rows, (block + 1) * block_rows); ++i) {
    const int64_t h = head * (p.Hq / p.Hkv) + i / p.N, n = i % p.N;
    const int64_t state = states.index(p.row(b, h, n), first_part + part);
    Row r{};
    r.query = p.query.at(size, b, h, n);
    r.maximum = &states.maximum[state];
    r.total = &states.total[state];
    r.output = states.fresh(state);
    r.last = p.T - p.N + n + 1;
    r.first = std::max<int64_t>(0, r.last - p.window);
    if (p.prompt_mask != nullptr) r.visible = p.prompt_mask + b * p.mask_batch;
    taken.push_back(r);
  }
  const Columns columns{p.key.at(size, b, head, 0), p.value.at(size, b, head, 0), p.key.token, p.value.token};
  absorb(columns, taken.data(), int(taken.size()), cut.begin(part), cut.end(part), p.D, p.scale, memory);
}

void write_rounded(const float* from, void* to, int64_t n, Dtype dtype) {
  if (dtype == Dtype::float32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  const auto write = [&](const auto& rounded) {
    for (int64_t d = 0; d < n; ++d) {
      const uint16_t bits = rounded(from[d]);
      std::memcpy(static_cast<char*>(to) + d * 2, &bits, 2);
    }
  };
  if (dtype == Dtype::bfloat16)
    write([](float x) { return to_bfloat16(x); });
  else
    write([](float x) { return to_float16(x); });
}

}  // namespace kblam
