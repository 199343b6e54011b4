"""Attention to the same knowledge again and again, as decoding asks for it: what stays the same is looked up once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels import dispatch
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from kblam_kernels.latent import fused
from kblam_kernels.latent.backends import LATENT_BACKENDS
from kblam_kernels.rectangular.arguments import bias_tensor, check_masks, check_prompt, refuse
from kblam_kernels.rectangular.interface import check_call, rectangular_attention, request_of


class RectangularAttention:
    """`rectangular_attention` over one `knowledge`, for loops: hold one for each layer and call it at every step.

    The first call of a shape checks everything and chooses the backend, as `rectangular_attention` does. Where that is
    the C++ one, later calls of the same shape (but for a longer prompt) go straight to its op: less than half of the
    time that Python takes otherwise. Rows of the knowledge may be written in place between calls. KBLAM_BACKEND,
    KBLAM_BUILD and KBLAM_CPU_ISA are read at the first call of a shape.

    Args:
        knowledge: `DenseKnowledge` or `LatentKnowledge`.
        skip_threshold, skip_counts, int8_products, backend: as `rectangular_attention` takes them.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, RectangularAttention
        >>> attend = RectangularAttention(DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64)))
        >>> query, key, value = (torch.randn(1, heads, 1, 64) for heads in (8, 2, 2))
        >>> output, lse = attend(query, key, value)
        >>> output.shape, lse.shape
        (torch.Size([1, 8, 1, 64]), torch.Size([1, 8, 1]))
    """

    def __init__(
        self,
        knowledge: DenseKnowledge | LatentKnowledge,
        *,
        skip_threshold: float = 0.0,
        skip_counts: Tensor | None = None,
        int8_products: bool = False,
        backend: str = dispatch.AUTO,
    ) -> None:
        self.knowledge = knowledge
        self.skip_threshold = skip_threshold
        self.skip_counts = skip_counts
        self.int8_products = int8_products
        self.backend = backend
        self._form: tuple[Any, ...] | None = None
        self._attend: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor | None = None,
        *,
        scale: float | None = None,
        window: int | None = None,
        knowledge_bias: float | Tensor = 0.0,
        prompt_mask: Tensor | None = None,
        knowledge_range: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output (B, Hq, N, D) and lse (B, Hq, N); arguments and errors are those of `rectangular_attention`."""
        r = query if knowledge_query is None else knowledge_query
        masks = (prompt_mask, knowledge_range)
        if self._is_direct():
            attend = self._bound(query, key, value, r, scale, window, *masks)
            if attend is not None:
                bias = bias_tensor(knowledge_bias, query.shape[0], self.knowledge.num_tokens, query)
                try:
                    output, lse, *others = attend(query, key, value, r, bias, *masks)
                except RuntimeError:
                    pass  # something does not fit: the whole call below says what, in its own words
                else:
                    self._count(others)
                    return output, lse
        return rectangular_attention(
            query,
            key,
            value,
            self.knowledge,
            r,
            scale=scale,
            window=window,
            knowledge_bias=knowledge_bias,
            prompt_mask=prompt_mask,
            knowledge_range=knowledge_range,
            skip_threshold=self.skip_threshold,
            skip_counts=self.skip_counts,
            int8_products=self.int8_products,
            return_lse=True,
            backend=self.backend,
        )

    def of_hidden_states(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden_states: Tensor,
        query_weight: Tensor,
        *,
        scale: float | None = None,
        window: int | None = None,
        knowledge_bias: float | Tensor = 0.0,
        prompt_mask: Tensor | None = None,
        knowledge_range: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same where the knowledge query is still to be made, in the same C++ call if there is one.

        Args:
            hidden_states: (B, N, width).
            query_weight: (Hq * D, width), of a linear layer without bias whose outputs are the heads one by one.

        Returns:
            Output, lse, and the knowledge query (B, Hq, N, D).

        Raises:
            UnsupportedInputError: as `rectangular_attention`, or if the two do not fit the query.
        """
        B, Hq, N, D = query.shape
        width = hidden_states.shape[-1]
        if tuple(hidden_states.shape) != (B, N, width) or tuple(query_weight.shape) != (Hq * D, width):
            refuse(
                f"hidden_states must be (B={B}, N={N}, width) and query_weight (Hq * D = {Hq * D}, width) to fit query "
                f"{tuple(query.shape)}; got {tuple(hidden_states.shape)} and {tuple(query_weight.shape)}"
            )
        masks = (prompt_mask, knowledge_range)
        if self._is_direct() and isinstance(self.knowledge, LatentKnowledge):
            attend = self._bound(query, key, value, query, scale, window, *masks)
            if attend is not None:
                bias = bias_tensor(knowledge_bias, B, self.knowledge.num_tokens, query)
                try:
                    output, lse, *others = attend(query, key, value, hidden_states, bias, *masks, query_weight)
                except RuntimeError:
                    pass  # as above
                else:
                    self._count(others)
                    return output, lse, others[1]
        r = F.linear(hidden_states, query_weight).view(B, N, Hq, D).transpose(1, 2)
        output, lse = self(
            query,
            key,
            value,
            r,
            scale=scale,
            window=window,
            knowledge_bias=knowledge_bias,
            prompt_mask=prompt_mask,
            knowledge_range=knowledge_range,
        )
        return output, lse, r

    def _is_direct(self) -> bool:
        # A compiler traces the whole; a gradient needs the op that has one.
        return not torch.compiler.is_compiling() and not torch.is_grad_enabled()

    def _count(self, others: list[Tensor]) -> None:
        if others and self.skip_counts is not None and self.skip_threshold:
            self.skip_counts.add_(others[0])

    def _bound(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        r: Tensor,
        scale: float | None,
        window: int | None,
        prompt_mask: Tensor | None,
        knowledge_range: Tensor | None,
    ) -> Callable[..., tuple[Tensor, ...]] | None:
        """The C++ op with the knowledge in place, or None where another backend serves or several ops are needed."""
        form = (query.shape, query.dtype, scale, window)
        if form == self._form:
            check_masks(prompt_mask, knowledge_range, query, key.shape[2])
            return self._attend
        check_prompt(query, key, value)
        skipping = (self.skip_threshold, self.skip_counts)
        check_call(query, key, value, self.knowledge, r, prompt_mask, window, knowledge_range, *skipping)
        self._attend = self._chosen(query, key, value, r, scale, window)
        self._form = form
        return self._attend

    def _chosen(
        self, query: Tensor, key: Tensor, value: Tensor, r: Tensor, scale: float | None, window: int | None
    ) -> Callable[..., tuple[Tensor, ...]] | None:
        knowledge = self.knowledge
        backend = dispatch.choose(
            lambda by_name: request_of(by_name, knowledge, query, key, value, r),
            self.backend,
            LATENT_BACKENDS if isinstance(knowledge, LatentKnowledge) else None,
        )
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        if isinstance(knowledge, LatentKnowledge):
            if fused.serves(backend, query, knowledge.projection):
                return fused.bound(knowledge, scale, window, self.skip_threshold, self.int8_products)
        elif backend == "cpu":
            # Imports what compiles graphs: not before it is needed.
            from kblam_kernels.rectangular import cpu

            return cpu.bound(knowledge.key, knowledge.value, scale, window)
        return None
