"""The `torch.library` op of evidence, so that `torch.compile` keeps one graph; its gradient recomputes the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.evidence import reference
from kblam_kernels.evidence.backends import EVIDENCE_BACKENDS


@torch.library.custom_op("kblam_kernels::evidence_mass", mutates_args=())
def evidence_mass(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
    backend: str,
) -> Tensor:
    """(B, M) in the dtype of lse, by one backend; arguments as `reference.mass`."""
    from kblam_kernels.dispatch import forward_of

    mass: Tensor = forward_of(backend, EVIDENCE_BACKENDS)(
        rows, key, norm, key_scale, constant, lse, bias, knowledge_range, row_weight, scale
    )
    return mass


@evidence_mass.register_fake
def _(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
    backend: str,
) -> Tensor:
    return lse.new_empty(rows.shape[0], key.shape[-2])


@torch.library.custom_op("kblam_kernels::evidence_mass_backward", mutates_args=())
def evidence_mass_backward(
    grad: Tensor,
    rows: Tensor,
    key: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rows, key and lse."""
    gradients = reference.mass_gradients(grad, rows, key, lse, bias, knowledge_range, row_weight, scale)
    dense = [g.contiguous() for g in gradients]
    return dense[0], dense[1], dense[2]


@evidence_mass_backward.register_fake
def _(
    grad: Tensor,
    rows: Tensor,
    key: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return rows.new_empty(rows.shape), key.new_empty(key.shape), lse.new_empty(lse.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # Latents (a key of rank 2) get no gradient: `interface` refuses them.
    rows, key, _, _, _, lse, bias, knowledge_range, row_weight, scale, _ = inputs
    tensors = (rows, key, lse, bias, knowledge_range, row_weight)
    ctx.save_for_backward(*(t for t in tensors if t is not None))
    ctx.present = [t is not None for t in tensors]
    ctx.scale = scale


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = iter(ctx.saved_tensors)
    grad_rows, grad_key, grad_lse = evidence_mass_backward(
        grad, *(next(saved) if present else None for present in ctx.present), ctx.scale
    )
    return grad_rows, grad_key, None, None, None, grad_lse, None, None, None, None, None


evidence_mass.register_autograd(_backward, setup_context=_setup_context)
