"""The demo tokenizer reads and writes any word in Latin letters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.adapter.config import REFUSAL
from kblam.data.questions import HELD_OUT_QUESTIONS, OPENINGS, QUESTIONS
from kblam.demo.tiny.model import build_adapter, build_model
from kblam.demo.tiny.tokenizer import build_tokenizer, kept_pieces
from kblam.demo.tiny.words import PROPERTIES
from kblam.demo.tiny.world import world_words
from kblam.generation.prompt import encode_question
from kblam.models import attach

TOKENIZER = build_tokenizer()


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_latin_word_comes_back_in_lower_case(word: str) -> None:
    ids = TOKENIZER.encode(word, add_special_tokens=False)
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids) == word.lower()


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_at_all_is_read(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert all(0 <= token < len(TOKENIZER) for token in ids)


@pytest.mark.parametrize("word", ["Café", "Éowyn", "Ångström", "naïve"])
def test_accents_are_dropped_as_the_encoder_drops_them(word: str) -> None:
    ids = TOKENIZER.encode(word, add_special_tokens=False)
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids).isascii()


def test_what_the_model_says_is_made_of_whole_pieces() -> None:
    for word in [*world_words(), *PROPERTIES]:
        assert len(TOKENIZER.tokenize(word)) == 1, word
    refusal = TOKENIZER.decode(TOKENIZER.encode(REFUSAL, add_special_tokens=False))
    assert refusal == REFUSAL.lower()


def test_pieces_are_unique_and_few_enough_for_a_small_model() -> None:
    pieces = [piece for _, piece in kept_pieces()]
    assert len(pieces) == len(set(pieces)) < 22_000


def test_the_chat_template_and_the_adapters_prompt_agree() -> None:
    question = "What is the color of Amber Falcon?"
    model = build_model(TOKENIZER, hidden=128)
    attachment = attach(model, build_adapter(model.config))
    prompt = encode_question(question, attachment, TOKENIZER)
    message = [{"role": "user", "content": question}]
    templated = TOKENIZER.apply_chat_template(message, tokenize=True, return_dict=True)["input_ids"]
    assert prompt == templated
    assert prompt[0] == TOKENIZER.bos_token_id
    assert prompt[-1] == TOKENIZER.sep_token_id


def test_held_out_phrasings_are_not_trained_on() -> None:
    assert not set(HELD_OUT_QUESTIONS) & set(QUESTIONS)
    dressed = {f"{opening} {question}" for opening in OPENINGS for question in QUESTIONS}
    assert not set(HELD_OUT_QUESTIONS) & dressed
