"""The lse of knowledge scores alone."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.common import dispatch
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.errors import switch
from kblam_kernels.evidence import reference
from kblam_kernels.evidence.given import Options, call_of, check_scores
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import Knowledge
from kblam_kernels.precision import exactly


@overload
def knowledge_lse(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    *,
    int8_products: bool = ...,
    return_block_max: Literal[False] = ...,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def knowledge_lse(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    *,
    int8_products: bool = ...,
    return_block_max: Literal[True],
    **options: Unpack[Options],
) -> tuple[Tensor, Tensor]: ...


def knowledge_lse(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    *,
    int8_products: bool = False,
    return_block_max: bool = False,
    **options: Unpack[Options],
) -> Tensor | tuple[Tensor, Tensor]:
    """Natural-log sum of exponentials of the knowledge scores alone, (B, Hq, N), in float32 or the query's float64.

    exp(knowledge_lse - lse) is the share of attention that went to knowledge. It takes half as long as the attention,
    for whoever reads no output: on a CPU without gradients (`torch.no_grad`), where the C++ kernels serve, as
    KBLAM_BACKEND allows; else it is plain PyTorch, differentiable in the knowledge query and in dense keys.

    Args:
        int8_products: as the attention is given; only the C++ kernels multiply int8 latents so.
        return_block_max: return the largest score of each block of 128 tokens too, (B, Hq, N, ceil(M / 128)) in the
            same dtype, -inf of a block that a row does not see, NaN or inf where a score is; it has no gradient. For
            `top_evidence`.
        options: `scale`, `knowledge_bias` and `knowledge_range`, as `rectangular_attention` takes them.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message names it.
    """
    check_scores(knowledge_query, knowledge, options.get("knowledge_range"))
    int8_products, both = switch("int8_products", int8_products), switch("return_block_max", return_block_max)
    unused = knowledge_query[..., 0]
    with exactly(knowledge_query.device):
        call = call_of(knowledge_query, knowledge, unused, unused, **options).but(int8_products=int8_products)
        if call.is_eager() and dispatch.requested(AUTO, evidence_mass.backends) in (AUTO, "cpu"):
            kernels = evidence_mass.named("cpu")
            if not kernels.reasons(call):
                lse, block_max = kernels.serving(call).knowledge_lse(call, with_block_max=both)
                return (lse, block_max) if both else lse
        lse = reference.knowledge_lse(call)
        return (lse, reference.block_max(call)) if both else lse
