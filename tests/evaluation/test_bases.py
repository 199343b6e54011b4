"""Knowledge bases of rows that are kept as files: encoded once, gone on with, and never taken for another's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kblam import KnowledgeBase, Triple
from kblam.data.quiz import Question, Quiz
from kblam.errors import EvaluationError
from kblam.evaluation import bases as module
from kblam.evaluation.bases import Bases, check_cache
from kblam.evaluation.loop import RememberingEncoder
from tests.fakes import HashingEncoder

FACTS = [(f"Item {n}", prop, f"{prop} {n}") for n in range(10) for prop in ("colour", "weight")]
QUIZ = Quiz(FACTS, [Question("what is the colour of Item 3?", (FACTS[6],), "{value}")])
SMALL = Quiz(FACTS[:4], QUIZ.questions)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_KEPT", 10)
    monkeypatch.setattr(module, "_BATCH", 4)


def bases_in(folder: Path | None, seed: int = 0) -> tuple[Bases, HashingEncoder]:
    encoder = HashingEncoder(8, seed)
    return Bases(RememberingEncoder(encoder), folder), encoder


def test_a_base_is_encoded_once_for_all_runs(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "cache"
    first, encoder = bases_in(folder)
    first.encode([QUIZ])
    assert encoder.calls == [QUIZ.questions[0].text], "texts of a file are encoded when it is made"
    with first.open(QUIZ) as kb, bases_in(None)[0].open(QUIZ) as memory:
        assert (len(kb), kb.read_only) == (20, True)
        assert [*kb.triples()] == [*memory.triples()]
        np.testing.assert_array_equal(kb.embeddings().key, memory.embeddings().key)
    again, encoder = bases_in(folder)
    with again.open(QUIZ) as kb:
        assert len(kb) == 20
    assert encoder.calls == []
    assert len([*folder.glob("20-*.kb")]) == 1


def test_a_base_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 20
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bases_in(tmp_path)[0].open(QUIZ, stop)
    bases, encoder = bases_in(tmp_path)
    with bases.open(QUIZ) as kb:
        assert len(kb) == 20
    assert len(encoder.calls) == 2 * 12
    assert "the colour of Item 3" not in encoder.calls
    assert "the colour of Item 4" in encoder.calls


def test_other_facts_keys_and_encoders_are_other_files(tmp_path: Path) -> None:
    changed = Quiz([*FACTS[:-1], (*FACTS[-1][:2], "another")], QUIZ.questions)
    keyed = Quiz(FACTS, QUIZ.questions, keys={FACTS[0][:2]: "how Item 0 looks"})
    for quiz, seed in ((QUIZ, 0), (changed, 0), (keyed, 0), (QUIZ, 1)):
        with bases_in(tmp_path, seed)[0].open(quiz) as kb:
            assert {(t.name, t.property, t.value) for t in kb.triples()} == set(quiz.facts)
    assert len([*tmp_path.glob("*.kb")]) == 4


def test_small_bases_are_not_kept(tmp_path: Path) -> None:
    bases, encoder = bases_in(tmp_path / "cache")
    bases.encode([SMALL])
    assert len(encoder.calls) == 2 * 4 + 1
    with bases.open(SMALL) as kb:
        assert (len(kb), kb.path) == (4, None)
    assert len(encoder.calls) == 2 * 4 + 1
    assert not (tmp_path / "cache").exists()


def test_what_searches_without_the_base_finds_its_vectors(tmp_path: Path) -> None:
    bases_in(tmp_path)[0].open(QUIZ).close()
    bases, encoder = bases_in(tmp_path)
    bases.recall([QUIZ, SMALL])
    vectors = bases.encoder.encode(["the colour of Item 3", "colour 3"])
    assert encoder.calls == []
    np.testing.assert_allclose(vectors, HashingEncoder(8).encode(["the colour of Item 3", "colour 3"]), atol=1e-3)


def test_a_file_with_more_in_it_is_refused(tmp_path: Path) -> None:
    bases, encoder = bases_in(tmp_path)
    bases.open(QUIZ).close()
    (file,) = tmp_path.glob("*.kb")
    with KnowledgeBase.open(file, encoder) as kb:
        kb.add(Triple("Item 3", "maker", "Smith"))
    with pytest.raises(EvaluationError, match=r"holds 21 triples, and 20 triples are asked about: .* remove it"):
        bases.open(QUIZ)


def test_of_a_fact_that_is_given_twice_too(tmp_path: Path) -> None:
    twice = Quiz([*FACTS, (*FACTS[0][:2], "another")], QUIZ.questions)
    bases, encoder = bases_in(tmp_path)
    with bases.open(twice) as kb:
        assert len(kb) == 20
    (file,) = tmp_path.glob("*.kb")
    with KnowledgeBase.open(file, encoder) as kb:
        kb.add(Triple("Item 3", "maker", "Smith"))
    with pytest.raises(EvaluationError, match="holds 21 triples, and 20 triples are asked about"):
        bases.open(twice)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20_000])


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _of_another(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE other (column)")


@pytest.mark.parametrize("spoil", [_cut, _folder, _of_another, lambda file: file.write_text("text")])
def test_a_file_that_is_damaged_or_something_else_is_told(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    bases, _ = bases_in(tmp_path)
    bases.open(QUIZ).close()
    (file,) = tmp_path.glob("*.kb")
    spoil(file)
    with pytest.raises(EvaluationError, match=r"\.kb cannot be used; remove it, and it is made again: "):
        bases.open(QUIZ)


def test_a_folder_below_home_and_one_that_a_link_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("linked")
    for folder, made in ((Path("~/own"), tmp_path / "own"), (tmp_path / "link", tmp_path / "linked")):
        check_cache(folder)
        with bases_in(folder)[0].open(QUIZ) as kb:
            assert len(kb) == 20
        assert len([*made.glob("*.kb")]) == 1
    with pytest.raises(EvaluationError, match="cannot keep knowledge bases in ~nobody-of-this-name"):
        check_cache(Path("~nobody-of-this-name"))


def test_where_nothing_can_be_kept_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    os.mkfifo(tmp_path / "pipe")
    # Only to try tells of /proc, a folder that may be written by its permissions.
    for folder in (file, file / "below", tmp_path / "pipe", Path("/proc")):
        with pytest.raises(EvaluationError, match="cannot keep knowledge bases in"):
            check_cache(folder)
        with pytest.raises(EvaluationError, match="cannot keep knowledge bases in"):
            bases_in(folder)[0].open(QUIZ)
    check_cache(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
