"""Attention to latents as an object."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kblam_kernels.common.call import AttentionCall
from kblam_kernels.common.checks import check_alike
from kblam_kernels.errors import refuse
from kblam_kernels.knowledge import LatentKnowledge, LatentProjection


@dataclass(frozen=True)
class LatentCall(AttentionCall):
    """Attention of all heads to latents, read through the projection of the current layer.

    Args:
        latent_key, latent_value, norm, key_scale, value_scale: (M, P) twice and (M,), as `LatentKnowledge`.
        key_weight, key_bias, value_weight, value_bias: (Hq, D, P) and (Hq, D), as `LatentProjection`.
        int8_products: int8 latents may be multiplied as int8; only the C++ kernels use this.
        materialised: read as keys and values, a piece at a time (`pieces.py`).
    """

    KNOWLEDGE = "latent_key"
    STRIDED = ("query", "key", "value", "knowledge_query", "latent_key", "latent_value")
    DIFFERENTIABLE = ("query", "key", "value", "knowledge_query", "bias")

    latent_key: Tensor
    latent_value: Tensor
    norm: Tensor
    key_scale: Tensor | None
    value_scale: Tensor | None
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    int8_products: bool
    materialised: bool = False

    @property
    def knowledge(self) -> LatentKnowledge:
        """The latents and their projection."""
        projection = LatentProjection(self.key_weight, self.key_bias, self.value_weight, self.value_bias)
        return LatentKnowledge(
            self.latent_key, self.latent_value, self.norm, projection, self.key_scale, self.value_scale
        )

    def check(self) -> None:
        super().check()
        check_alike({"knowledge": self.key_weight}, self.query)
        check_projection(self.key_weight, self.query)
        self.check_gradients(
            self.DIFFERENTIABLE,
            "latents and their projection get",
            "detach it, or train on dense knowledge (LatentKnowledge.to_dense); queries, prompt and bias get one",
        )


def check_projection(key_weight: Tensor, query: Tensor) -> None:
    """The projection of latents has the heads of the query."""
    Hq, D = query.shape[1], query.shape[3]
    if tuple(key_weight.shape[:2]) != (Hq, D):
        refuse(
            f"the latents' projection is for {key_weight.shape[0]} heads of width {key_weight.shape[1]}; query "
            f"{tuple(query.shape)} needs one per query head, Hq={Hq} and D={D}"
        )
