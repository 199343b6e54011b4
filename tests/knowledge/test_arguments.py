"""Arguments of a knowledge base that are of another kind than they have to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kblam import KnowledgeAdapter
from kblam.errors import (
    AdapterFormatError,
    EncoderError,
    EncoderUnavailableError,
    KblamError,
    KnowledgeError,
    StoreError,
    TripleFormatError,
)
from kblam.knowledge import KnowledgeBase, build, load_encoder
from kblam.knowledge.rows import DeviceRows
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS
from tests.knowledge.vectors import Vectors

TEXT: Any = "3"
NOTHING: Any = None
LONG = "x" * 5000

REFUSED: dict[str, tuple[Callable[[KnowledgeBase], object], type[KblamError], str]] = {
    "a limit of text": (lambda kb: kb.search("a", limit=TEXT), StoreError, "limit must be a whole number, got '3'"),
    "half a limit": (lambda kb: kb.search("a", limit=1.5), StoreError, "limit must be a whole number, got 1.5"),  # type: ignore[arg-type]
    "a search for nothing": (lambda kb: kb.search(NOTHING), TripleFormatError, "must be text"),
    "a search for a number": (lambda kb: kb.search(5), TripleFormatError, "must be text"),  # type: ignore[arg-type]
    "a revision of text": (lambda kb: kb.changes_since(TEXT), StoreError, "revision must be a whole number"),
    "names since text": (lambda kb: kb.names(since=TEXT), StoreError, "since must be a whole number"),
    "an id that is none": (lambda kb: kb.triples_at([float("nan")]), StoreError, "an id must be a whole"),  # type: ignore[list-item]
    "no triples": (lambda kb: kb.add(NOTHING), TripleFormatError, "one or many, as Triple or as mappings; got null"),
    "a number of triples": (lambda kb: kb.add(5), TripleFormatError, "one or many"),  # type: ignore[arg-type]
    "a file of triples": (
        lambda kb: kb.add("facts.jsonl"),  # type: ignore[arg-type]
        TripleFormatError,
        r"read by read_triples\('facts.jsonl'\), and built by build\(PATH, 'facts.jsonl', encoder\)",
    ),
    "a file as a path": (lambda kb: kb.update(Path("facts.jsonl")), TripleFormatError, "read by read_triples"),  # type: ignore[arg-type]
    "made by hand": (lambda kb: KnowledgeBase("facts.kb"), StoreError, "made by create, open or from_triples; it was"),  # type: ignore[arg-type]
    "batches of text": (lambda kb: kb.update(FACTS, batch_size=TEXT), StoreError, "batch_size must be a whole number"),
    "no path": (lambda kb: KnowledgeBase.open(NOTHING), StoreError, "None cannot be the path of a knowledge base"),
    "a path in bytes": (lambda kb: KnowledgeBase.open(b"a.kb"), StoreError, "b'a.kb' cannot be the path"),  # type: ignore[arg-type]
    "nothing to build into": (lambda kb: build(NOTHING, FACTS, kb.encoder), StoreError, "None cannot be the path"),
    "a name for an encoder": (
        lambda kb: KnowledgeBase.from_triples(FACTS, "minilm"),  # type: ignore[arg-type]
        EncoderError,
        r"an encoder is needed, got str: load_encoder\('minilm'\) makes one",
    ),
    "no encoder": (lambda kb: KnowledgeBase.from_triples(FACTS, NOTHING), EncoderError, r'load_encoder\("minilm"\)'),
    "an encoder of nothing": (lambda kb: load_encoder(NOTHING), EncoderUnavailableError, "named by a text, got NoneT"),
    "an encoder of any length": (lambda kb: load_encoder(LONG), EncoderUnavailableError, "no encoder or folder"),
    "an adapter of nothing": (
        lambda kb: KnowledgeAdapter.from_pretrained(NOTHING),
        AdapterFormatError,
        "'None' cannot be the folder of an adapter",
    ),
    "an adapter of any length": (lambda kb: KnowledgeAdapter.from_pretrained(LONG), AdapterFormatError, "too long"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name_and_value(kb: KnowledgeBase, name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call(kb)


def test_an_encoder_by_name_is_refused_when_a_file_is_opened(path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(path, encoder).close()
    with pytest.raises(EncoderError, match="an encoder is needed, got str"):
        KnowledgeBase.open(path, "minilm")  # type: ignore[arg-type]


def test_numbers_beyond_64_bits_are_as_good_as_the_largest(kb: KnowledgeBase) -> None:
    huge = 2**70
    everything = kb.search("z", limit=100)
    assert everything
    assert kb.search("z", limit=huge) == everything
    assert kb.ids_of([FACTS[0].name], most=huge)
    assert kb.properties(most=huge)
    assert kb.names(since=huge) == []
    assert not kb.has_removed(huge)
    assert kb.update(FACTS, batch_size=huge).unchanged == len(FACTS)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("expected scalar type Float but found Half", "4 rows of embeddings cannot be made on cpu: expected scalar"),
        ("DefaultCPUAllocator: can't allocate memory", "no room for 4 rows of embeddings"),
        ("Storage size calculation overflowed with sizes=[4]", "no room for 4 rows of embeddings"),
        ("CUDA error: an illegal memory access was encountered", "4 rows of embeddings cannot be made on cpu: CUDA"),
    ],
)
def test_only_a_lack_of_memory_is_told_as_one(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch, reason: str, words: str
) -> None:
    def cannot(*_: object) -> None:
        raise RuntimeError(reason)

    copy = DeviceRows(16, Vectors(16), "cpu")
    monkeypatch.setattr(Vectors, "encode", cannot)
    with pytest.raises(KnowledgeError, match=words):
        copy.sync(kb)
