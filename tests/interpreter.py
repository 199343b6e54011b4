"""Triton's interpreter, without work that it repeats.

Kernels on small tensors cost it Python, not numpy: types and shapes are made anew at each operation. What follows from
its arguments alone is remembered here, so that tests keep sizes with a second split or tile.
"""

from __future__ import annotations

import dataclasses
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
        _made_as_before(core.block_type, patch)
        _shaped_as_before(core.tensor, patch)
        _alike_as_they_are(interpreter, patch)
        # Every sum and product of integers is computed once more in 64 bits, for an assertion that a builder without
        # `debug` leaves out.
        builder = interpreter.interpreter_builder
        patch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=builder.options.debug))
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


def _made_as_before(block_type: Any, patch: pytest.MonkeyPatch) -> None:
    """Types of one element and shape share what `__init__` makes of it."""
    init: Callable[..., None] = block_type.__init__
    made: dict[Hashable, dict[str, Any]] = {}

    def remembered(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *[getattr(size, "value", size) for size in shape])
        if key not in made:
            init(self, element_ty, shape)
            made[key] = dict(self.__dict__)
        else:
            self.__dict__.update(made[key])

    patch.setattr(block_type, "__init__", remembered)


def _shaped_as_before(tensor: Any, patch: pytest.MonkeyPatch) -> None:
    """Tensors of one type share what `__init__` makes of it."""
    init: Callable[..., None] = tensor.__init__
    made: dict[Hashable, dict[str, Any]] = {}

    def remembered(self: Any, handle: Any, type: Any) -> None:
        known = made.get(type.name)
        if known is None:
            init(self, handle, type)
            made[type.name] = dict(self.__dict__)
        else:
            own = self.__dict__
            own.update(known)
            own["handle"], own["type"] = handle, type

    patch.setattr(tensor, "__init__", remembered)


def _alike_as_they_are(interpreter: Any, patch: pytest.MonkeyPatch) -> None:
    """Operands of one type are what the search for a common type and shape would make of them."""
    semantic, tensor = type(interpreter.interpreter_semantic), interpreter.tl.core.tensor
    check: Callable[..., Any] = semantic.binary_op_type_checking_impl

    def remembered(self: Any, lhs: Any, rhs: Any, *options: Any, **named: Any) -> Any:
        # Division has types of its own, and says so after what it says of pointers, of which there are rules too.
        alike = len(options) <= 2 and not named and type(lhs) is type(rhs) is tensor and lhs.type.name == rhs.type.name
        if alike and not lhs.dtype.is_ptr():
            return lhs, rhs
        return check(self, lhs, rhs, *options, **named)

    patch.setattr(semantic, "binary_op_type_checking_impl", remembered)
