// What the bindings of the ops share: threads, and checks of tensors. Uses torch's stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>

#include "launch/select.h"
#include "launch/split.h"

namespace kblam::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline void parallel(int64_t tasks, int workers, Task task, void* context) {
  // Waking a thread takes longer than many a task.
  workers = int(std::min<int64_t>(tasks, workers));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i = next++; i < tasks; i = next++) task(context, i, int(worker));
  });
}

inline int workers() { return int(torch::stable::get_num_threads()); }

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: STD_TORCH_CHECK(false, "the CPU kernels take float32, bfloat16 and float16");
  }
}

// Of latents, which may be stored otherwise than queries.
inline Dtype storage_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Char: return Dtype::int8;
    case ScalarType::Float8_e4m3fn: return Dtype::float8;
    default: return dtype_of(t);
  }
}

inline const Kernels& kernels_named(const std::string& name) {
  const Kernels* chosen = select_kernels(name.c_str());
  STD_TORCH_CHECK(chosen != nullptr, "this processor does not run the kernels called ", name);
  return *chosen;
}

inline bool last_is_contiguous(const Tensor& t) { return t.size(-1) <= 1 || t.stride(-1) == 1; }

// Whether a tensor may leave out the batch, which then shares it.
enum class Batch { own, may_be_shared };

// The shape is checked by the Python op; what is checked here is what memory safety rests on, and what a planned loop
// does not look at again.
inline Strided strided(const char* name, const Tensor& t, const Tensor& query, int64_t B, int64_t H, int64_t tokens,
                       int64_t width, Batch batch = Batch::own) {
  const bool shared = batch == Batch::may_be_shared && t.dim() == 3;
  STD_TORCH_CHECK(
      (shared || (t.dim() == 4 && t.size(0) == B)) && t.size(-3) == H && t.size(-2) == tokens && t.size(-1) == width,
      name, " has a shape that does not fit the query");
  STD_TORCH_CHECK(t.scalar_type() == query.scalar_type() && t.is_cpu(), name, " has another dtype or device");
  STD_TORCH_CHECK(last_is_contiguous(t), name, " must have a contiguous last dimension");
  return {t.const_data_ptr(), shared ? 0 : t.stride(0), t.stride(-3), t.stride(-2)};
}

// A float32 (rows, M) bias; rows is B, or 1 for one that all rows share.
inline const float* bias_of(const Tensor& bias, int64_t B, int64_t M, int64_t& batch, int64_t& token) {
  STD_TORCH_CHECK(bias.scalar_type() == ScalarType::Float && bias.is_cpu() && bias.dim() == 2 &&
                      (bias.size(0) == B || bias.size(0) == 1) && bias.size(1) == M,
                  "bias must be float32 (B or 1, M)");
  token = M <= 1 ? 0 : bias.stride(1);
  STD_TORCH_CHECK(token == 0 || token == 1, "bias must have stride 0 or 1 along M");
  batch = bias.size(0) == 1 ? 0 : bias.stride(0);
  return static_cast<const float*>(bias.const_data_ptr());
}

// Contiguous float32 of such a shape.
inline const float* floats_of(const char* name, const Tensor& t, std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_cpu() && t.is_contiguous() &&
                      t.dim() == int64_t(shape.size()) && std::equal(shape.begin(), shape.end(), t.sizes().begin()),
                  name, " must be contiguous float32 of a shape that fits the query");
  return static_cast<const float*>(t.const_data_ptr());
}

inline const int32_t* range_of(const Tensor& range, int64_t B) {
  STD_TORCH_CHECK(range.scalar_type() == ScalarType::Int && range.is_cpu() && range.is_contiguous() &&
                      range.dim() == 2 && (range.size(0) == B || range.size(0) == 1) && range.size(1) == 2,
                  "knowledge_range must be contiguous int32 (B or 1, 2)");
  return static_cast<const int32_t*>(range.const_data_ptr());
}

// Everything of the prompt block.
inline void set_prompt(Prompt& p, const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
                       double scale, std::optional<int64_t> window) {
  p.dtype = dtype_of(query);
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4, "tensors must be of rank 4");
  p.B = query.size(0), p.Hq = query.size(1), p.N = query.size(2), p.D = int(query.size(3));
  p.Hkv = key.size(1), p.T = key.size(2);
  STD_TORCH_CHECK(p.Hkv > 0 && p.Hq % p.Hkv == 0 && (p.T >= p.N || p.T == 0) && p.D > 0 && p.D % 2 == 0,
                  "unsupported sizes");
  p.query = strided("query", query, query, p.B, p.Hq, p.N, p.D);
  p.key = strided("key", key, query, p.B, p.Hkv, p.T, p.D);
  p.value = strided("value", value, query, p.B, p.Hkv, p.T, p.D);
  if (mask) {
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->is_cpu() && mask->dim() == 2 &&
                        mask->size(0) == p.B && mask->size(1) == p.T && last_is_contiguous(*mask),
                    "prompt_mask must be bool (B, T) with a contiguous last dimension");
    p.prompt_mask = static_cast<const uint8_t*>(mask->const_data_ptr());
    p.mask_batch = mask->stride(0);
  }
  p.scale = float(scale);
  p.window = window.value_or(std::numeric_limits<int64_t>::max() / 2);
}

}  // namespace kblam::binding
