"""The file: what is refused and left as it is, and what a failed write leaves behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kblam.errors import (
    EmbeddingError,
    KblamError,
    StoreBusyError,
    StoreError,
    StoreFormatError,
    StoreWriteError,
)
from kblam.knowledge import KnowledgeBase, Triple, build
from kblam.knowledge.schema import APPLICATION_ID, FORMAT_VERSION
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS

BEYOND = (np.nan, np.inf, -np.inf, 65520.0, -1e9)  # what float16 cannot hold


def snapshot(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE triples (id INTEGER PRIMARY KEY, name TEXT)")
        other.execute("INSERT INTO triples (name) VALUES ('precious')")
    other.close()


def empty_foreign_database_in_wal(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA journal_mode = WAL")
    other.close()


def numbered(application: int, version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        KnowledgeBase.create(path, HashingEncoder()).close()
        with path.open("r+b") as file:
            file.seek(60)
            file.write(struct.pack(">i", version))
            file.seek(68)
            file.write(struct.pack(">I", application))

    return make


def without_tables(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        other.execute("CREATE TABLE unrelated (a)")
    other.close()


def without_description(path: Path) -> None:
    KnowledgeBase.create(path, HashingEncoder()).close()
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM store")
    other.close()


def truncated(path: Path) -> None:
    with KnowledgeBase.create(path, HashingEncoder()) as kb:
        kb.add(FACTS)
    os.truncate(path, 16384)


def overwritten(path: Path) -> None:
    with KnowledgeBase.create(path, HashingEncoder()) as kb:
        kb.add(FACTS)
    raw = bytearray(path.read_bytes())
    raw[100:] = b"\xa5" * (len(raw) - 100)
    path.write_bytes(raw)


def written(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


NOT_KNOWLEDGE_BASES = [
    pytest.param(written(b'[{"entity": "a", "description": "b"}]'), "is not a knowledge base", id="json"),
    pytest.param(written(os.urandom(50_000)), "is not a knowledge base", id="binary"),
    pytest.param(written(b"SQLite format 3\0"), "is not a knowledge base", id="cut-header"),
    pytest.param(foreign_database, "SQLite database of another program", id="foreign-database"),
    pytest.param(empty_foreign_database_in_wal, "SQLite database of another program", id="foreign-empty-database"),
    pytest.param(
        numbered(APPLICATION_ID, FORMAT_VERSION + 1),
        f"has format {FORMAT_VERSION + 1}, newer than the {FORMAT_VERSION}",
        id="newer-format",
    ),
    pytest.param(numbered(APPLICATION_ID, 0), "has format 0, which no release wrote", id="format-0"),
    pytest.param(numbered(0x12345678, 1), "application id 0x12345678", id="other-application"),
    pytest.param(
        without_tables, "the file is damaged or was changed by another program: the table 'unrelated'", id="no-tables"
    ),
    pytest.param(without_description, "it has no description of itself", id="no-description"),
    pytest.param(truncated, "malformed; the file is damaged", id="truncated"),
    pytest.param(overwritten, "the file is damaged", id="overwritten"),
]


@pytest.mark.parametrize(("make", "message"), NOT_KNOWLEDGE_BASES)
@pytest.mark.parametrize("read_only", [False, True], ids=["write", "read"])
def test_what_is_no_knowledge_base_is_refused_and_left_as_it_is(
    path: Path, encoder: HashingEncoder, make: Callable[[Path], None], message: str, read_only: bool
) -> None:
    make(path)
    before = snapshot(path.parent)
    with pytest.raises(StoreFormatError, match=message) as caught:
        KnowledgeBase.open(path, read_only=read_only)
    assert str(path) in str(caught.value)
    if not read_only:
        with pytest.raises(StoreFormatError, match=message):
            build(path, FACTS, encoder)
        with pytest.raises(StoreError):
            KnowledgeBase.create(path, encoder)
        assert encoder.calls == []
    assert snapshot(path.parent) == before


DAMAGE = [
    pytest.param("UPDATE embeddings SET key = x'00' WHERE id = 2", id="short"),
    pytest.param(
        "UPDATE embeddings SET value = zeroblob(CASE id WHEN 2 THEN 30 ELSE 34 END) WHERE id IN (2, 3)",
        id="one-short-one-long",
    ),
    pytest.param("UPDATE embeddings SET key = '0123456789abcdef0123456789abcdef' WHERE id = 2", id="text"),
    pytest.param("DELETE FROM embeddings WHERE id = 2", id="missing"),
]


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_found_while_reading(kb: KnowledgeBase, path: Path, statement: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()
    for read in (kb.embeddings, lambda: kb.changes_since(0), kb.check):
        with pytest.raises(StoreFormatError, match=r"damaged: vectors near id 1 are missing or do not have 16 numbers"):
            read()


def test_nothing_there(path: Path, encoder: HashingEncoder) -> None:
    with pytest.raises(StoreError, match=r"there is no knowledge base .*kblam kb build"):
        KnowledgeBase.open(path)
    assert not path.exists()
    path.touch()
    with pytest.raises(StoreFormatError, match="is empty, not a knowledge base"):
        KnowledgeBase.open(path)
    KnowledgeBase.create(path, encoder).close()  # nobody loses anything
    with pytest.raises(StoreError, match="already holds a knowledge base"):
        KnowledgeBase.create(path, encoder)


@pytest.mark.timeout(20)
def test_folders_and_pipes_are_no_files(tmp_path: Path, encoder: HashingEncoder) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreFormatError, match="is not a file"):
            KnowledgeBase.open(place)
        with pytest.raises(StoreFormatError, match="is not a file"):
            KnowledgeBase.create(place, encoder)


def test_paths_that_cannot_be_written(tmp_path: Path, encoder: HashingEncoder) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "none" / "a.kb", tmp_path / "file" / "a.kb"):
        with pytest.raises(StoreWriteError, match="unable to open database file; check that the folder exists"):
            KnowledgeBase.create(place, encoder)
        with pytest.raises(StoreWriteError, match="there is no folder"):
            build(place, FACTS, encoder)
    assert snapshot(tmp_path) == {"file": b"x"}


def with_number(vector: np.ndarray, number: float) -> np.ndarray:
    return np.concatenate([vector[:3], [number], vector[4:]])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((lambda vector, n=number: with_number(vector, n), "has .* at position 3; ") for number in BEYOND),
        # As an encoder without weights gives; numbers too small for float16 are stored as zeros.
        *((lambda vector, n=size: vector * n, "is nothing but zeros") for size in (0.0, 1e-9)),
    ],
    ids=[*map(str, BEYOND), "zeros", "tiny"],
)
@pytest.mark.parametrize("text", ["the p of b", "w"])
def test_vectors_that_cannot_be_stored(
    kb: KnowledgeBase, encoder: HashingEncoder, change: Callable[[np.ndarray], np.ndarray], what: str, text: str
) -> None:
    def broken(texts: list[str], *, progress: object = None) -> np.ndarray:
        vectors = HashingEncoder().encode(texts)
        row = texts.index(text)
        vectors[row] = change(vectors[row])
        return vectors

    before = kb.revision
    encoder.encode = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(EmbeddingError, match=rf"embedding of \('b', 'p'\) {what}.*check the encoder"):
        kb.add([Triple("a", "p", "v"), Triple("b", "p", "w")])
    assert (kb.revision, list(kb.triples())) == (before, FACTS)


def test_the_largest_number_is_stored(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    encoder.encode = lambda texts, progress=None: np.full((len(texts), 16), -65504.0)  # type: ignore[method-assign]
    kb.add(Triple("a", "p", "v"))
    assert (kb.embeddings().key[-1] == -65504).all()


@pytest.mark.parametrize("shape", [(2, 8), (1, 16), (2,), (2, 16, 1)])
def test_vectors_of_the_wrong_shape(kb: KnowledgeBase, encoder: HashingEncoder, shape: tuple[int, ...]) -> None:
    encoder.encode = lambda texts, progress=None: np.zeros(shape, np.float32)  # type: ignore[method-assign]
    with pytest.raises(EmbeddingError, match=r"returned shape .* for 2 texts, expected \(2, 16\)"):
        kb.add(Triple("a", "p", "v"))
    with pytest.raises(EmbeddingError, match=r"key embeddings have shape .*, expected \(3, 16\)"):
        kb._store.upsert(FACTS[:3], np.zeros(shape), np.zeros((3, 16)))
    assert list(kb.triples()) == FACTS


def test_vectors_that_are_no_numbers(kb: KnowledgeBase) -> None:
    with pytest.raises(EmbeddingError, match="value embeddings are int64, expected floating"):
        kb._store.upsert(FACTS[:1], np.ones((1, 16)), np.ones((1, 16), np.int64))


def test_a_full_disk(kb: KnowledgeBase, path: Path) -> None:
    """SQLite's own limit on pages gives the error of a full disk."""
    assert kb._store._transactions.opened is not None
    sql = kb._store._transactions.opened.connection
    pages = sql.execute("PRAGMA page_count").fetchone()[0]
    sql.execute(f"PRAGMA max_page_count = {pages + 1}")
    before = kb.revision, list(kb.triples()), kb.embeddings().key.tobytes()
    many = [Triple(f"n{i}", "p", "long value " * 50) for i in range(500)]
    with pytest.raises(StoreWriteError, match="disk is full: make room"):
        kb.add([Triple("Zürich", "Fluss", "changed"), *many])
    assert (kb.revision, list(kb.triples()), kb.embeddings().key.tobytes()) == before
    with pytest.raises(StoreWriteError, match="disk is full"):
        kb.update(many, batch_size=100)
    sql.execute("PRAGMA max_page_count = 100000")
    assert kb.update(many).added <= 500
    assert len(kb) == 504


