"""`partial_knowledge_attention` for an engine: its memory taken once, a step planned once, run in every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.attention import packed
from kblam_kernels.common import memory
from kblam_kernels.common.call import needs_gradient
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.main_memory import available_memory
from kblam_kernels.common.softmax import accumulation_dtype
from kblam_kernels.errors import refuse, whole
from kblam_kernels.knowledge import DenseKnowledge, Knowledge, check_layout
from kblam_kernels.precision import exactly

MOST_TOKENS = 2**31


class KnowledgePlan:
    """Attention of packed requests to one list, for a loop over steps and layers.

    `plan` is told what the requests of a step see, outside of any CUDA graph; `run` attends in each layer and may be
    captured in one: with Triton it only launches, at addresses and with grids that depend on the number of rows alone
    (padding included), and reads what was planned from the device. So one graph serves every batch of so many
    rows, and a list that grows within its room.

    Args:
        knowledge: of one layer. Those given to `run` have its shapes and dtypes (latents: one copy for all layers, each
            with its own projection, all or none of them materialised); norms and scales are contiguous.
        max_tokens: the most rows of a step, padding included; below 2**31, which `query_start_loc` counts in.
        max_span, scale, int8_products, backend: as `partial_knowledge_attention` takes them.

    The constructor attends once, to nothing: this compiles the kernels and counts the memory, which is then taken.
    All tensors are on the device of `knowledge`. A plan serves one stream at a time, since its results and scratch lie
    in memory of its own.

    Attributes:
        backend: the one that serves. Only "triton" makes no other tensors in `run`; the C++ kernels and plain PyTorch
            leave their results at the same addresses, but take memory while they compute.
        workspace_bytes: of the memory that was taken.

    Raises:
        UnsupportedInputError, BackendUnavailableError: as `partial_knowledge_attention`; also for a max_tokens below 1,
            from 2**31 on, or of rows that the device has no memory for.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, KnowledgePlan
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> attend = KnowledgePlan(knowledge, max_tokens=16)
        >>> attend.plan(torch.tensor([0, 5, 6]).int(), torch.tensor([[0, 400], [400, 1000]]).int())
        >>> output, lse = attend.run(torch.randn(8, 8, 64), knowledge)  # two of the rows are padding
        >>> output.shape, lse.shape
        (torch.Size([8, 8, 64]), torch.Size([8, 8]))
    """

    def __init__(
        self,
        knowledge: Knowledge,
        max_tokens: int,
        *,
        max_span: int | None = None,
        scale: float | None = None,
        int8_products: bool = False,
        backend: str = AUTO,
    ) -> None:
        packed.check_shared(knowledge)
        max_tokens = self.max_tokens = whole("max_tokens", max_tokens)
        _check_room(max_tokens, knowledge)
        self._form = _form_of(knowledge)
        self._max_span = None if max_span is None else whole("max_span", max_span)
        self._options: dict[str, Any] = {"scale": scale, "int8_products": int8_products}
        of_model = _of_model(knowledge)
        with torch.inference_mode(False):  # what is made there could be written nowhere else
            # What each row sees: nothing, until something is planned.
            self._range = torch.zeros(max_tokens, 2, dtype=torch.int32, device=of_model.device)
            self._bias = torch.zeros(max_tokens, dtype=torch.float32, device=of_model.device)
            self._starts: list[int] | None = [0] if of_model.device.type == "cpu" else None
            query = torch.zeros(
                max_tokens, knowledge.num_heads, knowledge.head_dim, dtype=of_model.dtype, device=of_model.device
            )
            op, call = self._call(query, knowledge)
            self.backend = op.choose(call, backend)
            self._workspace = memory.Workspace()
            for rows in packed.rows_that_take_most(call, self.backend):
                self.run(query[:rows], knowledge)
            self._workspace.take(of_model.device)

    @property
    def workspace_bytes(self) -> int:
        """Of results and scratch."""
        return self._workspace.size

    def plan(
        self,
        query_start_loc: Tensor,
        knowledge_range: Tensor | None = None,
        *,
        knowledge_bias: float | Tensor = 0.0,
    ) -> None:
        """Says what the requests of the next runs see; arguments as `partial_knowledge_attention` takes them.

        On CUDA the device is not waited for. Entries of `query_start_loc` that repeat the last one are requests without
        tokens, so arrays padded to the most requests are right.

        Raises:
            UnsupportedInputError: a shape, dtype, device or value that does not fit; the message names it.
        """
        packed.check_packed(self._bias[:, None, None], query_start_loc)
        R, M = len(query_start_loc) - 1, self._form[1][-2]
        ranges, biases = packed.of_requests(R, M, knowledge_range, knowledge_bias, self._bias, self._max_span)
        if needs_gradient(biases):
            refuse("a planned run has no gradient and knowledge_bias requires one: pass knowledge_bias.detach()")
        starts = packed.starts_of(query_start_loc, self.max_tokens)
        request = packed.request_of_each(query_start_loc, self.max_tokens)
        self._range.copy_(packed.of_each(ranges, request).clamp(0, M))  # an int64 end may not fit an int32
        self._bias.copy_(packed.of_each(biases, request))
        self._starts = starts

    def run(self, knowledge_query: Tensor, knowledge: Knowledge) -> tuple[Tensor, Tensor]:
        """One layer of the planned step.

        Args:
            knowledge_query: (rows, Hq, D), as many rows as the planned requests have tokens, or more: the others are
                padding. At most `max_tokens`. A contiguous last dimension.
            knowledge: of this layer.

        Returns:
            Output (rows, Hq, D) and lse (Hq, rows), as `partial_knowledge_attention`, contiguous, in this object's
            memory: the next run overwrites them. There is no gradient.

        Raises:
            UnsupportedInputError: a shape, dtype or device that does not fit; the message names it.
        """
        T = len(packed.check_rows(knowledge_query, "knowledge_query"))
        planned = 0 if self._starts is None else self._starts[-1]
        if not planned <= T <= self.max_tokens:
            refuse(f"{planned} rows were planned, of at most max_tokens={self.max_tokens}; knowledge_query has {T}")
        check_layout(knowledge)
        if _form_of(knowledge) != self._form:
            refuse(f"knowledge must have the form of the planned {self._form}; got {_form_of(knowledge)}")
        if knowledge_query.device != self._bias.device:
            refuse(f"knowledge_query must be on {self._bias.device}; got {knowledge_query.device}")
        op, call = self._call(knowledge_query, knowledge)
        call.check_gradients(("query", "key", "value"), "a planned run has", "run it under torch.no_grad()")
        if not call.has_contiguous_rows():
            refuse("knowledge_query and knowledge must have a contiguous last dimension; call .contiguous() on them")
        backend = op.named(self.backend)
        with torch.no_grad(), exactly(knowledge_query.device), self._workspace.cut():
            output = memory.empty(knowledge_query, *knowledge_query.shape)
            lse = memory.empty(
                knowledge_query, *knowledge_query.shape[1::-1], dtype=accumulation_dtype(knowledge_query)
            )
            row = 0
            for B, N in packed.cuts_of(call, self.backend, self._starts):
                rows, row = slice(row, row + B * N), row + B * N
                with self._workspace.lent():
                    part, part_lse = packed.packed_results(*backend.forward(packed.of_rows(call, rows, B, N)))
                    output[rows].copy_(part)
                    lse[:, rows].copy_(part_lse)
            output[row:].zero_()
            lse[:, row:].fill_(float("-inf"))
        return output, lse

    def _call(self, query: Tensor, knowledge: Knowledge) -> tuple[Any, Any]:
        T = len(query)
        bias = self._bias[:T, None].expand(T, knowledge.num_tokens)
        return packed.call_of_each(
            query, knowledge, self._max_span, knowledge_range=self._range[:T], knowledge_bias=bias, **self._options
        )


def _check_room(max_tokens: int, knowledge: Knowledge) -> None:
    """Refuses more rows than are counted in int32, or than the device has memory for."""
    if max_tokens >= MOST_TOKENS:
        refuse(f"max_tokens must be below 2**31, since query_start_loc is int32; got {max_tokens}")
    of_model = _of_model(knowledge)
    # Query and output, lse, range and bias; scratch comes on top.
    row = knowledge.num_heads * (2 * knowledge.head_dim * of_model.element_size() + 4) + 12
    room = _room(of_model.device)
    if room is not None and max_tokens * row > room:
        refuse(
            f"max_tokens={max_tokens} rows take {max_tokens * row / 1e9:,.1f} GB on {of_model.device}, which has "
            f"{room / 1e9:,.1f} GB; give the most rows that a step of the engine has"
        )


def _room(device: torch.device) -> int | None:
    """Bytes that may be there to take, None where nobody says. Linux ends the process that takes more main memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return available_memory() if device.type == "cpu" else None


def _form_of(knowledge: Knowledge) -> tuple[Any, ...]:
    """What all layers of a plan share: its memory was counted for that."""
    heads, dtype = (knowledge.num_heads, knowledge.head_dim), _of_model(knowledge).dtype
    form = type(knowledge).__name__, tuple(knowledge.key.shape), knowledge.key.dtype, heads, dtype
    return form if isinstance(knowledge, DenseKnowledge) else (*form, knowledge.materialised)


def _of_model(knowledge: Knowledge) -> Tensor:
    """A tensor of the model's dtype."""
    return knowledge.key if isinstance(knowledge, DenseKnowledge) else knowledge.projection.key_weight
