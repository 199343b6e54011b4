"""`kblam chat` from a pipe: questions, changes, mistakes."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kblam import KnowledgeBase
from kblam.cli.chat import Conversation
from kblam.cli.output import out
from tests.cli.conftest import Run, command_line, kblam
from tests.fakes import HashingEncoder

QUESTION = "what is the capital of amber falcon ?"


def chat(model_folder: Path, *lines: str, options: tuple[str, ...] = ()) -> Run:
    typed = "".join(f"{line}\n" for line in lines)
    return kblam("chat", "--model", model_folder, "--max-new-tokens", 4, *options, typed=typed)


def records(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_fact_is_changed_between_two_questions(model_folder: Path, hashing: HashingEncoder) -> None:
    run = chat(
        model_folder,
        QUESTION,
        "/add Amber Falcon | capital | Obsidian",
        QUESTION,
        "/quit",
        QUESTION,
        options=("--json",),
    ).ok()
    first, added, second = records(run)
    assert first["evidence"][0]["value"] == "Zirconia"
    assert added == {"command": "add", "outcome": "changed", "triples": 3}
    assert second["evidence"][0]["value"] == "Obsidian"
    with KnowledgeBase.open(model_folder / "knowledge.kb") as kb:
        assert kb.find("Amber Falcon")[0].value == "Obsidian", "the change is saved"


def test_answers_are_streamed_with_their_evidence(model_folder: Path) -> None:
    asked = kblam("ask", QUESTION, "--model", model_folder, "--max-new-tokens", 4, "--json").ok().json
    shown = chat(model_folder, QUESTION).ok().stdout
    assert " ".join(shown.splitlines()[0].split()) == " ".join(asked["answer"].split())
    assert "the capital of Amber Falcon: Zirconia" in shown
    assert "█" in shown
    told = chat(model_folder, QUESTION, options=("--verbose", "--plan", "latent"))
    assert "decode, 1 new token: latent (pinned)" in told.ok().stderr


def test_add_and_remove(model_folder: Path, hashing: HashingEncoder) -> None:
    run = chat(
        model_folder,
        "/add New Tower | height | 333 m | or so",
        "/add New Tower | height | 333 m | or so",
        "/kb tower",
        "/remove New Tower | height",
        "/remove Amber Falcon",
        "/kb",
        options=("--json",),
    ).ok()
    added, again, found, removed, removed_all, about = records(run)
    assert (added["outcome"], again["outcome"]) == ("added", "known already")
    assert found["found"] == [{"name": "New Tower", "property": "height", "value": "333 m | or so"}]
    assert (removed["removed"], removed["triples"]) == (1, 3)
    assert (removed_all["removed"], about["triples"], about["found"]) == (1, 2, [])


def test_mistakes_are_told_and_the_loop_goes_on(model_folder: Path, hashing: HashingEncoder) -> None:
    lines = ["/add only one", "/add | p | v", "/remove", "/remove Nobody", "/fly", "motto " * 100, "", QUESTION]
    run = chat(model_folder, *lines, options=("--json",))
    assert run.status == 2, "the first line that failed decides"
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    for words, line in zip(
        [
            "write /add NAME",
            "name is empty",
            "write /remove",
            "nothing of that name",
            "no command /fly",
            "has room for",
        ],
        errors,
        strict=True,
    ):
        assert words in line
    outcomes = records(run)
    assert [next(iter(outcome)) for outcome in outcomes] == ["error"] * 6 + ["question"]


def test_help_and_words_for_people(model_folder: Path, hashing: HashingEncoder) -> None:
    shown = chat(model_folder, "/help", "/kb", "/kb falcon", "/kb nobody", "/add A | b | c", "/remove A").ok().stdout
    for words in (
        "/add NAME | PROPERTY | VALUE",
        "triples: 3",
        "the capital of Amber Falcon: Zirconia",
        "no name holds 'nobody'",
        "added; 4 triples",
        "removed 1; 3 triples",
    ):
        assert words in shown


def test_the_end_of_input_ends_it(model_folder: Path) -> None:
    assert chat(model_folder).ok().stdout == ""


def test_what_ask_refuses_is_refused(base: Path) -> None:
    kblam("chat", "--model", base, typed="x\n").failed(2, "--adapter is missing")


def test_a_closed_standard_input_is_told_before_anything_is_loaded() -> None:
    done = subprocess.run(
        [*command_line(), "chat", "--kb", "none.kb"],
        preexec_fn=lambda: os.close(0),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: standard input is closed; give chat a terminal or a pipe")


def test_a_long_line_in_a_pipe_stays_one(model_folder: Path) -> None:
    out.width = 80
    words = "nobody " * 30
    assert chat(model_folder, f"/kb {words}").ok().stdout.splitlines() == [f"no name holds {words.strip()!r}"]


class Stopped(Conversation):
    """A conversation in which Ctrl-C arrives while the line "stop" is answered."""

    def __init__(self) -> None:
        self.kb: Any = []
        self.as_json = True
        self.taken: list[str] = []

    def take(self, line: str) -> bool:
        self.taken.append(line.strip())
        if self.taken[-1] == "stop":
            raise KeyboardInterrupt
        return True


def test_control_c_at_a_keyboard_stops_the_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["stop", "go on"])

    def type_line(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_line)
    conversation = Stopped()
    assert conversation.run(interactive=True) == 0
    assert conversation.taken == ["stop", "go on"]


def test_control_c_stops_a_piped_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("stop\ngo on\n"))
    conversation = Stopped()
    assert conversation.run(interactive=False) == 130
    assert conversation.taken == ["stop"]
