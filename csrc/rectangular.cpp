// Splits rectangular attention into tasks, runs them, and merges their softmax states.
//
// A task is some rows against a chunk of the columns of one head: knowledge tokens, which batch rows may share, or
// prompt tokens, which the query heads of a group share. Chunks depend on the shape of one batch row alone, never on
// the batch size or the number of threads, and partial states merge in their order: results are the same bit for bit.
#include "kblam/rectangular.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace kblam {
namespace {

// Up to so many new tokens a key or value is worth less than a pass through memory.
constexpr int64_t STREAM_QUERIES = 4;
constexpr int64_t CHUNK = 512;       // columns of a task at least
constexpr int64_t MAX_CHUNKS = 64;   // of one head: bounds the memory of partial states
constexpr int64_t ENOUGH_TASKS = 64; // with so many, row blocks alone fill the cores

int64_t element_size(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

const char* at(const Strided& t, int64_t size, int64_t b, int64_t h, int64_t n) {
  return static_cast<const char*>(t.data) + (b * t.batch + h * t.head + n * t.token) * size;
}

// The columns of one block (knowledge or prompt), cut into chunks.
struct Cut {
  int64_t columns, chunk, chunks;
};

Cut cut(int64_t columns, int64_t wanted_chunks) {
  const int64_t chunk = std::max(CHUNK, round_up((columns + wanted_chunks - 1) / wanted_chunks, CHUNK));
  return {columns, chunk, (columns + chunk - 1) / chunk};
}

class Launch {
 public:
  Launch(const Rectangular& problem, const Kernels& kernels, int workers)
      : p(problem),
        size(element_size(problem.dtype)),
        streaming(problem.N <= STREAM_QUERIES),
        absorb((streaming ? kernels.stream : kernels.tile)[int(problem.dtype)]),
        shared(problem.B > 1 && problem.knowledge_key.batch == 0 && problem.knowledge_value.batch == 0),
        padded(round_up(problem.D, OUTPUT_PAD)) {
    const int64_t row_tasks = p.Hq * ((p.N + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS);
    const int64_t chunks = streaming ? MAX_CHUNKS : std::max<int64_t>(1, ENOUGH_TASKS / row_tasks);
    knowledge = cut(p.M, chunks);
    prompt = cut(p.T, chunks);
    knowledge_rows = shared ? p.B * p.N : p.N;
    prompt_rows = p.Hq / p.Hkv * p.N;
    knowledge_blocks = blocks(knowledge_rows);
    prompt_blocks = blocks(prompt_rows);
    knowledge_tasks = (shared ? 1 : p.B) * p.Hq * knowledge_blocks * knowledge.chunks;
    prompt_tasks = p.B * p.Hkv * prompt_blocks * prompt.chunks;

    parts = knowledge.chunks + prompt.chunks;
    const int64_t states = p.B * p.Hq * p.N * parts;
    maximum.assign(states, -std::numeric_limits<float>::infinity());
    total.assign(states, 0.f);
    output.reset(new float[states * padded]);
    const int64_t most_rows = streaming ? std::max(knowledge_rows, prompt_rows) : MAX_TILE_ROWS;
    scratch_bytes = round_up(
        streaming ? kernels.stream_scratch(p.D, int(most_rows)) : kernels.tile_scratch(p.D), 64);
    scratch.reset(new char[scratch_bytes * workers]);
  }

  int64_t tasks() const { return knowledge_tasks + prompt_tasks; }

  void run(int64_t index, int worker) {
    char* memory = scratch.get() + worker * scratch_bytes;
    if (index < knowledge_tasks)
      run_knowledge(index, memory);
    else
      run_prompt(index - knowledge_tasks, memory);
  }

  // Merges the partial states of one row.
  void finish(int64_t index) {
    const int64_t n = index % p.N, h = index / p.N % p.Hq, b = index / p.N / p.Hq;
    char* out = static_cast<char*>(p.output) + ((b * p.N + n) * p.Hq + h) * p.D * size;
    const int64_t first = state(b, h, n, 0);
    float top = -std::numeric_limits<float>::infinity();
    bool sees_prompt = false;
    for (int64_t part = 0; part < parts; ++part) {
      top = std::max(top, maximum[first + part]);
      sees_prompt = sees_prompt || (part >= knowledge.chunks && total[first + part] != 0.f);
    }
    float* lse = p.lse + index;
    // A padding row sees no prompt column, so it sees no knowledge either.
    if (!sees_prompt) {
      std::memset(out, 0, p.D * size);
      *lse = -std::numeric_limits<float>::infinity();
      return;
    }
    float sum = 0.f;
    float* merged = output.get() + first * padded;
    const float first_weight = std::exp(maximum[first] - top);
    sum += total[first] * first_weight;
    for (int64_t d = 0; d < p.D; ++d) merged[d] *= first_weight;
    for (int64_t part = 1; part < parts; ++part) {
      const float weight = std::exp(maximum[first + part] - top);
      const float* from = merged + part * padded;
      sum += total[first + part] * weight;
      for (int64_t d = 0; d < p.D; ++d) merged[d] += from[d] * weight;
    }
    for (int64_t d = 0; d < p.D; ++d) merged[d] /= sum;
    write(merged, out);
    *lse = top + std::log(sum);
  }

  const Rectangular& p;

 private:
  int64_t blocks(int64_t rows) const { return streaming ? 1 : (rows + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS; }
  int64_t rows_of(int64_t rows) const { return streaming ? rows : MAX_TILE_ROWS; }
  int64_t state(int64_t b, int64_t h, int64_t n, int64_t part) const {
    return ((b * p.Hq + h) * p.N + n) * parts + part;
  }

  Row row(const Strided& query, int64_t b, int64_t h, int64_t n, int64_t part) {
    Row r{};
    const int64_t s = state(b, h, n, part);
    r.query = at(query, size, b, h, n);
    r.maximum = &maximum[s];
    r.total = &total[s];
    r.output = output.get() + s * padded;
    std::fill(r.output, r.output + padded, 0.f);
    return r;
  }

  void run_knowledge(int64_t index, char* memory) {
    const int64_t part = index % knowledge.chunks, block = index / knowledge.chunks % knowledge_blocks;
    const int64_t h = index / knowledge.chunks / knowledge_blocks % p.Hq;
    const int64_t own_b = index / knowledge.chunks / knowledge_blocks / p.Hq;
    const int64_t begin = part * knowledge.chunk, end = std::min(p.M, begin + knowledge.chunk);
    std::vector<Row> rows;
    const int64_t first_row = block * rows_of(knowledge_rows);
    for (int64_t i = first_row; i < std::min(knowledge_rows, first_row + rows_of(knowledge_rows)); ++i) {
      const int64_t b = shared ? i / p.N : own_b, n = i % p.N;
      Row r = row(p.knowledge_query, b, h, n, part);
      r.last = p.M;
      if (p.knowledge_range != nullptr) {
        r.first = std::max<int64_t>(0, p.knowledge_range[2 * b]);
        r.last = std::min(p.M, p.knowledge_range[2 * b + 1]);
      }
      if (p.bias != nullptr) {
        const float* bias = p.bias + b * p.bias_batch;
        if (p.bias_token == 0)
          r.offset = *bias;
        else
          r.bias = bias;
      }
      rows.push_back(r);
    }
    const Columns columns{at(p.knowledge_key, size, own_b, h, 0), at(p.knowledge_value, size, own_b, h, 0),
                          p.knowledge_key.token, p.knowledge_value.token};
    absorb(columns, rows.data(), int(rows.size()), begin, end, p.D, p.scale, memory);
  }

  void run_prompt(int64_t index, char* memory) {
    const int64_t part = index % prompt.chunks, block = index / prompt.chunks % prompt_blocks;
    const int64_t head = index / prompt.chunks / prompt_blocks % p.Hkv;
    const int64_t b = index / prompt.chunks / prompt_blocks / p.Hkv;
    const int64_t begin = part * prompt.chunk, end = std::min(p.T, begin + prompt.chunk);
    std::vector<Row> rows;
    const int64_t first_row = block * rows_of(prompt_rows);
    for (int64_t i = first_row; i < std::min(prompt_rows, first_row + rows_of(prompt_rows)); ++i) {
      const int64_t h = head * (p.Hq / p.Hkv) + i / p.N, n = i % p.N;
      Row r = row(p.query, b, h, n, knowledge.chunks + part);
      r.last = p.T - p.N + n + 1;
      r.first = std::max<int64_t>(0, r.last - p.window);
      if (p.prompt_mask != nullptr) r.visible = p.prompt_mask + b * p.mask_batch;
      rows.push_back(r);
    }
    const Columns columns{at(p.key, size, b, head, 0), at(p.value, size, b, head, 0), p.key.token, p.value.token};
    absorb(columns, rows.data(), int(rows.size()), begin, end, p.D, p.scale, memory);
  }

  void write(const float* from, char* out) const;

  const int64_t size;
  const bool streaming;
  const Absorb absorb;
  const bool shared;
  const int64_t padded;
  Cut knowledge, prompt;
  int64_t knowledge_rows, prompt_rows, knowledge_blocks, prompt_blocks, knowledge_tasks, prompt_tasks, parts;
  std::vector<float> maximum, total;
  std::unique_ptr<float[]> output;
  int64_t scratch_bytes;
  std::unique_ptr<char[]> scratch;
};

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Nearest, ties to even.
uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if (std::isnan(x)) return 0x7fc0;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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

void Launch::write(const float* from, char* out) const {
  if (p.dtype == Dtype::float32) {
    std::memcpy(out, from, p.D * sizeof(float));
    return;
  }
  for (int64_t d = 0; d < p.D; ++d) {
    const uint16_t bits = p.dtype == Dtype::bfloat16 ? to_bfloat16(from[d]) : to_float16(from[d]);
    std::memcpy(out + d * 2, &bits, 2);
  }
}

}  // namespace

void rectangular_forward(const Rectangular& problem, const Kernels& kernels, int workers, Parallel parallel) {
  if (problem.B * problem.Hq * problem.N == 0) return;
  Launch launch(problem, kernels, workers);
  parallel(launch.tasks(), workers, [](void* l, int64_t i, int w) { static_cast<Launch*>(l)->run(i, w); }, &launch);
  constexpr int64_t ROWS = 64;  // of a merging task
  const int64_t rows = problem.B * problem.Hq * problem.N;
  parallel((rows + ROWS - 1) / ROWS, workers,
           [](void* l, int64_t i, int) {
             Launch& launch = *static_cast<Launch*>(l);
             const int64_t rows = launch.p.B * launch.p.Hq * launch.p.N;
             for (int64_t row = i * ROWS; row < std::min(rows, (i + 1) * ROWS); ++row) launch.finish(row);
           },
           &launch);
}

}  // namespace kblam
