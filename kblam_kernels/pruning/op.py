"""The `torch.library` op of pruning's scores, so that `torch.compile` keeps one graph. A choice has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.pruning.backends import PRUNING_BACKENDS


@torch.library.custom_op("kblam_kernels::summed_scores", mutates_args=())
def summed_scores(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    backend: str,
) -> Tensor:
    """(B, M) in the dtype of `rows`, by one backend; arguments as `reference.summed_scores`."""
    from kblam_kernels.dispatch import forward_of

    scores: Tensor = forward_of(backend, PRUNING_BACKENDS)(rows, key, norm, key_scale, constant)
    return scores


@summed_scores.register_fake
def _(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    backend: str,
) -> Tensor:
    return rows.new_empty(rows.shape[0], key.shape[-2])
