"""The properties of a knowledge base."""

from __future__ import annotations

from pathlib import Path

from kblam import KnowledgeBase, Triple
from tests.fakes import HashingEncoder


def test_properties_by_number_of_triples_and_only_later_ones(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "facts.kb", HashingEncoder(8)) as kb:
        assert kb.properties() == []
        kb.add([Triple(n, p, "1") for n, p in (("A", "price"), ("B", "price"), ("B", "age"), ("A", "age"))])
        kb.add(Triple("C", "price", "3"))
        assert kb.properties() == ["price", "age"]
        assert kb.properties(most=1) == ["price"]
        before = kb.revision
        assert kb.properties(since=before) == []
        kb.add(Triple("C", "color", "red"))
        assert kb.properties(since=before) == ["color"]
        before = kb.revision
        assert not kb.has_removed(before)
        kb.remove("C", "color")
        assert kb.has_removed(before)
        assert not kb.has_removed(kb.revision)
        assert kb.properties() == ["price", "age"]
