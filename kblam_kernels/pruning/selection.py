"""Knowledge of chosen tokens: rows gathered from dense keys and values, or from latents."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge, dequantise


def of_each_row(knowledge: DenseKnowledge | LatentKnowledge, index: Tensor) -> DenseKnowledge:
    """Tokens index[b] of each batch row: (B, Hq, k, D), gathered, or projected from the gathered latents."""
    if isinstance(knowledge, DenseKnowledge):
        B, k = index.shape
        H, M, D = knowledge.key.shape[-3:]
        rows = index[:, None, :, None].expand(B, H, k, D)
        key, value = (t.expand(B, H, M, D).gather(2, rows) for t in (knowledge.key, knowledge.value))
        return DenseKnowledge(key, value)
    p = knowledge.projection
    dtype = p.key_weight.dtype

    def projected(latents: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        chosen = dequantise(latents[index.flatten()], None if scale is None else scale[index.flatten()], dtype)
        return chosen.view(len(index), 1, -1, p.width) @ weight.transpose(1, 2) + bias[:, None]

    key = projected(knowledge.key, knowledge.key_scale, p.key_weight, p.key_bias)
    value = projected(knowledge.value, knowledge.value_scale, p.value_weight, p.value_bias)
    return DenseKnowledge((key * knowledge.norm[index][:, None, :, None]).to(dtype), value)


def of_all_rows(knowledge: DenseKnowledge | LatentKnowledge, index: Tensor) -> DenseKnowledge | LatentKnowledge:
    """The same tokens index (k,) for the whole batch, in the layout that they have."""
    if isinstance(knowledge, DenseKnowledge):
        return DenseKnowledge(knowledge.key.index_select(-2, index), knowledge.value.index_select(-2, index))
    scales = (None if t is None else t[index] for t in (knowledge.key_scale, knowledge.value_scale))
    return LatentKnowledge(
        knowledge.key[index], knowledge.value[index], knowledge.norm[index], knowledge.projection, *scales
    )
