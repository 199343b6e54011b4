// The torch side of evidence.
#include "launch/mass.h"
#include "tensors.h"

namespace kblam::binding {
namespace {

void take(Scores& p, const Tensor& rows, const Tensor& key, const MaybeTensor& norm, const MaybeTensor& key_scale,
          const MaybeTensor& constant, const MaybeTensor& bias, const MaybeTensor& knowledge_range, double scale,
          bool bytes) {
  STD_TORCH_CHECK(rows.dim() == 4 && key.dim() >= 2 && key.dim() <= 4, "rows must be of rank 4, key of rank 2 to 4");
  p.dtype = dtype_of(rows);
  p.B = rows.size(0), p.Hq = rows.size(1), p.N = rows.size(2), p.width = int(rows.size(3));
  p.M = key.size(-2);
  STD_TORCH_CHECK(p.width > 0 && key.is_cpu() && last_is_contiguous(key) && key.size(-1) == p.width &&
                      (key.dim() == 2 || key.size(-3) == p.Hq) && (key.dim() < 4 || key.size(0) == p.B),
                  "key has a shape or device that does not fit the rows");
  p.rows = strided("rows", rows, rows, p.B, p.Hq, p.N, p.width);
  p.keys.key = key.const_data_ptr();
  p.keys.key_stride = key.stride(-2);
  p.keys.storage = storage_of(key);
  p.heads = key.dim() == 2 ? 1 : p.Hq;
  p.key_head = key.dim() == 2 ? 0 : key.stride(-3);
  p.key_batch = key.dim() == 4 ? key.stride(0) : 0;
  if (norm) p.keys.norm = floats_of("norm", *norm, {p.M});
  if (key_scale) p.keys.key_scale = floats_of("key_scale", *key_scale, {p.M});
  if (constant) p.constant = floats_of("constant", *constant, {p.B, p.Hq, p.N});
  if (bias) p.bias = bias_of(*bias, p.B, p.M, p.bias_batch, p.bias_token);
  if (knowledge_range) p.knowledge_range = range_of(*knowledge_range, p.B), p.range_rows = knowledge_range->size(0);
  p.scale = float(scale);
  p.bytes = bytes;
}

// Contiguous int64 (count,) of numbers in [0, end).
const int64_t* below(const Tensor& t, int64_t count, int64_t end) {
  STD_TORCH_CHECK(
      t.scalar_type() == ScalarType::Long && t.is_cpu() && t.is_contiguous() && t.dim() == 1 && t.size(0) == count,
      "rows and blocks must be contiguous int64 of one length");
  const auto* numbers = static_cast<const int64_t*>(t.const_data_ptr());
  STD_TORCH_CHECK(std::all_of(numbers, numbers + count, [&](int64_t i) { return 0 <= i && i < end; }),
                  "a row or a block is not one of the call's");
  return numbers;
}

Tensor mass(const Tensor& rows, const Tensor& key, const MaybeTensor& norm, const MaybeTensor& key_scale,
            const MaybeTensor& constant, const Tensor& lse, const MaybeTensor& bias, const MaybeTensor& knowledge_range,
            const Tensor& row_weight, double scale, bool bytes, std::string kernels) {
  Mass p{};
  take(p, rows, key, norm, key_scale, constant, bias, knowledge_range, scale, bytes);
  p.lse = floats_of("lse", lse, {p.B, p.Hq, p.N});
  p.row_weight = floats_of("row_weight", row_weight, {p.B, p.Hq, p.N});
  Tensor result = torch::stable::new_empty(lse, {p.B, p.M});
  p.mass = static_cast<float*>(result.mutable_data_ptr());
  evidence_mass(p, kernels_named(kernels), workers(), parallel);
  return result;
}

// `rows_of` and `blocks`: int64 (n,), a batch row and one of its blocks of tokens each -> (n, tokens of a block).
Tensor mass_of_blocks(const Tensor& rows, const Tensor& key, const MaybeTensor& norm, const MaybeTensor& key_scale,
                      const MaybeTensor& constant, const Tensor& lse, const MaybeTensor& bias,
                      const MaybeTensor& knowledge_range, const Tensor& row_weight, const Tensor& rows_of,
                      const Tensor& blocks, double scale, bool bytes, std::string kernels) {
  Mass p{};
  take(p, rows, key, norm, key_scale, constant, bias, knowledge_range, scale, bytes);
  p.lse = floats_of("lse", lse, {p.B, p.Hq, p.N});
  p.row_weight = floats_of("row_weight", row_weight, {p.B, p.Hq, p.N});
  const int64_t count = rows_of.size(0);
  const int64_t *of_row = below(rows_of, count, p.B), *chosen = below(blocks, count, p.blocks());
  Tensor result = torch::stable::new_empty(lse, {count, SCORE_BLOCK});
  p.mass = static_cast<float*>(result.mutable_data_ptr());
  evidence_blocks(p, of_row, chosen, count, kernels_named(kernels), workers(), parallel);
  return result;
}

// `result`: float32 (B, Hq, N), written, and so is `block_max`, (B, Hq, N, blocks of tokens).
void lse(const Tensor& rows, const Tensor& key, const MaybeTensor& norm, const MaybeTensor& key_scale,
         const MaybeTensor& constant, const MaybeTensor& bias, const MaybeTensor& knowledge_range, Tensor result,
         MaybeTensor block_max, double scale, bool bytes, std::string kernels) {
  Scores p{};
  take(p, rows, key, norm, key_scale, constant, bias, knowledge_range, scale, bytes);
  floats_of("result", result, {p.B, p.Hq, p.N});
  if (block_max) floats_of("block_max", *block_max, {p.B, p.Hq, p.N, p.blocks()});
  knowledge_lse(p, static_cast<float*>(result.mutable_data_ptr()),
                block_max ? static_cast<float*>(block_max->mutable_data_ptr()) : nullptr, kernels_named(kernels),
                workers(), parallel);
}

}  // namespace
}  // namespace kblam::binding

STABLE_TORCH_LIBRARY_FRAGMENT(kblam_kernels, m) {
  m.def(
      "evidence_mass_cpu(Tensor rows, Tensor key, Tensor? norm, Tensor? key_scale, Tensor? constant, Tensor lse, "
      "Tensor? bias, Tensor? knowledge_range, Tensor row_weight, float scale, bool int8_products, str kernels) -> "
      "Tensor");
  m.def(
      "evidence_blocks_cpu(Tensor rows, Tensor key, Tensor? norm, Tensor? key_scale, Tensor? constant, Tensor lse, "
      "Tensor? bias, Tensor? knowledge_range, Tensor row_weight, Tensor rows_of, Tensor blocks, float scale, "
      "bool int8_products, str kernels) -> Tensor");
  m.def(
      "knowledge_lse_cpu(Tensor rows, Tensor key, Tensor? norm, Tensor? key_scale, Tensor? constant, Tensor? bias, "
      "Tensor? knowledge_range, Tensor(a!) result, Tensor(b!)? block_max, float scale, bool int8_products, str "
      "kernels) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(kblam_kernels, CPU, m) {
  m.impl("evidence_mass_cpu", TORCH_BOX(&kblam::binding::mass));
  m.impl("evidence_blocks_cpu", TORCH_BOX(&kblam::binding::mass_of_blocks));
  m.impl("knowledge_lse_cpu", TORCH_BOX(&kblam::binding::lse));
}
