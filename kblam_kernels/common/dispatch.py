"""Which backend serves a call: an ordered list, each with the reasons why it cannot.

`backend="auto"` takes the first that can serve. A backend asked for by name, in the call or through the
environment variable KBLAM_BACKEND, serves or raises: it never falls back.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from kblam_kernels.common.call import Call, Saved
from kblam_kernels.common.tiles import arch_refusal
from kblam_kernels.errors import refuse

logger = logging.getLogger("kblam_kernels")

AUTO = "auto"
BACKEND_VARIABLE = "KBLAM_BACKEND"
# Looks for the package without importing it.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
MAX_TRITON_HEAD_DIM = 256
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

C = TypeVar("C", bound=Call)


class Backend(Generic[C]):
    """One implementation of an op.

    Args:
        module: has `forward(call)`, and `backward(call, saved)` if it can differentiate; imported when it first runs.
    """

    name: ClassVar[str]
    # Whether an eager call that needs no gradient goes to `forward` itself, past the dispatcher.
    GOES_STRAIGHT: ClassVar[bool] = False
    _serving: ModuleType

    def __init__(self, module: str = "") -> None:
        self.module = module

    def reasons(self, call: C, *, by_name: bool = False) -> list[str]:
        """All reasons why this backend cannot serve a call; empty if it can. Never reads tensor values.

        Args:
            by_name: whether the caller asked for this backend and no other.
        """
        return []

    def serving(self, call: C) -> ModuleType:
        """The module that serves a call."""
        self._load()
        return self._serving

    def _load(self) -> None:
        """Imports the module: beside the trace, because `torch.compile` follows no import by name, and looks at
        `sys.modules` once for a whole graph."""
        if not hasattr(self, "_serving"):
            self._serving = importlib.import_module(self.module)

    # What `torch.compiler.assume_constant_result` sets. To decorate with it would import Dynamo, and Triton with that.
    _load._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """Without the module, which is no object to copy or to send: it is imported again."""
        return {name: value for name, value in vars(self).items() if name != "_serving"}

    def forward(self, call: C) -> tuple[Any, ...]:
        """The results of the op, for a call that this backend can serve."""
        return self.serving(call).forward(call)

    def is_one_op(self, call: C) -> bool:
        """Whether `forward` is already one op of `torch.library`, to be called directly when no gradient is needed."""
        return False

    def backward_reasons(self, call: C) -> list[str]:
        """Why it cannot differentiate a call of which it serves the forward."""
        return ["it has no backward"]

    def backward(self, call: C, saved: Saved) -> dict[str, Tensor]:
        """Gradients of `saved.wanted` by name, each in the dtype and shape of its tensor."""
        return self.serving(call).backward(call, saved)


class Reference(Backend[C]):
    """Plain PyTorch, on every device: the specification of the op, which serves every call."""

    name = "reference"

    def backward_reasons(self, call: C) -> list[str]:
        return []


class Triton(Backend[C]):
    """Triton on CUDA; by name in its interpreter too."""

    name = "triton"
    # In a decode loop the Python of a custom op would run beside every few launches.
    GOES_STRAIGHT = True

    def __init__(self, module: str = "", max_width: int | None = MAX_TRITON_HEAD_DIM) -> None:
        super().__init__(module)
        self.max_width = max_width

    def reasons(self, call: C, *, by_name: bool = False) -> list[str]:
        found = []
        device = call.leading.device
        if not TRITON_INSTALLED:
            found.append("triton is not installed (pip install 'kblam-kernels[triton]')")
        interpreted = device.type == "cpu" and by_name and os.environ.get("TRITON_INTERPRET") == "1"
        if device.type == "cuda":
            found += arch_refusal(device)
        elif not interpreted:
            found.append(f"tensors are on {device.type}; triton runs on cuda (or, by name, with TRITON_INTERPRET=1)")
        if self.max_width is not None and call.width > self.max_width:
            found.append(f"head_dim {call.width} is over {self.max_width}")
        return found + _kernel_reasons(call)


class Cpu(Backend[C]):
    """The C++ kernels of `csrc/`; the first call that they could serve builds them."""

    name = "cpu"

    def reasons(self, call: C, *, by_name: bool = False) -> list[str]:
        found = []
        if call.leading.device.type != "cpu":
            found.append(f"tensors are on {call.leading.device.type}; the C++ kernels run on cpu")
        if call.in_pairs and call.width % 2:
            found.append(f"head_dim {call.width} is odd")
        found += _kernel_reasons(call)
        if found:
            return found
        from kblam_kernels.common import native

        failure = native.unavailable(self.module)
        return [] if failure is None else [failure]

    def is_one_op(self, call: C) -> bool:
        return self.serving(call).is_one_op(call)


def _kernel_reasons(call: Call) -> list[str]:
    found = []
    if call.leading.dtype not in KERNEL_DTYPES:
        found.append(f"dtype {call.leading.dtype} is not one of float32, float16, bfloat16")
    if not call.has_contiguous_rows():
        found.append("the last dimension of a tensor is not contiguous; call .contiguous() on it")
    if call.is_plain():
        found.append("it has no forward-mode derivative, and none in torch.func; backend='reference' has them")
    return found


@dataclass(frozen=True)
class Explanation:
    """The outcome of a choice; `str()` of it is readable text.

    Args:
        backend: the one that serves; None if none does.
        rejected: the others that were asked, each with its reasons, joined by "; ".
    """

    backend: str | None
    rejected: dict[str, str]

    def __str__(self) -> str:
        lines = [f"backend: {self.backend or 'none'}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected.items()]
        return "\n".join(lines)


def requested(backend: str, backends: Sequence[Backend[Any]]) -> str:
    """The backend asked for: the argument if it names one, else KBLAM_BACKEND, else "auto".

    Raises:
        UnsupportedInputError: if the name is not a backend.
    """
    source = "backend"
    if backend == AUTO:
        source, backend = BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE) or AUTO
    names = [each.name for each in backends]
    if backend != AUTO and backend not in names:
        refuse(f"{source}={backend!r} is not one of {', '.join([AUTO, *names])}")
    return backend


@functools.cache
def log_once(message: str) -> None:
    logger.info(message)
