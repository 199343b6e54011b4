"""The public call: checks the arguments, chooses a backend and runs the op."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, overload

from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.common.checks import bias_rows, check_masks, check_prompt, one_row_if_shared
from kblam_kernels.common.dispatch import AUTO, Explanation
from kblam_kernels.common.op import Op
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.errors import number, switch, tensors, whole
from kblam_kernels.knowledge import DenseKnowledge, Knowledge, check_layout
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.latent.op import latent_attention

# No prompt is longer, and kernels count in 32 bits: a larger window means the same.
MAX_WINDOW = 2**30


class Step(TypedDict, total=False):
    """Keyword arguments that may change from one decode step to the next."""

    knowledge_bias: float | Tensor
    prompt_mask: Tensor | None
    knowledge_range: Tensor | None


class Options(Step, total=False):
    """Keyword arguments of `rectangular_attention` that say what is computed."""

    scale: float | None
    window: int | None
    int8_products: bool


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: Knowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    return_lse: Literal[False] = False,
    backend: str = AUTO,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: Knowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    return_lse: Literal[True],
    backend: str = AUTO,
    **options: Unpack[Options],
) -> tuple[Tensor, Tensor]: ...


def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: Knowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    return_lse: bool = False,
    backend: str = AUTO,
    **options: Unpack[Options],
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention to the prompt and, in the same softmax, attention to M knowledge tokens.

    Prompt column t is visible to new query n if `prompt_mask[b, t]`, t <= T - N + n and, with a window,
    t > T - N + n - window. Every query that sees at least one prompt column sees its row's whole knowledge range.
    KBLaM, arXiv 2410.10450, section 3.

    Args:
        query: (B, Hq, N, D), after rotary embedding; float32, float16, bfloat16 (float64: reference backend).
        key, value: (B, Hkv, T, D) with T >= N and Hq a multiple of Hkv: cached tokens first, the new ones last.
        knowledge: `DenseKnowledge` (Hq, M, D) or (B, Hq, M, D), or `LatentKnowledge` (M, P), which gets no gradient;
            None and M = 0 give plain attention.
        knowledge_query: (B, Hq, N, D), never rotated; None uses `query`.
        scale: factor of all scores; None means D ** -0.5.
        knowledge_bias: added to the knowledge scores: a number, or float32 (), (M,) or (B, M), of at most 2e38. -inf
            hides a token, whose numbers must be finite all the same; so does all below -2.36e38, such as
            `torch.finfo(torch.float32).min`.
        prompt_mask: bool (B, T), False hides a prompt column (padding anywhere), which may hold NaN; None shows all.
        window: sliding-window size in tokens, counting the query's own; None is unlimited. Knowledge has no window.
        knowledge_range: int32 (B, 2), the [start, end) of M that each row sees, and no other is read; None is (0, M).
        int8_products: allows int8 latents to be multiplied as int8, with absorbed queries and weights rounded to 8 bits
            on the way: twice as fast on backends that support it (C++ with AVX512-VNNI); others ignore it and stay
            exact. The rounding costs about as much accuracy as rounding the latents did (docs/latent.md).
        return_lse: also return the natural-log sum of exponentials over both blocks.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".
            It is the forward's. A backward takes the same if that can differentiate the call, else the first that can,
            and says so once in the log.

    All tensors are on one device; strides are free as long as the last dimension is contiguous.

    Returns:
        Output (B, Hq, N, D) in the dtype of `query`, and with `return_lse` the float32 lse (B, Hq, N) (float64 for
        float64 input). A row that sees no prompt column, or scores all it sees -inf, gives output 0 and lse -inf,
        never NaN, whatever it holds. NaN that only other batch rows see changes no row.
        Both are differentiable, once, in query, key, value, dense knowledge, knowledge_query and a bias tensor.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit, or latents or a projection that need
            a gradient; the message names it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reasons.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, rectangular_attention
        >>> query, key, value = (torch.randn(1, heads, 5, 64) for heads in (8, 2, 2))
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> rectangular_attention(query, key, value, knowledge).shape
        torch.Size([1, 8, 5, 64])
    """
    return_lse = switch("return_lse", return_lse)
    op, call = call_of(query, key, value, knowledge, knowledge_query, **options)
    output, lse = op(call, op.choose(call, backend))
    return (output, lse) if return_lse else output


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: Knowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    backend: str = AUTO,
) -> Explanation:
    """Which backend `rectangular_attention` would use for these tensors, and why not the ones before it.

    Returns:
        An `Explanation`: `backend` (None if the one asked for cannot serve), `rejected` (name -> its reasons), and a
        readable `str()`.

    Raises:
        UnsupportedInputError: as `rectangular_attention`.
    """
    op, call = call_of(query, key, value, knowledge, knowledge_query)
    return op.explain(call, backend)


def call_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: Knowledge | None,
    knowledge_query: Tensor | None,
    is_alone: bool = False,
    max_span: int | None = None,
    /,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    int8_products: bool = False,
) -> tuple[Op[Any], DenseCall | LatentCall]:
    """The op for this layout, and its checked call; arguments as `rectangular_attention`.

    Args:
        is_alone: T = 0, attention to knowledge alone. By position, so that the public call does not pass it on.
        max_span: as `AttentionCall`.
    """
    check_prompt(query, key, value, is_alone=is_alone)
    check_masks(prompt_mask, knowledge_range, query, key.shape[2])
    B, Hq, _, D = query.shape
    if knowledge is None:
        knowledge = DenseKnowledge.empty(Hq, D, dtype=query.dtype, device=query.device)
    check_layout(knowledge)
    int8_products = switch("int8_products", int8_products)
    if knowledge_query is not None:
        tensors(knowledge_query=knowledge_query)
    attention: dict[str, Any] = {
        "query": query,
        "key": key,
        "value": value,
        "knowledge_query": query if knowledge_query is None else knowledge_query,
        "bias": bias_rows(knowledge_bias, B, knowledge.num_tokens, query),
        "prompt_mask": prompt_mask,
        "knowledge_range": one_row_if_shared(knowledge_range),
        "scale": D**-0.5 if scale is None else number("scale", scale),
        "window": None if window is None else min(whole("window", window, least=None), MAX_WINDOW),
        "max_span": max_span,
    }
    if isinstance(knowledge, DenseKnowledge):
        dense = DenseCall(**attention, knowledge_key=knowledge.key, knowledge_value=knowledge.value)
        dense.check()
        return dense_attention, dense
    p = knowledge.projection
    # Name by name: the compiler of torch 2.11 cannot look into `vars`.
    weights = {name: getattr(p, name) for name in ("key_weight", "key_bias", "value_weight", "value_bias")}
    latent = LatentCall(
        **attention,
        latent_key=knowledge.key,
        latent_value=knowledge.value,
        norm=knowledge.norm,
        key_scale=knowledge.key_scale,
        value_scale=knowledge.value_scale,
        **weights,
        int8_products=int8_products,
        materialised=knowledge.materialised,
    )
    latent.check()
    return latent_attention, latent
