"""`torch.library` ops of rectangular attention: fake implementations and autograd, so `torch.compile` keeps one graph.

The backend is chosen before the op is called and travels as an argument; the op only runs it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.rectangular import reference


def empty_output(query: Tensor, lse_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Unwritten (output (B, Hq, N, D), lse (B, Hq, N)).

    In memory the output is (B, N, Hq, D), so that a model's `transpose(1, 2).reshape(B, N, -1)` costs nothing.
    """
    B, Hq, N, D = query.shape
    output = torch.empty(B, N, Hq, D, dtype=query.dtype, device=query.device).transpose(1, 2)
    return output, torch.empty(B, Hq, N, dtype=lse_dtype, device=query.device)


@torch.library.custom_op("kblam_kernels::rectangular_forward", mutates_args=())
def rectangular_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Output and lse of one backend; arguments as `reference.forward`."""
    from kblam_kernels.dispatch import forward_of

    result, lse = forward_of(backend)(
        query,
        key,
        value,
        knowledge_key,
        knowledge_value,
        knowledge_query,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
    )
    # The op promises one memory layout whatever the backend; a backend that wrote it already is not copied.
    return result.transpose(1, 2).contiguous().transpose(1, 2), lse


@rectangular_forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return empty_output(query, reference.accumulation_dtype(query))


@torch.library.custom_op("kblam_kernels::rectangular_backward", mutates_args=())
def rectangular_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, knowledge query, knowledge key and knowledge value."""
    gradients = reference.backward(
        grad_output,
        grad_lse,
        output,
        lse,
        query,
        key,
        value,
        knowledge_key,
        knowledge_value,
        knowledge_query,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
    )
    dense = [g.contiguous() for g in gradients]
    return dense[0], dense[1], dense[2], dense[3], dense[4], dense[5]


@rectangular_backward.register_fake
def _(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor) -> Tensor:
        return torch.empty_like(t, memory_format=torch.contiguous_format)

    return (
        like(query),
        like(key),
        like(value),
        like(knowledge_query),
        like(knowledge_key),
        like(knowledge_value),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors = inputs[:9]
    ctx.save_for_backward(*output, *(t for t in tensors if t is not None))
    ctx.present = [t is not None for t in tensors]
    ctx.scale, ctx.window = inputs[9], inputs[10]


def _backward(ctx: Any, grad_output: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    output, lse, *rest = ctx.saved_tensors
    saved = iter(rest)
    query, key, value, kappa, nu, r, bias, mask, span = (next(saved) if there else None for there in ctx.present)
    dq, dk, dv, dr, dkappa, dnu = rectangular_backward(
        grad_output,
        grad_lse,
        output,
        lse,
        query,
        key,
        value,
        kappa,
        nu,
        r,
        bias,
        mask,
        span,
        ctx.scale,
        ctx.window,
    )
    return dq, dk, dv, dkappa, dnu, dr, None, None, None, None, None, None


rectangular_forward.register_autograd(_backward, setup_context=_setup_context)
