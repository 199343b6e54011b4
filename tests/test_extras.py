"""What an installation of the kernels alone says when more is asked of it, and what is said without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kblam
from kblam import extras, hub
from kblam.errors import KblamError, MissingPackageError
from kblam.extras import Requirement
from kblam.knowledge import KnowledgeBase
from tests.fakes import HashingEncoder, clock

ROOT = Path(__file__).parent.parent
CORE = ("transformers", "huggingface_hub", "safetensors", "sentence_transformers", "httpx")
TERMINAL = ("typer", "rich")
INSTALL = "pip install 'kblam-kernels[kblam]', or in a checkout '.[kblam]'"
COMMANDS = """
--help | ask x --kb y | chat --kb y | kb build f.jsonl -o y | kb list y | kb info y | integrate a b c -o d
convert a -o b | train --output o | calibrate --output o | eval --kb y | doctor | bench --quick
"""


def run_without(packages: tuple[str, ...], lines: list[str], folder: Path) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each command line in a process in which these packages cannot be imported."""
    code = f"""
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({packages!r}))
from kblam.cli import main
found = []
for line in {lines!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line.split())
        except SystemExit as end:
            found.append((end.code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


def lines_of(text: str) -> list[str]:
    return [one.strip() for line in text.strip().splitlines() for one in line.split("|")]


def test_every_command_of_the_kernels_alone_says_what_to_install(tmp_path: Path) -> None:
    lines = [*lines_of(COMMANDS), "--version"]
    for status, shown, said in run_without((*CORE, *TERMINAL, "numpy"), lines, tmp_path):
        assert (status, shown) == (2, "")
        assert said == f"error: the package typer is not installed; {INSTALL}\n"


def test_a_command_that_lacks_a_package_names_it_and_the_extra(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"name": "a", "property": "b", "value": "c"}\n')
    KnowledgeBase.create(tmp_path / "y", HashingEncoder(8)).close()
    lines = ["ask x --kb y", "chat --kb y", "integrate a b c -o d", "convert a -o b", "kb build f.jsonl -o new.kb"]
    *found, (doctor, seen, _) = run_without(CORE, [*lines, "doctor"], tmp_path)
    for line, (status, shown, said) in zip(lines, found, strict=True):
        said = said.lstrip()  # where a progress bar was
        assert (status, shown) == (2, ""), line
        assert len(said.split("\n")) == 2, (line, said)
        assert "pip install 'kblam-kernels[kblam]'" in said, line
    assert doctor == 1
    assert "pip install --upgrade 'kblam-kernels[kblam]'" in " ".join(seen.split())


def test_a_name_of_the_package_says_what_it_needs() -> None:
    code = """
import sys
sys.modules["transformers"] = None
import kblam
from kblam.errors import MissingPackageError
try:
    kblam.attach
except MissingPackageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.stdout == (f"kblam.attach: the package transformers is not installed; {INSTALL}\n"), done.stderr
    assert issubclass(MissingPackageError, KblamError)
    assert issubclass(MissingPackageError, ImportError)
    assert not hasattr(kblam, "no_such_name")


def test_requirements_are_read_with_their_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.11",
        'triton>=3.4; platform_system == "Linux" and extra == "triton"',
        "sentence-transformers >=6.0 ; extra == 'kblam'",
        'PyYAML>=6; extra == "train"',
        "faiss-cpu>=1.8; extra == 'eval'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: lines)
    assert extras.requirements()[:3] == [
        Requirement("torch", ">=2.11", None),
        Requirement("triton", ">=3.4", "triton"),
        Requirement("sentence-transformers", ">=6.0", "kblam"),
    ]
    told = {
        name: extras.missing(ModuleNotFoundError("x", name=name))
        for name in ("torch", "sentence_transformers.util", "yaml", "faiss", "nobody", None)
    }
    assert told["torch"] == "the package torch is not installed; pip install 'kblam-kernels'"
    assert str(told["sentence_transformers.util"]).endswith(INSTALL)
    assert str(told["yaml"]).endswith(INSTALL.replace("[kblam]", "[train]"))
    assert str(told["faiss"]).endswith(INSTALL.replace("[kblam]", "[eval]"))
    assert told["nobody"] is None
    assert told[None] is None


# --- without a network ---------------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert "http://127.0.0.1:9 cannot be reached" in str(hub.unreachable())
    from kblam.adapter import KnowledgeAdapter
    from kblam.errors import AdapterFormatError, EncoderUnavailableError, ModelFolderError
    from kblam.knowledge import load_encoder
    from kblam.models.loading import load_base, load_tokenizer

    for load, error in (
        (lambda: load_base("nobody/no-model"), ModelFolderError),
        (lambda: load_tokenizer("nobody/no-model"), ModelFolderError),
        (lambda: load_encoder("nobody/no-encoder").encode(["a"]), EncoderUnavailableError),
        (lambda: KnowledgeAdapter.from_pretrained("nobody/no-adapter"), AdapterFormatError),
    ):
        with pytest.raises(error, match="cannot be reached"):
            load()
    assert time.monotonic() - began < 20, "the hub's client alone tries each file for half a minute"


def test_what_was_found_out_about_the_hub_is_good_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("httpx.head", lambda url, **_: asked.append(url))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:10")
    now = 6000.0
    monkeypatch.setattr(hub, "time", clock(lambda: now))
    assert [hub.unreachable(), hub.unreachable()] == [None, None]
    assert len(asked) == 1
    now += 61
    assert hub.unreachable() is None
    assert len(asked) == 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.unreachable() == "HF_HUB_OFFLINE is set"
