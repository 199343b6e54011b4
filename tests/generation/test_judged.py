"""A judge chooses among what attention found and what the question names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kblam.errors import GenerationError
from kblam.generation import session as session_module
from kblam.generation.options import Generating
from kblam.models.judging import Judged, Verdict
from tests.generation.asking import Asked
from tests.generation.test_pointer import CURRENCY, FOUNDER
from tests.models.judges import WEIGHTS


class Preferring:
    """A judge who is sure of the triples of one name."""

    def __init__(self, name: str, sure: float) -> None:
        self.name, self.sure = name, sure

    def verdicts(self, judged: list[Judged]) -> list[Verdict]:
        odds = [[self.sure if c.name == self.name else (1 - self.sure) / 100 for c in one.candidates] for one in judged]
        return [Verdict(tuple(each), (False,) * len(each), (True,) * len(each)) for each in odds]

    def as_meant(self, text: str, background: tuple[str, ...]) -> str:
        return text

    def says_a_name(self, text: str) -> bool:
        return self.name in text

    def names_meant(self, text: str) -> list[str]:
        return []

    def names_in(self, text: str) -> list[tuple[int, int]]:
        return [(at, at + len(self.name))] if (at := text.find(self.name)) >= 0 else []

    def is_property(self, text: str) -> bool:
        return False


def test_the_likeliest_triple_answers_and_not_the_strongest(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first evidence too, though others have more of the attention."""
    name = "Procter and Gamble"
    monkeypatch.setattr("kblam.generation.session.judge_of", lambda adapter, base: Preferring(name, 0.7))
    session = asked.session()
    answer = session.ask(CURRENCY, max_new_tokens=80)
    assert answer.text == "The CEO of Procter and Gamble is Ann Lee."
    assert answer.confidence == 0.7
    assert [item.triple.name for item in answer.evidence][:2] == [name, "France"]
    assert answer.evidence[0].mass < answer.evidence[1].mass
    (decision,) = session.decisions([CURRENCY])
    assert (decision.facts[0].triple.name, decision.confidence) == (name, 0.7)
    monkeypatch.setattr("kblam.generation.session.judge_of", lambda adapter, base: Preferring(name, 0.3))
    unsure = session.ask(CURRENCY, max_new_tokens=80)
    assert unsure.refused
    assert unsure.confidence == 0.3


