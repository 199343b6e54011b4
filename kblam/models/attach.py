"""Attaching an adapter to a Hugging Face model, and taking it off again.

Nothing of the model's code is replaced: its attention goes through the transformers registry, and forward pre-hooks
hand each knowledge layer what its attention needs in its keyword arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import KnowledgeError, UnsupportedModelError
from kblam.knowledge import KnowledgeBase
from kblam.models import calls, switch
from kblam.models.attention import register
from kblam.models.calls import KnowledgeCall, Observer
from kblam.models.checks import (
    a_model,
    check_adapter,
    check_fit,
    check_knowledge,
    check_loaded,
    check_options,
    check_question,
    check_switches,
    check_weights,
)
from kblam.models.copies import copy_of, reading
from kblam.models.devices import device_of, input_device
from kblam.models.families import attention_modules, family_of
from kblam.models.formats import check_storage
from kblam.models.generate_check import put_checks, take_checks
from kblam.models.hooks import DecoderHook, LayerHook, attachment_of, hooks_of, remove_hooks
from kblam.models.proof import prove
from kblam.models.query_heads import INT8, QueryHeads, check_query_storage
from kblam.models.question import Question, vectors_of
from kblam.models.source import KnowledgeSource
from kblam_kernels.plan import check_pin

# Guards the default of every attachment. It is global because a lock cannot be copied with a model.
_DEFAULTS = threading.Lock()
# Held while an adapter is attached or taken off, by one thread at a time: another one would find half of an attachment,
# or put a second one beside it. Of all models, which may share a decoder; reentrant, since the proof runs the model.
_ATTACHING = threading.RLock()


@dataclass(frozen=True)
class Options:
    """The options of `attach`, which documents them."""

    backend: str
    plan: str
    storage: str
    query_storage: str
    int8_products: bool
    trainable: bool


class Attachment:
    """The connection of one model and one adapter; made by `attach`.

    Without knowledge in force the model runs its own attention and gives its own logits, bit for bit, even while other
    threads ask it with knowledge. `using` and `observing` apply only to their own thread (or asyncio task), so threads
    may ask one model about different knowledge at once.

    That holds for a compiled model (`torch.compile`) too.

    Training with activation checkpointing: do not use the reentrant kind, since all layers share the projected
    knowledge, and call `backward()` inside the block, since it runs the layers again.
    """

    def __init__(self, model: PreTrainedModel, adapter: KnowledgeAdapter, options: Options) -> None:
        self.model = model
        self.adapter = adapter
        self.options = options
        self.family = family_of(model)
        # Only the language model: other parts of a model, such as a vision tower, keep their attention.
        self._decoder: PreTrainedModel = model.get_decoder()
        # Of each layer: the sliding window that only its mask knows of.
        self.windows: tuple[int | None, ...] = (None,) * len(attention_modules(model))
        self.query_heads = QueryHeads()
        self._default: KnowledgeCall | None = None
        # Of a copy until it is used: the model's own attention implementation.
        self._base: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_base": self._base or switch.base_of(self._decoder.config)}

    def settle(self) -> None:
        """Makes the attachment of a copied or unpickled model its own.

        The model's config says what it said when it was copied, maybe in the middle of a call with knowledge; but calls
        are counted anew, and a default that came along is in force here too.
        """
        if self._base is None:  # a compiler cannot trace the lock
            return
        with _DEFAULTS:
            base, self._base = self._base, None
        if base is not None:
            switch.settle(self._decoder, base)
            if self._default is not None:
                switch.hold(self._decoder, self)

    @property
    def device(self) -> torch.device:
        """Where the knowledge layers compute, and knowledge has to be."""
        attentions = attention_modules(self.model)
        return device_of(self.model, [attentions[layer] for layer in self.config.knowledge_layers])

    @property
    def input_device(self) -> torch.device:
        """Where token ids, their mask and their places have to be: the knowledge layers may compute elsewhere."""
        return input_device(self._decoder)

    @property
    def config(self) -> AdapterConfig:
        """The adapter's config."""
        return self.adapter.config

    @property
    def implementation(self) -> str:
        """The attention that the model's config names now: "kblam" while any call has knowledge."""
        return str(self._decoder.config._attn_implementation)

    @property
    def call(self) -> KnowledgeCall | None:
        """What a forward pass of this thread or task attends to now."""
        return calls.call_of(self, self._default)

    @property
    def knowledge(self) -> KnowledgeSource | None:
        """The knowledge in force now, in this thread or task."""
        call = self.call
        return None if call is None else call.source

    @property
    def _observer(self) -> Observer | None:
        scope = calls.innermost(self)
        return None if scope is None else scope.observer

    def set_knowledge(
        self,
        source: KnowledgeBase | KnowledgeSource | None,
        *,
        bias: Tensor | float = 0.0,
        knowledge_range: Tensor | None = None,
        question: Question | None = None,
    ) -> None:
        """Sets the default of all threads, for every forward pass and `generate` outside of a `using` block.

        Args:
            source: a `KnowledgeBase`, as it is now (set it again after a change; `using` sees changes by itself); or
                `ProjectedKnowledge` or `ResidentKnowledge` on the model's device, in its dtype; None removes it.
            bias: number, or float32 (), (M,) or (B, M), added to knowledge scores; -inf hides a triple.
            knowledge_range: int32 (B, 2), the [start, end) of M that each batch row sees.
            question: what an adapter with a `question_head` needs, and others do not take: the question, or a list with
                one for each batch row, which the knowledge base's encoder encodes. Each is one text as `ask` takes it:
                the last user turn, without a chat template. Or their float32 (B, P) or (1, P) sentence vectors.

        Values with a row for each batch row have as many as the batch, or one for all. With beam search or several
        return sequences they have a row for each row of the prompt, and are repeated for those that the model's
        `generate` makes of it. A forward pass, and a loop of your own, get values for every row.

        Raises:
            KnowledgeError: if the knowledge, bias, range or question does not fit the model, or the model is detached.
            EncoderMismatchError: the knowledge base was built with another encoder than the adapter's.
            EncoderError: the encoder of the knowledge base cannot be loaded, or fails.
        """
        self.settle()
        self._check_attached(source)
        own = copy_of(self, source) if isinstance(source, KnowledgeBase) else source
        call = self._checked(own, bias, knowledge_range, question)
        if call is not None:
            switch.hold(self._decoder, self)
        with _DEFAULTS:
            before, self._default = self._default, call
        if before is not None:
            switch.release(self._decoder)

    @contextmanager
    def using(
        self,
        source: KnowledgeBase | KnowledgeSource | None,
        *,
        bias: Tensor | float = 0.0,
        knowledge_range: Tensor | None = None,
        question: Question | None = None,
    ) -> Iterator[Attachment]:
        """Knowledge for calls of this thread (or asyncio task) inside the `with` block; arguments of `set_knowledge`.

        A `KnowledgeBase` is in force as it is when the block is entered. Its copy on the device is kept for the next
        block, which copies only what changed. One that is entered after a change while others are in progress, around
        it or elsewhere, has a copy of its own and waits for none of them; see `kblam.models.copies`.

        None means no knowledge, even if there is a default. Blocks may be nested; the innermost counts.
        """
        self.settle()
        self._check_attached(source)
        with ExitStack() as block:
            found = block.enter_context(reading(self, source)) if isinstance(source, KnowledgeBase) else source
            call = self._checked(found, bias, knowledge_range, question)
            if call is not None:
                switch.hold(self._decoder, self)
                block.callback(switch.release, self._decoder)
            block.enter_context(calls.knowing(self, call))
            yield self

    @contextmanager
    def observing(self, observer: Observer) -> Iterator[None]:
        """Calls `observer` after the attention of the evidence layer, in every forward pass of this block and thread.

        It gets, by keyword, what `rectangular_attention` was given and returned: `knowledge`, `query` (B, Hq, N, D),
        `bias`, `knowledge_range`, `scale`, `backend` (the one that served), `int8_products`, `lse` (B, Hq, N), `index`
        (the triples that `knowledge` holds, (B, k), when top_k pruned it; else None) and `cache` (of keys and values
        that this pass writes; None without one). Where knowledge is dense all of it carries gradients.
        """
        with calls.observing(self, observer):
            yield

    @contextmanager
    def probing(self, probe: Callable[..., None]) -> Iterator[None]:
        """Within a `using` block: calls `probe` before every attention of the model, see `proof.py`."""
        call = self.call
        with calls.knowing(self, None if call is None else dataclasses.replace(call, probe=probe)):
            yield

    def _check_attached(self, source: object) -> None:
        if source is None:
            return
        if attachment_of(self.model) is not self:
            raise KnowledgeError("this attachment was detached or replaced; call attach(model, adapter) again")
        layers = attention_modules(self.model)
        strange = [layer for layer, module in enumerate(layers) if not self._reaches(layer, module)]
        if strange or len(layers) != self.config.num_layers:
            which = (
                f"layer {strange[0]} is another" if strange else f"{len(layers)} of {self.config.num_layers} are left"
            )
            raise KnowledgeError(
                f"the layers of this model are not those that the adapter was attached to ({which}), so knowledge "
                "would not reach them all; change layers before attach, or call detach(model) and attach again"
            )

    def _reaches(self, layer: int, module: nn.Module) -> bool:
        """Whether this attachment's hook for a layer is on its attention."""
        return any(
            isinstance(hook, LayerHook) and hook.attachment is self and hook.layer == layer for hook in hooks_of(module)
        )

    def _checked(
        self,
        source: KnowledgeSource | None,
        bias: Tensor | float,
        knowledge_range: Tensor | None,
        question: Question | None,
    ) -> KnowledgeCall | None:
        if source is None:
            return None
        device = self.device
        check_knowledge(self.model, device, self.config, source)
        check_options(source, bias, knowledge_range)
        vectors = vectors_of(question, self.config, source)
        check_question(self.config, source, vectors)
        self.follow(device)
        return KnowledgeCall(source, bias, knowledge_range, vectors)

    def follow(self, device: torch.device) -> None:
        """Moves the adapter to where the model computes, its query heads to the model's dtype: they read its hidden
        states.

        Weights in training keep their dtype: a base model in half precision must not round what is learned. Full query
        heads that only int8 ones are made from stay where they are, and need no room on the model's device.
        """
        in_bytes = self.options.query_storage == INT8
        for name, part in self.adapter.named_children():
            if not (in_bytes and name == "query_heads"):
                part.to(device)
        if in_bytes:
            self.query_heads.follow(self.adapter, device)
        elif not self.options.trainable:
            self.adapter.query_heads.to(self.model.dtype)

    def _install(self) -> None:
        self._decoder.register_forward_pre_hook(DecoderHook(self), with_kwargs=True)
        for layer, module in enumerate(attention_modules(self.model)):
            module.register_forward_pre_hook(LayerHook(self, layer), with_kwargs=True)

    def _put_back(self, default: KnowledgeCall | None) -> None:
        """As it was before `_remove`, which returned the default."""
        self._install()
        if default is not None:
            switch.hold(self._decoder, self)
            with _DEFAULTS:
                self._default = default

    def _remove(self) -> KnowledgeCall | None:
        default = self._default
        self.set_knowledge(None)
        for module in (self._decoder, *attention_modules(self.model)):
            remove_hooks(module, self)
        return default


