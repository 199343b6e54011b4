"""Which way something is measured: who asks how wide a river is does not ask for its length."""

from __future__ import annotations

import re

# What a property measures, and the words that ask for it.
_ASKED_AS = {
    "height elevation altitude": "tall high",
    "depth": "deep",
    "width breadth": "wide broad",
    "diameter": "wide broad thick",
    "thickness": "thick",
    "length": "long",
    "weight mass": "heavy",
    "age": "old long",
    "temperature": "hot cold warm high",
    "speed velocity": "fast high",
}
_WAYS = {word: frozenset(ways.split()) for words, ways in _ASKED_AS.items() for word in words.split()}
_HOW = re.compile(rf"\bhow\s+({'|'.join(sorted(frozenset().union(*_WAYS.values())))})\b", re.IGNORECASE)


def fits_dimension(question: str, property: list[str]) -> bool:
    """Whether a property, in words, may be what a question asks for with "how high", "how deep" or the like."""
    asked = {found[1].lower() for found in _HOW.finditer(question)}
    ways = [_WAYS[word] for word in property if word in _WAYS]
    return not asked or not ways or any(asked & one for one in ways)
