"""Attention to the same knowledge at every decode step: planned once, run at each step."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from kblam_kernels.attention.interface import Options, Step, call_of
from kblam_kernels.common.call import Attend, is_transformed
from kblam_kernels.common.checks import (
    bias_rows,
    check_alike,
    check_masks,
    check_new_tokens,
    check_prompt,
    one_row_if_shared,
)
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.op import Op
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.errors import refuse, tensors
from kblam_kernels.knowledge import Knowledge, LatentKnowledge, check_layout
from kblam_kernels.latent.call import LatentCall

# Query, key, value, and the knowledge query or None.
Tensors = tuple[Tensor, Tensor, Tensor, Tensor | None]
# Where an argument of `rectangular_attention` goes that a step does not take.
_PLANNED = "is planned and no argument of run: give it to plan, or call the object, which plans anew when it changes"
_ELSEWHERE = {
    "scale": _PLANNED,
    "window": _PLANNED,
    "int8_products": "is no argument of a step: give it to RectangularAttention(knowledge, int8_products=...)",
    "backend": "is no argument of a step: give it to RectangularAttention(knowledge, backend=...)",
    "return_lse": "is no argument of a step, which always returns the lse",
}


@dataclass(frozen=True)
class Planned:
    """The result of `RectangularAttention.plan`; later steps of the same form reuse it.

    Args:
        form: what a step must share with the planned one: shape and dtype of the query, scale, window.
        backend: the one that serves.
        straight: the C++ op with the knowledge already bound, if it can be called directly; else None.
    """

    form: tuple[Any, ...]
    backend: str
    straight: Attend | None


class RectangularAttention:
    """`rectangular_attention` to one `knowledge`, for loops: keep one object per layer and call it at every step.

    `plan` checks everything and chooses the backend, as `rectangular_attention` does; `run` is a step of the planned
    form. Where the C++ kernels serve, `run` calls their op directly, which takes less than half of the Python time.
    Where Triton serves, every call without gradients goes to its launches past PyTorch's dispatcher, checked as ever.
    Calling the object plans when the form changes, then runs. Rows of the knowledge may be written in place between
    calls. KBLAM_BACKEND, KBLAM_BUILD and KBLAM_CPU_ISA are read when planning.

    Args:
        knowledge: `DenseKnowledge` or `LatentKnowledge`.
        int8_products, backend: as `rectangular_attention` takes them.

    Raises:
        UnsupportedInputError: if `knowledge` is neither.

    The arguments are attributes that cannot be set: other knowledge takes another object. Threads may share an object;
    each plans for itself.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, RectangularAttention
        >>> attend = RectangularAttention(DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64)))
        >>> query, key, value = (torch.randn(1, heads, 1, 64) for heads in (8, 2, 2))
        >>> attend.plan(query, key, value).backend in ("cpu", "reference")
        True
        >>> output, lse = attend.run(query, key, value)
        >>> output.shape, lse.shape
        (torch.Size([1, 8, 1, 64]), torch.Size([1, 8, 1]))
    """

    def __init__(self, knowledge: Knowledge, *, int8_products: bool = False, backend: str = AUTO) -> None:
        check_layout(knowledge)
        self._knowledge = knowledge
        self._int8_products = int8_products
        self._backend = backend
        # By thread; no `threading.local`, which a compiler cannot trace.
        self._plans: dict[int, Planned] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"knowledge": self.knowledge, "int8_products": self.int8_products, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy plans for itself: a plan holds this object's own knowledge.
        RectangularAttention.__init__(self, **state)

    # Read-only, because a plan holds them: another knowledge, and other options, are another object's.
    @property
    def knowledge(self) -> Knowledge:
        """What is attended to."""
        return self._knowledge

    @knowledge.setter
    def knowledge(self, value: Knowledge) -> None:
        _cannot_be_set("knowledge")

    @property
    def int8_products(self) -> bool:
        """As `rectangular_attention` takes it."""
        return self._int8_products

    @int8_products.setter
    def int8_products(self, value: bool) -> None:
        _cannot_be_set("int8_products")

    @property
    def backend(self) -> str:
        """The one that was asked for; `planned.backend` is the one that serves."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        _cannot_be_set("backend")

    @property
    def planned(self) -> Planned | None:
        """The result of this thread's last `plan`, or None."""
        return self._plans.get(threading.get_ident())

    def plan(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor | None = None,
        *,
        scale: float | None = None,
        window: int | None = None,
    ) -> Planned:
        """Prepares for steps of this form: `key` and `value` may grow, and masks, ranges and biases may change.

        Raises:
            UnsupportedInputError, BackendUnavailableError: as `rectangular_attention`.
        """
        op, call = self._call((query, key, value, knowledge_query), scale, window, {})
        backend = op.named(op.choose(call, self._backend))
        straight = backend.serving(call).bound(call) if backend.is_one_op(call) else None
        planned = Planned((query.shape, query.dtype, scale, window), backend.name, straight)
        self._plans[threading.get_ident()] = planned
        return planned

    def run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor | None = None,
        **step: Unpack[Step],
    ) -> tuple[Tensor, Tensor]:
        """One step of the planned form.

        Args:
            step: `knowledge_bias`, `prompt_mask` and `knowledge_range`, as `rectangular_attention` takes them.

        Returns:
            Output (B, Hq, N, D) and lse (B, Hq, N).

        Raises:
            UnsupportedInputError: as `rectangular_attention`, if nothing of this form was planned, or for an argument
                that was planned, such as `scale`.
        """
        tensors(query=query)
        planned = self.planned
        if planned is None or planned.form[:2] != (query.shape, query.dtype):
            what = "nothing" if planned is None else f"{planned.form[1]} {tuple(planned.form[0])}"
            refuse(
                f"call plan first: {what} was planned, and this query is {query.dtype} of shape {tuple(query.shape)}"
            )
        return self._step(planned, (query, key, value, knowledge_query), **step)

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor | None = None,
        *,
        scale: float | None = None,
        window: int | None = None,
        **step: Unpack[Step],
    ) -> tuple[Tensor, Tensor]:
        """`run`, after `plan` if the form has changed; arguments and errors are those of `rectangular_attention`."""
        if torch.compiler.is_compiling() or is_transformed():
            # While tracing, nothing is remembered: the graph itself is reused. What was planned may have no derivative.
            op, call = self._call((query, key, value, knowledge_query), scale, window, step)
            output, lse = op(call, op.choose(call, self._backend))
            return output, lse
        tensors(query=query)
        planned = self.planned
        if planned is None or planned.form != (query.shape, query.dtype, scale, window):
            planned = self.plan(query, key, value, knowledge_query, scale=scale, window=window)
        return self._step(planned, (query, key, value, knowledge_query), **step)

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
        **step: Unpack[Step],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As calling the object, but the knowledge query is computed here too, in the same C++ call where possible.

        Args:
            hidden_states: (B, N, width).
            query_weight: (Hq * D, width), of a linear layer without bias whose outputs are the heads one by one.

        Returns:
            Output, lse, and the knowledge query (B, Hq, N, D).

        Raises:
            UnsupportedInputError: as `rectangular_attention`, or if these two do not fit the query.
        """
        tensors(query=query, hidden_states=hidden_states, query_weight=query_weight)
        if query.dim() != 4:
            check_prompt(query, key, value)
        B, Hq, N, D = query.shape
        width = hidden_states.shape[-1] if hidden_states.dim() else 0
        if tuple(hidden_states.shape) != (B, N, width) or tuple(query_weight.shape) != (Hq * D, width):
            refuse(
                f"hidden_states must be (B={B}, N={N}, width) and query_weight (Hq * D = {Hq * D}, width) to fit query "
                f"{tuple(query.shape)}; got {tuple(hidden_states.shape)} and {tuple(query_weight.shape)}"
            )
        if _is_direct():
            planned = self.planned
            if planned is None or planned.form != (query.shape, query.dtype, scale, window):
                planned = self.plan(query, key, value, scale=scale, window=window)
            # Attention to latents makes queries of hidden states in the pass that absorbs them.
            if planned.straight and isinstance(self._knowledge, LatentKnowledge):
                with contextlib.suppress(Exception):
                    # What the op does not take, the call below serves or refuses by name.
                    given = (query, key, value, hidden_states)
                    output, lse, made = self._run_straight(planned.straight, given, (query_weight,), **step)
                    return output, lse, made
        if not torch.is_autocast_enabled(query.device.type):  # which brings them to one dtype
            check_alike({"hidden_states": hidden_states, "query_weight": query_weight}, query)
        r = F.linear(hidden_states, query_weight).view(B, N, Hq, D).transpose(1, 2)
        output, lse = self(query, key, value, r, scale=scale, window=window, **step)
        return output, lse, r

    def _call(
        self, tensors: Tensors, scale: float | None, window: int | None, step: Step
    ) -> tuple[Op[Any], DenseCall | LatentCall]:
        for name in step:
            if name in _ELSEWHERE:
                refuse(f"{name} {_ELSEWHERE[name]}")
        query, key, value, knowledge_query = tensors
        options: Options = {"scale": scale, "window": window, "int8_products": self._int8_products, **step}
        return call_of(query, key, value, self._knowledge, knowledge_query, **options)

    def _step(self, planned: Planned, tensors: Tensors, **step: Unpack[Step]) -> tuple[Tensor, Tensor]:
        failure: Exception | None = None
        if planned.straight is not None and _is_direct():
            try:
                results = self._run_straight(planned.straight, tensors, (), **step)
                return results[0], results[1]
            except Exception as error:
                # The op checks only what memory safety needs, and what is no tensor fails anyhow. The whole call says
                # what does not fit, and who serves what this backend does not take.
                failure = error
        scale, window = planned.form[2:]
        op, call = self._call(tensors, scale, window, step)
        backend = planned.backend
        # What else decides is of the form, or of the knowledge.
        if failure is not None or is_transformed() or not call.has_contiguous_rows():
            backend = op.choose(call, self._backend)
        if failure is not None and backend == planned.backend:
            raise failure
        output, lse = op(call, backend)
        return output, lse

    def _run_straight(
        self,
        straight: Attend,
        tensors: Tensors,
        weight: tuple[Tensor, ...],
        knowledge_bias: float | Tensor = 0.0,
        prompt_mask: Tensor | None = None,
        knowledge_range: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The C++ op on (query, key, value, r); with a weight, r is the hidden states that it makes queries of."""
        query, key, value, r = tensors
        r = query if r is None else r
        check_new_tokens(query.shape[2], key)
        check_masks(prompt_mask, knowledge_range, query, key.shape[2])
        bias = bias_rows(knowledge_bias, query.shape[0], self._knowledge.num_tokens, query)
        return straight(query, key, value, r, bias, prompt_mask, one_row_if_shared(knowledge_range), *weight)


def _cannot_be_set(name: str) -> NoReturn:
    refuse(
        f"{name} cannot be set, since a plan holds it: make another RectangularAttention, which takes it as argument"
    )


def _is_direct() -> bool:
    # torch.compile traces the full path, and derivatives need the op with its formulas, or plain PyTorch.
    return not torch.compiler.is_compiling() and not torch.is_grad_enabled() and not is_transformed()
