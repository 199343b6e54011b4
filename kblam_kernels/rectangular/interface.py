"""The public call: checks the arguments, chooses a backend, runs the op."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from kblam_kernels import dispatch
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from kblam_kernels.latent.backends import LATENT_BACKENDS
from kblam_kernels.latent.interface import check_latent, latent_attention
from kblam_kernels.rectangular.arguments import (
    bias_tensor,
    check_alike,
    check_knowledge,
    check_masks,
    check_prompt,
    check_skipping,
    needs_gradient,
    refuse,
)
from kblam_kernels.rectangular.op import rectangular_forward


def request_of(by_name: bool, knowledge: DenseKnowledge | LatentKnowledge | None, *tensors: Tensor) -> dispatch.Request:
    """What a backend's verifier looks at; the first of `tensors` has the dtype and head_dim of the call."""
    storage = knowledge.key.dtype if isinstance(knowledge, LatentKnowledge) else None
    if knowledge is not None:
        tensors += (knowledge.key, knowledge.value)
    return dispatch.Request(
        dtype=tensors[0].dtype,
        device=tensors[0].device,
        head_dim=tensors[0].shape[-1],
        last_dim_contiguous=all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in tensors),
        by_name=by_name,
        storage_dtype=storage,
    )


def check_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    knowledge_query: Tensor,
    prompt_mask: Tensor | None,
    window: int | None,
    knowledge_range: Tensor | None,
    skip_threshold: float,
    skip_counts: Tensor | None,
) -> None:
    """What `rectangular_attention` refuses after `check_prompt`, but for a bias that does not fit."""
    if isinstance(knowledge, LatentKnowledge):
        check_latent(query, knowledge, knowledge_query)
    else:
        check_knowledge(query, knowledge, knowledge_query)
    of_knowledge = knowledge.projection.key_weight if isinstance(knowledge, LatentKnowledge) else knowledge.key
    check_alike({"key": key, "value": value, "knowledge": of_knowledge, "knowledge_query": knowledge_query}, query)
    check_skipping(skip_threshold, skip_counts, knowledge, query)
    if not query.dtype.is_floating_point:
        refuse(f"query must be a floating-point tensor; got {query.dtype}")
    if window is not None and window < 1:
        refuse(f"window must be at least 1 (the query's own token) or None; got {window}")
    check_masks(prompt_mask, knowledge_range, query, key.shape[2])


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    skip_threshold: float = 0.0,
    skip_counts: Tensor | None = None,
    int8_products: bool = False,
    return_lse: Literal[False] = False,
    backend: str = dispatch.AUTO,
) -> Tensor: ...


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    skip_threshold: float = 0.0,
    skip_counts: Tensor | None = None,
    int8_products: bool = False,
    return_lse: Literal[True],
    backend: str = dispatch.AUTO,
) -> tuple[Tensor, Tensor]: ...


