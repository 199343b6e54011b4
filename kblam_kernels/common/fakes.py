"""Fake implementations of the C++ ops that are called directly, so that `torch.compile` can trace them.

Wrapping the C++ op in another op costs as much as attention to a thousand triples, so without gradients it is called
directly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.output import empty_output
from kblam_kernels.errors import refuse


def _check_device(query: Tensor, others: tuple[Any, ...]) -> None:
    # A single meta tensor among real ones would be dispatched here and silently compute nothing.
    for other in others:
        if isinstance(other, Tensor) and other.device != query.device:
            refuse(f"tensors must be on one device; got {query.device} and {other.device}")


def _latent_attention(query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    _check_device(query, others)
    B, Hq, N, D = query.shape
    query_weight = others[8]
    return *empty_output(query), query.new_empty(0 if query_weight is None else B, Hq, N, D)


def _dense_forward(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    _check_device(query, others)
    return empty_output(query)


def register() -> None:
    """Call it once, after the library is loaded: the ops must exist."""
    torch.library.register_fake("kblam_kernels::latent_attention_cpu", _latent_attention)
    torch.library.register_fake("kblam_kernels::dense_forward_cpu", _dense_forward)
