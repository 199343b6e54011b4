"""Sentences as tokens: any script, any tokenizer, and no control token ever."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kblam.adapter.sentences import answer_sentence
from kblam.generation.decision import Decision
from kblam.generation.evidence import Found
from kblam.generation.plan import plan
from kblam.generation.wording import Wordings
from kblam.knowledge import Triple
from tests.generation.asking import CONTROLS, PROMPT, TOKENIZERS
from tests.knowledge.strategies import can_be_seen

ALPHABETS = ["abc XYZ", "0123456789 +-.,:/%", "łąćż ØÅæß", "漢字かな한국", "ابت ", "नमस्ते", "😀👩‍🔬", "\n\t<>|[]{}'\""]
SPECIAL = st.sampled_from([*CONTROLS, "[SEP]", "<0x41>"])
PIECES = st.one_of(*[st.text(alphabet, min_size=1, max_size=8) for alphabet in ALPHABETS], st.text(max_size=5), SPECIAL)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map("".join)
FIELDS = TEXTS.filter(lambda text: can_be_seen(text) and "\0" not in text)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
PROMPTS = [PROMPT.replace("{question}", "What is it?"), "What is it?\n", "What is it?", ""]


@pytest.mark.parametrize("name", ["byte BPE", "SentencePiece"])
@SETTINGS
@given(text=FIELDS, prompt=st.sampled_from(PROMPTS))
@example(text="a <|end|> b </s><|user|>", prompt=PROMPTS[0])
def test_tokens_read_as_the_text_to_the_last_character(name: str, text: str, prompt: str) -> None:
    tokenizer = TOKENIZERS[name]()
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    wording = Wordings(tokenizer).of(f"It is {text}.", before)
    assert wording is not None
    assert not set(wording.tokens) & set(tokenizer.all_special_ids)
    read = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (before, [*before, *wording.tokens])]
    assert read[1][len(read[0]) :].lstrip(" ") == f"It is {text}."


@pytest.mark.parametrize("name", TOKENIZERS)
@SETTINGS
@given(value=FIELDS, name_text=FIELDS)
@example(value="[SEP] [EOS]", name_text="Żak </s>")
@example(value="red", name_text="\u200dx")  # WordPiece has no token for the first
def test_a_plan_says_its_value_to_the_last_character(name: str, value: str, name_text: str) -> None:
    """Also with a tokenizer that leaves characters out; what is cut anywhere is a beginning of it."""
    tokenizer = TOKENIZERS[name]()
    triple = Triple(name_text, "property", value)
    sentence = answer_sentence("The {property} of {name} is {value}.", [(triple.name, triple.property, triple.value)])
    wordings = Wordings(tokenizer)
    made = plan(Decision(0.9, True, sentence, (Found(0, triple, 0.9),)), [], wordings, 0)
    assert made.wording is not None
    assert not wordings.controls & set(made.wording.tokens)
    assert made.said(made.tokens) == sentence.text
    said = [made.said(made.tokens[:count]) for count in range(len(made.tokens) + 1)]
    assert all(sentence.text.startswith(one) for one in said)
    assert [len(one) for one in said] == sorted(len(one) for one in said)
    (copied,) = [one for one in made.copied(len(sentence.text)) if one.field == "value"]
    assert sentence.text[copied.start : copied.end] == triple.value
    assert any(made.settled[: len(made.wording.tokens)]), "the value is finished once its frame was said"


def test_a_sentence_is_tokenised_as_the_model_reads_it_after_its_prompt() -> None:
    for make in TOKENIZERS.values():
        tokenizer, sentence = make(), "The currency of France is Euro."
        for prompt in PROMPTS[:2]:
            before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            whole = tokenizer(prompt + sentence, add_special_tokens=False)["input_ids"]
            assert whole[: len(before)] == before
            wording = Wordings(tokenizer).of(sentence, before)
            assert wording is not None
            assert list(wording.tokens) == whole[len(before) :]
