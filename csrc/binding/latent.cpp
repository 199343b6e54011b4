// The torch side of attention to latents.
#include "launch/latent.h"
#include "tensors.h"

namespace kblam::binding {
namespace {

Latents latents_of(const Tensor& key, const Tensor& value, const Tensor& norm, const MaybeTensor& key_scale,
                   const MaybeTensor& value_scale) {
  STD_TORCH_CHECK(key.dim() == 2 && value.dim() == 2 && key.size(0) == value.size(0) && key.size(1) == value.size(1) &&
                      key.size(1) > 0 && key.scalar_type() == value.scalar_type() && key.is_cpu() && value.is_cpu() &&
                      last_is_contiguous(key) && last_is_contiguous(value),
                  "latents must both be (M, P) of one dtype with a contiguous last dimension");
  const int64_t M = key.size(0);
  Latents l{};
  l.key = key.const_data_ptr(), l.value = value.const_data_ptr();
  l.key_stride = key.stride(0), l.value_stride = value.stride(0);
  l.storage = storage_of(key);
  l.norm = floats_of("norm", norm, {M});
  if (key_scale) l.key_scale = floats_of("key_scale", *key_scale, {M});
  if (value_scale) l.value_scale = floats_of("value_scale", *value_scale, {M});
  return l;
}

// Everything but the queries of the knowledge and the results.
LatentAttention problem_of(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& latent_key,
                           const Tensor& latent_value, const Tensor& norm, const MaybeTensor& key_scale,
                           const MaybeTensor& value_scale, const MaybeTensor& bias, const MaybeTensor& prompt_mask,
                           const MaybeTensor& knowledge_range, double scale, std::optional<int64_t> window,
                           bool int8_products) {
  LatentAttention p{};
  set_prompt(p, query, key, value, prompt_mask, scale, window);
  p.latents = latents_of(latent_key, latent_value, norm, key_scale, value_scale);
  p.M = latent_key.size(0), p.P = int(latent_key.size(1));
  if (bias) p.bias = bias_of(*bias, p.B, p.M, p.bias_batch, p.bias_token);
  if (knowledge_range) p.knowledge_range = range_of(*knowledge_range, p.B), p.range_rows = knowledge_range->size(0);
  p.bytes = int8_products;
  return p;
}

float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& latent_key, const Tensor& latent_value,
    const Tensor& norm, const MaybeTensor& key_scale, const MaybeTensor& value_scale, const Tensor& absorbed_query,
    const Tensor& constant, const MaybeTensor& bias, const MaybeTensor& prompt_mask, const MaybeTensor& knowledge_range,
    double scale, std::optional<int64_t> window, bool int8_products, std::string kernels) {
  LatentAttention p = problem_of(query, key, value, latent_key, latent_value, norm, key_scale, value_scale, bias,
                                 prompt_mask, knowledge_range, scale, window, int8_products);
  p.absorbed_query = strided("absorbed_query", absorbed_query, query, p.B, p.Hq, p.N, p.P);
  p.constant = floats_of("constant", constant, {p.B, p.Hq, p.N});
  const auto of_float = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(query, shape, ScalarType::Float);
  };
  Tensor prompt = of_float({p.B, p.Hq, p.N, p.D}), share = of_float({p.B, p.Hq, p.N}), lse = of_float({p.B, p.Hq, p.N});
  Tensor latent = torch::stable::new_empty(query, {p.Hq, p.B, p.N, p.P});
  p.prompt = floats(prompt), p.share = floats(share), p.lse = floats(lse);
  p.latent = latent.mutable_data_ptr();
  latent_forward(p, kernels_named(kernels), workers(), parallel);
  return {prompt, torch::stable::transpose(latent, 0, 1), share, lse};
}

