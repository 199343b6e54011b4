"""The format of a knowledge base file, and how a file is recognised before anything in it is used.

One SQLite database in WAL mode, format 3:

    store       one row: store_id, encoder_spec, fingerprint, dimension, revision
    triples     id, name, property, value, key_string, question, answer, folded, revision
    embeddings  id, key, value: little-endian float16 blobs of `dimension` numbers
    removed     id, revision: what a copy elsewhere must forget
    checksums   id, texts, vectors: CRC-32 of the row in triples with its sources, and of the row in embeddings
    sources     id, sources: where documents say it, as JSON; no row for a triple that has none
    ledger      one row: how many rows there are, the sums of their checksums, and a checksum of this row and of store's

`revision` counts the transactions that changed something; each row carries the one that wrote it, so "what
changed since r" is an index lookup. `folded` is the name as `search` compares it.

Format 2 has no sources, and format 1 neither checksums nor ledger besides. Both can be read; opened for writing, a file
gets what it lacks (`migration.py`).
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import struct
from pathlib import Path

from kblam.errors import StoreError, StoreFormatError

APPLICATION_ID = 0x6B626C6D  # "kblm"
FORMAT_VERSION = 3
PAGE_SIZE = 16384  # ten MiniLM triples, or two of 1536 numbers, in a page
# Far more numbers than any sentence encoder gives; a larger one in a file is damage, and would be allocated.
MAX_DIMENSION = 2**16

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_USER_VERSION_AT, _APPLICATION_ID_AT = 60, 68  # https://www.sqlite.org/fileformat.html#the_database_header

TABLES_OF_FORMAT_1 = (
    """
    CREATE TABLE store (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        store_id TEXT NOT NULL,
        encoder_spec TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        dimension INTEGER NOT NULL CHECK (dimension > 0),
        revision INTEGER NOT NULL
    )
    """,
    # AUTOINCREMENT: the id of a removed triple is never given to another one.
    """
    CREATE TABLE triples (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        property TEXT NOT NULL,
        value TEXT NOT NULL,
        key_string TEXT,
        question TEXT,
        answer TEXT,
        folded TEXT NOT NULL,
        revision INTEGER NOT NULL,
        UNIQUE (name, property)
    )
    """,
    "CREATE INDEX triples_by_revision ON triples (revision)",
    # Apart from the texts, so that reading all vectors reads nothing else, and a name search reads no vectors.
    "CREATE TABLE embeddings (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL)",
    "CREATE TABLE removed (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL)",
    "CREATE INDEX removed_by_revision ON removed (revision)",
)
# Tables of their own, so that a file of format 1 gets them without its rows being written anew.
TABLES_OF_FORMAT_2 = (
    "CREATE TABLE checksums (id INTEGER PRIMARY KEY, texts INTEGER NOT NULL, vectors INTEGER NOT NULL)",
    """
    CREATE TABLE ledger (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        triples INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        texts_sum INTEGER NOT NULL,
        vectors_sum INTEGER NOT NULL,
        removed_sum INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
)
# Apart from the texts too: most triples have none, and a file of format 2 keeps its rows and their checksums.
TABLES_OF_FORMAT_3 = ("CREATE TABLE sources (id INTEGER PRIMARY KEY, sources TEXT NOT NULL)",)
# What each format added to the one before it.
ADDED = {1: TABLES_OF_FORMAT_1, 2: TABLES_OF_FORMAT_2, 3: TABLES_OF_FORMAT_3}
TABLES = tuple(statement for version in ADDED for statement in ADDED[version])
# What SQLite itself adds for UNIQUE and AUTOINCREMENT.
_IMPLIED = frozenset(
    {
        ("index", "sqlite_autoindex_triples_1", None),
        ("table", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"),
    }
)
_CREATED = re.compile(r"CREATE (?P<kind>TABLE|INDEX) (?P<name>\w+)")


def is_blank(path: Path) -> bool:
    """Whether nothing is there yet: no file, or one of zero bytes."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True  # SQLite will say why nothing can be made there
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def check_file(path: Path) -> None:
    """Refuse a file that is not a knowledge base by its first 100 bytes, so that a foreign file is never changed.

    Raises:
        StoreError: nothing is there, or it cannot be read.
        StoreFormatError: it is something else, or of a newer format.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreFormatError(f"{path} is not a file; give the path of a knowledge base file")
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise StoreError(f"there is no knowledge base {path}; make one with `kblam kb build`") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    if not header:
        raise StoreFormatError(f"{path} is empty, not a knowledge base; make one with `kblam kb build`")
    if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
        raise StoreFormatError(f"{path} is not a knowledge base (it begins with {header[:16]!r}); it was left as it is")
    (application,) = struct.unpack_from(">I", header, _APPLICATION_ID_AT)
    (version,) = struct.unpack_from(">i", header, _USER_VERSION_AT)
    check_numbers(path, application, version)


def is_knowledge_base(path: Path) -> bool:
    """Whether a file says of itself that it is one, damaged or not."""
    try:
        if not path.is_file():  # a pipe would wait for a writer, and give what it has only once
            return False
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return False
    is_whole = header.startswith(_MAGIC) and len(header) == _HEADER_BYTES
    return is_whole and struct.unpack_from(">I", header, _APPLICATION_ID_AT) == (APPLICATION_ID,)


def check_numbers(path: Path | str, application: int, version: int) -> None:
    """Refuse a database of another program, or of a format this release does not know."""
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{path} is an SQLite database of another program (application id {application:#x}), "
            "not a knowledge base; it was left as it is"
        )
    check_version(path, version)


def check_version(path: Path | str, version: int) -> None:
    """Refuse a format that this release does not know."""
    if version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format {version}, newer than the {FORMAT_VERSION} this release reads; "
            "pip install --upgrade kblam-kernels"
        )
    if version < 1:
        raise StoreFormatError(f"{path} has format {version}, which no release wrote; restore it from a copy")


def check_opened(path: Path | str, connection: sqlite3.Connection) -> int:
    """The format of an opened file, after comparing all that its schema defines with ours; no table is read before.

    A view, a trigger or another table in the place of ours could answer anything, or never end.

    Raises:
        StoreFormatError: it is of another program, of a newer format, or holds anything else than our tables.
    """
    # Asked again through SQLite: recovering a log may have changed the first bytes.
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    check_numbers(path, application, version)
    found = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchmany(100)
    expected = _defined(tuple(statement for added in ADDED if added <= version for statement in ADDED[added]))
    present = {(kind, name, sql if sql is None else _squeezed(str(sql))) for kind, name, sql in found}
    if present != expected or len(found) != len(expected):
        kind, name, _ = min(present - expected or expected - present or present, key=str)
        raise StoreFormatError(
            f"{path}: the file is damaged or was changed by another program: the {kind} {str(name)[:80]!r} is not as "
            "kblam makes it; restore it from a copy, or build it again"
        )
    return int(version)


def _defined(statements: tuple[str, ...]) -> set[tuple[str, str, str | None]]:
    """(type, name, sql) of all that these statements create."""
    made: set[tuple[str, str, str | None]] = set(_IMPLIED)
    for statement in statements:
        match = _CREATED.match(_squeezed(statement))
        assert match is not None
        made.add((match["kind"].lower(), match["name"], _squeezed(statement)))
    return made


def _squeezed(sql: str) -> str:
    return " ".join(sql.split())
