"""What has changed since a revision: found without walking through everything, of one moment, and held by nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kblam.errors import StoreError, StoreWriteError
from kblam.knowledge import KnowledgeBase, Triple
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS


def test_changes_since(kb: KnowledgeBase) -> None:
    start = kb.revision
    ids = kb.embeddings().ids.tolist()
    kb.add(Triple("Zürich", "Fluss", "Sihl"))
    kb.remove("Amber Falcon", "capital")
    kb.add([Triple("new", "p", "v"), Triple("gone", "p", "v")])
    gone = int(kb.embeddings().ids[-1])
    kb.remove("gone")
    changes = kb.changes_since(start)
    assert changes.upserted.ids.tolist() == [ids[2], gone - 1]
    assert changes.removed.tolist() == [ids[0], gone]
    assert changes.revision == changes.upserted.revision == kb.revision == start + 4
    np.testing.assert_array_equal(changes.upserted.value[0], kb.encode(["Sihl"])[0].astype(np.float16))
    nothing = kb.changes_since(kb.revision)
    assert (len(nothing.upserted), len(nothing.removed)) == (0, 0)
    assert nothing.upserted.key.shape == (0, 16)
    np.testing.assert_array_equal(kb.changes_since(0).upserted.key, kb.embeddings().key)


@pytest.mark.parametrize("revision", [-1, 99])
def test_revisions_of_another_knowledge_base(kb: KnowledgeBase, revision: int) -> None:
    with pytest.raises(StoreError, match=f"no changes since {revision}; start from 0"):
        kb.changes_since(revision)


def test_what_changes_nothing_is_no_revision(kb: KnowledgeBase) -> None:
    before = kb.revision
    kb.remove("nobody")
    kb.add(FACTS)
    assert kb.revision == before


@pytest.mark.parametrize(
    "asked",
    [
        lambda kb, since: kb.changes_since(since).upserted.ids.tolist(),
        lambda kb, since: [*kb.changed_since(since)],
        lambda kb, since: kb.names(since=since),
        lambda kb, since: kb.properties(since=since),
        lambda kb, since: kb.has_removed(since),
    ],
    ids=["changes", "ids", "names", "properties", "removed"],
)
def test_one_change_is_found_without_walking_through_everything(
    kb: KnowledgeBase, asked: Callable[[KnowledgeBase, int], object]
) -> None:
    kb.add(Triple("Zürich", "Fluss", "Sihl"))
    assert asked(kb, kb.revision - 1) in ([3], ["Zürich"], ["Fluss"], False)
    assert kb._store._transactions.opened is not None
    sql = kb._store._transactions.opened.connection
    statements: list[str] = []
    sql.set_trace_callback(statements.append)
    asked(kb, kb.revision - 1)
    sql.set_trace_callback(None)
    plans = {text: sql.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in statements if "SELECT" in text}
    assert len(plans) >= 3  # the ledger's two, and what was asked
    for text, plan in plans.items():
        steps = [row[3] for row in plan]
        assert not [step for step in steps if "SCAN" in step], (text, steps)


@pytest.mark.parametrize("begun", [[], [1, 2]])
def test_vectors_that_were_not_read_to_the_end_hold_no_moment(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though who left the block keeps them, as an error does with all that it met."""
    monkeypatch.setattr("kblam.knowledge.proof.CHUNK", 2)
    with KnowledgeBase.open(path, encoder) as other:
        with kb.pieces_since(0) as pieces:
            assert not begun or next(pieces.vectors).ids.tolist() == begun
            other.add(Triple("Zürich", "Fluss", "Sihl"))
        assert (kb.revision, kb.find("Zürich")[0].value) == (other.revision, "Sihl")
    assert list(pieces.vectors) == []


def test_a_block_that_reads_vectors_may_read_more_and_changes_nothing(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder
) -> None:
    with KnowledgeBase.open(path, encoder) as other, kb.pieces_since(0) as pieces:
        other.remove("Zürich")
        assert kb.triples_at(pieces.ids) == FACTS, "of the same moment"
        assert (len(kb), kb.revision) == (4, 1)
        for change in (lambda: kb.remove("Zürich"), lambda: kb.add(Triple("a", "b", "c")), kb.wait_to_write):
            with pytest.raises(StoreWriteError, match="read by the block around this change; change it after that"):
                change()
        assert [piece.ids.tolist() for piece in pieces.vectors] == [[1, 2, 3, 4]]
    assert (len(kb), kb.revision) == (3, 2)
    assert kb.add(Triple("a", "b", "c")).added == 1


def test_which_have_changed_is_told_without_their_vectors(kb: KnowledgeBase) -> None:
    before = kb.revision
    kb.add([Triple("Zürich", "Fluss", "Sihl"), Triple("a", "b", "c")])
    kb.remove("東京タワー")
    assert kb._store._transactions.opened is not None
    statements: list[str] = []
    kb._store._transactions.opened.connection.set_trace_callback(statements.append)
    assert kb.changed_since(before) == {3, 4, 5}
    assert kb.changed_since(kb.revision) == frozenset()
    assert statements
    assert not [one for one in statements if "embeddings" in one]
    with pytest.raises(StoreError, match="no changes since 99; start from 0"):
        kb.changed_since(99)
