// What the sanitizer drivers share: threads, and tensors that are their own allocation of exactly their size.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "launch/mass.h"
#include "launch/select.h"
#include "launch/split.h"

namespace sanitize {

using kblam::Dtype;

constexpr const char* TABLES[] = {"portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"};

constexpr double INFINITE = std::numeric_limits<double>::infinity();

// Keeps the larger error. NaN is the largest: `std::max(worst, error)` would lose it.
inline void keep_worst(double& worst, double error) {
  if (!(error <= worst)) worst = std::isnan(error) ? INFINITE : error;
}

inline void parallel(int64_t tasks, int workers, kblam::Task task, void* context) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int worker = 0; worker < workers; ++worker)
    threads.emplace_back([&, worker] {
      for (int64_t i = next++; i < tasks; i = next++) task(context, i, worker);
    });
  for (std::thread& thread : threads) thread.join();
}

// A (batch, heads, tokens, D) tensor of small multiples of 1/8, exact in every dtype; tokens lie `gap` apart.
struct Tensor {
  int64_t heads, tokens, D, token;
  Dtype dtype;
  std::unique_ptr<unsigned char[]> data;

  Tensor(Dtype type, int64_t batch, int64_t h, int64_t t, int64_t d, int64_t gap, std::mt19937& draw)
      : heads(h), tokens(t), D(d), token(d + gap), dtype(type) {
    const int64_t elements = std::max<int64_t>(0, batch * heads * tokens * token - gap);
    const int64_t size = kblam::element_size(dtype);
    data.reset(new unsigned char[elements * size]);
    for (int64_t i = 0; i < elements; ++i) {
      const float x = float(int(draw() % 33) - 16) / 8;
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      if (size == 1) {
        // -16 to 16 as int8; as float8 any bits but NaN.
        data[i] = (unsigned char)(dtype == Dtype::int8 ? int(x * 8) : int(draw() % 127) | int(draw() % 2) << 7);
        continue;
      }
      uint16_t half = uint16_t(bits >> 16);
      if (dtype == Dtype::float16)
        half = x == 0 ? 0 : uint16_t((bits >> 16 & 0x8000) | ((bits & 0x7fffffff) - 0x38000000) >> 13);
      std::memcpy(data.get() + i * size, dtype == Dtype::float32 ? static_cast<void*>(&bits) : &half, size);
    }
  }

  int64_t index(int64_t b, int64_t h, int64_t n, int64_t d) const { return ((b * heads + h) * tokens + n) * token + d; }

  double at(int64_t b, int64_t h, int64_t n, int64_t d) const { return value(data.get(), dtype, index(b, h, n, d)); }

  static double value(const void* from, Dtype dtype, int64_t i) {
    const unsigned char* p = static_cast<const unsigned char*>(from);
    if (dtype == Dtype::float32) {
      float x;
      std::memcpy(&x, p + i * 4, 4);
      return x;
    }
    if (dtype == Dtype::int8) return static_cast<signed char>(p[i]);
    if (dtype == Dtype::float8) {
      const int exponent = p[i] >> 3 & 15, mantissa = p[i] & 7;
      return std::ldexp(exponent ? 8 + mantissa : mantissa, std::max(1, exponent) - 10) * (p[i] & 0x80 ? -1 : 1);
    }
    uint16_t half;
    std::memcpy(&half, p + i * 2, 2);
    if (dtype == Dtype::float16) {
      const int exponent = half >> 10 & 31, mantissa = half & 0x3ff, sign = half & 0x8000 ? -1 : 1;
      if (exponent == 31) return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITE;
      return sign * std::ldexp(exponent ? 1024 + mantissa : mantissa, std::max(1, exponent) - 25);
    }
    const uint32_t bits = uint32_t(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }

  kblam::Strided strided(bool shared = false) const {
    return {data.get(), shared ? 0 : heads * tokens * token, tokens * token, token};
  }
};

// Memory of exactly n elements. Its bytes are NaN in every dtype of a result, so that one nobody wrote is seen.
template <class T>
std::unique_ptr<T[]> exactly(int64_t n) {
  std::unique_ptr<T[]> memory(new T[n]);
  std::memset(memory.get(), 0xff, n * sizeof(T));
  return memory;
}

// Of each row its knowledge's lse, with and without the largest scores of blocks, and these.
struct Levels {
  std::unique_ptr<float[]> lse, beside_blocks, block_max;
  int64_t blocks;

  // How far they are from one row's exact scores of M tokens.
  double error(int64_t row, const double* scores, int64_t M) const {
    double worst = 0, seen = 0;
    for (int64_t m = 0; m < M; ++m) seen += std::exp(scores[m]);
    for (const float level : {lse[row], beside_blocks[row]})
      keep_worst(worst, seen == 0 ? std::abs(std::exp(level)) : std::abs(level - std::log(seen)));
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * kblam::SCORE_BLOCK, end = std::min(M, begin + kblam::SCORE_BLOCK);
      const double exact = *std::max_element(scores + begin, scores + end);
      const float found = block_max[row * blocks + block];
      keep_worst(worst, exact == -INFINITE ? std::exp(found) : std::abs(found - exact));
    }
    return worst;
  }
};

inline Levels levels_of(const kblam::Mass& m, const kblam::Kernels& kernels) {
  const int64_t rows = m.B * m.Hq * m.N, blocks = m.blocks();
  Levels found{exactly<float>(rows), exactly<float>(rows), exactly<float>(rows * blocks), blocks};
  kblam::knowledge_lse(m, found.lse.get(), nullptr, kernels, 3, parallel);
  kblam::knowledge_lse(m, found.beside_blocks.get(), found.block_max.get(), kernels, 3, parallel);
  return found;
}

// Whether every block read by itself, the last one first, has the bits of `all`, the masses of one pass.
inline bool blocks_are_alike(kblam::Mass m, const float* all, const kblam::Kernels& kernels) {
  const int64_t blocks = m.blocks(), count = m.B * blocks;
  const auto rows = exactly<int64_t>(count), chosen = exactly<int64_t>(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = i % m.B, chosen[i] = blocks - 1 - i / m.B;
  const auto mass = exactly<float>(count * kblam::SCORE_BLOCK);
  m.mass = mass.get();
  kblam::evidence_blocks(m, rows.get(), chosen.get(), count, kernels, 3, parallel);
  for (int64_t i = 0; i < count * kblam::SCORE_BLOCK; ++i) {
    const int64_t pair = i / kblam::SCORE_BLOCK, token = chosen[pair] * kblam::SCORE_BLOCK + i % kblam::SCORE_BLOCK;
    if (mass[i] != (token < m.M ? all[rows[pair] * m.M + token] : 0.f)) return false;
  }
  return true;
}

// The latent and evidence kernels over a grid: how many problems, how many of them wrong.
void run_latents(int& runs, int& wrong);

}  // namespace sanitize
