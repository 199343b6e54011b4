"""Attaching an adapter to a Hugging Face model, and taking it off again.

Nothing of the model's code is replaced: its attention goes through the transformers registry, and a forward
pre-hook on each knowledge layer adds what that layer's attention needs to the keyword arguments.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import KnowledgeError
from kblam.models.attention import IMPLEMENTATION, LayerKnowledge, QueryHead, register
from kblam.models.checks import check_fit, check_knowledge, check_options
from kblam.models.families import attention_modules, family_of
from kblam.models.formats import check_storage
from kblam.models.source import KnowledgeSource
from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention

_ATTRIBUTE = "_kblam_attachment"


@dataclass(frozen=True)
class _InForce:
    source: KnowledgeSource
    bias: Tensor | float
    knowledge_range: Tensor | None


@dataclass(frozen=True)
class _Options:
    """What `attach` was asked for."""

    backend: str
    plan: str
    storage: str
    int8_products: bool


class Attachment:
    """The tie between one model and one adapter; made by `attach`.

    Without knowledge in force the model runs its own attention and gives its own logits, bit for bit.

    Training with activation checkpointing: not the reentrant kind, since all layers share the projected knowledge, and
    with the knowledge still in force during backward, which runs the layers again.
    """

    def __init__(self, model: PreTrainedModel, adapter: KnowledgeAdapter, options: _Options) -> None:
        self.model = model
        self.adapter = adapter
        self.backend = options.backend
        self.plan = options.plan
        self.storage = options.storage
        self.int8_products = options.int8_products
        self._options = options
        self.family = family_of(model)
        self._modules = attention_modules(model)
        # The language model alone: what else a model consists of, such as a vision tower, keeps its attention.
        self._decoder: PreTrainedModel = model.get_decoder()
        self._base_implementation: str = self._decoder.config._attn_implementation
        self._in_force: _InForce | None = None
        self._attentions: dict[int, RectangularAttention] = {}  # of knowledge layers asked the same again
        self._asked: dict[int, weakref.ref[DenseKnowledge | LatentKnowledge]] = {}  # what each was asked last
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
            KnowledgeError: if the knowledge, bias or range does not fit the model, or the model is detached.
        """
        self._attentions, self._asked = {}, {}
        if source is None:
            self._in_force = None
            self._use(self._base_implementation)
            return
        if attachment_of(self.model) is not self:
            raise KnowledgeError("this attachment was detached or replaced; call attach(model, adapter) again")
        check_knowledge(self.model, self.config, source)
        check_options(source, bias, knowledge_range)
        _follow(self.adapter, self.model)
        if self._decoder.config._attn_implementation != IMPLEMENTATION:
            # Whatever the user chose in between is the base to return to.
            self._base_implementation = self._decoder.config._attn_implementation
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
                self.set_knowledge(before.source, bias=before.bias, knowledge_range=before.knowledge_range)

    @contextmanager
    def observing(self, observer: Callable[..., None]) -> Iterator[None]:
        """Calls `observer` after the attention of the evidence layer, in every forward pass of the block.

        It gets, by keyword, what `rectangular_attention` was given and returned: `knowledge`, `query` (B, Hq, N, D),
        `bias`, `knowledge_range`, `scale`, `backend`, `lse` (B, Hq, N) and `index` (the triples that `knowledge` holds,
        (B, k), when top_k pruned it; else None). Where knowledge is dense all of it carries gradients.
        """
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def _use(self, implementation: str) -> None:
        if self._decoder.config._attn_implementation != implementation:
            self._decoder.set_attn_implementation(implementation)

    def _install(self) -> None:
        for layer, module in enumerate(self._modules):
            self._hooks.append(module.register_forward_pre_hook(self._pre_hook(layer), with_kwargs=True))

    def _remove(self) -> None:
        self.set_knowledge(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _pre_hook(self, layer: int) -> Callable[..., Any]:
        """Runs in every layer at every step: what it can know now it does not ask then."""
        is_first, has_knowledge = layer == 0, layer in self.config.knowledge_layers

        def add_knowledge(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._in_force is None:
                return None
            if is_first and (now := self._decoder.config._attn_implementation) != IMPLEMENTATION:
                raise KnowledgeError(
                    f"the attention implementation became {now!r} while knowledge was in force; choose it before "
                    "set_knowledge, or after set_knowledge(None)"
                )
            kwargs["base_implementation"] = self._base_implementation
            if has_knowledge:
                hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                kwargs["layer_knowledge"] = self._layer_knowledge(self._in_force, layer, module, hidden_states)
            return args, kwargs

        return add_knowledge

    def _layer_knowledge(
        self, in_force: _InForce, layer: int, module: nn.Module, hidden_states: Tensor
    ) -> LayerKnowledge:
        (batch, new_tokens), config = hidden_states.shape[:2], self.config
        knowledge = in_force.source.layer(layer, new_tokens=new_tokens)
        top_k = config.top_k if config.top_k is not None and config.top_k < knowledge.num_tokens else None
        return LayerKnowledge(
            attend=self._attention(layer, _repeat_knowledge(knowledge, batch)),
            query=self._query(layer, module, hidden_states, knowledge),
            bias=_total_bias(in_force, config, top_k, batch, knowledge.num_tokens),
            knowledge_range=_total_range(in_force, batch),
            top_k=top_k,
            observe=self._observer if self._observer is not None and layer == config.evidence_layer else None,
        )

    def _query(
        self, layer: int, module: nn.Module, hidden_states: Tensor, knowledge: DenseKnowledge | LatentKnowledge
    ) -> Tensor | QueryHead | None:
        """The knowledge query, or how to make it where that costs the kernels less than a matrix product of its own."""
        head = self.adapter.plain_query_head(layer) if self.family.query_norm is None else None
        if (
            head is not None
            and isinstance(knowledge, LatentKnowledge)
            and hidden_states.shape[1] == 1
            and hidden_states.dtype == head.weight.dtype
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        ):
            return QueryHead(hidden_states, head.weight)
        query = self.adapter.knowledge_query(layer, hidden_states)
        if query is not None and self.family.query_norm is not None:
            query = getattr(module, self.family.query_norm)(query)
        return query

    def _attention(self, layer: int, knowledge: DenseKnowledge | LatentKnowledge) -> RectangularAttention:
        """The last one of a layer while it is about the same knowledge: it remembers what it has checked.

        Kept from the second time on: what is made for one forward pass (materialised keys and values) must be freed.
        """
        asked = self._asked.get(layer)
        again = asked is not None and asked() is knowledge
        if again and layer in self._attentions:
            return self._attentions[layer]
        self._asked[layer] = weakref.ref(knowledge)
        attend = RectangularAttention(knowledge, int8_products=self.int8_products, backend=self.backend)
        if again:
            self._attentions[layer] = attend
        else:
            self._attentions.pop(layer, None)
        return attend


def _repeat_rows(name: str, tensor: Tensor, batch: int) -> Tensor:
    """Row b of B becomes rows b * n .. b * n + n - 1 of `batch` = B * n: how `generate` expands for beams."""
    rows = tensor.shape[0]
    if rows == batch:
        return tensor
    if batch % rows:
        raise KnowledgeError(f"{name} has {rows} rows and the batch {batch}; give one per batch row")
    return tensor.repeat_interleave(batch // rows, dim=0)


def _repeat_knowledge(knowledge: DenseKnowledge | LatentKnowledge, batch: int) -> DenseKnowledge | LatentKnowledge:
    if isinstance(knowledge, LatentKnowledge) or knowledge.is_shared or knowledge.key.shape[0] == batch:
        return knowledge
    return DenseKnowledge(
        _repeat_rows("per-row knowledge", knowledge.key, batch),
        _repeat_rows("per-row knowledge", knowledge.value, batch),
    )


def _total_bias(
    in_force: _InForce, config: AdapterConfig, top_k: int | None, batch: int, num_tokens: int
) -> Tensor | float:
    """The caller's bias plus log C - log M, which upstream applies only with a separate query head."""
    bias = in_force.bias
    if isinstance(bias, Tensor) and bias.dim() == 2:
        bias = _repeat_rows("bias", bias, batch)
    if isinstance(bias, Tensor) and bias.dim() > 0 and bias.shape[-1] < num_tokens:
        # An over-allocated source has rows past its triples.
        bias = F.pad(bias, (0, num_tokens - bias.shape[-1]))
    if config.knowledge_scale is None or not config.separate_query_head:
        return bias
    # A tensor where the number of triples may change: read as a Python number it would cost a new compilation.
    log_count = in_force.source.log_count
    if top_k is not None:
        most = math.log(top_k)
        log_count = log_count.clamp(max=most) if isinstance(log_count, Tensor) else min(log_count, most)
    return bias + (math.log(config.knowledge_scale) - log_count)


def _total_range(in_force: _InForce, batch: int) -> Tensor | None:
    """The caller's ranges, within the filled part of an over-allocated source."""
    filled = in_force.source.filled
    if in_force.knowledge_range is None:
        return filled if filled is None or batch == 1 else filled.expand(batch, 2)
    ranges = _repeat_rows("knowledge_range", in_force.knowledge_range, batch)
    return ranges if filled is None else torch.minimum(ranges, filled[:, 1:])


def attachment_of(model: PreTrainedModel) -> Attachment | None:
    """The attachment of a model, or None."""
    return getattr(model, _ATTRIBUTE, None)


def attach(
    model: PreTrainedModel,
    adapter: KnowledgeAdapter,
    *,
    backend: str = "auto",
    plan: str = "auto",
    storage: str = "auto",
    int8_products: bool = False,
) -> Attachment:
    """Ties an adapter to a causal language model.

    Idempotent: the same adapter again returns the same attachment; another one replaces it. The adapter moves to
    the model's device, its query heads to the model's dtype (the projections keep theirs).

    Args:
        model: any causal LM whose attention goes through the transformers attention registry.
        adapter: made for this model's layers, heads and widths.
        backend: of the kernels: "auto", "triton", "cpu", "reference".
        plan: how a resident knowledge base is read: "auto", or a pin as `kblam_kernels.plan` takes it.
        storage: dtype of its latents, see `ResidentKnowledge`; "int8" halves them.
        int8_products: allows latents stored as int8 to be multiplied as int8, see `rectangular_attention`: quicker on
            a CPU that has it, and a little less exact.

    Returns:
        The `Attachment`; with no knowledge in force the model gives the base model's logits bit for bit.

    Raises:
        UnsupportedModelError: if the model cannot be served (the message names the supported families) or the
            adapter was made for other shapes.
        KnowledgeError: if `storage` is not known.
    """
    current = attachment_of(model)
    options = _Options(backend, plan, storage, int8_products)
    if current is not None and (current.adapter, current._options) == (adapter, options):
        return current
    check_storage(storage)
    family_of(model)
    check_fit(model, adapter.config, len(attention_modules(model)))
    # What was attached stays until the new adapter is known to fit.
    detach(model)
    fresh = Attachment(model, adapter, options)
    _follow(adapter, model)
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


def _follow(adapter: KnowledgeAdapter, model: PreTrainedModel) -> None:
    """The adapter to the model's device, its query heads to the model's dtype: they read its hidden states."""
    adapter.to(model.device)
    adapter.query_heads.to(model.dtype)
