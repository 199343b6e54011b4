"""Hooks that run in an attached model at every step: the decoder's reads the call, each layer's what it needs.

Classes of this module, not closures, so that a model with hooks can be copied and pickled.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter import AdapterConfig
from kblam.errors import KnowledgeError
from kblam.models import cache_name
from kblam.models.attention import LayerKnowledge, QueryHead
from kblam.models.calls import KnowledgeCall, Observer, rows_of_each
from kblam.models.masks import flags_given, is_flags
from kblam.models.switch import IMPLEMENTATION
from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class DecoderHook:
    """Forward pre-hook of the decoder: reads the knowledge in force once and passes it to the layers.

    A mask that the caller prepared goes round transformers' mask registry, so it is turned into flags here.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        self.attachment.settle()
        call = self.attachment.call
        if call is None:
            return None
        kwargs = {**kwargs, "knowledge_call": call}
        if args and not torch.compiler.is_compiling():  # the models themselves pass all by name
            kwargs = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
            args = ()
        if not is_flags(mask := kwargs.get("attention_mask")):
            tokens = kwargs.get("input_ids") if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
            cache, new_tokens = cache_name.of_call(kwargs), 0 if tokens is None else tokens.shape[1]
            columns = new_tokens if cache is None else new_tokens + int(cache.get_seq_length())
            kwargs["attention_mask"] = flags_given(mask, new_tokens, columns, self._shortest_window(module))
        return args, kwargs

    def _shortest_window(self, module: nn.Module) -> int | None:
        known = (getattr(module.config, "sliding_window", None), *self.attachment.windows)
        return min((window for window in known if window is not None), default=None)


class LayerHook:
    """Forward pre-hook of an attention module: adds what its attention needs where it sees knowledge."""

    def __init__(self, attachment: Attachment, layer: int) -> None:
        self.attachment, self.layer = attachment, layer
        self.has_knowledge = layer in attachment.config.knowledge_layers

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        call: KnowledgeCall | None = kwargs.get("knowledge_call")
        if call is None:
            return None
        if (now := self.attachment.implementation) != IMPLEMENTATION:
            raise KnowledgeError(
                f"the attention implementation became {now!r} while knowledge was in force; choose it before `using` "
                "or set_knowledge, and call backward() inside the block if activation checkpointing runs layers again"
            )
        if (window := self.attachment.windows[self.layer]) is not None:
            kwargs = {**kwargs, "prompt_window": window}
        if not self.has_knowledge:
            return args, kwargs
        hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        observe, newest = None, None
        if call.observer is not None and self.layer == self.attachment.config.evidence_layer:
            observe, newest = functools.partial(call.observer, cache=cache_name.of_call(kwargs)), call.newest
        return args, {**kwargs, "layer_knowledge": self._layer_knowledge(call, module, hidden_states, observe, newest)}

    def _layer_knowledge(
        self,
        call: KnowledgeCall,
        module: nn.Module,
        hidden_states: Tensor,
        observe: Observer | None,
        newest: int | None,
    ) -> LayerKnowledge:
        (batch, new_tokens), config = hidden_states.shape[:2], self.attachment.config
        knowledge = call.source.layer(self.layer, new_tokens=min(new_tokens, newest or new_tokens))
        top_k = config.top_k if config.top_k is not None and config.top_k < knowledge.num_tokens else None
        return LayerKnowledge(
            attend=call.attention(self.layer, _repeat_knowledge(call, knowledge, batch), self._attention_over),
            query=self._query(call, module, hidden_states, knowledge),
            bias=_total_bias(call, config, top_k, batch, knowledge.num_tokens),
            knowledge_range=_total_range(call, batch),
            top_k=top_k,
            observe=observe,
            newest=newest,
        )

    def _attention_over(self, knowledge: DenseKnowledge | LatentKnowledge) -> RectangularAttention:
        options = self.attachment.options
        return RectangularAttention(knowledge, int8_products=options.int8_products, backend=options.backend)

    def _query(
        self,
        call: KnowledgeCall,
        module: nn.Module,
        hidden_states: Tensor,
        knowledge: DenseKnowledge | LatentKnowledge,
    ) -> Tensor | QueryHead | None:
        """The knowledge query, or how to compute it where the kernels need less time than a separate matrix product."""
        adapter, norm = self.attachment.adapter, self.attachment.family.query_norm
        small = self.attachment.query_heads.of(self.layer)
        head = adapter.plain_query_head(self.layer) if norm is None and small is None else None
        if (
            head is not None
            and isinstance(knowledge, LatentKnowledge)
            and hidden_states.shape[1] == 1
            and hidden_states.dtype == head.weight.dtype
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        ):
            return QueryHead(hidden_states, head.weight)
        part = call.question_part(adapter, self.layer, may_change=self.attachment.options.trainable)
        if part is not None:
            part = _repeat_rows(call, "question", part, hidden_states.shape[0])
        return adapter.knowledge_query(
            self.layer, hidden_states, part, small, norm=None if norm is None else getattr(module, norm)
        )


