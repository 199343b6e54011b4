"""A call of an op as one object: its fields give the documentation, the schema, the fake and the kernels' arguments.

A call kind is a frozen dataclass. The order of its fields is the order of the op's schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from kblam_kernels.common.checks import check_alike, check_computed
from kblam_kernels.common.softmax import empty_output
from kblam_kernels.errors import refuse

C = TypeVar("C", bound="Call")
# An op bound to what stays fixed in a decode loop: of query, key, value, knowledge query, bias, prompt mask, range.
Attend = Callable[..., tuple[Tensor, ...]]
# How a field's annotation is written in a schema of `torch.library`.
_SCHEMA = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "float": "float",
    "int | None": "int?",
    "bool": "bool",
}


@dataclass(frozen=True)
class Call:
    """Base of the call kinds.

    Class attributes:
        LEADING: the tensor that gives the call its dtype, device and width.
        KNOWLEDGE: the tensor that has a row for each knowledge token.
        STRIDED: tensors that kernels read with a contiguous last dimension and any other strides.
        DIFFERENTIABLE: tensors that can get a gradient.
        RESULTS: names of the tensors that the op returns, for readers of its schema.
        GIVEN: what the caller gave for a tensor that was made of it, for messages.
    """

    LEADING: ClassVar[str]
    KNOWLEDGE: ClassVar[str]
    STRIDED: ClassVar[tuple[str, ...]]
    DIFFERENTIABLE: ClassVar[tuple[str, ...]] = ()
    RESULTS: ClassVar[tuple[str, ...]]
    GIVEN: ClassVar[dict[str, str]] = {}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def schema(cls) -> str:
        """The fields as arguments of a `torch.library` schema."""
        return ", ".join(f"{_SCHEMA[str(field.type)]} {field.name}" for field in dataclasses.fields(cls))

    def but(self: C, **changes: Any) -> C:
        """A copy of this call with some fields changed."""
        return dataclasses.replace(self, **changes)

    def empty(self) -> tuple[Tensor, ...]:
        """The results of the op, unwritten; its fake returns them."""
        raise NotImplementedError

    @property
    def leading(self) -> Tensor:
        """The tensor that gives dtype, device and width."""
        return getattr(self, self.LEADING)

    @property
    def width(self) -> int:
        """Numbers in a row of the leading tensor: head_dim, or P of latents."""
        return self.leading.shape[-1]

    @property
    def num_tokens(self) -> int:
        """M."""
        return getattr(self, self.KNOWLEDGE).shape[-2]

    @property
    def in_pairs(self) -> bool:
        """Whether the C++ kernels read its rows in pairs of numbers."""
        return True

    def needs_gradient(self) -> bool:
        """Whether one of its differentiable tensors needs a gradient."""
        return needs_gradient(*(getattr(self, name) for name in self.DIFFERENTIABLE))

    def check_gradients(self, gets: tuple[str, ...], what: str, instead: str) -> None:
        """Refuses every tensor, of those beside `gets`, that needs a gradient: it would get none, in silence.

        Args:
            what: the message says of what there is no gradient, and
            instead: what to do.

        Raises:
            UnsupportedInputError: the message names the tensor.
        """
        if not torch.is_grad_enabled():
            return
        names: tuple[str, ...] = type(self).__match_args__
        for name in names:
            value = getattr(self, name)
            if name not in gets and isinstance(value, Tensor) and value.requires_grad:
                refuse(f"{what} no gradient and {self.GIVEN.get(name, name)} requires one: {instead}")

    def has_tangent(self) -> bool:
        """Whether one of its tensors carries a forward-mode derivative."""
        if not in_forward_mode():
            return False
        tensors = (getattr(self, name) for name in self.names())
        return any(
            forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors if isinstance(tensor, Tensor)
        )

    def is_plain(self) -> bool:
        """Whether it has to be computed by operations of plain PyTorch, one by one, from which derivatives follow.

        Forward mode and the transforms of `torch.func` ask an op of `torch.library` for what it does not have. Within
        one, a tensor does not always tell that it needs a gradient.
        """
        return in_transform() or self.has_tangent()

    def is_eager(self) -> bool:
        """Whether nobody but the caller asks for its results: no gradients, no compiler, no mode, plain tensors."""
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # it records what the dispatcher sees, which no launch is
            or torch._C._len_torch_dispatch_stack() > 0  # fakes, traces, and who counts or looks at ops
            or in_transform()
        ):
            return False
        values = (getattr(self, name) for name in self.names())
        return all(type(value) in (Tensor, Parameter) for value in values if isinstance(value, Tensor))

    def has_contiguous_rows(self) -> bool:
        """Whether every tensor of `STRIDED` has a contiguous last dimension."""
        tensors = (getattr(self, name) for name in self.STRIDED)
        return all(tensor.stride(-1) == 1 or tensor.shape[-1] == 1 for tensor in tensors)


class Saved(NamedTuple):
    """What a backward gets beside its call.

    Args:
        results: of the op.
        gradients: one of each result; None where nothing depends on it.
        wanted: names of the tensors that need a gradient, of the call's `DIFFERENTIABLE`.
        backend: the one that ran the forward.
    """

    results: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]
    wanted: tuple[str, ...]
    backend: str

    def wants(self, *names: str) -> bool:
        """Whether one of these tensors needs a gradient."""
        return any(name in self.wanted for name in names)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether one of them needs a gradient."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


class Sizes(NamedTuple):
    """Lengths of an attention. Kernels are not specialised for them: a growing cache or list must not compile again."""

    B: int
    Hq: int
    Hkv: int
    N: int
    T: int
    M: int


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is going on (`torch.func.jvp`, `torch.autograd.forward_ad`)."""
    return forward_ad._current_level >= 0  # unpacking a tensor to ask it would take longer than a small attention


