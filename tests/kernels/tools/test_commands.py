"""`python -m kblam_kernels`: its commands, what each is for, and what it says to nonsense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from kblam_kernels.__main__ import COMMANDS, main, process
from kblam_kernels.tools import env
from tests.warm import ROOT, run


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m kblam_kernels COMMAND")
    for name, (_, what) in COMMANDS.items():
        assert f"  {name:10} {what}" in said


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "give a command"), (["resourses"], "'resourses' is not a command")]
)
def test_what_is_no_command_is_refused_with_those_that_are(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err
    assert all(f"\n  {name} " in output.err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"usage: python -m kblam_kernels {name}" in capsys.readouterr().out


def test_a_status_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["resources"]) == 2


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_changes_no_backend_of_the_report(dtype: torch.dtype) -> None:
    expected = env.backends()
    try:
        torch.set_default_dtype(dtype)
        found = env.backends()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected
    assert found["cpu"]["backend"] == "cpu"


def test_a_reader_that_has_seen_enough_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="ascii") as pipe:  # noqa: PTH123 - a number
        monkeypatch.setattr("sys.stdout", pipe)
        monkeypatch.setattr("kblam_kernels.__main__.main", lambda: print("ä") or 0)  # noqa: T201
        assert process() == 1
    assert capsys.readouterr() == ("", "")


def test_a_closed_stdout_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("kblam_kernels.__main__.main", lambda: 0)
    assert process() == 0


def test_it_runs_as_a_module(warm: None) -> None:
    done = run("-m", "kblam_kernels", "env")
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    done = run("-m", "kblam_kernels", "nothing")
    assert done.returncode == 2
    assert "'nothing' is not a command" in done.stderr


MODULES = ["kblam_kernels", "kblam_kernels.plan", "kblam_kernels.tools.env"]
HIT = "os.kill(os.getpid(), signal.SIGINT)"


def left(*arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a Python that takes interrupts, whatever the one of these tests does."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_an_interrupt_of_a_command_is_status_130_and_a_line(module: str) -> None:
    code = f"""
import argparse, os, runpy, signal, sys
def parse(*_, **__):
    {HIT}
argparse.ArgumentParser.parse_args = parse
sys.argv = ["python", "plan"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    assert left("-W", "ignore", "-c", code) == (130, "interrupted\n")


def test_an_error_without_an_interrupt_is_told() -> None:
    code = "from kblam_kernels.interrupts import leave\ndef main(): raise RuntimeError('lost')\nleave(main)"
    status, said = left("-c", code)
    assert status == 1
    assert said.endswith("RuntimeError: lost\n")
