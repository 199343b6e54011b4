"""Fake implementations of the C++ ops that are called as they are, so that `torch.compile` traces past them.

An op around another takes as long as attention to a thousand triples; where no gradient is asked for there is none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.errors import UnsupportedInputError
from kblam_kernels.rectangular.op import empty_output


def _check_device(query: Tensor, others: tuple[Any, ...]) -> None:
    # One tensor without memory among those with brings a call here; nothing would be computed.
    for other in others:
        if isinstance(other, Tensor) and other.device != query.device:
            raise UnsupportedInputError(f"tensors must be on one device; got {query.device} and {other.device}")


def _latent_attention(query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_device(query, others)
    query_weight, skip_threshold = others[8], others[-3]
    output, lse = empty_output(query)
    B, Hq, N, D = query.shape
    made = query.new_empty(0 if query_weight is None else B, Hq, N, D)
    return output, lse, query.new_empty(2 if skip_threshold > 0 else 0, dtype=torch.int64), made


def _rectangular_forward(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    _check_device(query, others)
    return empty_output(query)


def register() -> None:
    """Once, after the library is loaded: the ops must be there."""
    torch.library.register_fake("kblam_kernels::latent_attention_cpu", _latent_attention)
    torch.library.register_fake("kblam_kernels::rectangular_forward_cpu", _rectangular_forward)
