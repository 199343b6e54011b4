"""kblam kb doctor: one good base and one bad one, with an encoder that compares words."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from kblam.cli.output import out
from kblam.errors import EvaluationError
from kblam.evaluation.health import examine
from kblam.evaluation.health.findings import (
    BINARY,
    BROKEN,
    LONG,
    NEAR_NAMES,
    NEAR_PROPERTIES,
    NOT_FOUND,
    SAYS_NOTHING,
    UNSEEN,
    of_name,
    of_value,
)
from kblam.evaluation.health.vectors import nearest
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.cosine import normalised
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder

LITTLE = frozenset(("the", "of", "is", "what", "who", "which", "a", "in", "for", "does", "have"))


class WordEncoder:
    """Vectors of texts are sums of those of their words; 300 characters are read."""

    spec, fingerprint, dimension = "words", "words", 256

    def __init__(self) -> None:
        self._of_word = HashingEncoder(self.dimension)

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        found = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            words = [word for word in re.findall(r"\w+", text.lower()) if word not in LITTLE] or ["nothing"]
            found[row] = self._of_word.encode(words).sum(0)
        return found

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        return [row for row, text in enumerate(texts) if len(text) > 300]


PROPERTIES = ("capital", "founder", "motto")
GOOD = [
    Triple(name, prop, f"the {prop} {number}")
    for number, name in enumerate(("Amber Falcon", "Beryl Harbour", "Cobalt Meadow", "Dorian Orchard", "Ember Quarry"))
    for prop in PROPERTIES
]
BAD = [
    *GOOD,
    Triple("Amber Falcon", "capital city", "Zirconia"),
    Triple("Amber Falcon", "city capital", "Beryl"),
    Triple("Falcon Amber", "motto", "another one"),
    Triple("Ghost", "colour", "N/A"),
    Triple("Ghost", "photo", base64.b64encode(bytes(range(90))).decode()),
    Triple("Ghost", "town", "MÃ¼nchen"),
    Triple("Ghost", "story", "long " * 100),
    Triple("Gh\u200bost", "river", "Oder"),
]


def base(triples: Sequence[Triple], path: Path | None = None) -> KnowledgeBase:
    made = KnowledgeBase.create(path, WordEncoder())
    made.add(triples)
    return made


def test_a_good_base_has_nothing_to_tell() -> None:
    health = examine(base(GOOD))
    assert health.counts.keys() <= {NOT_FOUND}
    assert health.asked == health.triples == health.keys == len(GOOD)
    assert health.found == health.expected > 0.8


def test_what_is_wrong_is_found_counted_and_told_with_its_fix() -> None:
    health = examine(base(BAD))
    kinds = {SAYS_NOTHING: 1, BINARY: 1, BROKEN: 1, LONG: 1, NEAR_PROPERTIES: 1, NEAR_NAMES: 1, UNSEEN: 1}
    assert {kind: count for kind, count in health.counts.items() if kind != NOT_FOUND} == kinds
    assert len(health.worst) <= 20
    by_kind = {finding.kind: finding for finding in health.worst}
    assert "the capital city / the city capital of Amber Falcon (cosine" in by_kind[NEAR_PROPERTIES].what
    assert "the motto of Amber Falcon / the motto of Falcon Amber" in by_kind[NEAR_NAMES].what
    assert by_kind[SAYS_NOTHING].what == "the colour of Ghost: N/A"
    assert "remove the triple" in by_kind[SAYS_NOTHING].fix
    assert [finding.weight for finding in health.worst] == sorted((one.weight for one in health.worst), reverse=True)
    assert health.expected < health.found


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("nan", SAYS_NOTHING),
        ("b'x'", BINARY),
        ("data:image/png;base64,AA", BINARY),
        ("x\x01", BINARY),
        ("f" * 64, BINARY),
        ("caf\ufffd", BROKEN),
        ("itâ€™s", BROKEN),
        *((value, None) for value in ("Na", "none", "São Paulo", "Ål", "Â", "DEADBEEF", "none of them", "-5")),
    ],
)
def test_values_are_told_by_their_text(value: str, kind: str | None) -> None:
    finding = of_value(Triple("a", "p", value))
    assert (None if finding is None else finding.kind) == kind


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("O\u200bak", "U+200B"),
        ("\u202eOak", "U+202E"),
        ("O\ufeffak", "U+FEFF"),
        ("Oak\u200b", None),  # at an end it is no part of the name
        ("می\u200cخواهم", None),
        ("東京 タワー", None),
    ],
)
def test_characters_that_nobody_sees_are_told(name: str, told: str | None) -> None:
    finding = of_name(Triple(name, "height", "20 m"))
    assert (finding is not None and finding.what.endswith(f"({told})")) == (told is not None)


def test_a_long_name_is_cut() -> None:
    finding = of_value(Triple("N" * 90_000, "p" * 1000, "N/A"))
    assert finding is not None
    assert len(finding.what) < 150


def test_the_nearest_other_key_is_found_in_any_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    keys = normalised(rng.standard_normal((50, 8)), np.float16)
    scores = keys.astype(np.float32) @ keys.astype(np.float32).T
    np.fill_diagonal(scores, -2)
    monkeypatch.setattr("kblam.evaluation.health.vectors._ROWS", 7)
    monkeypatch.setattr("kblam.evaluation.health.vectors._COLUMNS", 11)
    found = list(nearest(keys, keys, np.arange(50)))
    assert [at for _, _, at, _ in found] == scores.argmax(1).tolist()
    np.testing.assert_allclose([own for _, own, _, _ in found], 1, atol=2e-3)


def test_a_base_of_one_triple_cannot_be_examined() -> None:
    with pytest.raises(EvaluationError, match="two are the least"):
        examine(base(GOOD[:1]))


def test_a_large_base_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.evaluation.health.examination._ALL_KEYS", 10)
    monkeypatch.setattr("kblam.evaluation.health.examination._SAMPLED_KEYS", 5)
    health = examine(base(GOOD), questions=7)
    assert (health.keys, health.asked) == (5, 7)


def test_the_report_fits_a_screen_of_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base(BAD, tmp_path / "bad.kb").close()
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", lambda *_: WordEncoder())
    monkeypatch.setattr(out, "width", 80)
    shown = kblam("kb", "doctor", tmp_path / "bad.kb").ok().stdout
    assert re.search(r"\d+% of questions can be expected to be answered \(\d+% to \d+%; 23 asked\)", shown)
    assert "1  values that say nothing" in shown
    path = str(tmp_path)
    assert all(len(line) <= 80 for line in shown.splitlines() if path not in line)
    told = kblam("kb", "doctor", tmp_path / "bad.kb", "--json").ok().json
    assert told["counts"][SAYS_NOTHING] == 1
    assert {"kind", "what", "fix", "weight"} == set(told["worst"][0])