def attach(
    model: PreTrainedModel,
    adapter: KnowledgeAdapter,
    *,
    backend: str = "auto",
    plan: str = "auto",
    storage: str = "auto",
    query_storage: str = "auto",
    int8_products: bool = False,
    trainable: bool = False,
) -> Attachment:
    """Attaches an adapter to a causal language model.

    Idempotent: the same adapter again returns the same attachment; another one replaces it. Models that share a decoder
    have one attachment; attach to each whose `generate` is called. Threads that attach or detach take turns. The
    adapter moves to the model's device, its query heads to the model's dtype (the projections keep theirs).

    Args:
        model: any causal LM whose attention goes through the transformers attention registry.
        adapter: made for this model's layers, heads and widths.
        backend: of the kernels: "auto", "triton", "cpu", "reference".
        plan: how a resident knowledge base is read: "auto", or a pin as `kblam_kernels.plan` takes it.
        storage: dtype of its latents, see `ResidentKnowledge`; "int8" halves them.
        query_storage: of the adapter's query heads on the device: "auto", the model's dtype, or "int8" with one scale
            for each output, which halves what a decoded token reads of them. The adapter itself keeps its weights.
        int8_products: allows latents stored as int8 to be multiplied as int8, see `rectangular_attention`: quicker on
            a CPU that has it, and a little less exact.
        trainable: the adapter's weights keep their dtype, so that float32 weights learn beside a bfloat16 model.

    Returns:
        The `Attachment`; with no knowledge in force the model gives the base model's logits bit for bit.

    Raises:
        UnsupportedModelError: if the model cannot be served (the message names the supported families, or what a
            forward pass of a few tokens showed), computes on several devices, or the adapter was made for other shapes
            or other weights.
        AdapterError: if it is no adapter, its weights are not loaded or of a dtype to compute with, or its query heads
            are wrapped or hooked and asked for in int8.
        KnowledgeError: if `storage` or `query_storage` is not known, or does not go with the adapter or `trainable`.
        UnsupportedInputError: if `plan` cannot be read.

    Warns:
        KblamWarning: the adapter changes nothing of what the model says.
    """
    model = a_model(model)
    check_adapter(adapter)
    options = Options(backend, plan, storage, query_storage, int8_products, trainable)
    with _ATTACHING:
        return _attached(model, adapter, options)


