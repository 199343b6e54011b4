"""vLLM's attention in a knowledge layer: to the prompt by vLLM's kernels, to knowledge by ours, merged by their lse.

The knowledge query travels beside the prompt's, as further heads of one tensor, through vLLM's own opaque operation.
That is where compiled graphs are split already, so nothing else about them changes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.model_executor.layers.attention import Attention
from vllm.utils.torch_utils import _encode_layer_name
from vllm.v1.attention.backend import AttentionCGSupport, subclass_attention_backend_with_overrides

from kblam.errors import EngineError
from kblam.vllm.evidence import look, observe
from kblam.vllm.pool import KnowledgePool, serving_pool
from kblam.vllm.prompt import PROMPTS
from kblam.vllm.step import Step, Steps, steps_of
from kblam_kernels import merge_states, partial_knowledge_attention


class KnowledgeAttention(Attention):
    """The attention of a knowledge layer.

    Attributes:
        layer: its number.
        query_weight: (heads * D, hidden) of the knowledge query; None where that is the prompt's own.
        knowledge_query: of the forward pass that runs, (tokens, heads * D), before the norm and a question's part; None
            where it is the prompt's own.
    """

    layer: int
    query_weight: Tensor | None
    knowledge_query: Tensor | None = None

    def place(self, layer: int, pool: KnowledgePool, query_norm: nn.Module | None) -> None:
        """Says which layer this is; `query_norm`: what its queries go through after their projection."""
        # In a tuple: a module that is an attribute would be a part of this one, and counted twice.
        self.layer, self._others = layer, (pool, query_norm)
        self.register_buffer("query_weight", pool.query_weight(layer), persistent=False)

    @property
    def pool(self) -> KnowledgePool:
        """Of the worker."""
        return self._others[0]

    def knowledge_queries(self, rows: Tensor, step: Step) -> Tensor:
        """(T, heads, D), of the rows that attend to knowledge, with what questions add."""
        if self.query_weight is None:
            return rows
        # As in `KnowledgeAdapter.knowledge_query`.
        part, norm = step.question(self.layer), self._others[1]
        if part is not None:
            return rows + part.to(rows.dtype)
        return rows if norm is None else norm(rows)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output_shape: torch.Size | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """As vLLM's, with twice as many heads in the query that its operation gets."""
        if self.knowledge_query is None:
            plain: Tensor = super().forward(query, key, value, output_shape, output_dtype)
            return plain
        tokens = query.shape[0]
        heads = tokens, self.num_heads, self.head_size
        both = torch.cat((query.view(heads), self.knowledge_query.view(heads)), 1)
        output = torch.empty(heads, dtype=output_dtype or query.dtype, device=query.device)
        key, value = (tensor.view(-1, self.num_kv_heads, self.head_size) for tensor in (key, value))
        name, written = _encode_layer_name(self.layer_name), None
        if not self.attn_backend.forward_includes_kv_cache_update:
            written = torch.ops.vllm.unified_kv_cache_update(key, value, name)
        torch.ops.vllm.unified_attention_with_output(both, key, value, output, name, kv_cache_dummy_dep=written)
        return output.view(tokens, -1)


def ask_for_knowledge(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Forward pre-hook of the module around the attention: computes the knowledge query of its hidden states."""
    attention: Any = module.attn
    if attention.query_weight is not None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
        attention.knowledge_query = F.linear(hidden, attention.query_weight)


@functools.cache
def knowledge_backend(backend: Any) -> Any:
    """vLLM's backend with knowledge.

    Raises:
        EngineError: none is known for it.
    """
    prompt_of = PROMPTS.get(backend.get_name())
    if prompt_of is None:
        raise EngineError(
            f"vLLM chose the attention backend {backend.get_name()}, and knowledge needs one of {', '.join(PROMPTS)}; "
            "choose it with attention_config={'backend': ...}"
        )
    made = {
        "get_impl_cls": _impl(backend.get_impl_cls(), prompt_of),
        "get_builder_cls": _builder(backend.get_builder_cls()),
    }
    return subclass_attention_backend_with_overrides(
        "Knowledge", backend, {name: staticmethod(lambda found=found: found) for name, found in made.items()}
    )


def _builder(base: Any) -> Any:
    class KnowledgeBuilder(base):
        """Adds to a step's metadata what its requests attend to."""

        # A graph of whole steps would hold the tensors of the step that it was captured from.
        _cudagraph_support = AttentionCGSupport.NEVER
        takes_knowledge = True

        @classmethod
        def get_cudagraph_support(cls, *_: Any, **__: Any) -> AttentionCGSupport:
            return AttentionCGSupport.NEVER

        def build(
            self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False, knowledge: Any = None
        ) -> Any:
            metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
            pool = serving_pool(self.vllm_config)
            requests = pool.batch(common_attn_metadata.num_reqs) if knowledge is None else knowledge
            metadata.knowledge = None
            if any(one is not None for one in requests):
                count = common_attn_metadata.num_reqs
                starts = common_attn_metadata.query_start_loc_cpu[: count + 1].tolist()
                lengths = _on_the_host(common_attn_metadata)[:count].tolist()
                turn = pool.sayings.begin(requests, starts, lengths)
                metadata.knowledge = steps_of(pool.config, requests, starts, lengths, self.device, turn)
            else:
                pool.sayings.begin((), (), ())
            return metadata

    return KnowledgeBuilder


def _on_the_host(metadata: Any) -> Tensor:
    """Tokens of each request after the step: exact without speculative decoding, and no reading from the device."""
    known: Tensor | None = metadata.seq_lens_cpu_upper_bound
    return metadata.seq_lens if known is None else known


def _impl(base: Any, prompt_of: Any) -> Any:
    class KnowledgeImpl(base):
        """Attention to prompt and knowledge, of the rows that have some; of the others vLLM's own, bit for bit."""

        def forward(
            self,
            layer: KnowledgeAttention,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            kv_cache: Tensor,
            attn_metadata: Any,
            output: Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> Tensor:
            q, r = query[:, : self.num_heads].contiguous(), query[:, -self.num_heads :]
            steps: Steps | None = None if attn_metadata is None else attn_metadata.knowledge
            step = None if steps is None else steps.attending(layer.layer)
            if step is None or not step.every:
                super().forward(layer, q, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
            if steps is None:
                return output
            is_evidence = layer.layer == layer.pool.config.evidence_layer
            if step is not None:
                rows = layer.knowledge_queries(r[step.rows], step)
                knowledge = layer.pool.layer(layer.layer)
                found = partial_knowledge_attention(
                    rows, knowledge, step.starts, step.spans, knowledge_bias=step.bias, scale=self.scale
                )
                prompt, prompt_lse = prompt_of(self, layer, q[step.rows], kv_cache, attn_metadata, step)
                merged, lse = merge_states(prompt, prompt_lse, *found)
                output[step.rows] = merged
                if step.answering and is_evidence:
                    observe(layer.pool, layer.layer, rows, lse, step, self.scale)
            if steps.looking is not None and is_evidence:
                rows = layer.knowledge_queries(r[steps.looking.rows], steps.looking)
                _, lse = prompt_of(self, layer, q[steps.looking.rows], kv_cache, attn_metadata, steps.looking)
                look(layer.pool, layer.layer, rows, lse, steps.looking, self.scale)
            return output

    return KnowledgeImpl
