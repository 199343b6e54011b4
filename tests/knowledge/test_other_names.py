"""The columns of tables, and the properties that people ask for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from kblam.data.properties import TYPED
from kblam.knowledge.other_names import meant_by

ASKED = tuple(TYPED)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("word class", ["part of speech"]),
        ("wordClass", ["part of speech"]),
        ("word_class", ["part of speech"]),
        ("Word Class", ["part of speech"]),
        ("Telephone No.", ["phone number"]),
        ("e-mail", ["email address"]),
        ("synonyms", ["synonym"]),
        ("abbreviations", ["abbreviation"]),
        ("side-effects", ["side effect"]),
        ("check-out time", ["checkout time"]),
        ("flagged", []),
        ("", []),
        ("🍕", []),
    ],
)
def test_a_column_means_what_tables_keep_in_it(column: str, meant: list[str]) -> None:
    assert meant_by(column, ASKED) == meant


def test_a_property_means_itself() -> None:
    assert all(one in meant_by(one, ASKED) for one in ASKED)


def test_those_that_nobody_wrote_names_for_have_their_plurals_alone() -> None:
    asked = ("glaze", "torque limit", "class", "box", "status")
    assert meant_by("Glazes", asked) == ["glaze"]
    assert meant_by("torque-limits", asked) == ["torque limit"]
    assert [meant_by(one, asked) for one in ("classes", "boxes", "status", "statu")] == [
        ["class"],
        ["box"],
        ["status"],
        [],
    ]
    assert meant_by("word class", asked) == []


def test_the_list_names_each_property_of_training_once_and_each_heading_of_it_once() -> None:
    text = (files("kblam.knowledge") / "other_names.txt").read_text(encoding="utf-8")
    rows = [line.partition(": ") for line in text.splitlines()]
    assert sorted(prop for prop, _, _ in rows) == sorted(TYPED)
    count = sum(len(names.split("; ")) for _, _, names in rows)
    for page in ("README.md", "docs/answers.md", "kblam/assets/smollm2/README.md"):
        assert f"{count:,}" in (ROOT / page).read_text(encoding="utf-8"), page
    for prop, _, names in rows:
        headings = names.split("; ")
        assert len({*headings, prop}) == len(headings) + 1, prop
        assert all(heading and heading == heading.strip() and ";" not in heading for heading in headings), prop