def in_transform() -> bool:
    """Whether a transform of `torch.func` (grad, vjp, vmap, ...) is going on."""
    return torch._C._are_functorch_transforms_active()


def is_transformed() -> bool:
    """Whether forward-mode differentiation or a transform of `torch.func` is going on."""
    return in_forward_mode() or in_transform()


@dataclass(frozen=True)
class AttentionCall(Call):
    """The fields of every attention to knowledge: the prompt block, and what hides or shifts columns.

    Args:
        query: (B, Hq, N, D), after rotary embedding.
        key, value: (B, Hkv, T, D), T >= N, Hq a multiple of Hkv. T = 0 is attention to knowledge alone: then a row
            without a prompt column is no padding, and sees its knowledge.
        knowledge_query: (B, Hq, N, D), never rotated.
        bias: float32 (B, M), or (1, M) where the batch shares one, added to knowledge scores; None adds nothing.
        prompt_mask: bool (B, T), False hides a prompt column; None shows all.
        knowledge_range: int32 or int64 (B, 2), or (1, 2) where the batch shares one: the [start, end) of M that a row
            sees, either of which may be past M; None is (0, M).
        scale: factor of all scores.
        window: sliding-window size of the prompt in tokens; None is unlimited.
        max_span: no row's range is longer; None is M. A kernel then cuts a range the same wherever it lies in the list,
            however long that is.
    """

    LEADING = "query"
    RESULTS = ("output", "lse")

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_query: Tensor
    bias: Tensor | None
    prompt_mask: Tensor | None
    knowledge_range: Tensor | None
    scale: float
    window: int | None
    max_span: int | None

    @property
    def sizes(self) -> Sizes:
        """The lengths."""
        B, Hq, N, _ = self.query.shape
        return Sizes(B, Hq, self.key.shape[1], N, self.key.shape[2], self.num_tokens)

    @property
    def is_alone(self) -> bool:
        """Whether there is no prompt, only knowledge."""
        return self.key.shape[2] == 0

    @property
    def is_spanned(self) -> bool:
        """Whether a range is cut from its own start."""
        return self.max_span is not None and self.knowledge_range is not None

    @property
    def span(self) -> int:
        """The most tokens that a row sees."""
        M = self.num_tokens
        return min(self.max_span, M) if self.is_spanned and self.max_span is not None else M

    def empty(self) -> tuple[Tensor, Tensor]:
        return empty_output(self.query)

    def check(self) -> None:
        """Refuses tensors that do not fit together. `check_prompt` and `check_masks` come first.

        Raises:
            UnsupportedInputError: the message names the value.
        """
        check_alike({"key": self.key, "value": self.value, "knowledge_query": self.knowledge_query}, self.query)
        check_computed("query", self.query)
        if self.knowledge_query.shape != self.query.shape:
            refuse(
                f"knowledge_query must have the shape of query {tuple(self.query.shape)}; "
                f"got {tuple(self.knowledge_query.shape)}"
            )
        if self.window is not None and self.window < 1:
            refuse(f"window must be at least 1 (the query's own token) or None; got {self.window}")
