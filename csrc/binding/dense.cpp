// The torch side of attention to dense knowledge.
#include "launch/dense.h"
#include "tensors.h"

namespace kblam::binding {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const Tensor& knowledge_key, const Tensor& knowledge_value,
                                   const Tensor& knowledge_query, const MaybeTensor& bias,
                                   const MaybeTensor& prompt_mask, const MaybeTensor& knowledge_range, double scale,
                                   std::optional<int64_t> window, std::string kernels) {
  DenseAttention p{};
  set_prompt(p, query, key, value, prompt_mask, scale, window);
  STD_TORCH_CHECK(knowledge_key.dim() >= 3, "knowledge must be of rank 3 or 4");
  p.M = knowledge_key.size(-2);
  p.knowledge_query = strided("knowledge_query", knowledge_query, query, p.B, p.Hq, p.N, p.D);
  p.knowledge_key = strided("knowledge_key", knowledge_key, query, p.B, p.Hq, p.M, p.D, Batch::may_be_shared);
  p.knowledge_value = strided("knowledge_value", knowledge_value, query, p.B, p.Hq, p.M, p.D, Batch::may_be_shared);
  if (bias) p.bias = bias_of(*bias, p.B, p.M, p.bias_batch, p.bias_token);
  if (knowledge_range) {
    STD_TORCH_CHECK(knowledge_range->size(0) == p.B, "knowledge_range must have a row for each batch row");
    p.knowledge_range = range_of(*knowledge_range, p.B);
  }
  const Kernels& chosen = kernels_named(kernels);

  Tensor output = torch::stable::new_empty(query, {p.B, p.N, p.Hq, p.D});
  Tensor lse = torch::stable::new_empty(query, {p.B, p.Hq, p.N}, ScalarType::Float);
  p.output = output.mutable_data_ptr();
  p.lse = static_cast<float*>(lse.mutable_data_ptr());
  dense_forward(p, chosen, workers(), parallel);
  return {torch::stable::transpose(output, 1, 2), lse};
}

// The kernel table in use, or whether one runs here: "" if not.
std::string instruction_set(std::string kernels) {
  const Kernels* chosen = select_kernels(kernels.c_str());
  return chosen == nullptr ? "" : chosen->name;
}

}  // namespace
}  // namespace kblam::binding

STABLE_TORCH_LIBRARY_FRAGMENT(kblam_kernels, m) {
  m.def(
      "dense_forward_cpu(Tensor query, Tensor key, Tensor value, Tensor knowledge_key, Tensor knowledge_value, "
      "Tensor knowledge_query, Tensor? bias, Tensor? prompt_mask, Tensor? knowledge_range, float scale, int? window, "
      "str kernels) -> (Tensor, Tensor)");
  m.def("cpu_instruction_set(str kernels) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CPU, m) { m.impl("dense_forward_cpu", TORCH_BOX(&kblam::binding::forward)); }

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&kblam::binding::instruction_set));
}
