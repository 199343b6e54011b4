"""What is scored, and arguments of `evidence` once they are checked."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.common.call import needs_gradient
from kblam_kernels.common.checks import (
    bias_rows,
    check_alike,
    check_computed,
    check_masks,
    one_row_if_shared,
    row_weight_of,
)
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.softmax import accumulation_dtype
from kblam_kernels.dense.call import check_heads
from kblam_kernels.errors import expect, number, refuse, switch, tensors
from kblam_kernels.evidence.call import EvidenceCall
from kblam_kernels.knowledge import Knowledge, LatentKnowledge, check_layout
from kblam_kernels.latent.absorption import absorb_query
from kblam_kernels.latent.call import check_projection


class Options(TypedDict, total=False):
    """Keyword arguments that say what is scored, as `rectangular_attention` takes them."""

    scale: float | None
    knowledge_bias: float | Tensor
    knowledge_range: Tensor | None


class EvidenceOptions(Options, total=False):
    """Keyword arguments of `evidence`."""

    row_weight: Tensor | None
    int8_products: bool
    backend: str


class Given:
    """Arguments of `evidence`, checked.

    Attributes:
        pieces: the knowledge, if it is latents that are read as keys and values, a piece at a time; else None.
        weight: `row_weight` of each row, (B, Hq, N).
        options, backend: as given.

    Raises:
        UnsupportedInputError: as `evidence`.
    """

    def __init__(
        self,
        knowledge_query: Tensor,
        knowledge: Knowledge,
        lse: Tensor,
        *,
        row_weight: Tensor | None = None,
        int8_products: bool = False,
        backend: str = AUTO,
        **options: Unpack[Options],
    ) -> None:
        check_scores(knowledge_query, knowledge, options.get("knowledge_range"))
        self.query, self.knowledge, self.lse = knowledge_query, knowledge, lse
        dtype = accumulation_dtype(knowledge_query)
        expect("lse", lse, "B, Hq, N", knowledge_query.shape[:3], knowledge_query.device, dtype)
        self.weight = row_weight_of(knowledge_query, row_weight)
        if needs_gradient(self.weight):
            refuse("row_weight is a constant of the op and gets no gradient; pass row_weight.detach()")
        self.pieces = knowledge if isinstance(knowledge, LatentKnowledge) and knowledge.materialised else None
        self.options, self.backend, self._int8_products = options, backend, switch("int8_products", int8_products)

    def call(self) -> EvidenceCall:
        """The call of the op; not of `pieces`."""
        call = call_of(self.query, self.knowledge, self.lse, self.weight, **self.options)
        if call.is_latent:
            call.check_gradients(
                (), "evidence of latents has", "run it under torch.no_grad(), or take .to_dense() of them"
            )
        return call.but(int8_products=self._int8_products)


def check_scores(knowledge_query: Tensor, knowledge: Knowledge, knowledge_range: Tensor | None) -> None:
    """Shapes, dtypes and devices of the tensors that give knowledge scores."""
    tensors(knowledge_query=knowledge_query)
    check_layout(knowledge)
    if knowledge_query.dim() != 4:
        refuse(f"knowledge_query must be (batch, heads, tokens, head_dim); got {tuple(knowledge_query.shape)}")
    check_computed("knowledge_query", knowledge_query)
    if knowledge_query.shape[3] == 0:
        refuse(f"head_dim must be at least 1; got knowledge_query {tuple(knowledge_query.shape)}")
    if isinstance(knowledge, LatentKnowledge):
        check_projection(knowledge.projection.key_weight, knowledge_query)
        check_alike({"the latents' projection": knowledge.projection.key_weight}, knowledge_query)
    else:
        check_heads(knowledge.key, knowledge_query)
        check_alike({"knowledge": knowledge.key}, knowledge_query)
    check_masks(None, knowledge_range, knowledge_query, 0)


def call_of(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    lse: Tensor,
    row_weight: Tensor,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
) -> EvidenceCall:
    """The call of the op, of checked arguments."""
    bias = bias_rows(knowledge_bias, lse.shape[0], knowledge.num_tokens, knowledge_query)
    rows, constant, norm, key_scale = knowledge_query, None, None, None
    if isinstance(knowledge, LatentKnowledge):
        p = knowledge.projection
        rows, constant = absorb_query(knowledge_query, p.key_weight, p.key_bias)
        norm, key_scale = knowledge.norm, knowledge.key_scale
    return EvidenceCall(
        rows=rows,
        key=knowledge.key,
        norm=norm,
        key_scale=key_scale,
        constant=constant,
        lse=lse,
        bias=bias,
        knowledge_range=one_row_if_shared(knowledge_range),
        row_weight=row_weight,
        scale=knowledge.head_dim**-0.5 if scale is None else number("scale", scale),
    )
