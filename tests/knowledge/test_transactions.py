"""Locks, waits and interruptions: what one thread or process does beside another to one file."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kblam.errors import StoreError
from kblam.knowledge import KnowledgeBase, Triple, schema, search, transactions
from kblam.knowledge.connection import sqlite_errors
from kblam.knowledge.opened import Opened
from kblam.knowledge.schema import PAGE_SIZE
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS
from tests.knowledge.test_damage import ENDLESS, MANY


def test_opening_a_file_again_keeps_the_locks_of_the_first(kb: KnowledgeBase, path: Path) -> None:
    """To close any handle of a file gives up the locks of a process; another process would then remove its log."""
    KnowledgeBase.open(path).close()
    code = "import sys; from kblam.knowledge import KnowledgeBase; KnowledgeBase.open(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    kb.add(Triple("Zürich", "Fluss", "Sihl"))
    with KnowledgeBase.open(path) as again:
        assert again.find("Zürich")[0].value == "Sihl"


def test_making_a_file_that_is_open_keeps_its_locks(kb: KnowledgeBase, path: Path, encoder: HashingEncoder) -> None:
    """As a cell of a notebook that is run twice."""
    with pytest.raises(StoreError, match="already holds a knowledge base"):
        KnowledgeBase.create(path, encoder)
    code = "import sys; from kblam.knowledge import KnowledgeBase; KnowledgeBase.open(sys.argv[1]).close()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    kb.add(Triple("Zürich", "Fluss", "Sihl"))
    with KnowledgeBase.open(path) as again:
        assert again.find("Zürich")[0].value == "Sihl"


def test_no_thread_looks_at_a_file_that_another_is_opening(kb: KnowledgeBase, path: Path) -> None:
    """A look past SQLite ends with a close, which gives up the locks of all connections of the process."""
    kb.close()
    looks, connected = [], threading.Event()
    check, first = schema.check_file, schema.check_opened

    def look(file: Path) -> None:
        looks.append(connected.is_set())
        check(file)

    def opened(*arguments: Any) -> int:
        connected.set()
        if not again.is_alive():
            again.start()  # it opens the file while this connection is not counted yet, or later
        return first(*arguments)

    again = threading.Thread(target=lambda: KnowledgeBase.open(path).close())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "check_file", look)
        patch.setattr(schema, "check_opened", opened)
        with KnowledgeBase.open(path):
            again.join(20)
    assert looks[0] is False
    assert not any(looks)


@pytest.mark.timeout(60)
def test_an_interrupted_wait_for_another_writer_leaves_no_transaction(kb: KnowledgeBase, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    later = threading.Timer(0.8, lambda: other.execute("ROLLBACK"))
    later.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            kb.add(Triple("Elm", "use", "wheels"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        later.join()
        other.close()
    assert list(kb.triples()) == FACTS
    with sqlite3.connect(path, timeout=1) as writer:
        writer.execute("BEGIN IMMEDIATE")  # nobody holds it
    writer.close()
    kb.add(Triple("Elm", "use", "wheels"))
    assert kb.find("Elm")


@pytest.mark.timeout(60)
def test_a_search_in_all_texts_can_be_interrupted(encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str) -> str:
        raise TimeoutError("from a signal handler")

    with KnowledgeBase.from_triples(MANY, encoder) as kb:
        kb.search("value 3", everywhere=True)
        fold = search.fold
        monkeypatch.setattr(search, "fold", lambda text: fold(text) if text == "value 3" else interrupted(text))
        with pytest.raises(TimeoutError, match="from a signal handler"):
            kb.search("value 3", everywhere=True)


def test_a_long_log_is_emptied_and_readers_are_not_waited_for_each_time(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 16 * PAGE_SIZE
    monkeypatch.setattr(transactions, "_LONGEST_LOG", longest)
    monkeypatch.setattr(transactions, "_WAIT_FOR_READERS", 0.1)
    log = path.with_name(path.name + "-wal")
    with KnowledgeBase.open(path, encoder) as writer:
        store = writer._store._transactions
        store._longest_log = longest
        writer.add(MANY)
        assert log.stat().st_size == 0
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM triples").fetchone()
        assert store.opened is not None
        statements: list[str] = []
        store.opened.connection.set_trace_callback(statements.append)
        for number in range(8):
            writer.add(Triple("Elm", "use", f"wheels {number}"))
        assert log.stat().st_size > 2 * longest
        assert 1 <= sum("wal_checkpoint" in statement for statement in statements) <= log.stat().st_size // longest
        assert store.opened.connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,)
        reader.execute("ROLLBACK")
        reader.close()
        assert writer.find("Elm")[0].value == "wheels 7"


@pytest.mark.timeout(60)
def test_a_long_statement_can_be_interrupted(kb: KnowledgeBase) -> None:
    assert kb._store._transactions.opened is not None
    sql = kb._store._transactions.opened.connection
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), sqlite_errors("x"):
            sql.execute(f"{ENDLESS} SELECT sum(x) FROM c").fetchone()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20
    assert list(kb.triples()) == FACTS


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("writes", [True, False])
def test_an_interrupt_leaves_no_change_begun_and_the_wait_as_it_was(
    kb: KnowledgeBase, path: Path, place: int, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook goes on after Ctrl-C; other programs would wait for what it left open."""
    store = KnowledgeBase.open(path, kb.encoder, timeout=5)._store
    calls, wait = list[int](), transactions._wait

    def interrupted(opened: Opened, milliseconds: int) -> None:
        wait(opened, milliseconds)
        calls.append(milliseconds)
        if len(calls) == place:
            raise KeyboardInterrupt

    monkeypatch.setattr(transactions, "_wait", interrupted)
    opened = store._transactions.opened
    assert opened is not None

    def change() -> None:
        with store._transactions.writing():
            pass

    with pytest.raises(KeyboardInterrupt):
        change() if writes else store.wait_to_write()
    assert not opened.connection.in_transaction
    assert opened.connection.execute("PRAGMA busy_timeout").fetchone()[0] == opened.patience == 5000
    monkeypatch.undo()
    store.wait_to_write()


def test_who_waits_for_own_threads_still_has_time_for_another_process(kb: KnowledgeBase, path: Path) -> None:
    waiting, other = (KnowledgeBase.open(path, kb.encoder, timeout=0.5) for _ in range(2))
    with ThreadPoolExecutor() as pool:
        with waiting._store._transactions.reading():
            change = pool.submit(waiting.add, Triple("a", "p", "v"))
            time.sleep(0.7)
            held = other._store._transactions.writing()
            held.__enter__()
        time.sleep(0.1)
        held.__exit__(None, None, None)
        assert change.result().added == 1
