"""What is told to have no room before it is written; no vLLM is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kblam import KnowledgeBase, Triple
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.failures import NoRoomError
from kblam.serve.vllm.engine import VllmEngine
from tests.fakes import HashingEncoder


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    with KnowledgeBase.create(tmp_path / "facts.kb", HashingEncoder(16)) as made:
        made.add([Triple(f"Name {at}", "color", "green") for at in range(60)])
        yield Base(Place(None, "facts", None), made)


def engine_of(base: Base, capacity: int, **others: int) -> VllmEngine:
    """With what its workers say that they have: the base in 67 rows, and others."""
    nothing: Any = SimpleNamespace()
    counts = {"capacity": capacity, "most": 1, "running": 1}
    made = VllmEngine("0", nothing, nothing, Bases([base]), **counts, refusal="", past=nothing)
    made._served = {"facts": {"triples": 60, "rows": 67}} | {
        name: {"triples": 1, "rows": rows} for name, rows in others.items()
    }
    return made


def more(count: int) -> list[Triple]:
    return [Triple(f"More {at}", "color", "red") for at in range(count)]


@pytest.mark.parametrize(
    ("capacity", "others", "added", "fits"),
    [
        (67 + 67, {}, 1, True),
        (67 + 66, {}, 1, False),  # the copy that a change of one triple needs
        (67 + 66, {}, 0, False),  # or a removal
        (67 + 67 + 78, {}, 10, True),
        (67 + 67 + 77, {}, 10, False),  # and the larger one that it outgrows that for
        (67 + 67 + 500, {"hr": 500}, 1, True),
        (67 + 67 + 499, {"hr": 500}, 1, False),  # one that lost its triples keeps its rows
    ],
)
def test_a_change_that_can_never_be_served_is_told_before_it_is_written(
    capacity: int, others: dict[str, int], added: int, fits: bool, base: Base
) -> None:
    engine = engine_of(base, capacity, **others)
    if fits:
        engine.check_room(base, more(added))
    else:
        with pytest.raises(NoRoomError, match=f"{60 + added} triples in 'facts' have no room: .* {capacity} rows"):
            engine.check_room(base, more(added))


def test_triples_that_are_there_need_no_room_of_their_own(base: Base) -> None:
    same = [Triple(f"Name {at}", "color", "blue") for at in range(60)]
    engine_of(base, 67 + 67).check_room(base, same)
