"""What a CUDA graph may read where it lies."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


def stay(holder: Any) -> None:
    """Says of a tensor, or of all tensors of a dataclass, that they are written in place and do not move.

    `torch.compile(mode="reduce-overhead")`, which `generate` uses with a static cache, copies every other input into
    the memory of its graph before each replay: a million triples at every token. A tensor that did move is recorded
    anew, not compiled anew.
    """
    if isinstance(holder, Tensor):
        torch._dynamo.mark_static_address(holder, guard=False)
    elif dataclasses.is_dataclass(holder):
        for field in dataclasses.fields(holder):
            stay(getattr(holder, field.name))
