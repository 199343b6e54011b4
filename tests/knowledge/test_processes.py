"""Other processes: killed while they write, and reading or writing at the same time."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np

from kblam.knowledge import KnowledgeBase, Triple, build
from tests.fakes import HashingEncoder
from tests.knowledge.worker import CHANGED, MADE, facts

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.knowledge.worker", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check_whole(path: Path, encoder: HashingEncoder) -> list[Triple]:
    """SQLite finds no damage, and every triple has the vectors of its own texts."""
    with sqlite3.connect(path) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    sql.close()
    with KnowledgeBase.open(path, encoder) as kb:
        triples, found = list(kb.triples()), kb.embeddings()
        assert len(kb) == len(triples) == len(found)
        keys = HashingEncoder().encode([triple.key_text for triple in triples])
        values = HashingEncoder().encode([triple.value for triple in triples])
        np.testing.assert_array_equal(found.key, keys.astype(np.float16))
        np.testing.assert_array_equal(found.value, values.astype(np.float16))
    return triples


def test_a_killed_build_loses_nothing_and_goes_on(path: Path, encoder: HashingEncoder) -> None:
    count, reached = 600, 0
    for _ in range(3):
        worker = start("build", path, count)
        assert worker.stdout is not None
        told = 0
        while told < reached + 60:  # a few batches further each time
            line = worker.stdout.readline()
            assert line, "the build ended before it was killed"
            told = int(line)
        worker.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in worker.stdout.read().split())])
        worker.stdout.close()
        assert worker.wait(timeout=30) == -signal.SIGKILL
        triples = check_whole(path, encoder)
        assert triples == facts(count)[: len(triples)]
        assert told <= len(triples) <= told + 20
        assert len(triples) % 20 == 0
        reached = len(triples)
    assert reached < count
    encoder.calls.clear()
    report = build(path, facts(count), encoder)
    assert (report.added, report.updated, report.unchanged) == (count - reached, 0, reached)
    assert len(encoder.calls) == 2 * (count - reached)
    assert check_whole(path, encoder) == facts(count)


def test_killed_before_any_statement(memory_folder: Path) -> None:
    """A process that dies before its n-th SQL statement, for every n of a create, an add and a change."""
    worker = start("die", memory_folder)
    told = [line.split() for line in worker.communicate(timeout=300)[0].splitlines()]
    assert worker.returncode == 0
    assert len(told) > 41
    assert [len(words) < 3 for words in told] == [True] * (len(told) - 1) + [False], "the last one lived"
    for deadline, words in enumerate(told):
        path, encoder = memory_folder / f"{deadline}.kb", HashingEncoder()
        if path.exists() and path.stat().st_size:
            allowed: list[list[Triple]] = [MADE] if "added" in words else [[], MADE]
            allowed += [[*CHANGED, MADE[3]], CHANGED]
            assert check_whole(path, encoder) in ([CHANGED] if "changed" in words else allowed)
        else:
            assert "created" not in words
        build(path, CHANGED, encoder)
        with KnowledgeBase.open(path, encoder) as kb:
            kb.remove(MADE[3].name)
        assert check_whole(path, encoder) == CHANGED


def test_reading_while_another_process_writes(path: Path, encoder: HashingEncoder) -> None:
    """Each step changes ten triples in one transaction: a reader sees all of a step or nothing of it."""
    with KnowledgeBase.create(path, encoder) as kb:
        kb.add([Triple(f"n{number}", "p", "step -1") for number in range(10)])
    seen: set[str] = set()
    revisions = [0]
    worker = start("rewrite", path, 150)
    with KnowledgeBase.open(path, read_only=True) as kb:
        for _ in range(100_000):
            running = worker.poll() is None
            changes = kb.changes_since(0)
            assert len(changes.upserted) == 10
            # All ten, and the revision told with them, are of one step: revision 1 is step -1.
            expected = encoder.encode([f"step {changes.revision - 2}"]).astype(np.float16)
            assert (changes.upserted.value == expected).all()
            revisions.append(changes.revision)
            seen.add(kb.find("n0")[0].value)
            if not running:
                break
    assert worker.stdout is not None
    worker.stdout.close()
    assert worker.wait(timeout=30) == 0
    assert revisions == sorted(revisions)
    assert revisions[-1] == 151
    assert len(seen) > 3
    assert "step 149" in seen


def test_two_writers_take_turns(path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(path, encoder).close()
    workers = [start("add", path, prefix, 60) for prefix in "ab"]
    for worker in workers:
        assert worker.communicate(timeout=120)[0] == ""
        assert worker.returncode == 0
    assert {triple.name for triple in check_whole(path, encoder)} == {f"{w}{n}" for w in "ab" for n in range(60)}
    with KnowledgeBase.open(path) as kb:
        assert kb.revision == 120


def test_builds_of_one_new_file_at_the_same_moment(path: Path, tmp_path: Path, encoder: HashingEncoder) -> None:
    workers = [start("race", path, tmp_path / "signal", 100) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    (tmp_path / "signal").touch()
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    assert check_whole(path, encoder) == facts(100)
    with KnowledgeBase.open(path) as kb, kb._store._transactions.reading() as (sql, _):
        assert sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
