"""The marks that end a sentence are those of Unicode, and each place that asks for one knows them all."""

from __future__ import annotations

import unicodedata

import regex

from kblam.generation.evidence import Evidence
from kblam.integrations.asking import as_text
from kblam.knowledge import Triple
from kblam.knowledge.names import Names
from kblam.stops import STOPS


def test_they_are_those_that_unicode_calls_so() -> None:
    """Of the characters that this Python has; newer tables may add others."""
    told = {one for one in map(chr, range(0x110000)) if regex.match(r"\p{Sentence_Terminal}", one)}
    assert {one for one in told ^ STOPS if unicodedata.category(one) != "Cn"} == set()
    assert set(".!?。！？।؟։።۔") <= STOPS


def test_a_capital_after_one_begins_a_sentence() -> None:
    """Armenian has capitals, and a stop of its own."""
    assert Names(["Us", "Lori"]).meant_in("Ի՞նչ է։ Us or Lori") == ["Lori"]
    assert (
        Names(["José Álvarez"])
        .as_meant("Ի՞նչ է։ Is Jose Alvarez tall?", lambda _: False)
        .endswith("Is José Álvarez tall?")
    )


def test_evidence_that_ends_with_one_gets_no_second() -> None:
    fact = Triple("Iron", "name in Hindi", "यह लोहा है।")
    assert as_text(Evidence(fact, 1.0)) == "The name in Hindi of Iron is यह लोहा है।"
