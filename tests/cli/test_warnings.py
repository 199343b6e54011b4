"""Warnings of the library on the command line: in the command's own form, each once; those of others as they are."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from kblam.adapter import AdapterConfig
from kblam.cli.errors import show_warnings
from kblam.errors import KblamWarning
from kblam.serve.failures import told

ROOT = Path(__file__).parents[2]


def test_a_warning_of_the_library_is_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    stored = AdapterConfig(num_layers=2, num_heads=2, head_dim=4, hidden_size=8, embedding_dim=6).to_dict()
    others: list[str] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: others.append(str(message))
        warnings.simplefilter("always")
        show_warnings()
        show_warnings()
        for _ in range(2):
            AdapterConfig.from_dict({**stored, "colour\x1b[31m": "red"})
        warnings.warn("of another package", UserWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert shown == "warning: ignoring unknown keys in the adapter's config: 'colour\\x1b[31m'\n"
    assert others == ["of another package"]


def test_the_command_shows_them_so(tmp_path: Path) -> None:
    code = (
        "import warnings; from kblam.cli import errors, main; from kblam.errors import KblamWarning\n"
        "import kblam.cli.doctor as doctor\n"
        "warnings.warn('before', KblamWarning); errors.show_warnings(); warnings.warn('after', KblamWarning)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "KblamWarning: before" in done.stderr
    assert done.stderr.splitlines()[-1] == "warning: after"


def test_an_error_in_the_log_says_what_happened_and_where_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    show_warnings()
    try:
        raise ZeroDivisionError("by sk-0123456789abcdef\x1b[2J")
    except ZeroDivisionError as error:
        told(error)
    first, *where = capsys.readouterr().err.splitlines()
    assert first == "error: unexpected ZeroDivisionError: by ***\\x1b[2J"
    assert where[0].startswith("Traceback")
    assert any("in test_an_error_in_the_log" in line for line in where)
    assert where[-1] == "ZeroDivisionError: by ***\\x1b[2J"
    logging.getLogger("kblam").warning("slow")
    assert capsys.readouterr().err == "warning: slow\n"


def test_every_warning_of_the_packages_is_of_the_kind_that_commands_show() -> None:
    """Python's own kind would come with a file, a line number and the line's text."""
    found = []
    for file in (path for package in ("kblam", "kblam_kernels") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                kinds = [ast.unparse(argument) for argument in node.args[1:2]]
                found.append(file.name)
                assert kinds == [KblamWarning.__name__], f"{file}:{node.lineno}"
    assert "config.py" in found
