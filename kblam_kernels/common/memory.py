"""Memory of results and scratch: new, or cut from one piece that was taken before.

A CUDA graph keeps addresses, and an engine counts its memory before it serves. Launchers therefore take theirs here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

# Of the start of each tensor: what the widest loads need.
ALIGNMENT = 256


class Workspace:
    """One piece of memory. Inside `cut`, what `empty` gives is cut from it, at the same places at every call.

    Until `take` was called, `empty` gives new memory and only counts what will be needed.

    Attributes:
        size: bytes of the most that was cut at a time.
    """

    def __init__(self) -> None:
        self.size = 0
        self._next = 0
        self._memory: Tensor | None = None

    def take(self, device: torch.device) -> None:
        """Takes the memory, as much as was counted."""
        self._memory = torch.empty(self.size, dtype=torch.uint8, device=device)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Inside, `empty` cuts from this piece, from its start."""
        self._next = 0
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """What is cut inside is free again at the end."""
        before = self._next
        try:
            yield
        finally:
            self._next = before

    def cut_off(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The next piece, not initialised."""
        count = math.prod(shape) * dtype.itemsize
        start, self._next = self._next, self._next + -(-count // ALIGNMENT) * ALIGNMENT
        self.size = max(self.size, self._next)
        if self._memory is None:
            return torch.empty(shape, dtype=dtype, device=device)
        return self._memory[start : start + count].view(dtype).view(shape)


_CURRENT: ContextVar[Workspace | None] = ContextVar("kblam_kernels_workspace", default=None)


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that is not initialised, on the device of `like` and in its dtype if none is given."""
    workspace = _CURRENT.get()
    if workspace is None:
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
    return workspace.cut_off(shape, dtype or like.dtype, like.device)
