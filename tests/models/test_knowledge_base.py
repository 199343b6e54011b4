"""A `KnowledgeBase` in force around a `generate` of one's own: what it answers from, and until when."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.errors import EncoderMismatchError, KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.rows import DeviceRows
from kblam.models import attach, copies, detach
from kblam.models.copies import reading
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, differ, logits, prompts

IDS, MASK = prompts()
FACTS = [Triple(f"thing {number}", "color", f"value {number}") for number in range(9)]
ADDED = [Triple(f"other {number}", "size", f"large {number}") for number in range(9)]
HEAD = {"question_head": "linear"}
QUESTIONS = ["what is the color of thing 1 ?", "and of thing 2 ?"]


@pytest.fixture
def kb() -> Iterator[KnowledgeBase]:
    with KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM)) as made:
        yield made


def projected(tied: Tied, kb: KnowledgeBase) -> torch.Tensor:
    """Logits with all of a knowledge base projected anew."""
    vectors = kb.embeddings()
    with tied.attachment.using(tied.adapter.project(torch.from_numpy(vectors.key), torch.from_numpy(vectors.value))):
        return logits(tied.model, IDS, MASK)


def test_a_block_answers_from_the_knowledge_base_as_it_is_when_it_is_entered(tied: Tied, kb: KnowledgeBase) -> None:
    plain = logits(tied.model, IDS, MASK)
    expected = projected(tied, kb)
    with tied.attachment.using(kb) as attachment:
        assert attachment is tied.attachment
        close(logits(tied.model, IDS, MASK), expected)
        kb.add(ADDED)
        close(logits(tied.model, IDS, MASK), expected)
    with tied.attachment.using(kb):
        close(logits(tied.model, IDS, MASK), projected(tied, kb))
        assert differ(logits(tied.model, IDS, MASK), expected)
    assert torch.equal(logits(tied.model, IDS, MASK), plain)


def test_blocks_share_one_copy_with_sessions(tied: Tied, kb: KnowledgeBase) -> None:
    with reading(tied.attachment, kb) as resident, tied.attachment.using(kb):
        assert tied.attachment.knowledge is resident


def test_a_copy_that_found_no_room_is_gone_before_it_is_made_again(
    tied: Tied, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it takes the room that idle copies left."""
    half_made: list[weakref.ref[torch.Tensor]] = []
    left: list[torch.Tensor | None] = []
    write, resident = DeviceRows._write, copies.ResidentKnowledge

    def with_little_room(self: DeviceRows, *vectors: Any) -> list[int]:
        if half_made:
            return write(self, *vectors)
        half_made.extend(map(weakref.ref, self.buffers.values()))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def noting(*arguments: Any, **options: Any) -> ResidentKnowledge:
        left.extend(buffer() for buffer in half_made)
        return resident(*arguments, **options)

    with KnowledgeBase.from_triples(ADDED, HashingEncoder(EMBEDDING_DIM)) as idle, tied.attachment.using(idle):
        pass
    monkeypatch.setattr(DeviceRows, "_write", with_little_room)
    monkeypatch.setattr(copies, "ResidentKnowledge", noting)
    with tied.attachment.using(kb):
        pass
    assert left
    assert not any(buffer is not None for buffer in left)


def test_a_default_is_the_knowledge_base_as_it_was_set(tied: Tied, kb: KnowledgeBase) -> None:
    before = projected(tied, kb)
    tied.attachment.set_knowledge(kb)
    kb.add(ADDED)
    with tied.attachment.using(kb):  # brings the shared copy up to date, which the default must not see
        after = logits(tied.model, IDS, MASK)
    assert differ(after, before)
    close(logits(tied.model, IDS, MASK), before)
    close(logits(copy.deepcopy(tied.model), IDS, MASK), before)
    tied.attachment.set_knowledge(kb)
    close(logits(tied.model, IDS, MASK), after)


def test_a_default_keeps_its_knowledge_base_and_lets_go_of_it(tied: Tied) -> None:
    kb = KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM))
    expected, alive = projected(tied, kb), weakref.ref(kb)
    tied.attachment.set_knowledge(kb)
    del kb
    gc.collect()
    close(logits(tied.model, IDS, MASK), expected)
    tied.attachment.set_knowledge(None)
    gc.collect()
    assert alive() is None


