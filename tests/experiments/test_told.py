"""What an experiment cannot use is one line, and no traceback."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("invented --file none.yaml", "No such file or directory: 'none.yaml'"),
        ("invented --file folder", "Is a directory: 'folder'"),
        ("invented --file page.md", "page.md has no facts, questions, missing, pairs; write it as "),
        ("invented --file tab.yaml", "tab.yaml is no YAML: "),
        ("invented --adapter folder", "folder is not an adapter: it has no config.json"),
        ("heads --adapter folder", "folder is not an adapter: it has no config.json"),
        ("ablations page.md", "File exists: 'page.md'"),
        ("ablations folder --config none.yaml", "No such file or directory: 'none.yaml'"),
        ("choices --wordnet folder", "pip install 'kblam-kernels[harness]'"),
        ("vllm_equality", "the package vllm is not installed here; `make test-vllm` installs it into .venv-vllm"),
    ],
)
def test_what_cannot_be_used_is_told(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("page.md").write_text("# Oak\n", encoding="utf-8")
    Path("tab.yaml").write_text("facts:\n\t- [", encoding="utf-8")
    for name in ("lm_eval", "vllm"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "kblam.evaluation.harness", raising=False)
    name, *rest = words.split()
    monkeypatch.setattr(sys, "argv", [name, *rest])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"experiments.{name}").main()
    assert left.value.code == 2
    assert line in capsys.readouterr().err.splitlines()[-1]
