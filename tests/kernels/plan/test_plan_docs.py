"""docs/planner.md shows what the command prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kblam_kernels.plan.__main__ import main

PROMPT = "$ python -m kblam_kernels.plan "
BLOCKS = (Path(__file__).parents[3] / "docs" / "planner.md").read_text(encoding="utf-8").split("```")[1::2]
SHOWN = [
    tuple(shown.split("\n", 1)) for block in BLOCKS if PROMPT in block for shown in block.strip().split(PROMPT) if shown
]


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_is_shown_is_what_is_printed(
    command: str, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KBLAM_PLAN", raising=False)
    main(shlex.split(command))
    assert capsys.readouterr().out.strip() == printed.strip()


def test_the_shapes_of_the_issue_are_shown() -> None:
    expected = {("llama-3-8b", 10_000), ("llama-3-8b", 1_000_000), ("llama-3.2-1b", 10_000)}
    expected |= {("llama-3.2-1b", 1_000_000), ("phi-3-mini", 10_000)}
    given = [shlex.split(command) for command, _ in SHOWN]
    assert {(words[1], int(words[3])) for words in given if words[5] == "a100"} >= expected
