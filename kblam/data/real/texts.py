"""Texts and numbers as values: short enough to answer with, and readable."""

from __future__ import annotations

import re

LONGEST = 400  # characters of a value
# A stop before a new sentence; not that of an initial ("J. Gay-Lussac"), of "e.g." or of "i.e.".
_END = re.compile(r"(?<![A-Z])(?<!e\.g)(?<!i\.e)[.!?](?=\s+[A-Z0-9\"'(])")


def cut(text: str, longest: int = LONGEST) -> str | None:
    """As many whole sentences of a text as fit, without the last stop; None if not even the first one fits."""
    text = " ".join(text.split())
    if len(text) > longest:
        ends = [match.end() for match in _END.finditer(text) if match.end() <= longest]
        if not ends:
            return None
        text = text[: ends[-1]]
    return text.removesuffix(".").strip() or None


def number(value: float) -> str:
    """At most seven digits that count, without an exponent where that is short."""
    shown = f"{value:.7g}"
    if "e" in shown:
        plain = f"{value:.12f}".rstrip("0").rstrip(".")
        return plain if len(plain) <= 14 and float(plain) else shown
    return shown
