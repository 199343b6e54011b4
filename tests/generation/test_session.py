"""Sessions: threads, several knowledge bases on one model, and changes while others are answering."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam import KnowledgeBase, Session, Triple, ask, detach
from kblam.errors import GenerationError, KnowledgeError
from kblam.generation import Answer
from kblam.models import copies
from kblam.models.copies import KEPT, resident_for
from kblam.models.resident import ResidentKnowledge
from tests.generation.conftest import World
from tests.generation.tiny import FACTS, make_prefer
from tests.models.tiny import PassesOn

QUESTION = "what is the capital of amber falcon ?"
QUESTIONS = [QUESTION, "founder of quiet harbor ?", "motto ?", "what is the motto of silver meadow ?"]
PLACES = ["Zirconia", "Basalt", "Pine"]


def facts(shift: int) -> list[Triple]:
    """The same names and properties with other values."""
    return [Triple(fact.name, fact.property, PLACES[(at + shift) % 3] + "." * shift) for at, fact in enumerate(FACTS)]


@pytest.fixture
def sessions(world: World) -> Iterator[list[Session]]:
    """Three knowledge bases on one model."""
    bases = [KnowledgeBase.from_triples(facts(shift), world.encoder) for shift in range(3)]
    yield [Session(world.model, kb, tokenizer=world.tokenizer) for kb in bases]
    for kb in bases:
        kb.close()


def said(answer: Answer) -> tuple[Any, ...]:
    return answer.text, [item.triple for item in answer.evidence], [item.mass for item in answer.evidence]


def test_eight_threads_over_three_knowledge_bases_get_their_own_answers(world: World, sessions: list[Session]) -> None:
    """As asking one after another gives, texts and evidence; and beside them the base model's logits, bit for bit."""
    options = {"max_new_tokens": 6, "top": 3}
    jobs = [(session, question) for session in sessions for question in QUESTIONS]
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        base = world.model(ids).logits
    alone = [said(session.ask(question, **options)) for session, question in jobs]
    assert len({answer[0] for answer in alone}) > 3, "the answers must tell knowledge bases apart"
    asking = threading.Event()

    def ask_one(number: int) -> bool:
        session, question = jobs[number % len(jobs)]
        return said(session.ask(question, **options)) == alone[number % len(jobs)]

    @torch.inference_mode()
    def ask_the_base() -> int:
        count = 0
        while not asking.is_set():
            assert torch.equal(world.model(ids).logits, base)
            count += 1
        return count

    with ThreadPoolExecutor(1) as bare, ThreadPoolExecutor(8) as threads:
        beside = bare.submit(ask_the_base)
        try:
            assert all(threads.map(ask_one, range(96)))
        finally:
            asking.set()
        assert beside.result() > 3
    assert world.model.config._attn_implementation == "sdpa"


class Stop:
    """A streamer that stops at the second token until it is told to go on."""

    def __init__(self, do: Callable[[], object] | None = None) -> None:
        self.reached, self.go_on, self.do, self.seen = threading.Event(), threading.Event(), do, 0

    def put(self, _: torch.Tensor) -> None:
        self.seen += 1
        if self.seen == 2:
            self.reached.set()
            if self.do is not None:
                self.do()
            else:
                assert self.go_on.wait(60)

    def end(self) -> None:
        pass


def test_a_question_after_a_change_waits_for_no_answer_under_way(world: World) -> None:
    """The first answer names what it rested on, though its row is another triple's for the second."""
    make_prefer(world.model, world.adapter, world.encoder, FACTS[2], strength=1.0)
    session, stop = Session(world.model, world.kb, tokenizer=world.tokenizer), Stop()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(session.ask, QUESTION, max_new_tokens=4, streamer=stop)
        assert stop.reached.wait(60)
        world.kb.remove("Amber Falcon")  # Silver Meadow moves into its row
        second = threads.submit(session.ask, QUESTION, max_new_tokens=4)
        try:
            second.result(60)
        finally:
            stop.go_on.set()
        names = [[item.triple.name for item in answer.result().evidence] for answer in (first, second)]
    assert names[0][0] == "Silver Meadow"
    assert set(names[0]) == {"Silver Meadow", "Quiet Harbor"}
    assert set(names[1]) == {"Silver Meadow", "Quiet Harbor"}


def test_questions_to_an_unchanged_knowledge_base_do_not_wait(world: World) -> None:
    session, stop = Session(world.model, world.kb, tokenizer=world.tokenizer), Stop()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(session.ask, QUESTION, max_new_tokens=4, streamer=stop)
        assert stop.reached.wait(60)
        assert threads.submit(session.ask, QUESTION, max_new_tokens=4).result(60).num_tokens == 4
        stop.go_on.set()
        assert first.result(60).num_tokens == 4


@pytest.mark.parametrize("by_a_pool", [False, True], ids=["itself", "a pool's thread"])
def test_a_question_in_the_middle_of_an_answer_sees_what_has_changed(world: World, by_a_pool: bool) -> None:
    session = Session(world.model, world.kb, tokenizer=world.tokenizer)
    inner: list[Answer] = []

    def change_and_ask() -> None:
        world.kb.add(Triple("Late Comer", "capital", "Pine"))
        if by_a_pool:
            inner.append(pool.submit(session.ask, QUESTION, max_new_tokens=2, top=9).result(60))
        else:
            inner.append(session.ask(QUESTION, max_new_tokens=2, top=9))

    with ThreadPoolExecutor(1) as pool:
        answer = session.ask(QUESTION, max_new_tokens=4, top=9, streamer=Stop(change_and_ask))
    assert (answer.num_tokens, inner[0].num_tokens) == (4, 2)
    assert "Late Comer" not in [one.triple.name for one in answer.evidence]
    assert "Late Comer" in [one.triple.name for one in inner[0].evidence]


