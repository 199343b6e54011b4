"""Scores of knowledge tokens summed over heads and queries, in plain PyTorch, chunked over M.

A sum of scores is linear in the query, so rows are summed first: what is left is one query a head and batch row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.rectangular.reference import accumulation_dtype, chunks

_LAYOUTS = {2: "bhw,mw->bm", 3: "bhw,hmw->bm", 4: "bhw,bhmw->bm"}


def summed_scores(
    rows: Tensor, key: Tensor, norm: Tensor | None, key_scale: Tensor | None, constant: Tensor | None
) -> Tensor:
    """norm * (key_scale * sum over heads of rows . key + constant): (B, M) in the dtype of `rows`.

    Args:
        rows: (B, H, W) float32 (float64 for float64 keys), summed over queries; H = 1 for latents, summed over heads.
        key: (H, M, W), (B, H, M, W), or latents (M, W) in any storage dtype.
        norm, key_scale: (M,), of latents; None is 1.
        constant: (B,), of latents; None is 0.
    """
    dtype = accumulation_dtype(rows)
    total = torch.empty(rows.shape[0], key.shape[-2], dtype=dtype, device=rows.device)
    for cols in chunks(key.shape[-2]):
        scores = torch.einsum(_LAYOUTS[key.dim()], rows, key[..., cols, :].to(dtype))
        if key_scale is not None:
            scores = scores * key_scale[cols]
        if constant is not None:
            scores = scores + constant[:, None]
        total[:, cols] = scores if norm is None else scores * norm[cols]
    return total
