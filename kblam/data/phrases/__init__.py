"""How people ask, as text files: templates with {n} for a name and {p} for a property, for training and held out.

`specific.txt` has the questions that fit one property: who, when, where, how much. `further.txt` has more such ones,
most of them for properties that no entity of the training world has: for whoever compares properties by what people
call things (`kblam.training.properties`).
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from kblam.data.tables import lines

_HELD_OUT = "# held out\n"


class Phrases(NamedTuple):
    """The texts of one kind.

    Args:
        seen: for training.
        held_out: never in training.
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, held_out: bool) -> tuple[str, ...]:
        """Those of one side."""
        return self.held_out if held_out else self.seen


@cache
def phrases(name: str) -> Phrases:
    """The texts of `name`.txt."""
    return _parsed(_text(name).removeprefix("# seen\n"))


@lru_cache(maxsize=1)
def specific() -> dict[str, Phrases]:
    """By property, questions that name it clearly, in whatever words."""
    return {prop: _parsed(texts) for prop, texts in blocks(_text("specific"))}


@lru_cache(maxsize=1)
def further() -> dict[str, tuple[str, ...]]:
    """By property, of the training world or not, questions that mean it in other words; all for training."""
    return {prop: lines(texts) for prop, texts in blocks(_text("further"))}


def blocks(text: str) -> list[tuple[str, str]]:
    """The headings "## property" of a text, and what stands under each."""
    parts = (block.partition("\n") for block in f"\n{text}".split("\n## ")[1:])
    return [(heading, under) for heading, _, under in parts]


def _text(name: str) -> str:
    return (files(__package__) / f"{name}.txt").read_text(encoding="utf-8")


def _parsed(text: str) -> Phrases:
    seen, held_out = text.split(_HELD_OUT)
    return Phrases(lines(seen), lines(held_out))
