"""What the process tests run in other processes: `python -m tests.knowledge.worker JOB PATH ...`."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

from kblam.knowledge import KnowledgeBase, Triple, build, connection
from tests.fakes import HashingEncoder

MADE = [Triple("a", "p", "one"), Triple("a", "q", "two"), Triple("Zürich", "p", "three"), Triple("東京", "p", "four")]
CHANGED = [Triple("a", "p", "five"), *MADE[1:3]]


def facts(count: int, prefix: str = "n") -> list[Triple]:
    return [Triple(f"{prefix}{number}", "p", f"value {number}") for number in range(count)]


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def build_and_tell(path: str, count: str) -> None:
    """Build `count` facts in batches of 20, telling how many are committed."""
    build(path, facts(int(count)), HashingEncoder(), batch_size=20, progress=lambda done, total: tell(done))


def rewrite(path: str, steps: str) -> None:
    """Give ten triples a new common value, one transaction a step."""
    with KnowledgeBase.open(path, HashingEncoder()) as kb:
        for step in range(int(steps)):
            kb.add([Triple(f"n{number}", "p", f"step {step}") for number in range(10)])


def add_singly(path: str, prefix: str, count: str) -> None:
    """Add facts one transaction each."""
    with KnowledgeBase.open(path, HashingEncoder()) as kb:
        for triple in facts(int(count), prefix):
            kb.add(triple)


def build_when_told(path: str, signal: str, count: str) -> None:
    """Build as soon as the file `signal` appears, to start together with others."""
    tell("ready")
    deadline = time.monotonic() + 60
    while not Path(signal).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    tell(build(path, facts(int(count)), HashingEncoder(), batch_size=10).added)


def die(folder: str) -> None:
    """Make a knowledge base in a process that dies before its n-th SQL statement, n = 0, 1, ... until one lives.

    Tells of each, in a line, what it got done. This process is small, so that a fork of it costs little.
    """
    for deadline in range(200):
        receive, send = os.pipe()
        if os.fork() == 0:  # pragma: no cover - another process
            try:
                _work(Path(folder) / f"{deadline}.kb", deadline, send)
            finally:
                os._exit(0)
        os.close(send)
        with os.fdopen(receive) as pipe:
            done = pipe.read().split()
        os.wait()
        tell(*done)
        if done == ["created", "added", "changed"]:
            break


def _work(path: Path, deadline: int, send: int) -> None:
    opened, seen = connection._open, 0

    def open_and_count(*arguments: object) -> sqlite3.Connection:
        def count(statement: str) -> None:
            nonlocal seen
            seen += 1
            if seen > deadline:
                os.kill(os.getpid(), signal.SIGKILL)

        sql = opened(*arguments)  # type: ignore[arg-type]
        sql.set_trace_callback(count)
        return sql

    connection._open = open_and_count
    kb = KnowledgeBase.create(path, HashingEncoder())
    os.write(send, b"created\n")
    kb.add(MADE)
    os.write(send, b"added\n")
    kb.add(CHANGED)
    kb.remove(MADE[3].name)
    os.write(send, b"changed\n")


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    {
        "build": build_and_tell,
        "rewrite": rewrite,
        "add": add_singly,
        "race": build_when_told,
        "die": die,
    }[job](*arguments)
