"""The public call: checks the arguments, chooses a backend, runs the op."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from kblam_kernels import dispatch
from kblam_kernels.errors import UnsupportedInputError
from kblam_kernels.knowledge import DenseKnowledge
from kblam_kernels.rectangular.op import rectangular_forward


def _refuse(message: str) -> None:
    raise UnsupportedInputError(message)


def _check_prompt(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            _refuse(f"{name} must be of rank 4 (batch, heads, tokens, head_dim); got {tuple(tensor.shape)}")
    B, Hq, N, D = query.shape
    if key.shape != value.shape or key.shape[0] != B or key.shape[3] != D:
        _refuse(
            f"key and value must both be (B={B}, Hkv, T, D={D}) to fit query {tuple(query.shape)}; "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if key.shape[1] == 0 or Hq % key.shape[1]:
        _refuse(f"query heads must be a multiple of key heads; got {Hq} and {key.shape[1]}")
    if key.shape[2] < N:
        _refuse(f"key must hold the N={N} new tokens after the cached ones; it has only {key.shape[2]}")


def _check_knowledge(query: Tensor, knowledge: DenseKnowledge, knowledge_query: Tensor) -> None:
    B, Hq, _, D = query.shape
    expected = (Hq, knowledge.num_tokens, D) if knowledge.is_shared else (B, Hq, knowledge.num_tokens, D)
    if tuple(knowledge.key.shape) != expected:
        _refuse(
            f"knowledge of shape {tuple(knowledge.key.shape)} does not fit query {tuple(query.shape)}: it needs one "
            f"head per query head, (Hq={Hq}, M, D={D}) or (B={B}, Hq={Hq}, M, D={D})"
        )
    if knowledge_query.shape != query.shape:
        _refuse(
            f"knowledge_query must have the shape of query {tuple(query.shape)}; got {tuple(knowledge_query.shape)}"
        )


def _check_alike(named: dict[str, Tensor], query: Tensor) -> None:
    for name, tensor in named.items():
        if tensor.dtype != query.dtype or tensor.device != query.device:
            _refuse(
                f"{name} is {tensor.dtype} on {tensor.device}, query is {query.dtype} on {query.device}; "
                f"convert it with .to(query)"
            )


def _bias_tensor(bias: float | Tensor, B: int, M: int, query: Tensor) -> Tensor | None:
    """`knowledge_bias` as a float32 view (B, M), or None when it adds nothing."""
    if not isinstance(bias, Tensor):
        if bias == 0:
            return None
        if math.isnan(bias) or bias == math.inf:
            _refuse(f"knowledge_bias must be finite or -inf; got {bias}")
        bias = torch.full((), bias, dtype=torch.float32, device=query.device)
    if bias.dtype != torch.float32 or bias.device != query.device:
        _refuse(f"knowledge_bias must be float32 on {query.device}; got {bias.dtype} on {bias.device}")
    if bias.requires_grad:
        _refuse("knowledge_bias is a constant of the op and gets no gradient; pass bias.detach()")
    if tuple(bias.shape) not in ((), (M,), (B, M)):
        _refuse(f"knowledge_bias must be a number, (M={M},) or (B={B}, M={M}); got {tuple(bias.shape)}")
    return bias.expand(B, M)


def _check_masks(prompt_mask: Tensor | None, knowledge_range: Tensor | None, query: Tensor, T: int) -> None:
    B = query.shape[0]
    if prompt_mask is not None:
        if tuple(prompt_mask.shape) != (B, T) or prompt_mask.dtype != torch.bool:
            _refuse(f"prompt_mask must be bool (B={B}, T={T}); got {prompt_mask.dtype} {tuple(prompt_mask.shape)}")
        if prompt_mask.device != query.device:
            _refuse(f"prompt_mask must be on {query.device}; got {prompt_mask.device}")
    if knowledge_range is not None:
        if tuple(knowledge_range.shape) != (B, 2) or knowledge_range.dtype not in (torch.int32, torch.int64):
            _refuse(
                f"knowledge_range must be int32 (B={B}, 2), [start, end) for each row; "
                f"got {knowledge_range.dtype} {tuple(knowledge_range.shape)}"
            )
        if knowledge_range.device != query.device:
            _refuse(f"knowledge_range must be on {query.device}; got {knowledge_range.device}")


def _request(by_name: bool, *tensors: Tensor) -> dispatch.Request:
    return dispatch.Request(
        dtype=tensors[0].dtype,
        device=tensors[0].device,
        head_dim=tensors[0].shape[-1],
        last_dim_contiguous=all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in tensors),
        by_name=by_name,
    )


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    return_lse: Literal[False] = False,
    backend: str = dispatch.AUTO,
) -> Tensor: ...


@overload
def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
    return_lse: Literal[True],
    backend: str = dispatch.AUTO,
) -> tuple[Tensor, Tensor]: ...


def rectangular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | None = None,
    knowledge_query: Tensor | None = None,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    prompt_mask: Tensor | None = None,
    window: int | None = None,
    knowledge_range: Tensor | None = None,
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
        knowledge: `DenseKnowledge` (Hq, M, D) or (B, Hq, M, D); None and M = 0 give plain attention.
        knowledge_query: (B, Hq, N, D), never rotated; None uses `query`.
        scale: factor of all scores; None means D ** -0.5.
        knowledge_bias: added to the knowledge scores: a number, or float32 (), (M,) or (B, M). -inf hides a token.
        prompt_mask: bool (B, T), False hides a prompt column (padding anywhere); None shows all.
        window: sliding-window size in tokens, counting the query's own; None is unlimited. Knowledge has no window.
        knowledge_range: int32 (B, 2), the [start, end) of M that each row sees; None is (0, M).
        return_lse: also return the natural-log sum of exponentials over both blocks.
        backend: "auto", "triton" or "reference"; KBLAM_BACKEND decides when this is "auto".

    All tensors are on one device; strides are free as long as the last dimension is contiguous.

    Returns:
        Output (B, Hq, N, D) in the dtype of `query`, and with `return_lse` the float32 lse (B, Hq, N) (float64 for
        float64 input). A row that sees no prompt column gives output 0 and lse -inf, never NaN. Both are
        differentiable in query, key, value, knowledge and knowledge_query.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message has it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reason.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, rectangular_attention
        >>> query, key, value = (torch.randn(1, heads, 5, 64) for heads in (8, 2, 2))
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> rectangular_attention(query, key, value, knowledge).shape
        torch.Size([1, 8, 5, 64])
    """
    _check_prompt(query, key, value)
    B, Hq, _, D = query.shape
    if knowledge is None:
        knowledge = DenseKnowledge.empty(Hq, D, dtype=query.dtype, device=query.device)
    r = query if knowledge_query is None else knowledge_query
    _check_knowledge(query, knowledge, r)
    named = {"key": key, "value": value, "knowledge": knowledge.key, "knowledge_query": r}
    _check_alike(named, query)
    if not query.dtype.is_floating_point:
        _refuse(f"query must be a floating-point tensor; got {query.dtype}")
    if window is not None and window < 1:
        _refuse(f"window must be at least 1 (the query's own token) or None; got {window}")
    _check_masks(prompt_mask, knowledge_range, query, key.shape[2])
    bias = _bias_tensor(knowledge_bias, B, knowledge.num_tokens, query)

    def request_for(by_name: bool) -> dispatch.Request:
        return _request(by_name, query, key, value, knowledge.key, knowledge.value, r)

    output, lse = rectangular_forward(
        query,
        key,
        value,
        knowledge.key,
        knowledge.value,
        r,
        bias,
        prompt_mask,
        knowledge_range,
        D**-0.5 if scale is None else float(scale),
        window,
        dispatch.choose(request_for, backend),
    )
    return (output, lse) if return_lse else output


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge: DenseKnowledge | None = None,
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
    tensors = [query, key, value, r]
    if knowledge is not None:
        tensors += [knowledge.key, knowledge.value]
    return dispatch.explain_request(lambda by_name: _request(by_name, *tensors), backend)
