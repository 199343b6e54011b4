"""Ctrl-C: exit status 130 and one line, whatever a library makes of the KeyboardInterrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kblam import interrupts
from kblam.cli.chat import Conversation
from tests.warm import run

ROOT = Path(__file__).parent.parent
LEAVE = "import os, signal, sys; from kblam import interrupts\n"
HIT = "os.kill(os.getpid(), signal.SIGINT)"


def left(code: str) -> subprocess.CompletedProcess[str]:
    """A process that `leave`s with a `main`; whoever started the tests may ignore interrupts."""
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.run([sys.executable, "-c", begin + LEAVE + code], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
    interrupts.taken()


@pytest.mark.parametrize(
    "body",
    [
        HIT,
        f"exec({HIT!r})",  # after which Python would end itself by the signal
        f"try: {HIT}\n    except KeyboardInterrupt: raise ImportError('no such package')",
        f"try: {HIT}\n    except BaseException: pass\n    raise RuntimeError('half done')",
    ],
    ids=["plain", "in a string", "as an ImportError", "swallowed, then an error"],
)
def test_an_interrupt_is_status_130_and_a_line(body: str) -> None:
    found = left(f"def main():\n    {body}\ninterrupts.leave(main)")
    assert (found.returncode, found.stderr, found.stdout) == (130, "interrupted\n", "")


@pytest.mark.parametrize("command", ["kb list x.kb", "doctor"])
@pytest.mark.parametrize("error", ["ImportError", "ModuleNotFoundError", "StoreError"])
def test_a_command_does_not_tell_of_what_an_interrupt_became(command: str, error: str) -> None:
    code = f"""
import kblam.cli, kblam.cli.app
from kblam.errors import StoreError
def lost(*_, **__):
    try: {HIT}
    except KeyboardInterrupt: raise {error}("No module named 'transformers'")
import kblam.cli.errors, typer.core
typer.core.TyperGroup.invoke = lost
kblam.cli.main({command.split()!r})
"""
    found = left(code)
    assert (found.returncode, found.stderr.strip()) == (130, "interrupted")


def test_an_error_without_an_interrupt_is_told_and_one_that_was_taken_is_forgotten() -> None:
    taken = f"try: {HIT}\n    except KeyboardInterrupt: interrupts.taken()\n    raise RuntimeError('after')"
    for body in ("raise RuntimeError('after')", taken):
        found = left(f"def main():\n    {body}\ninterrupts.leave(main)")
        assert found.returncode == 1
        assert "RuntimeError: after" in found.stderr


def test_a_chat_that_goes_on_has_taken_its_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["a", "b"])

    def take(self: Conversation, line: str) -> bool:
        if line == "a":
            signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr(Conversation, "take", take)
    monkeypatch.setattr("kblam.cli.chat._lines", lambda interactive: lines)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.watch()
    assert Conversation.run(Conversation.__new__(Conversation), True) == 0
    assert not interrupts.came()


def test_an_interrupt_waits_until_an_extension_is_loaded() -> None:
    code = f"""
import importlib.machinery, time
class Loader(importlib.machinery.ExtensionFileLoader):
    def create_module(self, spec):
        {HIT}
        time.sleep(0.2)
        print("loaded", flush=True)
def main():
    Loader("x", "x.so").create_module(None)
    time.sleep(60)
interrupts.leave(main)
"""
    found = left(code)
    assert (found.returncode, found.stderr, found.stdout) == (130, "interrupted\n", "loaded\n")


def test_who_ignores_interrupts_still_does() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.watch()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("module", ["kblam.demo", "kblam_kernels"])
def test_the_other_commands_end_so_too(module: str, warm: None) -> None:
    what = "kblam.demo.run.main" if module == "kblam.demo" else "kblam_kernels.common.build.main"
    code = f"""
import importlib, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
name, function = {what!r}.rsplit(".", 1)
def hit(*_): signal.raise_signal(signal.SIGINT)
setattr(importlib.import_module(name), function, hit)
sys.argv = ["x", "build"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    found = run("-c", code)
    assert (found.returncode, found.stderr) == (130, "interrupted\n")
