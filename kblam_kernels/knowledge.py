"""Layouts in which knowledge tokens reach the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kblam_kernels.errors import UnsupportedInputError


@dataclass(frozen=True)
class DenseKnowledge:
    """Keys and values of M knowledge tokens, one attention head for each *query* head.

    Args:
        key: (Hq, M, D) shared by every batch row, or (B, Hq, M, D). Never rotated: knowledge has no position.
        value: the shape, dtype and device of `key`.

    M may be 0: attention is then that of the prompt alone. Any strides with a contiguous last dimension.

    Raises:
        UnsupportedInputError: if the two do not match, or are not of rank 3 or 4.
    """

    key: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        if self.key.dim() not in (3, 4):
            raise UnsupportedInputError(
                "knowledge key must be (Hq, M, D), shared by the batch, or (B, Hq, M, D); "
                f"got shape {tuple(self.key.shape)}"
            )
        if self.key.shape != self.value.shape:
            raise UnsupportedInputError(
                "knowledge key and value must have one shape; "
                f"got {tuple(self.key.shape)} and {tuple(self.value.shape)}"
            )
        if self.key.dtype != self.value.dtype or self.key.device != self.value.device:
            raise UnsupportedInputError(
                "knowledge key and value must have one dtype and device; got "
                f"{self.key.dtype} on {self.key.device} and {self.value.dtype} on {self.value.device}"
            )

    @property
    def is_shared(self) -> bool:
        """Whether all batch rows see one list of knowledge tokens."""
        return self.key.dim() == 3

    @property
    def num_tokens(self) -> int:
        """M."""
        return self.key.shape[-2]

    @property
    def num_heads(self) -> int:
        """Hq."""
        return self.key.shape[-3]

    @property
    def head_dim(self) -> int:
        """D."""
        return self.key.shape[-1]

    @classmethod
    def empty(cls, num_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> DenseKnowledge:
        """Knowledge of no token (M = 0)."""
        nothing = torch.empty(num_heads, 0, head_dim, dtype=dtype, device=device)
        return cls(nothing, nothing)
