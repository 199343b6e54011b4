"""This checkout beside another commit of it: both measured in turn, each in processes of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kblam.bench.report import FORMAT, read
from kblam.bench.rows import Row
from kblam.errors import BenchmarkError

ROOT = Path(__file__).parents[2]
# A peer whose code is the same in both: how far its ratio is from 1 is how far the machine can be believed.
CONTROL = "sdpa static cache"
NEEDED = "kblam/bench/report.py"
Key = tuple[str, tuple[str, str, str]]  # an implementation and `Row.case`


@dataclass(frozen=True)
class Ratio:
    """How many times as fast this checkout is as the other commit: the median of the rounds, the least, the most."""

    shape: str
    dtype: str
    implementation: str
    median: float
    least: float
    most: float
    l2: str = "cold"


def compare(
    commit: str, options: Sequence[str], rounds: int, done: Callable[[int, int], None] = lambda at, of: None
) -> list[Ratio]:
    """Runs `kblam bench` here and there in turn, and the other way round in every second round.

    Args:
        commit: anything that git knows as one.
        options: of `kblam bench`, the same for both.
        rounds: how often both run.
        done: told how many runs of how many are over.

    Raises:
        BenchmarkError: this is no checkout, there is no such commit, it is older than result files of this format, or
            one of the runs failed; the message has its last line.
    """
    known = _commit(commit)
    found: dict[Key, list[tuple[float, float]]] = {}
    with _worktree(known) as there, tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            order = [ROOT, there] if number % 2 == 0 else [there, ROOT]
            times = {}
            for at, tree in enumerate(order):
                times[tree] = _times(tree, [*options, "--json", str(Path(folder) / f"{number}-{at}.json")])
                done(2 * number + at + 1, 2 * rounds)
            for key in times[ROOT].keys() & times[there].keys():
                found.setdefault(key, []).append((times[ROOT][key], times[there][key]))
    ratios = []
    for (name, (shape, dtype, l2)), pairs in sorted(found.items(), key=lambda item: (item[0][1][:2], item[0])):
        each = [before / now for now, before in pairs]
        ratios.append(Ratio(shape, dtype, name, statistics.median(each), min(each), max(each), l2))
    return ratios


def _commit(name: str) -> str:
    if not (ROOT / ".git").exists():
        raise BenchmarkError(f"--against: {ROOT} is no checkout of git, so there is no other commit of it")
    try:
        known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except subprocess.CalledProcessError as problem:
        raise BenchmarkError(f"--against: git knows no commit {name!r} here") from problem
    if not _git("ls-tree", "--name-only", known, NEEDED):
        raise BenchmarkError(f"--against: {name} is older than result files of the format {FORMAT!r}; name a later one")
    return known


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _times(tree: Path, options: Sequence[str]) -> dict[Key, float]:
    command = [sys.executable, "-m", "kblam", "bench", *options]
    ran = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
        raise BenchmarkError(f"--against: kblam bench in {tree} failed: {said[-1] if said else ran.returncode}")
    rows: list[Row] = read(Path(options[-1])).rows
    return {(row.implementation, row.case): row.seconds for row in rows if row.seconds}
