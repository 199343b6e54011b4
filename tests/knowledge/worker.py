"""What the process tests run in other processes: `python -m tests.knowledge.worker JOB PATH ...`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kblam.knowledge import KnowledgeBase, Triple, build
from tests.fakes import HashingEncoder


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


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    {
        "build": build_and_tell,
        "rewrite": rewrite,
        "add": add_singly,
        "race": build_when_told,
    }[job](*arguments)