const void* weights_of(const char* name, const Tensor& t, const Tensor& query, const LatentAttention& p, int64_t P) {
  const bool flat = t.dim() == 2 && t.size(0) == p.Hq * p.D;
  STD_TORCH_CHECK(t.scalar_type() == query.scalar_type() && t.is_cpu() && t.is_contiguous() &&
                      t.numel() == p.Hq * p.D * P && (flat || (t.size(0) == p.Hq && t.size(1) == p.D)),
                  name, " must be contiguous and fit the query");
  return t.const_data_ptr();
}

std::tuple<Tensor, Tensor, Tensor> attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                             const Tensor& latent_key, const Tensor& latent_value, const Tensor& norm,
                                             const MaybeTensor& key_scale, const MaybeTensor& value_scale,
                                             const Tensor& knowledge_query, const MaybeTensor& query_weight,
                                             const Tensor& key_weight, const Tensor& key_bias,
                                             const Tensor& value_weight, const Tensor& value_bias,
                                             const MaybeTensor& bias, const MaybeTensor& prompt_mask,
                                             const MaybeTensor& knowledge_range, double scale,
                                             std::optional<int64_t> window, bool int8_products, std::string kernels) {
  LatentAttention p = problem_of(query, key, value, latent_key, latent_value, norm, key_scale, value_scale, bias,
                                 prompt_mask, knowledge_range, scale, window, int8_products);
  Tensor made = torch::stable::new_empty(query, {query_weight ? p.B : 0, p.Hq, p.N, p.D});
  QueryHead head{};
  if (query_weight) {
    // With a weight it is hidden states, (B, N, width).
    head.width = int(query_weight->size(-1));
    STD_TORCH_CHECK(knowledge_query.dim() == 3 && head.width > 0 && head.width % 2 == 0,
                    "hidden states must be (B, N, width) of an even width");
    head.hidden = strided("hidden_states", knowledge_query, query, 0, p.B, p.N, head.width, Batch::may_be_shared);
    head.hidden.batch = head.hidden.head, head.hidden.head = 0;
    head.weight = weights_of("query_weight", *query_weight, query, p, head.width);
  }
  const Strided r = strided("knowledge_query", query_weight ? made : knowledge_query, query, p.B, p.Hq, p.N, p.D);
  const Projection projection{
      weights_of("key_weight", key_weight, query, p, p.P), weights_of("key_bias", key_bias, query, p, 1),
      weights_of("value_weight", value_weight, query, p, p.P), weights_of("value_bias", value_bias, query, p, 1)};
  Tensor output = torch::stable::new_empty(query, {p.B, p.N, p.Hq, p.D});
  Tensor lse = torch::stable::new_empty(query, {p.B, p.Hq, p.N}, ScalarType::Float);
  p.lse = floats(lse);
  latent_attention(p, r, head, projection, output.mutable_data_ptr(), kernels_named(kernels), workers(), parallel);
  return {torch::stable::transpose(output, 1, 2), lse, made};
}

}  // namespace
}  // namespace kblam::binding

STABLE_TORCH_LIBRARY_FRAGMENT(kblam_kernels, m) {
  m.def(
      "latent_forward_cpu(Tensor query, Tensor key, Tensor value, Tensor latent_key, Tensor latent_value, Tensor norm, "
      "Tensor? key_scale, Tensor? value_scale, Tensor absorbed_query, Tensor constant, Tensor? bias, "
      "Tensor? prompt_mask, Tensor? knowledge_range, float scale, int? window, "
      "bool int8_products, str kernels) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "latent_attention_cpu(Tensor query, Tensor key, Tensor value, Tensor latent_key, Tensor latent_value, "
      "Tensor norm, Tensor? key_scale, Tensor? value_scale, Tensor knowledge_query, Tensor? query_weight, "
      "Tensor key_weight, "
      "Tensor key_bias, Tensor value_weight, Tensor value_bias, Tensor? bias, Tensor? prompt_mask, "
      "Tensor? knowledge_range, float scale, int? window, "
      "bool int8_products, str kernels) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CPU, m) {
  m.impl("latent_forward_cpu", TORCH_BOX(&kblam::binding::forward));
  m.impl("latent_attention_cpu", TORCH_BOX(&kblam::binding::attention));
}
