"""vLLM's model classes with knowledge: its own, whose knowledge layers get another attention while they are made."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size, get_tp_group
from vllm.model_executor.layers.attention import Attention

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.fresh import looks_untrained, untrained_text
from kblam.errors import EngineError
from kblam.vllm.attention import KnowledgeAttention, ask_for_knowledge, knowledge_backend
from kblam.vllm.families import PREFIX, ServedFamily, family_of
from kblam.vllm.fingerprint import check_base
from kblam.vllm.pool import NAME, KnowledgePool
from kblam.vllm.registry import Registry
from kblam.vllm.settings import Settings

logger = logging.getLogger("kblam")


def __getattr__(name: str) -> Any:
    """The classes that `register` names, `Knowledge` and an architecture: made when vLLM asks for one."""
    if not name.startswith(PREFIX) or name == NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return with_knowledge(family_of(name))


@functools.cache
def with_knowledge(family: ServedFamily) -> type:
    """vLLM's class of a family, with knowledge."""
    base: Any = getattr(importlib.import_module(f"vllm.model_executor.models.{family.module}"), family.architecture)

    class WithKnowledge(base):
        __doc__ = f"{family.architecture} of vLLM, with knowledge."

        def __init__(self, *, vllm_config: Any, prefix: str = "", **others: Any) -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix, **others)
            self._checkpoint = vllm_config.model_config.model
            install(self, family, vllm_config)

        def load_weights(self, weights: Any) -> set[str]:
            loaded: set[str] = super().load_weights(weights)
            check_base(self, family, self.knowledge.config, self._checkpoint)
            return loaded

        def forward(self, input_ids: Any, positions: Any, *args: Any, **kwargs: Any) -> Any:
            self.knowledge.sayings.hear(input_ids)
            return super().forward(input_ids, positions, *args, **kwargs)

        def compute_logits(self, hidden_states: Any) -> Any:
            logits = super().compute_logits(hidden_states)
            return None if logits is None else self.knowledge.sayings.steer(logits)

        @staticmethod
        def get_model_state_cls() -> Any:
            """Read by the V2 runner alone."""
            from kblam.vllm.state import KnowledgeState

            return KnowledgeState

    WithKnowledge.__name__ = WithKnowledge.__qualname__ = PREFIX + family.architecture
    return WithKnowledge


def _numbers_of_all(mine: int) -> list[int]:
    """A number of each worker, in their order."""
    count = get_tensor_model_parallel_world_size()
    if count == 1:
        return [mine]
    said: list[Any] = [None] * count
    torch.distributed.all_gather_object(said, mine, group=get_tp_group().cpu_group)
    return said


def install(model: Any, family: ServedFamily, vllm_config: Any) -> None:
    """Makes the pool, and puts an attention with knowledge in place of vLLM's in every knowledge layer.

    Raises:
        EngineError: a layer cannot be served.
        AdapterError: the adapter cannot be read.
    """
    settings, registry = Settings.of(vllm_config), Registry(vllm_config)
    layers, context = model.model.layers, vllm_config.compilation_config.static_forward_context
    rank, heads = get_tensor_model_parallel_rank(), layers[0].self_attn.attn.num_heads
    device = torch.get_default_device()
    with _as_written():
        adapter = KnowledgeAdapter.from_pretrained(settings.adapter)
        if rank == 0 and looks_untrained(adapter):
            logger.warning("%s", untrained_text(str(settings.adapter)))
        model.knowledge = KnowledgePool(
            settings,
            adapter,
            registry,
            dtype=vllm_config.model_config.dtype,
            device=device,
            heads=slice(rank * heads, (rank + 1) * heads),
            tells=rank == 0,
            together=_numbers_of_all,
        )
    context[NAME] = model.knowledge
    for layer in adapter.config.knowledge_layers:
        module = layers[layer].self_attn
        before: Attention = module.attn
        if type(before) is not Attention:
            raise EngineError(f"layer {layer} attends by {type(before).__name__}, which cannot attend to knowledge")
        if before.query_quant is not None or before.impl.alibi_slopes is not None or before.has_sink:
            raise EngineError(
                f"layer {layer} quantises its queries, biases its scores by distance (ALiBi) or has sinks, which "
                "knowledge scores would miss"
            )
        del context[before.layer_name]
        module.attn = KnowledgeAttention(
            before.num_heads,
            before.head_size,
            before.impl.scale,
            num_kv_heads=before.num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            per_layer_sliding_window=before.sliding_window,
            prefix=before.layer_name,
            attn_backend=knowledge_backend(before.attn_backend),
        )
        norm = None if family.query_norm is None else getattr(module, family.query_norm)
        module.attn.place(layer, model.knowledge, norm)
        module.register_forward_pre_hook(ask_for_knowledge, with_kwargs=True)


@contextlib.contextmanager
def _as_written() -> Iterator[None]:
    """An adapter's weights as they were saved: vLLM makes models under their own dtype and on their device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
