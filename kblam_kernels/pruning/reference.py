"""Selection of knowledge tokens in plain PyTorch, chunked over M."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.rectangular.reference import accumulation_dtype, chunks


def summed_scores(knowledge_query: Tensor, knowledge_key: Tensor, row_weight: Tensor, scale: float) -> Tensor:
    """sum over (h, n) of row_weight * scale * r . kappa: (B, M), without bias.

    Linear in the query, so the rows are summed first: one (B, Hq, D) query against M keys.
    """
    dtype = accumulation_dtype(knowledge_query)
    r = torch.einsum("bhnd,bhn->bhd", knowledge_query.to(dtype), row_weight.to(dtype)) * scale
    M = knowledge_key.shape[-2]
    total = torch.empty(knowledge_query.shape[0], M, dtype=dtype, device=knowledge_query.device)
    layout = "bhd,hmd->bm" if knowledge_key.dim() == 3 else "bhd,bhmd->bm"
    for cols in chunks(M):
        total[:, cols] = torch.einsum(layout, r, knowledge_key[..., cols, :].to(dtype))
    return total