def test_threads_answer_each_from_its_own(tied: Tied, kb: KnowledgeBase) -> None:
    other = KnowledgeBase.from_triples(ADDED, HashingEncoder(EMBEDDING_DIM))
    expected = {one: projected(tied, one) for one in (kb, other)}
    entered = threading.Barrier(2)
    found: dict[KnowledgeBase, torch.Tensor] = {}

    def ask(one: KnowledgeBase) -> None:
        with tied.attachment.using(one):
            entered.wait(60)
            found[one] = logits(tied.model, IDS, MASK)

    threads = [threading.Thread(target=ask, args=(one,)) for one in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, wanted in expected.items():
        close(found[one], wanted)


@pytest.mark.parametrize("asked", [QUESTIONS, tuple(QUESTIONS), QUESTIONS[0]], ids=["list", "tuple", "text"])
def test_questions_are_encoded_by_the_knowledge_base(kb: KnowledgeBase, asked: str | list[str]) -> None:
    tied = tie(**HEAD)
    vectors = torch.from_numpy(kb.encode([asked] if isinstance(asked, str) else list(asked))).float()
    with tied.attachment.using(kb, question=vectors):
        expected = logits(tied.model, IDS, MASK)
    with tied.attachment.using(kb, question=asked):
        assert torch.equal(logits(tied.model, IDS, MASK), expected)
    tied.attachment.set_knowledge(kb, question=asked)
    assert torch.equal(logits(tied.model, IDS, MASK), expected)
    with reading(tied.attachment, kb) as resident, tied.attachment.using(resident, question=asked):
        assert torch.equal(logits(tied.model, IDS, MASK), expected)


def test_questions_that_cannot_be_encoded_name_the_fix(kb: KnowledgeBase) -> None:
    tied = tie(**HEAD)
    vectors = kb.embeddings()
    loose = tied.adapter.project(torch.from_numpy(vectors.key), torch.from_numpy(vectors.value))
    for source, question, message in [
        (kb, None, "pass question=, its text or a list with one for each batch row"),
        (kb, [], "holds no question; give one text for each batch row"),
        (kb, ["what ?", 3], "it holds 3"),
        (kb, " ", "it holds ' '"),
        (kb, 5, "one for each batch row; or their float32 .*; got int"),
        (kb, kb.encode(QUESTIONS), r"torch.from_numpy\(knowledge_base.encode.*; it holds array"),
        (kb, "half \ud83d", "half a character"),
        (loose, "what ?", r"ProjectedKnowledge has no encoder .*knowledge_base.encode\(texts\)"),
    ]:
        with pytest.raises(KnowledgeError, match=message), tied.attachment.using(source, question=question):
            pass
    as_told = torch.from_numpy(kb.encode(QUESTIONS)).to(tied.attachment.device)
    with tied.attachment.using(kb, question=as_told):
        told = logits(tied.model, IDS, MASK)
    with tied.attachment.using(kb, question=QUESTIONS):
        assert torch.equal(logits(tied.model, IDS, MASK), told)
    with tied.attachment.using(kb, question=[*QUESTIONS, "third ?"]), pytest.raises(KnowledgeError, match="has 3 rows"):
        logits(tied.model, IDS, MASK)
    plain = tie()
    with pytest.raises(KnowledgeError, match="has no question_head"), plain.attachment.using(kb, question="what ?"):
        pass


def test_what_is_no_knowledge_is_refused_by_its_type(tied: Tied, kb: KnowledgeBase) -> None:
    for wrong in ("facts.kb", Path("facts.kb"), FACTS, 3):
        with (
            pytest.raises(KnowledgeError, match=rf"got {type(wrong).__name__}: open a file with KnowledgeBase.open"),
            tied.attachment.using(wrong),  # type: ignore[arg-type]
        ):
            pass
    other = KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM, seed=5))
    named = tie(encoder=HashingEncoder(EMBEDDING_DIM).fingerprint)
    for put in (named.attachment.using(other).__enter__, lambda: named.attachment.set_knowledge(other)):
        with pytest.raises(EncoderMismatchError, match="rebuild the knowledge base"):
            put()
    detach(tied.model)
    for put in (tied.attachment.using(kb).__enter__, lambda: tied.attachment.set_knowledge(kb)):
        with pytest.raises(KnowledgeError, match="detached or replaced"):
            put()
    attach(tied.model, tied.adapter)
