"""What `kblam eval` asks about: the world that training never saw, and real bases."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from kblam.adapter.sentences import Fact
from kblam.data import real
from kblam.data.drawing import Style
from kblam.data.entities import Entity
from kblam.data.open_world import build_world
from kblam.data.phrasing import general_questions
from kblam.data.real_questions import NATURAL
from kblam.evaluation.plan import Material

# The world that adapters are trained on has this seed; its test side is never trained on.
WORLD_SEED = 0
ASKED_ABOUT = 2600
_FACTS_PER_ENTITY = 5  # fewer than there are, so that there are always enough entities


def standard_material(answer: str, sources: Mapping[str, str | None] | None = None) -> Material:
    """The material for an adapter.

    Args:
        answer: its sentence about one fact (`AdapterConfig.answer`).
        sources: for a real base, the folder it lies in.
    """
    folders = sources or {}

    @functools.cache
    def entities() -> Sequence[Entity]:
        return build_world(WORLD_SEED, 0, ASKED_ABOUT).test

    @functools.cache
    def others(triples: int) -> Sequence[Entity]:
        return build_world(WORLD_SEED, 0, ASKED_ABOUT + triples // _FACTS_PER_ENTITY).test[ASKED_ABOUT:]

    def style(held_out: bool, name: str | None) -> Style:
        return Style(answer, held_out, NATURAL.get(name or "", {}))

    def facts(name: str) -> Sequence[Fact]:
        return real_facts(name, folders.get(name))

    return Material(entities, others, style, facts, lambda: general_questions(held_out=True))


@functools.cache
def real_facts(name: str, source: str | None = None) -> Sequence[Fact]:
    """The facts of a real base, which lies in the folder `source` if Python does not find its package.

    Raises:
        DataError: there is no such base, or its package is not installed.
    """
    return [
        (triple.name, triple.property, triple.value)
        for triple in real.load(name, None if source is None else Path(source))
    ]
