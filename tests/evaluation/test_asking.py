"""Putting quizzes to a model: product and learned refusals apart, batches, layers, general ability, the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kblam import KnowledgeBase, Triple, attach
from kblam.data.quiz import Question, Quiz
from kblam.errors import EncoderError
from kblam.evaluation.figures import score
from kblam.evaluation.general import measure_general, perplexity
from kblam.evaluation.heat import Heat, draw, heat_of
from kblam.evaluation.layers import evidence_by_layer
from kblam.evaluation.loop import (
    RememberingEncoder,
    ToldFromRefusal,
    answer_limits,
    answer_quiz,
    batches,
    time_questions,
    timed,
)
from kblam.evaluation.machine import Stopwatch, Times
from kblam.generation import Session
from kblam.knowledge.encoders import layered, usual_layers
from kblam.models import attachment_of
from tests.evaluation.subjects import ENCODER, Tiny, tiny_quiz, tiny_subject
from tests.fakes import DeepEncoder, HashingEncoder
from tests.generation.tiny import FACTS, make_prefer, make_uniform, tiny_adapter, tiny_model, tiny_tokenizer

QUIZ = tiny_quiz()


def prefers_first(*, uniform: bool = False, **options: object) -> Tiny:
    """Layer 0 gives all attention to the first fact; or, if `uniform`, the same to every fact and token."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, positions=512)
    adapter = tiny_adapter(model, ENCODER, **options)
    if uniform:
        make_uniform(model, adapter)
    else:
        make_prefer(model, adapter, ENCODER, FACTS[0])
    attach(model, adapter)
    return Tiny(model, tokenizer)


@pytest.fixture
def kb() -> KnowledgeBase:
    return KnowledgeBase.from_triples(FACTS, ENCODER)


def test_outcomes_are_what_a_session_says(kb: KnowledgeBase) -> None:
    subject = prefers_first()
    outcomes = answer_quiz(subject, kb, QUIZ, batch_size=2)
    answers = Session(subject.model, kb, tokenizer=subject.tokenizer).ask_many(
        [question.text for question in QUIZ.questions], max_new_tokens=48
    )
    assert [len(outcome.text) > 0 for outcome in outcomes] == [True] * 5
    for outcome, answer in zip(outcomes, answers, strict=True):
        shorter = min(len(outcome.text), len(answer.text))
        assert outcome.text[:shorter] == answer.text[:shorter]
    assert [outcome.best for outcome in outcomes] == [QUIZ.facts[0]] * 5
    assert all(outcome.known is None and outcome.learned is False for outcome in outcomes)
    assert score(QUIZ.questions, outcomes).top1 == 2 / 4


def test_calibrated_and_learned_refusals_are_told_apart(kb: KnowledgeBase) -> None:
    strict, lax = (
        answer_quiz(prefers_first(uniform=uniform, known_above=0.5, refusal="Nothing known."), kb, QUIZ)
        for uniform in (True, False)
    )
    assert [(o.text, o.refused, o.known, o.learned) for o in strict] == [("Nothing known.", True, False, False)] * 5
    assert [(o.refused, o.known, o.learned) for o in lax] == [(False, True, False)] * 5
    figures = score(QUIZ.questions, strict)
    assert figures.decision is not None
    assert figures.learned is not None
    assert figures.decision.recall == figures.refusal_recall == 1
    assert figures.learned.recall == 0
    quick = answer_quiz(prefers_first(uniform=True, known_above=0.5, refusal="Nothing known."), kb, QUIZ, quick=True)
    assert quick == [dataclasses.replace(outcome, learned=None) for outcome in strict]
    assert score(QUIZ.questions, quick).learned is None


def test_what_the_model_says_by_itself_is_asked_of_known_questions_too(kb: KnowledgeBase) -> None:
    """Masses are small, so the model's own words win where nothing decides; yet a fact counts as known."""
    alone = prefers_first(uniform=True, known_above=0.01, pointer=True)
    session = Session(alone.model, kb, tokenizer=alone.tokenizer)
    decided = session.decisions([question.text for question in QUIZ.questions[:3]])
    question = next(one for one, decision in zip(QUIZ.questions, decided, strict=False) if decision.is_sure)
    plain = prefers_first(uniform=True)
    words = Session(plain.model, kb, tokenizer=plain.tokenizer).ask(question.text, max_new_tokens=3).text
    subject = prefers_first(uniform=True, known_above=0.01, pointer=True, refusal=words)
    outcome = answer_quiz(subject, kb, Quiz(QUIZ.facts, [question]))[0]
    assert (outcome.text, outcome.known, outcome.refused) == (question.answer, True, False)
    assert outcome.learned is True