def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    skip_threshold: float = 0.0,
    skip_counts: Tensor | None = None,
    int8_products: bool = False,
    return_lse: bool = False,
    backend: str = dispatch.AUTO,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention to the prompt and, in the same softmax, attention to M knowledge tokens.

    Prompt column t is visible to new query n if `prompt_mask[b, t]`, t <= T - N + n and, with a window,
    t > T - N + n - window. Every query that sees at least one prompt column sees its row's whole knowledge range.
    KBLaM, arXiv 2410.10450, section 3.

    Args:
        query: (B, Hq, N, D), after rotary embedding; float32, float16, bfloat16 (float64: reference backend).
        key, value: (B, Hkv, T, D) with T >= N and Hq a multiple of Hkv: cached tokens first, the new ones last.
        knowledge: `DenseKnowledge` (Hq, M, D) or (B, Hq, M, D), or `LatentKnowledge` (M, P), which has no gradient;
            None and M = 0 give plain attention.
        knowledge_query: (B, Hq, N, D), never rotated; None uses `query`.
        scale: factor of all scores; None means D ** -0.5.
        knowledge_bias: added to the knowledge scores: a number, or float32 (), (M,) or (B, M). -inf hides a token.
        prompt_mask: bool (B, T), False hides a prompt column (padding anywhere); None shows all.
        window: sliding-window size in tokens, counting the query's own; None is unlimited. Knowledge has no window.
        knowledge_range: int32 (B, 2), the [start, end) of M that each row sees; None is (0, M).
        skip_threshold: latents only, in [0, 1): the values of a tile of tokens are not read when all their weights,
            relative to the largest seen so far, are below it. 0 is exact. The error of the mixed latents is at most
            skip_threshold x M x the largest |value latent|, and the lse stays exact; which tiles there are is each
            backend's own matter, and what is skipped depends on the batch (`kblam_kernels/latent/README.md`).
        skip_counts: int64 (2,) on the device, to which the numbers of value tiles skipped and visited are added.
        int8_products: allows int8 latents to be multiplied as int8, with absorbed queries and weights rounded to 8 bits
            on the way: twice as fast where a backend has it (C++ with AVX512-VNNI), as exact as ever elsewhere. The
            rounding costs about as much accuracy as that of the latents did (docs/latent.md).
        return_lse: also return the natural-log sum of exponentials over both blocks.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    All tensors are on one device; strides are free as long as the last dimension is contiguous.

    Returns:
        Output (B, Hq, N, D) in the dtype of `query`, and with `return_lse` the float32 lse (B, Hq, N) (float64 for
        float64 input). A row that sees no prompt column gives output 0 and lse -inf, never NaN. Both are
        differentiable in query, key, value, dense knowledge and knowledge_query.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit, or latents where a gradient is
            asked for, or skipping over dense knowledge; the message has it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reason.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, rectangular_attention
        >>> query, key, value = (torch.randn(1, heads, 5, 64) for heads in (8, 2, 2))
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> rectangular_attention(query, key, value, knowledge).shape
        torch.Size([1, 8, 5, 64])
    """
    check_prompt(query, key, value)
    B, Hq, _, D = query.shape
    if knowledge is None:
        knowledge = DenseKnowledge.empty(Hq, D, dtype=query.dtype, device=query.device)
    r = query if knowledge_query is None else knowledge_query
    check_call(query, key, value, knowledge, r, prompt_mask, window, knowledge_range, skip_threshold, skip_counts)
    bias = bias_tensor(knowledge_bias, B, knowledge.num_tokens, query)

    def request_for(by_name: bool) -> dispatch.Request:
        return request_of(by_name, knowledge, query, key, value, r)

    scale = D**-0.5 if scale is None else float(scale)
    if isinstance(knowledge, LatentKnowledge):
        output, lse = latent_attention(
            query,
            key,
            value,
            knowledge,
            r,
            bias,
            prompt_mask,
            knowledge_range,
            scale,
            window,
            skip_threshold,
            skip_counts,
            int8_products,
            request_for,
            backend,
        )
        return (output, lse) if return_lse else output
    arguments = (
        query,
        key,
        value,
        knowledge.key,
        knowledge.value,
        r,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
    )
    backend = dispatch.choose(request_for, backend)
    if backend == "cpu" and not needs_gradient(query, key, value, knowledge.key, knowledge.value, r):
        # The C++ op as it is: the one around it is there for gradients.
        output, lse = dispatch.forward_of(backend)(*arguments)
    else:
        output, lse = rectangular_forward(*arguments, backend)
    return (output, lse) if return_lse else output


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    backend: str = dispatch.AUTO,
) -> dispatch.Explanation:
    """Which backend `rectangular_attention` would use for these tensors, and why not the ones before it.

    Returns:
        An `Explanation`: `backend` (None if the one asked for cannot serve), `rejected` (name -> reason), and a
        readable `str()`.
    """
    r = query if knowledge_query is None else knowledge_query
    backends = LATENT_BACKENDS if isinstance(knowledge, LatentKnowledge) else None
    return dispatch.explain_request(
        lambda by_name: request_of(by_name, knowledge, query, key, value, r), backend, backends
    )
