from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kblam.errors import (
    EmbeddingError,
    EncoderError,
    EncoderMismatchError,
    StoreError,
    TripleFormatError,
)
from kblam.knowledge import KnowledgeBase, Triple, build, write_triples
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS
from tests.knowledge.worker import facts


def test_build_from_every_source(path: Path, tmp_path: Path, encoder: HashingEncoder) -> None:
    write_triples(tmp_path / "a.jsonl", FACTS[:2])
    assert build(path, str(tmp_path / "a.jsonl"), encoder).added == 2
    write_triples(tmp_path / "b.csv", FACTS[1:3])
    report = build(path, tmp_path / "b.csv", encoder)
    assert (report.added, report.updated, report.unchanged, report.total) == (1, 0, 1, 2)
    changed = Triple("Zürich", "Fluss", "Sihl")
    report = build(path, iter([changed, FACTS[3].to_record()]), encoder)
    assert (report.added, report.updated, report.unchanged) == (1, 1, 0)
    assert report.seconds > 0
    with KnowledgeBase.open(path) as kb:
        assert list(kb.triples()) == [*FACTS[:2], changed, FACTS[3]]


def test_progress_counts_triples(path: Path, tmp_path: Path, encoder: HashingEncoder) -> None:
    seen: list[tuple[int, int]] = []
    write_triples(tmp_path / "a.csv", facts(5))
    build(path, tmp_path / "a.csv", encoder, batch_size=2, progress=lambda *at: seen.append(at))
    build(path, facts(3), encoder, batch_size=2, progress=lambda *at: seen.append(at))
    build(path, iter(facts(3)), encoder, batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(2, 5), (4, 5), (5, 5), (2, 3), (3, 3), (2, 0), (3, 0)]


def test_only_what_changed_is_encoded(path: Path, encoder: HashingEncoder) -> None:
    build(path, facts(50), encoder, batch_size=8)
    encoder.calls.clear()
    report = build(path, [*facts(49), Triple("n49", "p", "changed"), Triple("new", "p", "v")], encoder, batch_size=8)
    assert (report.added, report.updated, report.unchanged) == (1, 1, 49)
    assert sorted(encoder.calls) == ["changed", "the p of n49", "the p of new", "v"]


def test_an_interrupted_build_goes_on(path: Path, encoder: HashingEncoder) -> None:
    def stop(done: int, total: int) -> None:
        if done == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(path, facts(50), encoder, batch_size=8, progress=stop)
    assert len(encoder.calls) == 48
    encoder.calls.clear()
    report = build(path, facts(50), encoder, batch_size=8)
    assert (report.added, report.unchanged) == (26, 24)
    assert len(encoder.calls) == 52


def test_an_encoder_that_fails_midway(path: Path, encoder: HashingEncoder) -> None:
    class Failing(HashingEncoder):
        def encode(self, texts: object, *, progress: object = None) -> object:  # type: ignore[override]
            if len(self.calls) >= 20:
                raise EncoderError("the server went away")
            return super().encode(texts)  # type: ignore[arg-type]

    with pytest.raises(EncoderError, match="went away"):
        build(path, facts(50), Failing(), batch_size=5)  # type: ignore[arg-type]
    assert build(path, facts(50), encoder, batch_size=5).unchanged == 10


@pytest.mark.parametrize("last", ['{"entity": "x"}', "binary \0", '{"name": "n3", "property": "p", "value": "other"}'])
def test_a_bad_line_costs_nothing(path: Path, tmp_path: Path, encoder: HashingEncoder, last: str) -> None:
    source = tmp_path / "a.jsonl"
    write_triples(source, facts(30))
    with source.open("a") as file:
        file.write(last)
    with pytest.raises(TripleFormatError, match=r"a\.jsonl:31: "):
        build(path, source, encoder, batch_size=5)
    assert encoder.calls == []
    assert not path.exists()


def test_duplicates_in_a_file(path: Path, tmp_path: Path, encoder: HashingEncoder) -> None:
    write_triples(tmp_path / "a.csv", [Triple("x", "p", "one"), FACTS[0], Triple("x", "p", "two")])
    assert build(path, tmp_path / "a.csv", encoder, batch_size=1, duplicates="last").added == 2
    assert "one" not in encoder.calls
    # Run again there is nothing to do.
    assert build(path, tmp_path / "a.csv", encoder, duplicates="last").unchanged == 2


def test_another_encoder_is_refused_before_anything_is_encoded(path: Path, encoder: HashingEncoder) -> None:
    build(path, FACTS, encoder)
    other = HashingEncoder(seed=2)
    with pytest.raises(EncoderMismatchError):
        build(path, [Triple("a", "p", "v")], other)
    assert other.calls == []


def test_an_iterable_that_fails_keeps_what_was_committed(path: Path, encoder: HashingEncoder) -> None:
    def source() -> Iterator[Triple]:
        yield from facts(25)
        raise OSError("the network drive went away")

    with pytest.raises(OSError, match="network drive"):
        build(path, source(), encoder, batch_size=10)
    with KnowledgeBase.open(path) as kb:
        assert list(kb.triples()) == facts(20)


def test_errors_leave_the_batches_before(path: Path, encoder: HashingEncoder) -> None:
    def nan(texts: list[str], *, progress: object = None) -> object:
        vectors = HashingEncoder().encode(texts)
        vectors[["n12" in text for text in texts]] = float("nan")
        return vectors

    encoder.encode = nan  # type: ignore[method-assign,assignment]
    with pytest.raises(EmbeddingError, match=r"\('n12', 'p'\)"):
        build(path, facts(30), encoder, batch_size=5)
    with KnowledgeBase.open(path) as kb:
        assert list(kb.triples()) == facts(10)


def test_the_path_is_checked_before_anything_is_encoded(tmp_path: Path, encoder: HashingEncoder) -> None:
    with pytest.raises(StoreError):
        build(tmp_path / "none" / "a.kb", FACTS, encoder)
    assert encoder.calls == []


def test_a_text_is_encoded_once_in_a_build(
    path: Path, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    triples = [Triple(f"n{at}", "rare", "yes" if at % 2 else "no") for at in range(40)]
    build(path, triples, encoder, batch_size=8)
    assert (encoder.calls.count("yes"), encoder.calls.count("no"), len(encoder.calls)) == (1, 1, 42)
    with KnowledgeBase.open(path) as kb:
        vectors = kb.embeddings()
        assert (vectors.value == HashingEncoder().encode(["no", "yes"] * 20).astype("float16")).all()
    # What is remembered is bounded.
    monkeypatch.setattr(sys.modules["kblam.knowledge.build"], "_REMEMBERED_BYTES", 2 * 4 * encoder.dimension)
    encoder.calls.clear()
    build(path, [Triple(f"m{at}", "rare", "maybe") for at in range(4)], encoder, batch_size=1)
    assert encoder.calls.count("maybe") == 1, "the one that was asked for last is kept"
    build(path, [Triple(f"o{at}", f"p{at // 2}", f"v{at % 2}") for at in range(4)], encoder, batch_size=1)
    assert encoder.calls.count("v0") == 2
