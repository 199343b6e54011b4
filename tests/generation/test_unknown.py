"""Known or not, one fact or two: what is decided at the prompt's end, and what is said then."""

from __future__ import annotations

import pytest
import torch
from transformers import TextStreamer

from kblam import Session, detach
from kblam.errors import GenerationError
from tests.generation.asking import Asked, attached
from tests.generation.test_pointer import CURRENCY, EURO

STONE = "What is the age of a stone?"
REFUSAL = "I am sorry I cannot find relevant information in the KB."
EURO_BUDGET = "The currency of France is Euro and the budget of Project Nightjar is 4,711,000 crowns."


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (CURRENCY, EURO),
        (STONE, REFUSAL),
        ("What is the currency of France and the budget of Project Nightjar?", EURO_BUDGET),
        ("Hello, what is France's currency and Project Nightjar's budget? Thanks!", EURO_BUDGET),
        ("What is the CEO of Procter and Gamble?", "The CEO of Procter and Gamble is Ann Lee."),
        ("What is the currency of France and the age of a stone?", f"{EURO} {REFUSAL}"),
        ("What is the age of a stone and the color of the sky?", REFUSAL),
        (
            "Tell me about Project Nightjar.",
            "The budget of Project Nightjar is 4,711,000 crowns. The founder of Project Nightjar is Łucja Ødegård-Żak.",
        ),
    ],
)
def test_what_is_said(asked: Asked, question: str, text: str) -> None:
    answer = asked.session().ask(question, max_new_tokens=150)
    if question.startswith("Tell me"):  # their masses are equal, so either may come first
        assert sorted(answer.text.split(". ")[0].split()) in [
            sorted(one.split()) for one in text.rstrip(".").split(". ")
        ]
        assert len(answer.text) == len(text)
        assert answer.knowledge_mass > 0.9
    else:
        assert answer.text == text
    assert answer.refused is (text == REFUSAL)
    for one in answer.copied:
        assert answer.text[one.start : one.end] == getattr(one.triple, one.field)
    assert {one.triple for one in answer.copied} <= {item.triple for item in answer.evidence}


def test_a_refusal_that_is_cut_short_is_one(asked: Asked) -> None:
    cut = asked.session().ask(STONE, max_new_tokens=3)
    assert (cut.refused, cut.is_cut) == (True, True)
    assert REFUSAL.startswith(cut.text)
    assert not asked.session().ask(CURRENCY, max_new_tokens=3).refused
    assert not asked.session(unknown="base").ask(STONE, max_new_tokens=3).refused
    assert not asked.session().ask("What is the currency of France and the age of a stone?", max_new_tokens=3).refused


def test_the_base_answers_as_if_nothing_were_attached(asked: Asked) -> None:
    """Its own tokens, with its own chat template; only the unknown rows of a batch."""
    message = [{"role": "user", "content": STONE}]
    prompt = asked.tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answers = asked.session(unknown="base").ask_many([CURRENCY, STONE], max_new_tokens=12)
    detach(asked.model)
    with torch.inference_mode():
        base = asked.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    said = asked.tokenizer.decode(base[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    known, unknown = answers
    assert (known.text, known.from_base) == (EURO, False)
    assert (unknown.text, unknown.from_base, unknown.evidence, unknown.copied) == (said, True, (), ())
    assert unknown.knowledge_mass < 0.1
    assert not unknown.refused


@pytest.mark.parametrize("question", [CURRENCY, STONE])
def test_a_streamer_shows_only_the_answer(asked: Asked, question: str) -> None:
    shown: list[str] = []

    class Keep(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            shown.append(text)
            if stream_end:
                shown.append("<end>")

    streamer = Keep(asked.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answer = asked.session(unknown="base").ask(question, max_new_tokens=40, streamer=streamer)
    assert "".join(shown).removesuffix("<end>").strip() == answer.text
    assert shown.count("<end>") == 1
    assert answer.from_base is (question == STONE)


def test_settings_that_cannot_be_are_told_at_once(asked: Asked) -> None:
    for options, message in [
        ({"unknown": "ask"}, r"unknown must be \"refuse\", \"base\", \"auto\" or None; got 'ask'"),
        ({"known_above": 2}, r"known_above must be a share of 0 \.\. 1; got 2"),
        ({"known_above": "0.5"}, r"known_above must be a share of 0 \.\. 1; got '0\.5'"),
    ]:
        with pytest.raises(GenerationError, match=message):
            asked.session(**options)  # type: ignore[arg-type]
    model, _ = attached(asked.tokenizer, asked.encoder, known_above=None)
    with pytest.raises(GenerationError, match="unknown='base' needs a mass to decide by"):
        Session(model, asked.kb, tokenizer=asked.tokenizer, unknown="base")
    assert Session(model, asked.kb, tokenizer=asked.tokenizer, unknown="base", known_above=0.5).ask(STONE).from_base
