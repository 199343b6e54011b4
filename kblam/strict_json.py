"""JSON in which no key stands twice in one object: Python's own reader keeps the last value without a word."""

from __future__ import annotations

import json
from typing import Any


def decoder(**hooks: Any) -> json.JSONDecoder:
    """A decoder that refuses a key twice; `hooks` are those of `json.JSONDecoder` (parse_float, ...)."""
    return json.JSONDecoder(object_pairs_hook=_once_each, **hooks)


def loads(text: str | bytes) -> Any:
    """What a JSON text says. Bytes are UTF-8.

    Raises:
        ValueError: it is not JSON, or a key stands twice in one object; `problem` says which.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text.decode("utf-8") if isinstance(text, bytes) else text)


def problem(error: BaseException) -> str:
    """What is wrong with a text, out of the error of reading it."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    return str(error) if isinstance(error, KeyTwiceError) else f"not JSON: {error}"


class KeyTwiceError(ValueError):
    """A key stands twice in one object."""


def _once_each(members: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(members)
    if len(made) < len(members):
        seen: set[str] = set()
        twice = next(name for name, _ in members if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise KeyTwiceError(f'the key "{twice[:60]}" stands twice in one object; keep one of them')
    return made


_DECODER = decoder()
