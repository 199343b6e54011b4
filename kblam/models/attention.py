"""The attention function that transformers calls in every layer of a model with knowledge in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from kblam.errors import KnowledgeError
from kblam.models.calls import KnowledgeCall
from kblam.models.lse import can_be_alone, lse_alone
from kblam.models.masks import mask_of_call
from kblam.models.switch import IMPLEMENTATION, base_attention, base_of, has_knowledge
from kblam_kernels import RectangularAttention, prune
from kblam_kernels.common.columns import prompt_visibility


class QueryHead(NamedTuple):
    """A knowledge query that the kernels may compute: `F.linear(hidden_states, weight)`, head by head."""

    hidden_states: Tensor
    weight: Tensor

    def made(self, query: Tensor) -> Tensor:
        """The knowledge query, (B, Hq, N, D) like `query`."""
        B, Hq, N, D = query.shape
        return F.linear(self.hidden_states, self.weight).view(B, N, Hq, D).transpose(1, 2)


@dataclass(slots=True)  # not frozen: one is made in every layer at every step, and freezing takes longer than the rest
class LayerKnowledge:
    """What a knowledge layer's attention needs beside the prompt; passed in the module's keyword arguments.

    Args:
        attend: attention to this layer's keys and values, or to latents and how it reads them.
        query: the knowledge query (B, Hq, N, D), or None to use the rotated one; a `QueryHead` where it is still to be
            computed.
        bias: number, () , (M,) or (B, M) float32, added to knowledge scores.
        knowledge_range: int32 (B, 2) or None, the [start, end) of M each row sees.
        top_k: attend to this many best triples only; None attends to all.
        observe: called after the attention with what it used and its lse.
        newest: where `observe` ends the pass, so many of the last tokens are all that it is shown; None for all.
    """

    attend: RectangularAttention
    query: Tensor | QueryHead | None
    bias: float | Tensor
    knowledge_range: Tensor | None
    top_k: int | None = None
    observe: Callable[..., None] | None = None
    newest: int | None = None


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    prompt_window: int | None = None,
    knowledge_call: KnowledgeCall | None = None,
    layer_knowledge: LayerKnowledge | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Registered as "kblam". query (B, Hq, N, D), key and value (B, Hkv, T, D) -> (B, N, Hq, D).

    A call without knowledge, made while another call has some, gets the result of the model's own attention.
    """
    # With knowledge in force yet none here it is another model of the same config object: its mask is made for us.
    if knowledge_call is None and not has_knowledge(module.config):
        given = {"scaling": scaling, "dropout": dropout, **kwargs}
        if sliding_window is not None:
            given["sliding_window"] = sliding_window
        found: tuple[Tensor, Tensor | None] = base_attention(module)(module, query, key, value, attention_mask, **given)
        return found
    if layer_knowledge is not None and torch.is_autocast_enabled(query.device.type):
        # The rotary embedding leaves queries and keys in float32, while values and the knowledge query come out of
        # linear layers in half precision. All attention to knowledge runs in the query's dtype.
        with torch.autocast(query.device.type, enabled=False):
            return attention_forward(
                module,
                query,
                key,
                value,
                attention_mask,
                scaling,
                dropout,
                sliding_window,
                prompt_window,
                knowledge_call,
                layer_knowledge,
                **kwargs,
            )
    if knowledge_call is not None and knowledge_call.probe is not None:
        knowledge_call.probe(module, query, key, value, attention_mask, sliding_window, kwargs)
    # What only the model's own mask would hide, where its attention is not told (`proof.py`).
    sliding_window = prompt_window if sliding_window is None else sliding_window
    if attention_mask is not None and attention_mask.shape[-1] < key.shape[2]:
        key, value = key[:, :, : attention_mask.shape[-1]], value[:, :, : attention_mask.shape[-1]]
    if layer_knowledge is None:
        return _prompt_attention(module, query, key, value, attention_mask, scaling, dropout, sliding_window, kwargs)
    if dropout:
        raise KnowledgeError(
            f"attention_dropout is {dropout}; knowledge layers do not drop attention: set it to 0 in the model's config"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    r = query if layer_knowledge.query is None else layer_knowledge.query
    if isinstance(r, QueryHead) and layer_knowledge.top_k is not None:
        r = r.made(query)
    if isinstance(r, Tensor) and not query.dtype == key.dtype == value.dtype == r.dtype:
        key, value, r = (tensor.to(query.dtype) for tensor in (key, value, r))
    attend, bias, index = layer_knowledge.attend, layer_knowledge.bias, None
    knowledge_range = layer_knowledge.knowledge_range
    knowledge = attend.knowledge
    if isinstance(r, Tensor) and layer_knowledge.top_k is not None and layer_knowledge.top_k < knowledge.num_tokens:
        # Padding is left out of the choice. One new token is never padding, and in a static cache its column is not the
        # last.
        N = query.shape[2]
        seen = attention_mask[:, None, -N:] if attention_mask is not None and N > 1 else None
        knowledge, bias, index = prune(
            r,
            knowledge,
            layer_knowledge.top_k,
            knowledge_bias=bias,
            knowledge_range=knowledge_range,
            row_weight=seen,
        )
        knowledge_range = None
    newest = None if torch.compiler.is_compiling() else layer_knowledge.newest
    if newest is not None:
        query = query[:, :, -newest:]
        r = r[:, :, -newest:] if isinstance(r, Tensor) else r
    if knowledge is not attend.knowledge:
        attend = RectangularAttention(knowledge, int8_products=attend.int8_products, backend=attend.backend)
    options: dict[str, Any] = {
        "scale": scale,
        "window": sliding_window,
        "knowledge_bias": bias,
        "prompt_mask": attention_mask,
        "knowledge_range": knowledge_range,
    }
    block_max = None
    if isinstance(r, QueryHead):
        output, lse, r = attend.of_hidden_states(query, key, value, *r, **options)
    elif newest is not None and can_be_alone(attend, r):
        # The pass ends below: nobody reads its output.
        output, (lse, block_max) = query, lse_alone(attend, query, key, value, r, **options)
    else:
        output, lse = attend(query, key, value, r, **options)
    if layer_knowledge.observe is not None:
        planned = None if torch.compiler.is_compiling() else attend.planned
        layer_knowledge.observe(
            knowledge=knowledge,
            query=r,
            bias=bias,
            knowledge_range=knowledge_range,
            scale=scale,
            lse=lse,
            index=index,
            int8_products=attend.int8_products,
            # Evidence has to be computed as the attention was.
            backend=attend.backend if planned is None else planned.backend,
            **({} if block_max is None else {"block_max": block_max}),
        )
    return output.transpose(1, 2), None


def _prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """A layer that sees no knowledge: the model's own flash attention where it has one, else SDPA."""
    if base_of(module.config).startswith("flash_attention"):
        output, _ = base_attention(module)(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            sliding_window=sliding_window,
            **kwargs,
        )
        return output, None
    N, T = query.shape[2], key.shape[2]
    windowed = sliding_window is not None and sliding_window < T
    mask, causal = None, False
    if attention_mask is None and not windowed and N in (1, T):
        causal = N > 1
    elif N == 1 and not windowed and attention_mask is not None:
        mask = attention_mask[:, None, None, :]
    else:
        window = sliding_window if windowed else None
        mask = prompt_visibility(N, T, slice(0, T), attention_mask, window, query.device)[:, None]
    output = F.scaled_dot_product_attention(
        query, key, value, mask, dropout, causal, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return output.transpose(1, 2), None


def register() -> None:
    """Puts the function and its mask into transformers' registries; a second call changes nothing."""
    AttentionInterface.register(IMPLEMENTATION, attention_forward)
    AttentionMaskInterface.register(IMPLEMENTATION, mask_of_call)
