"""The `torch.library` op of a call kind: schema, fake and autograd are derived from its fields.

The backend is chosen before the op is called and passed as its last argument; the op only runs it. So `torch.compile`
sees one opaque node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

import torch
from torch import Tensor

from kblam_kernels.common.call import Call, Saved
from kblam_kernels.common.dispatch import AUTO, Backend, Explanation, log_once, requested
from kblam_kernels.errors import BackendUnavailableError, refuse
from kblam_kernels.precision import exactly

C = TypeVar("C", bound=Call)
Results = tuple[Tensor, ...]


class Op(Generic[C]):
    """One op, called with an object.

    Args:
        name: in the namespace `kblam_kernels`.
        kind: the class of its calls.
        backends: its backends, in the order in which "auto" tries them; the last serves every call.
    """

    def __init__(self, name: str, kind: type[C], backends: Sequence[Backend[C]]) -> None:
        self.name, self.kind, self.backends = name, kind, backends
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
        """The results of one call from the named backend, which must be able to serve it; exact under autocast too."""
        with exactly(call.leading.device):
            return self._results(call, name)

    def _results(self, call: C, name: str) -> Results:
        if call.is_plain():
            # The op would have a derivative of zero, or none.
            return self.named(self.choose(call, name)).forward(call)
        backend = self.named(name)
        if backend.is_one_op(call) and not call.needs_gradient():
            return backend.forward(call)
        if backend.GOES_STRAIGHT and call.is_eager():
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
        call = self.kind(*values[:-1])
        with exactly(call.leading.device):  # a compiled graph is run under the autocast of its caller
            return _one_or_all(self.named(values[-1]).forward(call))

    def differentiating(self, call: C, saved: Saved) -> Backend[C]:
        """The backend of a backward: that of the forward if it can, else the first that can, with a line in the log."""
        own_first = sorted(self.backends, key=lambda backend: backend.name != saved.backend)
        rejected: dict[str, str] = {}
        for backend in own_first:
            reasons = backend.reasons(call, by_name=backend.name == saved.backend) + backend.backward_reasons(call)
            if not reasons:
                if rejected:
                    log_once(f"backward of {self.name}: {Explanation(backend.name, rejected)}")
                return backend
            rejected[backend.name] = "; ".join(reasons)
        raise AssertionError(f"the last backend of {self.name} serves every call")

    def _differentiate(self, count: int) -> None:
        """Registers the gradient of the op, which has `count` results, as another op, `{name}_backward`.

        A tensor that needs no gradient gets an empty one.
        """
        kind, names = self.kind, self.kind.DIFFERENTIABLE

        def parts(*values: Any) -> tuple[C, Saved]:
            gradients, results, (wanted, name) = values[:count], values[count : 2 * count], values[-2:]
            kept = tuple(name for name, is_wanted in zip(names, wanted, strict=True) if is_wanted)
            return kind(*values[2 * count : -2]), Saved(results, gradients, kept, name)

        def run(*values: Any) -> Any:
            call, saved = parts(*values)
            # The forward's dtypes are the call's; autocast may be on around `backward()` too.
            with exactly(call.leading.device):
                made = self.differentiating(call, saved).backward(call, saved)
            nothing = (call.leading.new_empty(0) for _ in names)
            return _one_or_all(tuple(made[n].contiguous() if n in made else next(nothing) for n in names))

        def empty(*values: Any) -> Any:
            call, saved = parts(*values)
            return _one_or_all(
                tuple(
                    torch.empty_like(getattr(call, name), memory_format=torch.contiguous_format)
                    if saved.wants(name)
                    else call.leading.new_empty(0)
                    for name in names
                )
            )

        results = [f"Tensor? grad{i}" for i in range(count)] + [f"Tensor result{i}" for i in range(count)]
        returns = ", ".join(f"Tensor grad_{name}" for name in names)
        self.backward_overload = torch.library.custom_op(
            f"kblam_kernels::{self.name}_backward",
            run,
            mutates_args=(),
            schema=f"({', '.join(results)}, {kind.schema()}, bool[] wanted, str backend) -> ({returns})",
        )
        self.backward_overload.register_fake(empty)

        def again(ctx: Any, *gradients: Tensor) -> NoReturn:
            refuse(f"{self.name} has no second derivative; call backward() or grad() without create_graph=True")

        self.backward_overload.register_autograd(again)

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            results = output if isinstance(output, tuple) else (output,)
            ctx.set_materialize_grads(False)
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.save_for_backward(*results, *(value if isinstance(value, Tensor) else None for value in inputs))

        def apply(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            if all(gradient is None for gradient in gradients):
                return (None,) * (len(self.fields) + 1)
            saved = ctx.saved_tensors  # once: under activation checkpointing a second look raises
            pairs = zip(saved[count:], ctx.others, strict=True)
            *values, name = (other if tensor is None else tensor for tensor, other in pairs)
            needs = dict(zip(self.fields, ctx.needs_input_grad, strict=False))
            wanted = [needs[name] for name in names]
            made = self.backward_overload(*gradients, *saved[:count], *values, wanted, name)
            of = dict(zip(names, made if isinstance(made, tuple) else (made,), strict=True))
            return (*(of[name] if needs[name] and name in of else None for name in self.fields), None)

        self.overload.register_autograd(apply, setup_context=setup)


def _one_or_all(results: Results) -> Any:
    """What the dispatcher expects: a tuple of several results, or the only result itself."""
    return results if len(results) > 1 else results[0]
