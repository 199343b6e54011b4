// The torch side: checks, pointers and strides of tensors, threads. Uses torch's stable ABI only.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>
#include <string>

#include "kblam/rectangular.h"
#include "kblam/select.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

void parallel(int64_t tasks, int workers, kblam::Task task, void* context) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i = next++; i < tasks; i = next++) task(context, i, int(worker));
  });
}

kblam::Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return kblam::Dtype::float32;
    case ScalarType::BFloat16: return kblam::Dtype::bfloat16;
    case ScalarType::Half: return kblam::Dtype::float16;
    default: STD_TORCH_CHECK(false, "the CPU kernels take float32, bfloat16 and float16");
  }
}

// The shape is checked by the Python op; what is checked here is what memory safety rests on.
kblam::Strided strided(const char* name, const Tensor& t, const Tensor& query, int64_t B, int64_t H, int64_t tokens) {
  const bool shared = t.dim() == 3;
  STD_TORCH_CHECK((shared || (t.dim() == 4 && t.size(0) == B)) && t.size(-3) == H && t.size(-2) == tokens &&
                      t.size(-1) == query.size(-1),
                  name, " has a shape that does not fit the query");
  STD_TORCH_CHECK(t.scalar_type() == query.scalar_type() && t.is_cpu(), name, " has another dtype or device");
  STD_TORCH_CHECK(t.size(-1) == 1 || t.stride(-1) == 1, name, " must have a contiguous last dimension");
  return {t.const_data_ptr(), shared ? 0 : t.stride(0), t.stride(-3), t.stride(-2)};
}

std::tuple<Tensor, Tensor> rectangular_forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                               const Tensor& knowledge_key, const Tensor& knowledge_value,
                                               const Tensor& knowledge_query, const MaybeTensor& bias,
                                               const MaybeTensor& prompt_mask, const MaybeTensor& knowledge_range,
                                               double scale, std::optional<int64_t> window, std::string kernels) {
  kblam::Rectangular p{};
  p.dtype = dtype_of(query);
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && knowledge_key.dim() >= 3, "tensors must be of rank 4");
  p.B = query.size(0), p.Hq = query.size(1), p.N = query.size(2), p.D = int(query.size(3));
  p.Hkv = key.size(1), p.T = key.size(2), p.M = knowledge_key.size(-2);
  STD_TORCH_CHECK(p.Hkv > 0 && p.Hq % p.Hkv == 0 && p.T >= p.N && p.D > 0 && p.D % 2 == 0, "unsupported sizes");
  p.query = strided("query", query, query, p.B, p.Hq, p.N);
  p.key = strided("key", key, query, p.B, p.Hkv, p.T);
  p.value = strided("value", value, query, p.B, p.Hkv, p.T);
  p.knowledge_query = strided("knowledge_query", knowledge_query, query, p.B, p.Hq, p.N);
  p.knowledge_key = strided("knowledge_key", knowledge_key, query, p.B, p.Hq, p.M);
  p.knowledge_value = strided("knowledge_value", knowledge_value, query, p.B, p.Hq, p.M);
  if (bias) {
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->is_cpu() && bias->dim() == 2 &&
                        bias->size(0) == p.B && bias->size(1) == p.M,
                    "bias must be float32 (B, M)");
    p.bias_token = p.M == 1 ? 0 : bias->stride(1);
    STD_TORCH_CHECK(p.bias_token == 0 || p.bias_token == 1, "bias must have stride 0 or 1 along M");
    p.bias = static_cast<const float*>(bias->const_data_ptr());
    p.bias_batch = bias->stride(0);
  }
  if (prompt_mask) {
    STD_TORCH_CHECK(prompt_mask->scalar_type() == ScalarType::Bool && prompt_mask->is_cpu() &&
                        prompt_mask->dim() == 2 && prompt_mask->size(0) == p.B && prompt_mask->size(1) == p.T &&
                        (p.T == 1 || prompt_mask->stride(1) == 1),
                    "prompt_mask must be bool (B, T) with a contiguous last dimension");
    p.prompt_mask = static_cast<const uint8_t*>(prompt_mask->const_data_ptr());
    p.mask_batch = prompt_mask->stride(0);
  }
  if (knowledge_range) {
    STD_TORCH_CHECK(knowledge_range->scalar_type() == ScalarType::Long && knowledge_range->is_cpu() &&
                        knowledge_range->is_contiguous() && knowledge_range->dim() == 2 &&
                        knowledge_range->size(0) == p.B && knowledge_range->size(1) == 2,
                    "knowledge_range must be contiguous int64 (B, 2)");
    p.knowledge_range = static_cast<const int64_t*>(knowledge_range->const_data_ptr());
  }
  p.scale = float(scale);
  p.window = window.value_or(std::numeric_limits<int64_t>::max() / 2);
  const kblam::Kernels* chosen = kblam::select_kernels(kernels.c_str());
  STD_TORCH_CHECK(chosen != nullptr, "this processor does not run the kernels called ", kernels);

  Tensor output = torch::stable::new_empty(query, {p.B, p.N, p.Hq, p.D});
  Tensor lse = torch::stable::new_empty(query, {p.B, p.Hq, p.N}, ScalarType::Float);
  p.output = output.mutable_data_ptr();
  p.lse = static_cast<float*>(lse.mutable_data_ptr());
  kblam::rectangular_forward(p, *chosen, int(torch::stable::get_num_threads()), parallel);
  return {torch::stable::transpose(output, 1, 2), lse};
}

// The kernel table in use, or whether one runs here: "" if not.
std::string instruction_set(std::string kernels) {
  const kblam::Kernels* chosen = kblam::select_kernels(kernels.c_str());
  return chosen == nullptr ? "" : chosen->name;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(kblam_kernels, m) {
  m.def(
      "rectangular_forward_cpu(Tensor query, Tensor key, Tensor value, Tensor knowledge_key, Tensor knowledge_value, "
      "Tensor knowledge_query, Tensor? bias, Tensor? prompt_mask, Tensor? knowledge_range, float scale, int? window, "
      "str kernels) -> (Tensor, Tensor)");
  m.def("cpu_instruction_set(str kernels) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CPU, m) { m.impl("rectangular_forward_cpu", TORCH_BOX(&rectangular_forward)); }

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&instruction_set));
}
