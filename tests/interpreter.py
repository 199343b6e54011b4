"""Triton's interpreter, without work that it repeats."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def language_patched_once() -> Iterator[None]:
    """The first launch puts the interpreter's own functions into `triton.language`, and there they stay.

    Triton searches all members of the language for what it must replace: at each launch, and again at each call from a
    kernel to another function. That took half of the time of the tests in the interpreter.
    """
    try:
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    patch_lang = interpreter._patch_lang
    every_module = SimpleNamespace(__globals__={"tl": interpreter.tl, "core": interpreter.tl.core})

    @functools.cache
    def once() -> Any:
        patch_lang(every_module)
        return SimpleNamespace(restore=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", lambda _: once())
        yield
