"""RAG: the nearest facts are found, whatever searches, and a knowledge base that changes is searched as it is now."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kblam import KnowledgeBase, Triple
from kblam.errors import StoreError
from kblam.generation.rag import Index, Retriever, instruction_of, prompt_ids
from tests.fakes import HashingEncoder
from tests.generation.asking import byte_bpe

ENCODER = HashingEncoder(32)
FACTS = [Triple(f"Ship {number}", "home port", f"Port {number}") for number in range(20)]


@pytest.fixture(params=["faiss", "numpy"])
def searching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)


@pytest.mark.usefixtures("searching")
def test_the_nearest_come_first_by_cosine_and_not_by_length() -> None:
    keys = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float16)
    keys[7] *= 100
    query = np.random.default_rng(1).normal(size=8)
    exact = keys.astype(float) @ query / np.linalg.norm(keys.astype(float), axis=1) / np.linalg.norm(query)
    found = Index(keys)(query, 6)
    assert [row for row, _ in found] == list(np.argsort(-exact)[:6])
    np.testing.assert_allclose([cosine for _, cosine in found], np.sort(exact)[::-1][:6], atol=1e-5)
    assert len(Index(keys[:3])(query, 6)) == 3
    assert Index(keys[:0])(query, 6) == []


@pytest.mark.usefixtures("searching")
def test_a_base_is_searched_as_it_is_now() -> None:
    with KnowledgeBase.from_triples(FACTS, ENCODER) as base:
        retriever = Retriever(base)
        found, revision = retriever(FACTS[3].key_text)
        assert (found[0].triple, len(found), revision) == (FACTS[3], 5, 1)
        assert found[0].cosine == pytest.approx(1, abs=1e-3)
        assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
        new = Triple(FACTS[3].name, FACTS[3].property, "Beryl")
        base.add(new)
        assert retriever(FACTS[3].key_text)[0][0].triple == new
        base.remove(new.name)
        found, revision = retriever(FACTS[3].key_text)
        assert new not in [one.triple for one in found]
        assert revision == base.revision


def test_what_another_process_removes_between_search_and_reading_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KnowledgeBase.create(tmp_path / "a.kb", ENCODER) as base:
        base.add(FACTS)
        retriever = Retriever(base)
        call = Index.__call__

        def removed_meanwhile(self: Index, query: np.ndarray, count: int = 5) -> list[tuple[int, float]]:
            found = call(self, query, count)
            monkeypatch.undo()
            with KnowledgeBase.open(tmp_path / "a.kb", ENCODER) as other:
                other.remove(FACTS[3].name)
            return found

        monkeypatch.setattr(Index, "__call__", removed_meanwhile)
        found, revision = retriever(FACTS[3].key_text)
        assert FACTS[3] not in [one.triple for one in found]
        assert (len(found), revision) == (5, 2)
    with pytest.raises(StoreError, match="closed"):
        retriever(FACTS[3].key_text)


def test_nothing_is_found_in_an_empty_base() -> None:
    with KnowledgeBase.from_triples([], ENCODER) as base:
        assert Retriever(base)("What is it?")[0] == []


ENGLISH = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("BAAI/bge-small-en-v1.5", ENGLISH),
        ("BAAI/bge-large-en", ENGLISH),
        ("/models/models--BAAI--bge-base-en-v1.5/snapshots/a1", ENGLISH),
        ("openai:BAAI/bge-base-en-v1.5@http://127.0.0.1:8000/v1", ENGLISH),
        ("BAAI/BGE-small-zh-v1.5", "为这个句子生成表示以用于检索相关文章："),
        ("BAAI/bge-m3", ""),
        ("BAAI/bge-reranker-base", ""),
        ("/models/cabge-small-en", ""),
        ("/models/bge-small-english", ""),
        ("sentence-transformers/all-MiniLM-L6-v2", ""),
    ],
)
def test_only_bge_takes_an_instruction(spec: str, expected: str) -> None:
    assert instruction_of(spec) == expected


class Bge(HashingEncoder):
    """By its name."""

    spec = "BAAI/bge-small-en-v1.5"


def test_the_instruction_is_before_the_question_and_before_no_fact() -> None:
    encoder = Bge(32)
    with KnowledgeBase.from_triples(FACTS, encoder) as base:
        Retriever(base)("Where is Ship 3 at home?")
    assert [text for text in encoder.calls if text.startswith(ENGLISH)] == [f"{ENGLISH}Where is Ship 3 at home?"]
    assert encoder.calls[-1].startswith(ENGLISH)
    assert FACTS[3].key_text in encoder.calls


def test_a_base_without_facts_is_said_to_have_none() -> None:
    tokenizer = byte_bpe()
    empty, alone = (tokenizer.decode(prompt_ids(tokenizer, "Who?", facts, "No.")) for facts in ([], None))
    assert "from these facts only" in empty
    assert "Facts:\n- none" in empty
    assert "facts" not in alone
