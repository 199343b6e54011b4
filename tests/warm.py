"""Python processes that begin with what takes seconds to import: forked from one that has imported it, once a worker.

For tests of what needs a process of its own: to be killed, to have a rank or another environment. What is read when
Python starts (PYTHONHASHSEED, PYTHONIOENCODING) or imported later than here (fresh packages) needs a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parent.parent
PRELOADED = ("pytest", "kblam.training.run", "kblam.knowledge.encoders.sentence_transformer")
_CONTEXT = multiprocessing.get_context("forkserver")
Process = multiprocessing.context.ForkServerProcess


@pytest.fixture(scope="session")
def warm() -> None:
    """The process that others are forked from: started before a test changes the environment, ended with this one."""
    _CONTEXT.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def start(*arguments: object, said: Mapping[int, Path] | None = None, **environment: str) -> Process:
    """Like `subprocess.Popen([sys.executable, *arguments])`, of "-m" or "-c", in the root of the checkout.

    Args:
        said: files for what it writes to these descriptors.
        environment: variables beside those of this process.
    """
    everything = {**os.environ, **environment}
    process = _CONTEXT.Process(target=_begin, args=(list(map(str, arguments)), everything, dict(said or {})))
    process.start()
    return process


def ended(process: Process, seconds: float = 240) -> int:
    """Its exit status, as `Popen.wait` gives it."""
    process.join(seconds)
    assert process.exitcode is not None, "it has not ended"
    return process.exitcode


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `start`; waits, and keeps what it wrote."""
    with TemporaryDirectory() as folder:
        files = {number: Path(folder) / str(number) for number in (1, 2)}
        status = ended(start(*arguments, said=files, **environment))
        out, err = (file.read_text(encoding="utf-8") for file in files.values())
    return subprocess.CompletedProcess(list(arguments), status, out, err)


def _begin(arguments: list[str], environment: dict[str, str], said: dict[int, Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in said.items():
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    if "OMP_NUM_THREADS" in environment:  # the library has read it
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    how, what, *rest = arguments
    sys.argv = [how if how == "-c" else what, *rest]
    if how == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