def test_an_answer_goes_on_only_until_it_is_told_from_a_refusal() -> None:
    tokenizer = tiny_tokenizer()
    told = ToldFromRefusal(tokenizer, "Sorry is the motto.")
    rows = [tokenizer(text)["input_ids"] for text in ("sorry is the motto", "sorry is the pine", "capital is the pine")]
    prompt = torch.zeros(3, 2, dtype=torch.long)
    ended = [told(torch.cat((prompt, torch.tensor(rows)[:, : n + 1]), 1), None).tolist() for n in range(4)]
    assert ended == [[False, False, True], [False, False, True], [False, False, True], [True, True, True]]


def test_a_session_says_what_it_would_decide(kb: KnowledgeBase) -> None:
    subject = prefers_first(known_above=0.5, pointer=True)
    session = Session(subject.model, kb, tokenizer=subject.tokenizer, unknown="base")
    texts = [question.text for question in QUIZ.questions]
    decided = session.decisions(texts, batch_size=2)
    answers = session.ask_many(texts, max_new_tokens=8)
    assert [(one.is_known, one.is_base) for one in decided] == [(one.known, one.from_base) for one in answers]
    assert [one.mass for one in decided] == pytest.approx([one.knowledge_mass for one in answers], abs=1e-5)


def test_both_sides_are_timed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.evaluation.loop.TIMED", 2)
    inner = HashingEncoder(16)
    encoder = RememberingEncoder(inner)
    texts = [question.text for question in QUIZ.questions]
    encoder.encode(texts)
    inner.calls.clear()
    asked: list[str] = []

    def ask(text: str, watch: Stopwatch) -> None:
        asked.append(text)
        encoder.encode([text])
        watch.tokens = [float(len(asked)), float(len(asked)) + 1]
        watch.finish = lambda: setattr(watch, "whole", watch.tokens[-1] + 0.5)  # type: ignore[method-assign]

    times = timed(QUIZ.questions, encoder, ask)
    assert asked == inner.calls == [texts[0], texts[0], texts[1]], "the first once more, uncounted; all encoded anew"
    assert (times.first_token_ms, times.token_ms, times.answer_ms, times.questions) == (2500, 1500, 4000, 2)


def test_batches_keep_answers_of_like_length_together() -> None:
    tokenizer = tiny_tokenizer()
    questions = [Question(f"{n}", (("a", "b", " ".join(["c"] * n)),), "{value}.") for n in (50, 1, 60, 2)]
    found = batches(answer_limits(questions, tokenizer), 2)
    assert [places for places, _ in found] == [[1, 3], [0, 2]]
    assert found[0][1] == 16 + 32
    assert found[1][1] == 16 + 61
    assert answer_limits([Question("none", ())], tokenizer) == [48]
    assert batches([]) == []


