"""Other ways to run an engine, each in processes of its own: vLLM reads what it is to be when it is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--runner", "v2"), id="model-runner-v2-in-the-interpreter"),
        pytest.param(("--ranks", "2"), id="two-processes-of-tensor-parallelism"),
        pytest.param(("--mode", "compiled"), id="torch-compile"),
    ],
)
def test_it_says_what_attach_says(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "experiments.vllm_equality", "--model", "tiny", "--tokens", "10"]
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, "--questions", "3", "--triples", "100", *options],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    found = re.search(r"tokens (\d+)/(\d+), log-probability (\S+), evidence mass (\S+), answers (\d+)/16", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-4000:]
    assert found[1] == found[2] == "8"
    assert float(found[3]) < 1e-4
    assert float(found[4]) < 1e-4
    assert found[5] == "16"  # as `ask` answers
