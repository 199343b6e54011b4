"""A chat template is a program of somebody else: it is rendered once, within limits, and never sees the question."""

from __future__ import annotations

import time

import pytest
from transformers import PreTrainedTokenizerFast

from kblam.errors import GenerationError, GenerationFailedError
from kblam.models import chat_template, rendering
from kblam.models.prompt import ids_of, template_of
from tests.generation.tiny import tiny_tokenizer

QUESTION = "what is the capital of amber falcon ?"
# As real ones are: special tokens as variables, an opening for the answer, trimming, functions, state.
PLAIN = {
    "tokens": "{{ bos_token }}{{ messages[0]['content'] }}{% if add_generation_prompt %}{{ eos_token }}{% endif %}",
    "trim": "motto {{ messages[0].content | trim }} . {{ messages[0].content.strip() | tojson }}",
    "state": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = m.content %}{% endfor %}{{ ns.n }}",
}
BAD = {
    "reaches for os": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "one text of 4 GB": ("{{ 'x' * 4000000000 }}", "MiB of memory"),
    "padded to 4 GB": ("{{ 'x'.ljust(4000000000) }}", "MiB of memory"),
    "doubled": (
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "MiB of memory",
    ),
    "a text of 9 MB": ("{{ messages[0].content }}{% for i in range(90) %}{{ 'x' * 100000 }}{% endfor %}", "the most"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "refuses": ("{{ raise_exception('no user may speak') }}", "no user may speak"),
    "leaves the question out": ("[BOS] what is the motto ?", "does not hold the question"),
}
LOOP = "{% for i in range(99999) %}"
ENDLESS = LOOP * 4 + "{% endfor %}" * 4


def with_template(template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", PLAIN.values(), ids=PLAIN)
def test_it_says_what_transformers_makes_of_the_question(template: str) -> None:
    tokenizer = with_template(template)
    message = [{"role": "user", "content": QUESTION}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert ids_of(QUESTION, None, tokenizer) == expected["input_ids"]
    assert ids_of(f"  {QUESTION}\n", None, tokenizer) == expected["input_ids"]


CHAT = "{% for m in messages %}{{ bos_token }}{{ m.role }} {{ m.content | trim }} . {% endfor %}{{ eos_token }}"


def test_a_system_message_comes_first() -> None:
    tokenizer = with_template(CHAT)
    messages = [{"role": "system", "content": "motto"}, {"role": "user", "content": QUESTION}]
    text = chat_template.chat_template_of(tokenizer, with_system=True)
    assert text is not None
    said = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat_template.filled(text, QUESTION, "motto") == said
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(GenerationError, match="does not hold the system message"):
        chat_template.chat_template_of(tokenizer, with_system=True)


def test_a_conversation_is_what_the_template_makes_of_it() -> None:
    tokenizer = with_template(CHAT)
    turns = [("system", "motto"), ("user", "\ue0001\ue000 {{ 1 }}"), ("assistant", "pine"), ("user", QUESTION)]
    messages = [{"role": role, "content": text} for role, text in turns]
    said = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat_template.conversation_of(tokenizer, turns) == said
    assert chat_template.conversation_of(tiny_tokenizer(), turns) is None
    tokenizer.chat_template = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(GenerationError, match="does not hold the answer"):
        chat_template.conversation_of(tokenizer, turns)


def test_a_text_that_holds_a_mark_is_a_text() -> None:
    mark, system = chat_template.MARK, chat_template.SYSTEM_MARK
    assert chat_template.filled(f"{system} / {mark}", system, mark) == f"{mark} / {system}"


def test_a_template_among_several_and_one_that_was_changed() -> None:
    tokenizer = with_template({"tool_use": "{{ 1 / 0 }}", "default": "motto {{ messages[0].content }}"})
    assert template_of(tokenizer) == "motto {question}"
    tokenizer.chat_template = "{{ eos_token }} {{ messages[0].content }}"
    assert template_of(tokenizer) == "[EOS] {question}"
    tokenizer.eos_token = "pine"
    assert template_of(tokenizer) == "pine {question}"
    tokenizer.chat_template = {"tool_use": "sorry"}
    with pytest.raises(GenerationError, match="no default"):
        template_of(tokenizer)
    tokenizer.chat_template = None
    assert template_of(tokenizer) is None


@pytest.mark.parametrize(("template", "reason"), BAD.values(), ids=BAD)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(GenerationFailedError, match=f"chat template cannot be used: .*{reason}.*record a prompt"):
        ids_of(QUESTION, None, with_template(template))


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(GenerationError, match="has not ended after 1 seconds"):
        ids_of(QUESTION, None, with_template(ENDLESS))
    assert time.monotonic() - began < 30
    # Where no processor time can be limited the caller's own deadline holds.
    monkeypatch.setattr(rendering, "SECONDS", 1000)
    monkeypatch.setattr(rendering, "DEADLINE", 1.5)
    with pytest.raises(GenerationError, match=r"has not ended after 1\.5 seconds, .*ask again"):
        ids_of(QUESTION, None, with_template(f"{ENDLESS} "))  # another one: what was refused is kept


def test_a_question_is_text_and_no_template() -> None:
    tokenizer = with_template("{{ messages[0].content }}")
    assert ids_of("{{ 1 / 0 }}", None, tokenizer) == tokenizer("{{ 1 / 0 }}", add_special_tokens=False)["input_ids"]


def test_a_process_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(GenerationError, match="cannot be started"):
        ids_of(QUESTION, None, with_template("{{ messages[0].content }} once"))
