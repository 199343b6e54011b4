"""Attention of a few new tokens to latents in one C++ call: makes the knowledge query, absorbs, attends, projects.

For one token the projections are passes over a few megabytes; as matrix products of their own, each with its threads to
wake and to wait for, they take longer than attention to 10,000 triples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kblam_kernels.knowledge import LatentKnowledge, LatentProjection
from kblam_kernels.rectangular.arguments import one_row_if_shared

# With more of them a matrix product reads the weights once for all.
MAX_QUERIES = 4


def serves(backend: str, query: Tensor, projection: LatentProjection) -> bool:
    """Whether this is the way to go: never by the batch size, so that a row's bits do not depend on its batch."""
    p = projection
    weights = (p.key_weight, p.key_bias, p.value_weight, p.value_bias)
    return backend == "cpu" and query.shape[2] <= MAX_QUERIES and all(weight.is_contiguous() for weight in weights)


def bound(
    knowledge: LatentKnowledge, scale: float, window: int | None, skip_threshold: float, int8_products: bool
) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The call with all that a decode loop repeats in place: `f(query, key, value, r, bias, prompt_mask, range)`.

    With a last argument, `query_weight` (Hq * D, width), r is hidden states (B, N, width), and the knowledge query is
    their product with it. It gives output (B, Hq, N, D) in the query's dtype, float32 lse (B, Hq, N), tiles as
    `reference.LatentOutput`, and the knowledge query (B, Hq, N, D) if it was made here.

    The op is the C++ one itself: another op around it would take as long as attention to a thousand triples.
    """
    # Imports what compiles graphs: not before it is needed.
    from kblam_kernels import native
    from kblam_kernels.latent.cpu import contiguous_or_none
    from kblam_kernels.rectangular.cpu import in_rows

    op = torch.ops.kblam_kernels.latent_attention_cpu.default
    latents = (
        knowledge.key,
        knowledge.value,
        knowledge.norm.contiguous(),
        contiguous_or_none(knowledge.key_scale),
        contiguous_or_none(knowledge.value_scale),
    )
    p = knowledge.projection
    projection = (p.key_weight, p.key_bias, p.value_weight, p.value_bias)
    options = (scale, window, skip_threshold, int8_products, native.wanted_instruction_set())

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor,
        bias: Tensor | None,
        prompt_mask: Tensor | None,
        knowledge_range: Tensor | None,
        query_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = in_rows(one_row_if_shared(bias), prompt_mask, one_row_if_shared(knowledge_range))
        results = op(query, key, value, *latents, knowledge_query, query_weight, *projection, *rows, *options)
        output, lse, tiles, made = results
        return output, lse, tiles, made

    return attend
