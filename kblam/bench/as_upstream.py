"""A whole model with knowledge the way microsoft/KBLaM runs it (docs/upstream.md): the peer of `attach`.

Keys and values of all triples lie on the device for every knowledge layer. At each forward pass of each of these layers
they are concatenated in front of the prompt's, whose key heads are repeated to query heads; all scores are computed by
the model's query, those of knowledge again by the knowledge query, and a softmax in float32 follows. Other layers run
eager attention too.

In its favour: keys and values lie as they are concatenated, unused slots take no memory, and the knowledge query is
computed in knowledge layers alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from kblam.bench.models import SyntheticKnowledge
from kblam.bench.operands import grouped
from kblam.errors import BenchmarkError
from kblam.models import Attachment
from kblam.models.families import attention_modules
from kblam_kernels import DenseKnowledge
from kblam_kernels.plan.devices import free_memory

AS_UPSTREAM = "as upstream"
# Of the logits' root mean square. In bfloat16 the two round in other places: 2 % of it at 30 layers; in float32 1e-6.
ALLOWED = 5e-2
_GATE_TOKENS = 8
_NAME = "kblam_bench_as_upstream"


class _Known(NamedTuple):
    """What a knowledge layer is handed: its knowledge query (B, Hq, N, D), if it has one, and a bias for its scores."""

    query: Tensor | None
    knowledge: DenseKnowledge
    bias: float


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    known: _Known | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """In transformers' registry: query (B, Hq, N, D), key and value (B, Hkv, T, D) -> (B, N, Hq, D)."""
    B, H = query.shape[:2]
    key, value = grouped(key, H), grouped(value, H)
    if known is not None:
        of_knowledge = known.knowledge.key.expand(B, -1, -1, -1)
        M = of_knowledge.shape[2]
        key = torch.cat([of_knowledge, key], dim=2)
        value = torch.cat([known.knowledge.value.expand(B, -1, -1, -1), value], dim=2)
        if attention_mask is not None:
            attention_mask = nn.functional.pad(attention_mask, (M, 0))
    scores = query @ key.transpose(2, 3) * scaling
    if known is not None and known.query is not None:
        again = known.query @ of_knowledge.transpose(2, 3) * scaling + known.bias
        scores = torch.cat([again, scores[..., M:]], dim=-1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), None


class AsUpstream:
    """The same knowledge as a source that an attachment reads, in force without it.

    Args:
        attachment: of the model. Its hooks do nothing meanwhile.
        source: latents; what they stand for is made here, for every knowledge layer.
    """

    def __init__(self, attachment: Attachment, source: SyntheticKnowledge) -> None:
        config = attachment.config
        self._attachment = attachment
        self._layers = {layer: source.layer(layer).to_dense() for layer in config.knowledge_layers}
        scale = config.knowledge_scale
        self._bias = 0.0 if scale is None else math.log(scale) - math.log(max(source.num_triples, 1))
        AttentionInterface.register(_NAME, _attention)
        AttentionMaskInterface.register(_NAME, eager_mask)

    @torch.inference_mode()
    def reason_against(self, source: SyntheticKnowledge) -> str | None:
        """Why this is not what the attachment computes from the same knowledge, or None: the gate before its time."""
        model: Any = self._attachment.model
        draw = torch.Generator(model.device).manual_seed(0)
        ids = torch.randint(model.config.vocab_size, (1, _GATE_TOKENS), generator=draw, device=model.device)
        with self._attachment.using(source):
            ours = model(ids).logits.double()
        with self.in_force():
            theirs = model(ids).logits.double()
        error = ((theirs - ours).square().mean() / ours.square().mean()).sqrt().item()
        return None if error <= ALLOWED else f"{error:.1e} off our logits, {ALLOWED} is allowed; not timed"

    @property
    def num_bytes(self) -> int:
        """What the keys and values take."""
        return sum(tensor.nbytes for each in self._layers.values() for tensor in (each.key, each.value))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """For every call of the model in this block; one thread at a time."""
        model: Any = self._attachment.model
        before = self._attachment.implementation
        modules = attention_modules(model)
        hooks = [
            modules[layer].register_forward_pre_hook(functools.partial(self._hand_over, layer), with_kwargs=True)
            for layer in self._layers
        ]
        model.set_attn_implementation(_NAME)
        try:
            yield
        finally:
            model.set_attn_implementation(before)
            for hook in hooks:
                hook.remove()

    def _hand_over(
        self, layer: int, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        query = self._attachment.adapter.knowledge_query(layer, states)
        return args, {**kwargs, "known": _Known(query, self._layers[layer], self._bias)}


def checked(attachment: Attachment, source: SyntheticKnowledge, device: str) -> AsUpstream:
    """`AsUpstream` of a source, which fits and passed the gate.

    Raises:
        BenchmarkError: it does not fit, or does not compute the same; the message says which.
    """
    config, size = attachment.config, source.dtype.itemsize
    of_layer = 2 * source.num_triples * config.num_heads * config.head_dim * size
    # Those of all layers, and the concatenation of one; a GPU says by itself what it cannot hold.
    needed = (len(config.knowledge_layers) + 1) * of_layer
    if torch.device(device).type != "cuda" and needed > (free := free_memory(torch.device(device))):
        raise BenchmarkError(
            f"does not fit: keys and values of {source.num_triples:,} triples need about {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free"
        )
    peer = AsUpstream(attachment, source)
    if (reason := peer.reason_against(source)) is not None:
        raise BenchmarkError(f"failed: {reason}")
    return peer
