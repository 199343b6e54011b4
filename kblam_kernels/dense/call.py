"""Attention to dense knowledge as an object."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kblam_kernels.common.call import AttentionCall
from kblam_kernels.common.checks import check_alike
from kblam_kernels.errors import refuse


@dataclass(frozen=True)
class DenseCall(AttentionCall):
    """Attention to keys and values of each head.

    Args:
        knowledge_key, knowledge_value: (Hq, M, D) shared by the batch, or (B, Hq, M, D).
    """

    KNOWLEDGE = "knowledge_key"
    STRIDED = ("query", "key", "value", "knowledge_query", "knowledge_key", "knowledge_value")
    DIFFERENTIABLE = ("query", "key", "value", "knowledge_query", "knowledge_key", "knowledge_value", "bias")

    knowledge_key: Tensor
    knowledge_value: Tensor

    def check(self) -> None:
        super().check()
        check_alike({"knowledge": self.knowledge_key}, self.query)
        check_heads(self.knowledge_key, self.query)


def check_heads(knowledge_key: Tensor, query: Tensor) -> None:
    """Dense keys have one head for each query head."""
    (B, Hq, _, D), M = query.shape, knowledge_key.shape[-2]
    expected = (Hq, M, D) if knowledge_key.dim() == 3 else (B, Hq, M, D)
    if tuple(knowledge_key.shape) != expected:
        refuse(
            f"knowledge of shape {tuple(knowledge_key.shape)} does not fit query {tuple(query.shape)}: it needs one "
            f"head per query head, (Hq={Hq}, M, D={D}) or (B={B}, Hq={Hq}, M, D={D})"
        )
