"""Whether a question says a fact in so many words."""

from __future__ import annotations

import pytest

from kblam.knowledge.mention import mentions


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("What is the lead engineer of Project Nightjar?", True),
        ("project nightjar's LEAD ENGINEER?", True),
        ("Who leads Project Nightjar?", False),
        ("What is the engineer of Project Nightjar?", False),
        ("What is the lead engineer of Project Night?", False),
        ("", False),
    ],
)
def test_name_and_property_stand_there_word_for_word(text: str, is_said: bool) -> None:
    assert mentions(text, "Project Nightjar", "lead engineer") is is_said


def test_any_script_and_marks() -> None:
    assert mentions("Łódź-ის მერი?", "Łódź", "მერი")
    assert not mentions("?", "...", "?")
