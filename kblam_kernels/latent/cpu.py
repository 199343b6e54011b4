"""Attention to latents on the CPU by the C++ kernels of `csrc/`.

A few new tokens go through one C++ call that computes the knowledge query, absorbs, attends and projects (docs/cpu.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import native
from kblam_kernels.common.call import Attend
from kblam_kernels.latent.absorption import Absorbed, Mixed, projected
from kblam_kernels.latent.call import LatentCall

# With more new tokens, matrix products are used: they read the weights once for all tokens.
MAX_FUSED_QUERIES = 4


def forward(call: LatentCall) -> tuple[Tensor, ...]:
    """Output and lse. A row's bits do not depend on the number of threads or on the rest of its batch."""
    if not is_one_op(call):
        return projected(call, mix)
    return bound(call)(
        call.query, call.key, call.value, call.knowledge_query, call.bias, call.prompt_mask, call.knowledge_range
    )[:2]


def is_one_op(call: LatentCall) -> bool:
    """Whether one C++ call serves; the batch does not matter, so that a row's bits do not depend on it."""
    if not _is_sure(call.query.shape[2] <= MAX_FUSED_QUERIES):
        return False
    weights = (call.key_weight, call.key_bias, call.value_weight, call.value_bias)
    return all(weight.is_contiguous() for weight in weights)


def _is_sure(condition: bool) -> bool:
    """Whether it holds; in a graph of any number of tokens, whether it holds for all that the graph is for.

    What else the graph calls looks at each number when it runs. To ask here would make it one of few tokens or of many.
    """
    if not torch.compiler.is_compiling():
        return condition
    # Imported late: sympy comes with it.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def bound(call: LatentCall) -> Attend:
    """The C++ op of this call's knowledge.

    With a last argument, `query_weight` (Hq * D, width), hidden states (B, N, width) take the place of the knowledge
    query, which is computed as their product with the weight. Returns output (B, Hq, N, D) in the query's dtype,
    float32 lse (B, Hq, N), and the knowledge query (B, Hq, N, D) if it was computed here.
    """
    op = torch.ops.kblam_kernels.latent_attention_cpu.default
    # Not the call: what holds this would keep its prompt in memory.
    held = _latents(call)
    projection = (call.key_weight, call.key_bias, call.value_weight, call.value_bias)
    options = (call.scale, call.window, call.int8_products, native.wanted_instruction_set())

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor,
        bias: Tensor | None,
        prompt_mask: Tensor | None,
        knowledge_range: Tensor | None,
        query_weight: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        rows = native.kernel_layout(bias, prompt_mask, knowledge_range)
        return op(query, key, value, *_as_read(held), knowledge_query, query_weight, *projection, *rows, *options)

    return attend


def mix(call: LatentCall, absorbed: Absorbed) -> Mixed:
    """One softmax over both blocks, of any number of new tokens."""
    results = torch.ops.kblam_kernels.latent_forward_cpu(
        call.query,
        call.key,
        call.value,
        *_as_read(_latents(call)),
        absorbed.query,
        absorbed.constant.contiguous(),
        *native.kernel_layout(call.bias, call.prompt_mask, call.knowledge_range),
        call.scale,
        call.window,
        call.int8_products,
        native.wanted_instruction_set(),
    )
    return Mixed(*results)


def _latents(call: LatentCall) -> tuple[Tensor | None, ...]:
    return call.latent_key, call.latent_value, call.norm, call.key_scale, call.value_scale


def _as_read(latents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """At each step: a norm of other strides is copied here, and its rows may change in between."""
    key, value, *others = latents
    return key, value, *map(native.contiguous_or_none, others)
