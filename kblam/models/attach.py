"""Attaching an adapter to a Hugging Face model, and taking it off again.

Nothing of the model's code is replaced: its attention goes through the transformers registry, and a forward
pre-hook on each knowledge layer adds what that layer's attention needs to the keyword arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import KnowledgeError, UnsupportedModelError
from kblam.models.attention import IMPLEMENTATION, LayerKnowledge, register
from kblam.models.families import attention_modules, family_of
from kblam_kernels import DenseKnowledge

_ATTRIBUTE = "_kblam_attachment"


class KnowledgeSource(Protocol):
    """What can be put in force: `ProjectedKnowledge`, or the `ResidentKnowledge` of a knowledge base."""

    @property
    def num_triples(self) -> int:
        """M, the triples in force."""

    @property
    def dtype(self) -> torch.dtype:
        """dtype of keys and values."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def layer(self, layer: int) -> DenseKnowledge:
        """Keys and values of one knowledge layer."""


@dataclass(frozen=True)
class _InForce:
    source: KnowledgeSource
    bias: Tensor | float
    span: Tensor | None


class Attachment:
    """The tie between one model and one adapter; made by `attach`.

    Without knowledge in force the model runs its own attention and gives its own logits, bit for bit.
    """

    def __init__(self, model: PreTrainedModel, adapter: KnowledgeAdapter, backend: str) -> None:
        self.model = model
        self.adapter = adapter
        self.backend = backend
        self.family = family_of(model)
        self._modules = attention_modules(model)
        self._base_implementation: str = model.config.get_text_config()._attn_implementation
        self._in_force: _InForce | None = None
        self._observer: Callable[..., None] | None = None
        self._hooks: list[Any] = []
        self.resident: KnowledgeSource | None = None  # kept by `resident_for`

    @property
    def config(self) -> AdapterConfig:
        """The adapter's."""
        return self.adapter.config

    @property
    def knowledge(self) -> KnowledgeSource | None:
        """What is in force now."""
        return None if self._in_force is None else self._in_force.source

    def set_knowledge(
        self,
        source: KnowledgeSource | None,
        *,
        bias: Tensor | float = 0.0,
        knowledge_range: Tensor | None = None,
    ) -> None:
        """Puts knowledge in force for every following forward pass and `generate`; None takes it away.

        Args:
            source: `ProjectedKnowledge` or `ResidentKnowledge` on the model's device, in its dtype.
            bias: number, or float32 (), (M,) or (B, M), added to knowledge scores; -inf hides a triple.
            knowledge_range: int32 (B, 2), the [start, end) of M that each batch row sees.

        With beam search or several return sequences, per-row values are repeated for the rows that `generate` adds.

        Raises:
            KnowledgeError: if the dtype or device is not the model's.
        """
        if source is None:
            self._in_force = None
            self._use(self._base_implementation)
            return
        model = self.model
        if source.dtype != model.dtype or source.device != model.device:
            raise KnowledgeError(
                f"knowledge is {source.dtype} on {source.device}, the model {model.dtype} on {model.device}; "
                "convert it with .to(dtype=model.dtype, device=model.device)"
            )
        if self.model.config.get_text_config()._attn_implementation != IMPLEMENTATION:
            # Whatever the user chose in between is the base to return to.
            self._base_implementation = self.model.config.get_text_config()._attn_implementation
        self._in_force = _InForce(source, bias, knowledge_range)
        self._use(IMPLEMENTATION)

    @contextmanager
    def using(
        self,
        source: KnowledgeSource | None,
        *,
        bias: Tensor | float = 0.0,
        knowledge_range: Tensor | None = None,
    ) -> Iterator[Attachment]:
        """`set_knowledge` for the length of a `with` block; what was in force before comes back."""
        before = self._in_force
        self.set_knowledge(source, bias=bias, knowledge_range=knowledge_range)
        try:
            yield self
        finally:
            if before is None:
                self.set_knowledge(None)
            else:
                self.set_knowledge(before.source, bias=before.bias, knowledge_range=before.span)

    @contextmanager
    def observing(self, observer: Callable[..., None]) -> Iterator[None]:
        """Calls `observer` after the attention of the evidence layer, in every forward pass of the block.

        It gets, by keyword, what `rectangular_attention` was given and returned: `knowledge` (DenseKnowledge),
        `query` (B, Hq, N, D), `bias`, `span`, `scale`, `lse` (B, Hq, N) and `index` (the triples that `knowledge`
        holds, (B, k), when top_k pruned it; else None). All of it carries gradients.
        """
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def _use(self, implementation: str) -> None:
        if self.model.config.get_text_config()._attn_implementation != implementation:
            self.model.set_attn_implementation(implementation)

    def _install(self) -> None:
        for layer, module in enumerate(self._modules):
            has_knowledge = layer in self.config.knowledge_layers
            hook = self._pre_hook(layer if has_knowledge else None)
            self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _remove(self) -> None:
        self.set_knowledge(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _pre_hook(self, layer: int | None) -> Callable[..., Any]:
        def add_knowledge(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._in_force is None:
                return None
            kwargs["base_implementation"] = self._base_implementation
            if layer is not None:
                hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                kwargs["layer_knowledge"] = self._layer_knowledge(self._in_force, layer, module, hidden_states)
            return args, kwargs

        return add_knowledge

    def _layer_knowledge(
        self, in_force: _InForce, layer: int, module: nn.Module, hidden_states: Tensor
    ) -> LayerKnowledge:
        query = self.adapter.knowledge_query(layer, hidden_states)
        if query is not None and self.family.query_norm is not None:
            query = getattr(module, self.family.query_norm)(query)
        batch, config, source = hidden_states.shape[0], self.config, in_force.source
        top_k = config.top_k if config.top_k is not None and config.top_k < source.num_triples else None
        return LayerKnowledge(
            knowledge=_repeat_knowledge(source.layer(layer), batch),
            query=query,
            bias=_total_bias(in_force, config, top_k, batch),
            span=_span(in_force, batch),
            top_k=top_k,
            backend=self.backend,
            observe=self._observer if layer == config.retrieval_layer else None,
        )


def _repeat_rows(name: str, tensor: Tensor, batch: int) -> Tensor:
    """Row b of B becomes rows b * n .. b * n + n - 1 of `batch` = B * n: how `generate` expands for beams."""
    rows = tensor.shape[0]
    if rows == batch:
        return tensor
    if batch % rows:
        raise KnowledgeError(f"{name} has {rows} rows and the batch {batch}; give one per batch row")
    return tensor.repeat_interleave(batch // rows, dim=0)


def _repeat_knowledge(knowledge: DenseKnowledge, batch: int) -> DenseKnowledge:
    if knowledge.is_shared or knowledge.key.shape[0] == batch:
        return knowledge
    return DenseKnowledge(
        _repeat_rows("per-row knowledge", knowledge.key, batch),
        _repeat_rows("per-row knowledge", knowledge.value, batch),
    )


def _total_bias(in_force: _InForce, config: AdapterConfig, top_k: int | None, batch: int) -> Tensor | float:
    """The caller's bias plus log C - log M, which upstream applies only with a separate query head."""
    bias = in_force.bias
    if isinstance(bias, Tensor) and bias.dim() == 2:
        bias = _repeat_rows("bias", bias, batch)
    if config.knowledge_scale is None or not config.separate_query_head or in_force.source.num_triples == 0:
        return bias
    if top_k is not None:
        return bias + (math.log(config.knowledge_scale) - math.log(top_k))
    log_count = getattr(in_force.source, "log_count", None)
    if log_count is None:
        log_count = math.log(in_force.source.num_triples)
    return bias + (math.log(config.knowledge_scale) - log_count)


def _span(in_force: _InForce, batch: int) -> Tensor | None:
    """The caller's ranges, or the filled part of an over-allocated source."""
    if in_force.span is not None:
        return _repeat_rows("knowledge_range", in_force.span, batch)
    filled: Tensor | None = getattr(in_force.source, "filled", None)
    return None if filled is None else filled.expand(batch, 2)


def attachment_of(model: PreTrainedModel) -> Attachment | None:
    """The attachment of a model, or None."""
    return getattr(model, _ATTRIBUTE, None)


def attach(model: PreTrainedModel, adapter: KnowledgeAdapter, *, backend: str = "auto") -> Attachment:
    """Ties an adapter to a causal language model.

    Idempotent: the same adapter again returns the same attachment; another one replaces it. The adapter moves to
    the model's device, its query heads to the model's dtype (the projections keep theirs).

    Args:
        model: any causal LM whose attention goes through the transformers attention registry.
        adapter: made for this model's layers, heads and widths.
        backend: of the kernels: "auto", "triton", "reference".

    Returns:
        The `Attachment`; with no knowledge in force the model gives the base model's logits bit for bit.

    Raises:
        UnsupportedModelError: if the model cannot be served (the message names the supported families) or the
            adapter was made for other shapes.
    """
    current = attachment_of(model)
    if current is not None:
        if current.adapter is adapter and current.backend == backend:
            return current
        detach(model)
    fresh = Attachment(model, adapter, backend)
    _check_fit(model, adapter.config, len(fresh._modules))
    adapter.to(model.device)
    adapter.query_heads.to(model.dtype)
    register()
    fresh._install()
    # A plain object, not a module: the model's state dict stays the base model's.
    object.__setattr__(model, _ATTRIBUTE, fresh)
    return fresh


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Undoes `attach`: hooks off, the model's own attention back. A model with nothing attached is left alone."""
    current = attachment_of(model)
    if current is not None:
        current._remove()
        object.__delattr__(model, _ATTRIBUTE)
    return model


def _check_fit(model: PreTrainedModel, config: AdapterConfig, num_layers: int) -> None:
    needed = AdapterConfig.for_model(model.config, config.embedding_dim, layer_frequency=config.layer_frequency)
    for name in ("num_layers", "hidden_size", "num_heads", "head_dim"):
        has = num_layers if name == "num_layers" else getattr(needed, name)
        if getattr(config, name) != has:
            raise UnsupportedModelError(
                f"the adapter was made for {name}={getattr(config, name)}, this model has {has} "
                f"(adapter's base model: {config.base_model or 'not recorded'})"
            )
