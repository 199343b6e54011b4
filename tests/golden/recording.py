"""Attention weights of an attached model, recomputed from what its attention was given and the lse it returned.

The registered attention function is wrapped for the length of a forward pass; neither the model nor its modules
are touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from kblam.models.attention import IMPLEMENTATION, LayerKnowledge, attention_forward, register
from kblam_kernels import DenseKnowledge, LatentKnowledge, evidence, rectangular_attention
from kblam_kernels.common.columns import prompt_visibility


@dataclasses.dataclass(frozen=True)
class PromptBlock:
    """What an attention call was given for the prompt."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    window: int | None
    scale: float


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One layer in one forward pass: what its attention was given, and the lse over both blocks."""

    prompt: PromptBlock
    knowledge: DenseKnowledge | LatentKnowledge
    knowledge_query: Tensor
    bias: Tensor | float
    lse: Tensor
    index: Tensor | None

    def prompt_weights(self, rows: Tensor) -> Tensor:
        """(B, H, R, T) of the queries `rows`."""
        query, key = self.prompt.query, self.prompt.key
        N, T = query.shape[2], key.shape[2]
        visible = prompt_visibility(N, T, slice(0, T), self.prompt.mask, self.prompt.window, query.device)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query[:, :, rows].float() @ key.float().transpose(-1, -2) * self.prompt.scale
        return torch.exp(scores.masked_fill(~visible[:, None, rows], float("-inf")) - self.lse[:, :, rows, None])

    def knowledge_weights(self, rows: Tensor) -> Tensor:
        """(B, H, R, M) of the queries `rows`."""
        bias, scale = torch.as_tensor(self.bias), self.prompt.scale
        dense = self.knowledge.to_dense() if isinstance(self.knowledge, LatentKnowledge) else self.knowledge
        scores = self.knowledge_query[:, :, rows].float() @ dense.key.float().transpose(-1, -2) * scale
        scores = scores + (bias[:, None, None] if bias.dim() == 2 else bias)
        return torch.exp(scores - self.lse[:, :, rows, None])

    def mass(self, row_weight: Tensor) -> Tensor:
        """What `evidence` says of the same attention: (B, M), `row_weight` being (B, N)."""
        return evidence(
            self.knowledge_query,
            self.knowledge,
            self.lse,
            scale=self.prompt.scale,
            knowledge_bias=self.bias,
            row_weight=row_weight[:, None],
        )


@contextmanager
def recording() -> Iterator[list[dict[int, LayerCall]]]:
    """Yields a list that gets one dict, layer -> call, for every forward pass of the block."""
    passes: list[dict[int, LayerCall]] = []

    def recorder(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        layer_knowledge: LayerKnowledge | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        layer: Any = module.layer_idx
        if layer == 0:
            passes.append({})

        scale = query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
        window = kwargs.get("sliding_window")

        def observe(
            knowledge: DenseKnowledge | LatentKnowledge,
            query: Tensor,
            bias: Tensor | float,
            lse: Tensor,
            index: Tensor | None,
            **_: Any,
        ) -> None:
            passes[-1][layer] = LayerCall(prompt, knowledge, query, bias, lse, index)

        prompt = PromptBlock(query, key, attention_mask, window, scale)
        if layer_knowledge is None:
            _, lse = rectangular_attention(
                query, key, value, prompt_mask=attention_mask, window=window, scale=scale, return_lse=True
            )
            nothing = DenseKnowledge.empty(query.shape[1], query.shape[-1], dtype=query.dtype, device=query.device)
            observe(nothing, query, 0.0, lse, None)
        else:
            layer_knowledge = dataclasses.replace(layer_knowledge, observe=observe)
        return attention_forward(
            module, query, key, value, attention_mask, *args, layer_knowledge=layer_knowledge, **kwargs
        )

    AttentionInterface.register(IMPLEMENTATION, recorder)
    try:
        yield passes
    finally:
        register()
