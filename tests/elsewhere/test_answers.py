"""Sessions answer on a device as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from kblam import KnowledgeAdapter, Triple, attach, detach
from kblam.data.drawing import Style, base_quiz
from kblam.evaluation.baselines import run_baseline
from kblam.evaluation.layers import evidence_by_layer
from kblam.evaluation.loop import RememberingEncoder, answer_quiz, time_questions, triples_of
from kblam.generation import Session
from kblam.models import attachment_of
from tests.elsewhere.device import Elsewhere, waits
from tests.generation.asking import PROMPT, Asked, asking, byte_bpe

CURRENCY = "What is the currency of France?"
BOTH = "What is the currency of France and the budget of Project Nightjar?"
FOUNDER = "What is the founder of Project Nightjar?"
UNKNOWN = "What is the currency of Mars?"
QUESTIONS = [CURRENCY, BOTH, FOUNDER, UNKNOWN, "Tell me about Peru"]


@pytest.fixture(params=["answers", "the base model", "a model that decides", "nothing but attention"])
def options(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the adapter and of sessions."""
    given: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "answers": ({}, {}),
        "the base model": ({}, {"unknown": "base"}),
        "a model that decides": ({}, {"unknown": None}),
        "nothing but attention": ({"pointer": False, "known_above": None}, {}),
    }
    return given[request.param]


@pytest.fixture
def moved(there: torch.device) -> Iterator[Asked]:
    """A model that was attached to on the CPU and then moved."""
    with asking(byte_bpe()) as found:
        found.model.to(there)
        yield found


def answered(session: Session) -> list[Any]:
    """By every way to ask."""
    found: list[Any] = [session.ask_many(QUESTIONS, max_new_tokens=12, batch_size=2)]
    found.append(session.ask(CURRENCY, max_new_tokens=8, min_new_tokens=2))  # token by token
    found.append(session.ask(UNKNOWN, max_new_tokens=8, stop_strings=["x", "e"]))
    found.append([decision.sentence for decision in session.decisions(QUESTIONS)])
    with session.answering(QUESTIONS) as pointer:
        said = session.model.generate(  # type: ignore[operator]
            **session.prompt(QUESTIONS), max_new_tokens=6, do_sample=False, logits_processor=[pointer]
        )
    return [*found, said.tolist()]


def test_answers_are_the_same(options: tuple[dict[str, Any], dict[str, Any]], there: torch.device) -> None:
    of_adapter, of_session = options
    with asking(byte_bpe(), **of_adapter) as here:
        expected = answered(here.session(**of_session))
    with asking(byte_bpe(), **of_adapter) as elsewhere:
        elsewhere.model.to(there)
        session = elsewhere.session(**of_session)
        if of_adapter:
            found = [session.ask_many(QUESTIONS, max_new_tokens=12, batch_size=2)]
            expected = expected[:1]
        else:
            found = answered(session)
    assert _without_masses(found) == _without_masses(expected)


def _without_masses(found: Any) -> Any:
    """What was said: the masses of a device differ in their last digits."""
    return [[getattr(one, "text", one) for one in each] if isinstance(each, list) else each.text for each in found]


def test_an_adapter_moves_with_its_model_and_takes_what_is_changed(moved: Asked, there: torch.device) -> None:
    session = moved.session()
    assert session.ask(CURRENCY, max_new_tokens=40).text == "The currency of France is Euro."
    assert all(isinstance(weight, Elsewhere) for weight in moved.attachment.adapter.parameters())
    moved.kb.add(Triple("France", "currency", "Franc"))
    assert session.ask(CURRENCY, max_new_tokens=40).text == "The currency of France is Franc."
    moved.kb.remove("France", "currency")
    assert session.ask(CURRENCY, max_new_tokens=40).refused
    detach(moved.model)
    attach(moved.model, moved.attachment.adapter)
    assert moved.session().ask(FOUNDER, max_new_tokens=60).text.endswith("is Łucja Ødegård-Żak.")


