"""The `torch.library` op of a call kind: schema, fake and autograd are derived from its fields.

The backend is chosen before the op is called and passed as its last argument; the op only runs it. So `torch.compile`
sees one opaque node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from kblam_kernels.common.call import Call
from kblam_kernels.common.dispatch import AUTO, Backend, Explanation, log_once, requested
from kblam_kernels.errors import BackendUnavailableError

C = TypeVar("C", bound=Call)
Results = tuple[Tensor, ...]


class Op(Generic[C]):
    """One op, called with an object.

    Args:
        name: in the namespace `kblam_kernels`.
        kind: the class of its calls.
        backends: its backends, in the order in which "auto" tries them; the last serves every call.

    Attributes:
        backwards: backends that can differentiate, today the last one alone. The first that can serve is taken,
            whichever runs the forward.
    """

    def __init__(self, name: str, kind: type[C], backends: Sequence[Backend[C]]) -> None:
        self.name, self.kind, self.backends, self.backwards = name, kind, backends, backends[-1:]
        self.fields = kind.names()
        returns = ", ".join(f"Tensor {result}" for result in kind.RESULTS)
        self.overload = torch.library.custom_op(
            f"kblam_kernels::{name}",
            self._run,
            mutates_args=(),
            schema=f"({kind.schema()}, str backend) -> ({returns})",
        )
        self.overload.register_fake(lambda *values: _one_or_all(kind(*values[:-1]).empty()))
        if kind.DIFFERENTIABLE:
            self._differentiate(len(kind.RESULTS))

    def __call__(self, call: C, name: str) -> Results:
        """The results of one call from the named backend, which must be able to serve it."""
        if call.has_tangent():
            # An op without a formula for it would have a derivative of zero. Plain PyTorch has one.
            return self.named(self.choose(call, name)).forward(call)
        backend = self.named(name)
        if backend.is_one_op(call) and not call.needs_gradient():
            return backend.forward(call)
        results = self.overload(*(getattr(call, field) for field in self.fields), name)
        return results if isinstance(results, tuple) else (results,)

    def explain(self, call: C, backend: str = AUTO) -> Explanation:
        """Asks the backends in order, or only the one that is named; raises as `requested`."""
        wanted = requested(backend, self.backends)
        rejected: dict[str, str] = {}
        for candidate in self.backends:
            if wanted not in (AUTO, candidate.name):
                continue
            reasons = candidate.reasons(call, by_name=wanted != AUTO)
            if not reasons:
                return Explanation(candidate.name, rejected)
            rejected[candidate.name] = "; ".join(reasons)
        return Explanation(None, rejected)

    def choose(self, call: C, backend: str = AUTO) -> str:
        """The backend that serves.

        Raises:
            BackendUnavailableError: if the one asked for by name cannot; the message has its reasons.
            UnsupportedInputError: if the name is not a backend.
        """
        explanation = self.explain(call, backend)
        if explanation.backend is None:
            name, reason = next(iter(explanation.rejected.items()))
            raise BackendUnavailableError(f"backend {name!r} cannot serve this call: {reason}")
        if explanation.rejected and not torch.compiler.is_compiling():
            log_once(str(explanation))
        return explanation.backend

    def named(self, name: str) -> Backend[C]:
        """The backend of that name, which must exist."""
        return next(backend for backend in self.backends if backend.name == name)

    def _run(self, *values: Any) -> Any:
        return _one_or_all(self.named(values[-1]).forward(self.kind(*values[:-1])))

    def _differentiate(self, count: int) -> None:
        """Registers the gradient of the op, which has `count` results, as another op, `{name}_backward`."""
        kind, differentiable = self.kind, self.kind.DIFFERENTIABLE

        def run(*values: Any) -> Any:
            call = kind(*values[2 * count :])
            backward = next(backend for backend in self.backwards if not backend.reasons(call))
            made = backward.backward(call, values[count : 2 * count], values[:count])
            return _one_or_all(tuple(gradient.contiguous() for gradient in made))

        def empty(*values: Any) -> Any:
            call = kind(*values[2 * count :])
            like = (getattr(call, name) for name in differentiable)
            return _one_or_all(tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in like))

        tensors = [f"Tensor {part}{i}" for part in ("grad", "result") for i in range(count)]
        returns = ", ".join(f"Tensor grad_{name}" for name in differentiable)
        self.backward_overload = torch.library.custom_op(
            f"kblam_kernels::{self.name}_backward",
            run,
            mutates_args=(),
            schema=f"({', '.join(tensors)}, {kind.schema()}) -> ({returns})",
        )
        self.backward_overload.register_fake(empty)

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            results = output if isinstance(output, tuple) else (output,)
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs[:-1]]
            ctx.save_for_backward(*results, *(value if isinstance(value, Tensor) else None for value in inputs[:-1]))

        def apply(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors  # once: under activation checkpointing a second look raises
            pairs = zip(saved[count:], ctx.others, strict=True)
            values = (other if tensor is None else tensor for tensor, other in pairs)
            made = self.backward_overload(*gradients, *saved[:count], *values)
            of = dict(zip(differentiable, made if isinstance(made, tuple) else (made,), strict=True))
            return (*(of.get(name) for name in self.fields), None)

        self.overload.register_autograd(apply, setup_context=setup)


def _one_or_all(results: Results) -> Any:
    """What the dispatcher expects: a tuple of several results, or the only result itself."""
    return results if len(results) > 1 else results[0]
