"""What every backward of attention to dense knowledge starts from. The maths is in this folder's README."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kblam_kernels.common.call import Saved
from kblam_kernels.common.softmax import accumulation_dtype, level_of
from kblam_kernels.dense.call import DenseCall

OF_PROMPT = ("query", "key", "value")
OF_KNOWLEDGE = ("knowledge_query", "knowledge_key", "knowledge_value", "bias")


class RowTerms(NamedTuple):
    """What is known of each query row: p = exp(score - level), ds = p * (grad_output . value - delta).

    Args:
        query, knowledge_query: (B, Hq, N, D) as in the call, 0 where a row saw nothing: it may be NaN.
        grad_output: (B, Hq, N, D) in the dtype of the query.
        level, delta: (B, Hq, N, 1) in the accumulation dtype. The level is the lse, +inf where a row saw nothing.
    """

    query: Tensor
    knowledge_query: Tensor
    grad_output: Tensor
    level: Tensor
    delta: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> RowTerms:
        """All of them changed in the same way."""
        return RowTerms(*map(change, self))


def row_terms(call: DenseCall, saved: Saved) -> RowTerms:
    """The terms of a finished forward."""
    (output, lse), (grad_output, grad_lse) = saved.results, saved.gradients
    dtype = accumulation_dtype(call.query)
    blind = (lse == float("-inf"))[..., None]
    if grad_output is None:
        grad_output, delta = torch.zeros_like(output), torch.zeros_like(lse)
    else:
        delta = (grad_output.to(dtype) * output.to(dtype)).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    query, knowledge_query = (rows.masked_fill(blind, 0) for rows in (call.query, call.knowledge_query))
    return RowTerms(query, knowledge_query, grad_output, level_of(lse), delta[..., None].masked_fill(blind, 0))