@pytest.mark.parametrize("at_once", [True, False])
def test_what_a_question_names_is_looked_at_though_attention_misses_it(
    asked: Asked, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "Procter and Gamble"
    monkeypatch.setattr("kblam.generation.evidence.CANDIDATES", 1)
    monkeypatch.setattr("kblam.generation.session.judge_of", lambda adapter, base: Preferring(name, 0.7))
    monkeypatch.setattr(Generating, "is_plain", at_once)
    session = asked.session()
    assert session.ask(CURRENCY, max_new_tokens=80).refused
    assert [one.is_known for one in session.decisions([CURRENCY])] == [False]
    monkeypatch.setattr(Preferring, "names_meant", lambda self, text: [name, "nobody"] if text == CURRENCY else [])
    answers = session.ask_many([FOUNDER, CURRENCY], max_new_tokens=80)
    assert [answer.refused for answer in answers] == [True, False]
    assert answers[1].text == "The CEO of Procter and Gamble is Ann Lee."
    assert answers[1].evidence[0].triple.name == name
    assert [one.is_known for one in session.decisions([FOUNDER, CURRENCY])] == [False, True]
    looked_at = list[str]()
    monkeypatch.setattr(Preferring, "names_meant", lambda self, text: looked_at.append(text) or [])
    session.ask(question := "What is the currency of France and the budget of Project Nightjar?", max_new_tokens=80)
    parts = {"What is the currency of France?", "What is the budget of Project Nightjar?"}
    assert {question, *parts} <= set(looked_at), "parts are looked at in the same way"


def test_parts_that_say_no_name_are_not_asked(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would cost a prefill and find nothing that counts; a gap that is asked for in so many words is told."""
    seen: list[tuple[str, ...]] = []

    def ask_parts(attachment: Any, tokenizer: Any, cuts: Any, *rest: Any) -> Any:
        seen.extend(cut.parts for of_question in cuts for cut in of_question)
        return whole(attachment, tokenizer, cuts, *rest)

    whole = session_module.ask_parts
    monkeypatch.setattr(session_module, "ask_parts", ask_parts)
    monkeypatch.setattr(session_module, "judge_of", lambda adapter, base: Preferring("France", 0.9))
    session = asked.session()
    session.decisions(["For a quiz tonight, what is the currency of France?"])
    assert seen == []
    session.decisions(["the currency of France, the motto of France"])
    assert seen == [("the currency of France?", "the motto of France?")]
    session.decisions(["What is the currency of France and what is the age of a stone?"])
    assert seen[1:] == [("What is the currency of France?", "What is the age of a stone?")]


def test_what_decisions_take_is_checked_as_for_an_answer(asked: Asked) -> None:
    for given, told in (
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ({"batch_size": -3}, "batch_size must be a whole number of at least 1; got -3"),
        ({"prompts": [[1], [2]]}, "prompts holds 2 rows of tokens for 1 questions"),
    ):
        with pytest.raises(GenerationError, match=told):
            asked.session().decisions([CURRENCY], **given)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_question_is_judged_as_it_is_meant_and_read_as_it_was_typed(
    asked: Asked, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, meant, name = "who runs procter & gamble", CURRENCY, "France"
    monkeypatch.setattr("kblam.generation.session.judge_of", lambda adapter, base: Preferring(name, 0.7))
    monkeypatch.setattr(Preferring, "as_meant", lambda self, text, background: meant if text == typed else text)
    monkeypatch.setattr(Generating, "is_plain", at_once)
    judged, encoded, read = list[str](), list[str](), list[str]()
    verdicts, encode, prompt = Preferring.verdicts, asked.encoder.encode, session_module.encode_question
    monkeypatch.setattr(
        Preferring,
        "verdicts",
        lambda self, asked: judged.extend(one.question for one in asked) or verdicts(self, asked),
    )
    monkeypatch.setattr(asked.encoder, "encode", lambda texts, **given: encoded.extend(texts) or encode(texts, **given))
    monkeypatch.setattr(session_module, "encode_question", lambda text, *rest: read.append(text) or prompt(text, *rest))
    config = dataclasses.replace(asked.attachment.config, confidence=WEIGHTS)
    monkeypatch.setattr(asked.attachment.adapter, "config", config)
    session = asked.session()
    answer = session.ask(typed, max_new_tokens=80)
    assert answer.text == "The currency of France is Euro."
    assert [one.facts[0].triple.name for one in session.decisions([typed])] == [name]
    with session.answering(typed) as pointer:
        asked.model.generate(**session.prompt(typed), max_new_tokens=2, do_sample=False, logits_processor=[pointer])
    assert pointer.decision(0).facts[0].triple.name == name
    assert session.question_vectors([typed]).equal(session.question_vectors([meant]))
    assert {*judged, *encoded} == {meant}
    assert set(read) == {typed}
    encoded.clear()  # without weights nothing is judged, and nothing is read otherwise
    monkeypatch.setattr(asked.attachment.adapter, "config", dataclasses.replace(config, confidence=None))
    session.ask(typed, max_new_tokens=3)
    assert encoded == [typed]


@pytest.mark.parametrize("question", [5, None, " ", "\ud800"])
def test_what_is_no_question_is_refused_wherever_one_is_taken(asked: Asked, question: Any) -> None:
    session = asked.session()
    for take in (session.question_vectors, session.decisions, session.prompt, session.ask_many):
        with pytest.raises(GenerationError, match="question"):
            take([CURRENCY, question])
    with pytest.raises(GenerationError, match="question"), session.answering([question]):
        pass
