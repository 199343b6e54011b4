"""What is rendered is kept, and what comes next is rendered with it."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kblam.errors import GenerationError, RenderingError
from kblam.models import chat_template, rendering
from kblam.models.rendering import Template, rendered
from tests.models.test_chat_template import CHAT, ENDLESS, with_template


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each process that was started."""
    started, run = [], subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return started


def template(text: str) -> Template:
    return Template(text, "{}")


def turns(count: int, *, with_system: bool) -> list[tuple[str, str]]:
    said = [(("user", "assistant")[place % 2], f"text {place}") for place in range(count)]
    return [("system", "be kind"), *said] if with_system else said


def test_one_process_renders_the_conversations_that_may_come(processes: list[object]) -> None:
    tokenizer = with_template(f"{CHAT} one process")
    assert not chat_template.is_ready(tokenizer, ["user"])
    for with_system in (False, True):
        for count in (3, 1, 21, 255):
            asked = turns(count, with_system=with_system)
            messages = [{"role": role, "content": text} for role, text in asked]
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert chat_template.conversation_of(tokenizer, asked) == expected
    assert chat_template.chat_template_of(tokenizer, with_system=True)
    assert len(processes) == 1
    # Of one that nobody foresees the next steps are known then.
    unusual = [("user", "a"), *turns(1, with_system=False)]
    for _ in range(3):
        chat_template.conversation_of(tokenizer, unusual)
        unusual += [("assistant", "b"), ("user", "c")]
    assert len(processes) == 2


def test_what_is_made_ready_is_known(processes: list[object]) -> None:
    tokenizer = with_template(f"{CHAT} ready")
    chat_template.make_ready(tokenizer, ["user"])
    assert chat_template.is_ready(tokenizer, ["system", "user", "assistant", "user"])
    assert not chat_template.is_ready(tokenizer, ["user", "user"])
    assert len(processes) == 1
    tokenizer.chat_template = None
    chat_template.make_ready(tokenizer, ["user"])
    assert chat_template.is_ready(tokenizer, ["user", "user"])


def test_a_refusal_is_kept(processes: list[object]) -> None:
    refusing = template("{{ raise_exception('not in this order') if messages|length == 2 }}{{ messages[0].content }}")
    for _ in range(3):
        with pytest.raises(GenerationError, match="not in this order"):
            rendered(refusing, ("user", "user"))
    with pytest.raises(GenerationError, match="does not hold the answer"):
        rendered(refusing, ("user", "assistant", "user"))
    assert rendered(refusing, ("user",)) == rendering.mark(0)
    assert len(processes) == 3


def test_a_failure_of_the_process_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    later = template("{{ messages[0].content }} later")
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "/nowhere/python")
        with pytest.raises(RenderingError, match=r"could not be rendered: .* cannot be started .*; ask again"):
            rendered(later, ("user",))
    assert rendered(later, ("user",)) == f"{rendering.mark(0)} later"


def test_who_wants_the_same_at_once_waits_for_one_process(processes: list[object]) -> None:
    same = template("{{ messages[0].content }} at once")
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: rendered(same, ("user",)), range(4)))
    assert texts == [f"{rendering.mark(0)} at once"] * 4
    assert len(processes) == 1


@pytest.mark.parametrize(
    "later", [ENDLESS, "{{ raise_exception('no more') }}", "{{ 'x' * 4000000000 }}"], ids=["endless", "error", "memory"]
)
def test_what_may_come_takes_nothing_from_what_is_wanted(
    later: str, processes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 1)
    text = "{% for m in messages %}{{ m.content }}{% endfor %}{% if messages|length > 2 %}" + later + "{% endif %}"
    assert rendered(template(text), ("user",), ahead=True) == rendering.mark(0)
    assert rendered(template(text), ("system", "user")) == rendering.mark(0) + rendering.mark(1)
    assert len(processes) == 1
    with pytest.raises(GenerationError):  # by itself, and with its own reason
        rendered(template(text), ("user", "assistant", "user"))
    assert len(processes) == 2


def test_what_was_not_wanted_for_the_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MOST_KEPT", 3)
    monkeypatch.setattr(rendering, "MOST_CHARACTERS_KEPT", 100)
    kept, of = rendering._Kept(), template("any")

    def known() -> list[str]:
        return [role for role in "abcd" if kept.get(of, (role,)) is not None]

    for role in "abc":
        kept.keep(of, (role,), "x")
    kept.get(of, ("a",))
    kept.keep(of, ("d",), "x")
    assert known() == ["a", "c", "d"]
    kept.keep(of, ("d",), "x" * 99)
    assert known() == ["c", "d"]
    kept.keep(of, ("b",), "x" * 90)
    assert known() == ["b"]