def test_answers_that_are_cut_before_the_right_length_are_counted(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = prefers_first(known_above=0.5, pointer=True)
    assert score(QUIZ.questions, answer_quiz(subject, kb, QUIZ)).to_dict().get("cut") is None
    monkeypatch.setattr("kblam.evaluation.loop.LIMIT", 3)
    outcomes = answer_quiz(subject, kb, QUIZ)
    assert [outcome.cut for outcome in outcomes] == [True] * 4 + [False], "of the last there is no right answer"
    assert score(QUIZ.questions, outcomes).to_dict()["cut"] == 4


def test_an_encoder_remembers_every_text_and_forgets_where_times_are_measured() -> None:
    encoder = HashingEncoder(16)
    remembering = RememberingEncoder(encoder)
    remembering.encode(["a", "b", "a"])
    assert encoder.calls == ["a", "b"]
    remembering.encode(["b", "c"])
    assert encoder.calls == ["a", "b", "c"]
    remembering.encode(["a"])
    assert encoder.calls == ["a", "b", "c"]
    with remembering.anew():
        remembering.encode(["a"])
    assert encoder.calls == ["a", "b", "c", "a"], "a question's time includes its encoding"
    assert remembering.encode([]).shape == (0, 16)


def test_an_encoder_remembers_what_its_layers_say() -> None:
    encoder = DeepEncoder(16)
    remembering = RememberingEncoder(encoder)
    assert usual_layers(remembering) == (2, 4)
    found = layered(remembering, (2, 4)).encode(["a", "b", "a"])
    assert np.array_equal(found, layered(DeepEncoder(16), (2, 4)).encode(["a", "b", "a"]))
    assert encoder.calls == ["a", "b"]
    layered(remembering, (2, 4)).encode(["b"])
    assert encoder.calls == ["a", "b"]
    assert layered(remembering, (3,)).encode(["b"]).shape == (1, 32)
    with remembering.anew():
        layered(remembering, (3,)).encode(["b"])
    assert encoder.calls == ["a", "b", "b", "b"]
    assert layered(remembering, (3,)).encode([]).shape == (0, 32)
    with pytest.raises(EncoderError, match="gives sentence vectors alone"):
        layered(RememberingEncoder(HashingEncoder(16)), (2, 4))


def test_vectors_of_a_knowledge_base_are_taken_over(kb: KnowledgeBase) -> None:
    encoder = HashingEncoder(16)
    remembering = RememberingEncoder(encoder)
    remembering.remember_all(kb)
    with KnowledgeBase.from_triples(FACTS, remembering) as again:
        assert encoder.calls == []
        assert np.array_equal(again.embeddings().key, kb.embeddings().key)
        assert np.array_equal(again.embeddings().value, kb.embeddings().value)


def test_times_are_medians_of_what_watches_saw(kb: KnowledgeBase) -> None:
    watches = []
    for moments in ([0.1, 0.2, 0.3], [0.5, 0.8], [0.3], []):
        watch = Stopwatch()
        watch.tokens = moments
        watch.whole = moments[-1] + 0.1 if moments else 9.0
        watches.append(watch)
    times = Times.of(watches)
    assert times.first_token_ms == pytest.approx(300)
    assert times.token_ms == pytest.approx((150 + 400) / 2), "what comes after the last token is of all of them"
    assert times.answer_ms == pytest.approx(400)
    assert times.questions == 3
    assert Times.of([]).to_dict() == {"timed": 0}
    measured = time_questions(prefers_first(), kb, QUIZ.questions)
    assert measured.questions == 5
    assert measured.token_ms > 0


def test_each_layer_shows_where_it_looks(kb: KnowledgeBase) -> None:
    subject = prefers_first()
    attachment = attachment_of(subject.model)
    assert attachment is not None
    before = attachment.config
    texts = [question.text for question in QUIZ.questions]
    found = evidence_by_layer(subject, kb, texts)
    assert [set(each) for each in found] == [{0, 1}] * 5
    assert all(each[0][0] == QUIZ.facts[0] for each in found)
    assert any(each[0] != each[1] for each in found), "the second layer is random"
    alone = [evidence_by_layer(subject, kb, [text])[0] for text in texts]
    assert alone == found, "padding changes nothing"
    assert attachment.config is before


def test_general_ability(kb: KnowledgeBase) -> None:
    questions = ["what is the capital ?", "silver pine ?", "is the meadow quiet ?"]
    disturbed = measure_general(prefers_first(), kb, questions)
    assert disturbed.equal.of == 3
    assert disturbed.perplexity_with != disturbed.perplexity_alone
    assert disturbed.equal < 1
    protected = measure_general(prefers_first(uniform=True, known_above=0.5), kb, questions)
    assert (protected.equal, protected.known, disturbed.known) == (1, 0, 1)
    record = protected.to_dict()
    assert record["questions"] == 3
    assert len(disturbed.to_dict()["changed"]) == 3 - disturbed.equal.hits


def test_perplexity_by_hand() -> None:
    """With all weights of the head at zero every token is as likely as any other."""
    subject = tiny_subject()
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()
    assert perplexity(subject, None, ["what is the capital of amber falcon"]) == pytest.approx(len(subject.tokenizer))


def test_the_picture(kb: KnowledgeBase, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    subject = prefers_first()
    heat = heat_of(subject, kb, QUIZ.questions[0].text, asked=[FACTS[0].identity], columns=2)
    assert heat.triples[0] == FACTS[0]
    assert heat.asked == [True, False]
    assert heat.mass.shape == (len(heat.tokens), 2)
    assert heat.mass[:, 0].min() > 0.9
    assert np.all(heat.mass.sum(1) + heat.rest <= 1 + 1e-4)
    # Dollars are no formulas: the second of these would be a broken one.
    odd = dataclasses.replace(heat, question="$x$ " * 60, tokens=["$", "\n", *heat.tokens[2:]])
    priced = [Triple("$A_{$", "cost", "$5\n\nor $6_{"), *heat.triples[1:]]
    broken = dataclasses.replace(heat, question="cost of $A_{$ ?", tokens=["$x_{$", *heat.tokens[1:]], triples=priced)
    draw([heat, odd, broken], tmp_path / "new" / "heat.png")
    assert (tmp_path / "new" / "heat.png").stat().st_size > 5000
    draw([broken], tmp_path / "heat.svg")
    drawn = (tmp_path / "heat.svg").read_text()
    for whole in ("the cost of $A_{$: $5 or $6_{", "cost of $A_{$ ?", "$x_{$"):
        assert f"<!-- {whole} -->" in drawn


@pytest.mark.parametrize("length", [7, 2_500])
def test_a_picture_of_a_long_prompt_is_one_that_matplotlib_can_draw(length: int, tmp_path: Path) -> None:
    """It draws up to 65,535 pixels."""
    pytest.importorskip("matplotlib")
    tokens = [f"word{place}" for place in range(length)]
    mass = np.full((length, 1), 0.5, np.float32)
    heat = Heat("a long one", tokens, [FACTS[0]], mass, mass[:, 0], [True])
    draw([heat], tmp_path / "heat.png")
    draw([heat], tmp_path / "heat.svg")
    drawn = (tmp_path / "heat.svg").read_text()
    assert sum(f"<!-- {token} -->" in drawn for token in tokens) == (length if length < 100 else 834)
    assert f"<!-- {tokens[3]} -->" in drawn