def test_another_writer_is_waited_for_and_then_named(path: Path, kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    other = KnowledgeBase.open(path, encoder, timeout=0.1)
    with kb._store._transactions.writing():
        with pytest.raises(StoreBusyError, match="another process is writing to it"):
            other.add(Triple("a", "p", "v"))
        assert len(other) == 4  # reading goes on
    assert other.add(Triple("a", "p", "v")).added == 1


def test_threads_read_while_a_change_waits_for_another_writer(path: Path, kb: KnowledgeBase) -> None:
    other = KnowledgeBase.open(path, kb.encoder, timeout=60)
    changed, waited = threading.Event(), threading.Event()

    def change() -> None:
        other.wait_to_write()
        waited.set()
        other.add(Triple("a", "p", "v"))
        changed.set()

    thread = threading.Thread(target=change, daemon=True)
    with kb._store._transactions.writing():
        thread.start()
        for _ in range(20):
            assert len(other) == 4
            time.sleep(0.01)
        assert not waited.is_set()
    thread.join(30)
    assert changed.is_set()
    assert len(other) == 5
    read_only = KnowledgeBase.open(path, kb.encoder, read_only=True)
    with pytest.raises(StoreWriteError, match="read-only"):
        read_only.wait_to_write()


# --- permissions: as root nothing is forbidden, so a child process gives up being root ----------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder any user can reach; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="kblam-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def outcome_as_nobody(work: Callable[[], object]) -> str:
    """What `work` returned or raised, run without root's rights."""
    if os.geteuid() != 0:
        return _outcome(work)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os.setgid(65534)
        os.setuid(65534)
        os.write(send, _outcome(work).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def _outcome(work: Callable[[], object]) -> str:
    try:
        return repr(work())
    except KblamError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"untyped {error!r}"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_read_only_file_and_folder(open_folder: Path, encoder: HashingEncoder) -> None:
    path = open_folder / "a.kb"
    with KnowledgeBase.create(path, encoder) as kb:
        kb.add(FACTS)
    path.chmod(0o444)
    open_folder.chmod(0o555)

    def add() -> object:
        return KnowledgeBase.open(path, HashingEncoder()).add(Triple("a", "p", "v"))

    def read() -> object:
        with KnowledgeBase.open(path, read_only=True) as kb:
            return len(kb), len(kb.embeddings()), kb.search("amber")[0].value

    def create() -> object:
        return KnowledgeBase.create(open_folder / "b.kb", HashingEncoder())

    assert outcome_as_nobody(read) == "(4, 4, 'Zirconia')"
    assert outcome_as_nobody(add).startswith(f"StoreWriteError: {path}: ")
    assert outcome_as_nobody(create).startswith(f"StoreWriteError: {open_folder / 'b.kb'}: unable to open")
    path.chmod(0o000)
    assert outcome_as_nobody(read) == f"StoreError: cannot read {path}: Permission denied"
    path.chmod(0o644)
    with KnowledgeBase.open(path) as kb:
        assert list(kb.triples()) == FACTS
