"""Warnings of the library on the command line: in the command's own form, each once; those of others as they are."""

from __future__ import annotations

import ast
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.cli.errors import CommandError, show_warnings
from kblam.errors import KblamWarning
from kblam.models.loading import load_base
from kblam.serve.failures import told
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder

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


@pytest.mark.parametrize("command", ["ask", "chat", "eval", "serve"])
def test_every_command_that_loads_a_model_tells_what_it_cannot_do(
    command: str,
    base: Path,
    kb: Path,
    adapter: Path,
    tmp_path: Path,
    hashing: HashingEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half, fresh = shutil.copytree(base, tmp_path / "half"), tmp_path / "fresh"
    load_base(base, dtype=torch.bfloat16).save_pretrained(half)
    KnowledgeAdapter(KnowledgeAdapter.from_pretrained(adapter).config).save_pretrained(fresh)
    monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda: {"model": "", "flags": ["avx2"]})

    def far_enough(*_: object) -> None:
        raise CommandError("far enough")

    monkeypatch.setattr("kblam.evaluation.run.Evaluation.pace", far_enough)
    monkeypatch.setattr("kblam.cli.serving._opened", far_enough)
    asked: dict[str, list[object]] = {
        "ask": ["what is it ?", "--model", half, "--kb", kb, "--max-new-tokens", "2"],
        "chat": ["--model", half, "--kb", kb],
        "eval": ["--model", half, "--sizes", "60", "--json", tmp_path / "r.json"],
        "serve": [half, "--kb", kb, "--engine", "embedded", "--port", "0"],
    }
    run = kblam(command, *asked[command], "--adapter", fresh, typed="")
    assert run.stderr.count("is untrained: what it finds is chance") == 1
    assert run.stderr.count("--dtype float32 takes twice the memory") == 1
    assert "warning" not in run.stdout
