"""docs/cli.md has every command with its options and an example, and every help text can be read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kblam.cli.app import app
from kblam.cli.errors import BAD_INPUT, FAILED, INTERRUPTED
from tests.cli.conftest import kblam

GUIDE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands(inner, (*path, name))
        else:
            yield (*path, name), inner


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _section(path: tuple[str, ...]) -> str:
    """The part of the guide below the command's heading."""
    heading = f"### `kblam {' '.join(path)}`"
    assert heading in GUIDE, f"docs/cli.md has no heading {heading!r}"
    return GUIDE.split(heading, 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]


def _examples() -> list[str]:
    """Lines of the guide's code blocks that run the command, without redirections."""
    lines = (line for block in GUIDE.split("```")[1::2] for line in block.splitlines())
    return [re.split(r" [<>] ", line)[0] for line in lines if line.startswith("kblam ")]


def test_there_are_commands() -> None:
    assert {("ask",), ("chat",), ("kb", "build"), ("integrate",), ("convert",), ("doctor",)} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_has_help_and_a_section_with_an_example(path: tuple[str, ...]) -> None:
    shown = kblam(*path, "--help").ok().stdout
    assert "Example:" in shown
    assert "…" not in shown, "a word is too long for its column of 80"
    assert not re.search(r"(?<!\n)\n(?!\n)", COMMANDS[path].help), "lines of a paragraph are those of the source"
    section = _section(path)
    assert f"kblam {' '.join(path)} " in section
    for parameter in COMMANDS[path].params:
        long = [option for option in parameter.opts if option.startswith("--")]
        if long and long[0] != "--help":
            assert re.search(rf"`{long[0]}(?![\w-])", section), (
                f"docs/cli.md does not say what {long[0]} of {' '.join(path)} does"
            )


@pytest.mark.parametrize("line", _examples())
def test_each_example_is_a_command_that_parses(line: str) -> None:
    """Options that an example uses exist: they are parsed, not run."""
    words = shlex.split(line)[1:]
    path = tuple(words[: 2 if words[0] in ("kb", "data") else 1])
    if not path[0].startswith("-"):
        COMMANDS[path].make_context("kblam", words[len(path) :])


def test_every_exit_status_is_in_the_guide() -> None:
    for status in (0, FAILED, BAD_INPUT, INTERRUPTED):
        assert f"| {status} |" in GUIDE
