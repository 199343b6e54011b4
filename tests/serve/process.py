"""`kblam serve` with the tiny model as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import warm

# With HELD, answers come to a halt after some tokens, until nobody wants them any more, and the last seconds are one.
_CODE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
import kblam.cli, kblam.knowledge.knowledge_base
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM
kblam.knowledge.knowledge_base.load_recorded_encoder = lambda spec, device: HashingEncoder(EMBEDDING_DIM)
if "HELD" in os.environ:
    from kblam.generation.speaking import Speaker
    from kblam.serve import run
    run._LAST_SECONDS = 1
    put = Speaker.put
    def hold(self, value):
        put(self, value)
        while len(self._tokens) > 5 and not self._is_stopped.is_set():
            time.sleep(0.005)
    Speaker.put = hold
kblam.cli.main(sys.argv[1:])
"""
_READY = re.compile(r"answers at (\S+),")


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL when it is ready."""
    process = started(["serve", *map(str, arguments), "--port", "0"], environment)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := _READY.search(said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@dataclass
class Forked:
    """A server that was forked, and the file with its stderr."""

    process: warm.Process
    said: Path

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def ended(self) -> tuple[int, str]:
        """Its exit status and all of its stderr."""
        return warm.ended(self.process), self.said.read_text(encoding="utf-8")


@contextmanager
def forked(folder: Path, *arguments: object, **environment: str) -> Iterator[tuple[Forked, str]]:
    """As `served` with the fixture `warm`, for tests that do not ask how Python starts and ends."""
    file = folder / "stderr"
    file.touch()
    command = ["-c", _CODE, "serve", *arguments, "--port", "0"]
    server = Forked(warm.start(*command, said={2: file}, COLUMNS="200", **environment), file)
    try:
        while not (found := _READY.search(file.read_text(encoding="utf-8"))):
            assert server.process.is_alive(), file.read_text(encoding="utf-8")
            time.sleep(0.005)
        yield server, found[1]
    finally:
        server.process.kill()
        server.process.join()


def started(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The process as it starts."""
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200", **environment},
    )


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    """Its exit status and the rest of stderr after a signal; 0 sends none."""
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    return process.returncode, said
