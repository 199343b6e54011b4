"""The cache of keys and values as transformers calls it: `past_key_values`, and `cache` from 5.24 on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

NAMES = _OLD, _NEW = "past_key_values", "cache"


def as_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """A cache as the keyword argument that a model, its `generate`, or one of its modules takes."""
    known = inspect.signature(module.forward).parameters
    return {_NEW if _NEW in known and _OLD not in known else _OLD: cache}


def as_taken(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments with a cache of the old name under the one that the module takes; of two the newer counts."""
    taken = dict(arguments)
    if _OLD in taken:
        taken = as_argument(module, taken.pop(_OLD)) | taken
    return taken


def of_call(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a call; None without one."""
    found = arguments.get(_NEW)
    return arguments.get(_OLD) if found is None else found