def test_a_question_may_be_answered_from_a_copy_that_is_held(world: World) -> None:
    session = Session(world.model, world.kb, tokenizer=world.tokenizer)
    with copies.reading(world.attachment, world.kb) as resident:
        world.kb.add(Triple("Late Comer", "capital", "Pine"))
        then, now = (session.ask(QUESTION, max_new_tokens=1, top=9, resident=one) for one in (resident, None))
    assert (len(then.evidence), len(now.evidence)) == (3, 4)


def test_a_session_says_what_it_lacks(world: World) -> None:
    with pytest.raises(GenerationError, match="pass tokenizer="):
        Session(world.model, world.kb)
    session = Session(world.model, world.kb, tokenizer=world.tokenizer)
    detach(world.model)
    with pytest.raises(KnowledgeError, match="detached or replaced"):
        session.ask(QUESTION, max_new_tokens=2)
    with pytest.raises(GenerationError, match="no adapter is attached"):
        Session(world.model, world.kb, tokenizer=world.tokenizer)


def test_the_copies_asked_last_are_kept(world: World) -> None:
    bases = [KnowledgeBase.from_triples(facts(0), world.encoder) for _ in range(KEPT + 1)]
    first = [resident_for(world.attachment, kb) for kb in bases]
    again = [resident_for(world.attachment, kb) for kb in reversed(bases)]
    kept = [one is other for one, other in zip(reversed(first), again, strict=True)]
    assert kept == [True] * KEPT + [False]
    for kb in bases:
        kb.close()


def test_as_many_copies_are_kept_as_a_server_asks_for(world: World) -> None:
    copies.keep(world.attachment, KEPT + 2)
    bases = [KnowledgeBase.from_triples(facts(0), world.encoder) for _ in range(KEPT + 2)]
    first = [resident_for(world.attachment, kb) for kb in bases]
    assert all(resident_for(world.attachment, kb) is one for kb, one in zip(bases, first, strict=True))


def test_a_copy_that_is_read_is_not_dropped(world: World) -> None:
    with copies.reading(world.attachment, world.kb) as resident:
        others = [KnowledgeBase.from_triples(facts(0), world.encoder) for _ in range(KEPT + 2)]
        for kb in others:
            resident_for(world.attachment, kb)
        assert resident_for(world.attachment, world.kb) is resident


def test_a_copy_goes_with_its_knowledge_base_and_with_its_attachment(world: World) -> None:
    kb = KnowledgeBase.from_triples(FACTS, world.encoder)
    of_a_base = weakref.ref(resident_for(world.attachment, kb))
    of_an_attachment = weakref.ref(resident_for(world.attachment, world.kb))
    assert of_a_base() is not None
    del kb
    assert of_a_base() is None, "at once, and not when memory is collected"
    attachment = weakref.ref(world.attachment)
    detach(world.model)
    world.attachment = None  # type: ignore[assignment]
    gc.collect()
    assert attachment() is None
    assert of_an_attachment() is None


def test_copies_that_nobody_reads_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [KnowledgeBase.from_triples(facts(shift), world.encoder) for shift in range(2)]
    idle = [weakref.ref(resident_for(world.attachment, kb)) for kb in others]
    make = ResidentKnowledge.__init__

    def no_room_beside_others(self: ResidentKnowledge, *arguments: Any, **options: Any) -> None:
        if any(one() is not None for one in idle):
            raise KnowledgeError("no room")
        make(self, *arguments, **options)

    monkeypatch.setattr(ResidentKnowledge, "__init__", no_room_beside_others)
    assert ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=2).num_tokens == 2
    # With nothing left to drop it is told.
    monkeypatch.setattr(ResidentKnowledge, "__init__", lambda *_, **__: (_ for _ in ()).throw(KnowledgeError("none")))
    with KnowledgeBase.from_triples(FACTS, world.encoder) as kb, pytest.raises(KnowledgeError, match="none"):
        ask(world.model, kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=2)


@pytest.mark.parametrize("given", [None, "facts.kb", FACTS], ids=["nothing", "path", "triples"])
def test_what_is_no_knowledge_base_is_refused_with_the_fix(world: World, given: Any) -> None:
    with pytest.raises(GenerationError, match=r"a Session asks a KnowledgeBase, got \w+: open a file with KnowledgeBa"):
        Session(world.model, given, tokenizer=world.tokenizer)


def test_the_model_in_a_compiled_one_is_asked(world: World) -> None:
    expected = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=4)
    compiled: Any = torch.compile(world.model, backend="eager")
    found = Session(compiled, world.kb, tokenizer=world.tokenizer).ask(QUESTION, max_new_tokens=4)
    assert (found.text, found.evidence) == (expected.text, expected.evidence)


def test_a_soft_prompt_is_not_left_out_in_silence(world: World) -> None:
    soft, lora = (
        PassesOn(world.model, active_peft_config=SimpleNamespace(is_prompt_learning=learns)) for learns in (True, False)
    )
    with pytest.raises(GenerationError, match="inside this PassesOn, whose soft prompt would be left out"):
        Session(soft, world.kb, tokenizer=world.tokenizer)  # type: ignore[arg-type]
    session = Session(lora, world.kb, tokenizer=world.tokenizer)  # type: ignore[arg-type]
    assert session.ask(QUESTION, max_new_tokens=4) == ask(
        world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=4
    )


def test_asking_makes_nothing_on_the_default_device_of_torch(world: World) -> None:
    session = Session(world.model, world.kb, tokenizer=world.tokenizer)
    expected = session.ask(QUESTION, max_new_tokens=4)
    with torch.device("meta"):  # in place of a GPU that the model is not on
        assert session.ask(QUESTION, max_new_tokens=4) == expected