def hooks_of(module: nn.Module) -> list[DecoderHook | LayerHook]:
    """The hooks of this module's classes on a module."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, (DecoderHook, LayerHook))]


def attachment_of(model: Any) -> Attachment | None:
    """The attachment of a model, or None.

    The hook on its decoder is the only record, so that copies, wrappers and models that share a decoder agree.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if not isinstance(decoder, nn.Module):
        return None
    return next((hook.attachment for hook in hooks_of(decoder) if isinstance(hook, DecoderHook)), None)


def remove_hooks(module: nn.Module, attachment: Attachment) -> None:
    """Removes an attachment's hooks. By what they are, not by a handle: a copy of a model has copies of its hooks."""
    for name, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, (DecoderHook, LayerHook)) and hook.attachment is attachment:
            del module._forward_pre_hooks[name]
            module._forward_pre_hooks_with_kwargs.pop(name, None)


def _repeat_rows(call: KnowledgeCall, name: str, tensor: Tensor, batch: int) -> Tensor:
    """Row b of B becomes rows b * n .. b * n + n - 1 of `batch` = B * n: how `generate` expands for beams."""
    rows = tensor.shape[0]
    each = rows_of_each(rows, batch, call.each)
    if each is None:
        of_prompt = f", {call.each} for each row of generate's prompt" if call.each not in (1, None) else ""
        row = "row of the prompt" if of_prompt else "batch row"
        raise KnowledgeError(f"{name} has {rows} rows and the batch {batch}{of_prompt}; give one per {row}")
    return tensor if each == 1 else tensor.repeat_interleave(each, dim=0)


def _repeat_knowledge(
    call: KnowledgeCall, knowledge: DenseKnowledge | LatentKnowledge, batch: int
) -> DenseKnowledge | LatentKnowledge:
    if isinstance(knowledge, LatentKnowledge) or knowledge.is_shared:
        return knowledge
    key = _repeat_rows(call, "per-row knowledge", knowledge.key, batch)
    if key is knowledge.key:
        return knowledge
    return DenseKnowledge(key, _repeat_rows(call, "per-row knowledge", knowledge.value, batch))


def _total_bias(
    call: KnowledgeCall, config: AdapterConfig, top_k: int | None, batch: int, num_tokens: int
) -> Tensor | float:
    """The caller's bias plus log C - log M, which upstream applies only with a separate query head."""
    bias = call.bias
    if isinstance(bias, Tensor) and bias.dim() == 2:
        bias = _repeat_rows(call, "bias", bias, batch)
    if isinstance(bias, Tensor) and bias.dim() > 0 and bias.shape[-1] < num_tokens:
        # An over-allocated source has rows past its triples.
        bias = F.pad(bias, (0, num_tokens - bias.shape[-1]))
    if config.knowledge_scale is None or not config.separate_query_head:
        return bias
    # A tensor where the number of triples may change: read as a Python number it would force a new compilation.
    log_count = call.source.log_count
    if top_k is not None:
        most = math.log(top_k)
        log_count = log_count.clamp(max=most) if isinstance(log_count, Tensor) else min(log_count, most)
    return bias + (math.log(config.knowledge_scale) - log_count)


def _total_range(call: KnowledgeCall, batch: int) -> Tensor | None:
    """The caller's ranges, within the filled part of an over-allocated source."""
    filled = call.source.filled
    if call.knowledge_range is None:
        return filled if filled is None or batch == 1 else filled.expand(batch, 2)
    ranges = _repeat_rows(call, "knowledge_range", call.knowledge_range, batch)
    return ranges if filled is None else torch.minimum(ranges, filled[:, 1:])