def test_knowledge_is_projected_once_and_where_it_will_lie(moved: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    projected = []
    project = KnowledgeAdapter.project

    def noted(self: KnowledgeAdapter, keys: Any, values: Any, **options: Any) -> Any:
        found = project(self, keys, values, **options)
        projected.append((len(keys), type(found.keys)))
        return found

    monkeypatch.setattr(KnowledgeAdapter, "project", noted)
    for _ in range(3):
        moved.session().ask(CURRENCY, max_new_tokens=40)
    assert [one for one in projected if one[0] == len(moved.kb)] == [(len(moved.kb), Elsewhere)]


@pytest.mark.parametrize("seeded", [True, False])
def test_sampling(moved: Asked, seeded: bool) -> None:
    session = moved.session(unknown=None)
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 5}
    if seeded:
        torch.manual_seed(0)
    assert session.ask(CURRENCY, max_new_tokens=40, **options).text
    assert moved.session(unknown="base").ask(UNKNOWN, max_new_tokens=6, **options).from_base


@pytest.mark.parametrize("cache", ["static", None])
def test_generate_with_knowledge_in_force(moved: Asked, cache: str | None) -> None:
    attachment = attachment_of(moved.model)
    assert attachment is not None
    prompts = moved.session().prompt([CURRENCY, FOUNDER])
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    with attachment.using(moved.kb, question=[CURRENCY, FOUNDER]):
        said = moved.model.generate(**prompts, **options)
    assert said.shape[0] == 2
    with attachment.using(moved.kb, question=[CURRENCY, FOUNDER]), torch.enable_grad():
        loss = moved.model(**prompts, labels=prompts["input_ids"]).loss
        loss.backward()
    gradients = [weight.grad for weight in attachment.adapter.parameters() if weight.grad is not None]
    assert gradients
    assert all(isinstance(gradient, Elsewhere) for gradient in gradients)


def test_evaluation(moved: Asked) -> None:
    facts = [(f"Thing {n}", prop, f"{prop} {n}") for n in range(3) for prop in ("colour", "price", "owner")]
    quiz = base_quiz(facts, Style("The {property} of {name} is {value}."), questions=6, name="small")
    encoder = RememberingEncoder(moved.encoder)
    subject: Any = moved
    kb = type(moved.kb).from_triples(triples_of(quiz), encoder)
    with kb:
        assert len(answer_quiz(subject, kb, quiz, batch_size=4)) == len(quiz.questions)
        assert evidence_by_layer(subject, kb, [one.text for one in quiz.questions[:3]])
        assert time_questions(subject, kb, quiz.questions[:2]).to_dict()
    for name in ("rag", "zero-shot", "in-context"):
        run_baseline(name, subject, encoder, [quiz], refusal="I am sorry I cannot find relevant information in the KB.")


def test_questions_of_a_chat_template(there: torch.device) -> None:
    with asking(byte_bpe(), prompt=PROMPT) as found:
        found.model.to(there)
        session = found.session()
        chosen: Callable[..., Any] = session.ask
        assert chosen(CURRENCY, max_new_tokens=3).is_cut


@pytest.mark.parametrize("unknown", ["refuse", None])
def test_the_host_waits_for_no_token(moved: Asked, unknown: str | None) -> None:
    """But transformers itself, which looks what has ended. We read at the prompt's end, and when all is said."""
    session = moved.session(unknown=unknown)
    options: dict[str, Any] = {"do_sample": True}  # else the answer is written at once
    session.ask_many([CURRENCY, FOUNDER], max_new_tokens=4, **options)  # whatever is read once
    counted = []
    for length in (3, 6):
        with waits() as seen:
            session.ask_many([CURRENCY, FOUNDER], max_new_tokens=length, min_new_tokens=length, **options)
        counted.append([one for one in seen if not one.startswith("generate_check.py:__call__")])
    assert counted[0]
    assert sorted(counted[0]) == sorted(counted[1])
