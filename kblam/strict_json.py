"""JSON in which no key stands twice in one object: Python's own reader keeps the last value without a word.

Nor is it nested more deeply than whoever goes through it can follow: Python's reader ends just before its own limit.
"""

from __future__ import annotations

import json
from typing import Any

# Parsers of RDF/XML and JSON-LD need time and memory with the square of the depth. People nest a few dozen deep.
DEEPEST = 200


def decoder(**hooks: Any) -> json.JSONDecoder:
    """A decoder that refuses a key twice, and depth; `hooks` are those of `json.JSONDecoder` (parse_float, ...)."""
    return _Decoder(object_pairs_hook=_once_each, **hooks)


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


class _Decoder(json.JSONDecoder):
    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """(value, where it ends)."""
        value, end = super().raw_decode(s, idx)
        if s.count("[", idx, end) + s.count("{", idx, end) > DEEPEST:
            _check_depth(value)
        return value, end


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        within = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for several in within for one in several if isinstance(one, dict | list)]
        if not level:
            return
    raise RecursionError(f"nested more than {DEEPEST} deep")


_DECODER = decoder()
