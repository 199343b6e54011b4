"""The transcript of docs/data.md, from a document to an answer, says what the commands say."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kblam.cli.output import err, out
from tests.cli.conftest import kblam

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECONDS = re.compile(r"in [\d.]+ s$", re.MULTILINE)
# Rounding differs between machines.
MASS = re.compile(r"[█░]{20} [01]\.\d\d")
# What is told of the machine and the model, and of progress, is not shown there.
NOT_SHOWN = re.compile(r"^(note: |  not |SmolLM2-135M-Instruct answers|encoding: ).*\n", re.MULTILINE)


def block(head: str) -> str:
    """The code block of the page that begins so."""
    (found,) = re.findall(rf"^```{head}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def alike(text: str) -> str:
    """A text without what differs from run to run."""
    return MASS.sub("mass", SECONDS.sub("in ... s", text))


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """The page's script, on a free port; the page's own is what it is called by."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "scripted.py"
    script.write_text(block("python scripted.py").replace("8001", str(port)), encoding="utf-8")
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):
            with closing(socket.socket()) as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_from_a_document_to_an_answer_with_its_words(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out.width = err.width = 110
    Path("clinic.md").write_text(block("markdown clinic.md"), encoding="utf-8")
    first, *steps = re.split(r"^\$ ", block("console"), flags=re.MULTILINE)[1:]
    assert first == "python scripted.py &\n"
    for step in steps:
        line, _, shown = step.partition("\n")
        program, *words = shlex.split(line)
        assert program == "kblam"
        done = kblam(*[endpoint if word.endswith("8001/v1") else word for word in words]).ok()
        said = NOT_SHOWN.sub("", done.stderr) + done.stdout
        assert alike(said) == alike(shown)