def _attached(model: PreTrainedModel, adapter: KnowledgeAdapter, options: Options) -> Attachment:
    current = attachment_of(model)
    if current is not None and (current.adapter, current.options) == (adapter, options):
        if model is not current.model:  # it shares the decoder, and has a `generate` of its own
            put_checks(model)
        return current
    check_switches(int8_products=options.int8_products, trainable=options.trainable)
    check_storage(options.storage)
    check_query_storage(options.query_storage, adapter, trainable=options.trainable)
    check_pin(options.plan)
    check_loaded(adapter)
    family_of(model)
    check_fit(model, adapter.config, len(attention_modules(model)))
    _check_way(model)
    fresh = Attachment(model, adapter, options)
    device = fresh.device
    check_weights(model, adapter.config)
    fresh.follow(device)
    # The old adapter stays attached, and its default in force, until the new one is known to fit.
    default = None if current is None else current._remove()
    try:
        register()
        fresh._install()
        prove(fresh)
    except BaseException:
        fresh._remove()
        if current is not None:
            current._put_back(default)
        raise
    put_checks(model)
    return fresh


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Undoes `attach`: removes hooks, restores the model's attention. A model with nothing attached is left alone."""
    with _ATTACHING:
        current = attachment_of(model)
        if current is not None:
            current._remove()
            for one in (a_model(model), current.model):  # which may share their decoder
                take_checks(one)
        elif isinstance(model, nn.Module):  # another that shared it was detached before
            take_checks(model)
    return model


def _check_way(model: PreTrainedModel) -> None:
    """What hooks send down the layers arrives.

    Raises:
        UnsupportedModelError: if not.
    """
    decoder, modules = model.get_decoder(), attention_modules(model)
    layers = [layer for layer in decoder.modules() if getattr(layer, "self_attn", None) in modules]
    for module in (decoder, *layers, *modules):
        kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            raise UnsupportedModelError(
                f"{type(module).__name__} does not pass keyword arguments on to its attention, which knowledge needs"
            )
    if any(getattr(module, "config", None) is not decoder.config for module in modules):
        raise UnsupportedModelError(f"the layers of {type(model).__name__} do not share the config of their decoder")
