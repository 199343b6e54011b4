"""Triton's interpreter, without work that it repeats.

Kernels on small tensors cost it Python, not numpy: types and shapes are made anew at each operation. What follows from
its arguments alone is remembered here, so that tests keep sizes with a second split or tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def made_once() -> Iterator[None]:
    """Triton's language is patched, and its types are made, once."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        _patch_the_language_once(interpreter, patch)
        core = interpreter.tl.core
        numpy_types: dict[str, Any] = {}
        numpy_type = interpreter._get_np_dtype

        def remembered(dtype: Any) -> Any:
            scalar = dtype.scalar
            if scalar.name not in numpy_types:
                numpy_types[scalar.name] = numpy_type(scalar)
            return numpy_types[scalar.name]

        patch.setattr(interpreter, "_get_np_dtype", remembered)
        _made_as_before(core.block_type, _type_key, (), patch)
        _made_as_before(core.tensor, lambda handle, type: (type.name, type.scalar.is_ptr()), ("handle", "type"), patch)
        yield


def _patch_the_language_once(interpreter: Any, patch: pytest.MonkeyPatch) -> None:
    """The first launch puts the interpreter's own functions into `triton.language`, and there they stay.

    Triton searches all members of the language for what it must replace: at each launch, and again at each call from a
    kernel to another function. That took half of the time of the tests in the interpreter.
    """
    patch_lang = interpreter._patch_lang
    every_module = SimpleNamespace(__globals__={"tl": interpreter.tl, "core": interpreter.tl.core})

    @functools.cache
    def once() -> Any:
        patch_lang(every_module)
        return SimpleNamespace(restore=lambda: None)

    patch.setattr(interpreter, "_patch_lang", lambda _: once())


def _type_key(element_ty: Any, shape: Any) -> Hashable:
    return (element_ty.name, *(getattr(size, "value", size) for size in shape))


def _made_as_before(
    cls: type, key_of: Callable[..., Hashable], own: tuple[str, ...], patch: pytest.MonkeyPatch
) -> None:
    """Objects of one key share what `__init__` makes of it; the arguments named `own` are each object's."""
    init: Callable[..., None] = cls.__init__
    made: dict[Hashable, dict[str, Any]] = {}

    def remembered(self: Any, *arguments: Any) -> None:
        key = key_of(*arguments)
        if key not in made:
            init(self, *arguments)
            made[key] = dict(vars(self))
        else:
            vars(self).update(made[key])
            vars(self).update(zip(own, arguments, strict=bool(own)))

    patch.setattr(cls, "__init__", remembered)
