"""A number with the word that goes with it: "1 triple", "2,000 triples"."""

from __future__ import annotations


def many(count: int, one: str, more: str | None = None) -> str:
    """A number with its word.

    Args:
        one: the word for one.
        more: for any other number; None is `one` with an s.
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def count_of(triples: int) -> str:
    """A number of triples."""
    return many(triples, "triple")
