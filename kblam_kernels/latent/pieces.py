"""Attention to latents as attention to the keys and values that they stand for, made a piece at a time.

For many queries that is less arithmetic than attention to the latents, and it is their backward: gradients of queries,
prompt and bias need nothing else. A list of any length takes the memory of one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.call import Saved
from kblam_kernels.common.columns import of_tokens
from kblam_kernels.common.dispatch import Backend
from kblam_kernels.common.softmax import accumulation_dtype, in_model_layout, merged
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.latent.call import LatentCall

OF_PIECES = ("knowledge_query", "bias")


def pieces(call: LatentCall) -> Iterator[DenseCall]:
    """The call as calls on dense knowledge, of some tokens each; the first has the prompt. At least one.

    Let go of one before the next is asked for, or there are two of them in memory.
    """
    prompt: dict[str, Any] = {name: getattr(call, name) for name in ("key", "value", "prompt_mask")}
    for tokens, latents in call.knowledge.pieces():
        dense = latents.to_dense()
        bias, knowledge_range = of_tokens(tokens, call.bias, call.knowledge_range)
        yield DenseCall(
            query=call.query,
            **prompt,
            knowledge_query=call.knowledge_query,
            bias=bias,
            knowledge_range=knowledge_range,
            scale=call.scale,
            window=call.window,
            max_span=None,
            knowledge_key=dense.key,
            knowledge_value=dense.value,
        )
        del dense
        prompt = {"key": call.key[:, :, :0], "value": call.value[:, :, :0], "prompt_mask": None}


def forward(call: LatentCall, dense: Backend[DenseCall]) -> tuple[Tensor, Tensor]:
    """Output and lse, of the pieces and merged by their lse."""
    found: tuple[Tensor, Tensor] | None = None
    for piece in pieces(call):
        output, lse = dense.forward(piece)
        del piece
        if found is None:
            found = output, lse
            # A row that sees no prompt sees no knowledge, which only the first piece tells.
            blind = (lse == float("-inf")) & (not call.is_alone)
        else:
            found = merged(*found, output, lse.masked_fill(blind, float("-inf")))
    assert found is not None
    return in_model_layout(found[0].to(call.query.dtype)), found[1]


def backward(call: LatentCall, saved: Saved) -> dict[str, Tensor]:
    """Gradients of `saved.wanted`: those of the dense op, added up over the pieces."""
    made: dict[str, Tensor] = {}
    biases: list[Tensor] = []
    for piece in pieces(call):
        of_piece = saved._replace(wanted=tuple(name for name in saved.wanted if not made or name in OF_PIECES))
        if not of_piece.wanted:
            break
        gradients = dense_attention.differentiating(piece, of_piece).backward(piece, of_piece)
        del piece
        if "bias" in gradients:
            biases.append(gradients.pop("bias"))
        for name, gradient in gradients.items():
            gradient = gradient.to(accumulation_dtype(gradient))
            made[name] = made[name] + gradient if name in made else gradient
    if biases:
        made["bias"] = torch.cat(biases, 1)
    return {name: made[name].to(getattr(call, name).dtype) for name in saved.wanted}
