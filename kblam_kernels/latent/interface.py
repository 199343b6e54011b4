"""Attention to latents: absorbs the queries, runs the op, projects what it mixed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kblam_kernels import dispatch
from kblam_kernels.knowledge import LatentKnowledge
from kblam_kernels.latent import fused
from kblam_kernels.latent.backends import LATENT_BACKENDS
from kblam_kernels.latent.op import latent_forward
from kblam_kernels.rectangular.arguments import needs_gradient, one_row_if_shared, refuse
from kblam_kernels.rectangular.reference import accumulation_dtype, times_knowledge

RequestFor = Callable[[bool], dispatch.Request]


def absorb_query(knowledge_query: Tensor, knowledge: LatentKnowledge) -> tuple[Tensor, Tensor]:
    """r (B, Hq, N, D) -> key_weight' r (B, Hq, N, P) in its dtype, and r . key_bias (B, Hq, N) in float32."""
    p = knowledge.projection
    dtype = accumulation_dtype(knowledge_query)
    constant = (knowledge_query.to(dtype) * p.key_bias.to(dtype)[:, None]).sum(-1)
    return times_knowledge(knowledge_query, p.key_weight), constant


def latent_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: LatentKnowledge,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
    skip_threshold: float,
    skip_counts: Tensor | None,
    int8_products: bool,
    request_for: RequestFor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """`rectangular_attention` on latents, arguments checked: (output, lse)."""
    _refuse_gradients(query, key, value, knowledge_query, knowledge.key, knowledge.projection.key_weight)
    backend = dispatch.choose(request_for, backend, LATENT_BACKENDS)
    p = knowledge.projection
    if fused.serves(backend, query, p):
        attend = fused.bound(knowledge, scale, window, skip_threshold, int8_products)
        output, lse, tiles, _ = attend(query, key, value, knowledge_query, bias, prompt_mask, knowledge_range)
        if skip_counts is not None and skip_threshold:
            skip_counts.add_(tiles)
        return output, lse
    absorbed_query, constant = absorb_query(knowledge_query, knowledge)
    prompt, latent, share, lse, tiles = latent_forward(
        query,
        key,
        value,
        knowledge.key,
        knowledge.value,
        knowledge.norm,
        knowledge.key_scale,
        knowledge.value_scale,
        absorbed_query,
        constant,
        one_row_if_shared(bias),
        prompt_mask,
        one_row_if_shared(knowledge_range),
        scale,
        window,
        skip_threshold,
        int8_products,
        backend,
    )
    if skip_counts is not None and skip_threshold:
        skip_counts.add_(tiles)
    projected = times_knowledge(latent, p.value_weight.transpose(1, 2))
    output = prompt + projected + share[..., None] * p.value_bias[:, None]
    return output.to(query.dtype).transpose(1, 2).contiguous().transpose(1, 2), lse


def check_latent(query: Tensor, knowledge: LatentKnowledge, knowledge_query: Tensor) -> None:
    """Heads and widths of the projection against the query."""
    Hq, D = query.shape[1], query.shape[3]
    if (knowledge.num_heads, knowledge.head_dim) != (Hq, D):
        refuse(
            f"the latents' projection is for {knowledge.num_heads} heads of width {knowledge.head_dim}; query "
            f"{tuple(query.shape)} needs one per query head, Hq={Hq} and D={D}"
        )
    if knowledge_query.shape != query.shape:
        refuse(f"knowledge_query must have the shape of query {tuple(query.shape)}; got {tuple(knowledge_query.shape)}")


def _refuse_gradients(*tensors: Tensor) -> None:
    if needs_gradient(*tensors):
        refuse(
            "attention to latents has no gradient and an input requires one: run it under torch.no_grad(), or train "
            "on dense knowledge (LatentKnowledge.to_dense)"
        )
