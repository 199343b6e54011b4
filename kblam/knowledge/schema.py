"""The format of a knowledge base file, version 1, and how a file is recognised before SQLite touches it.

One SQLite database in WAL mode:

    store       one row: store_id, encoder_spec, fingerprint, dimension, revision
    triples     id, name, property, value, key_string, question, answer, folded, revision
    embeddings  id, key, value: little-endian float16 blobs of `dimension` numbers
    removed     id, revision: what a copy elsewhere must forget

`revision` counts the transactions that changed something; each row carries the one that wrote it, so "what
changed since r" is an index lookup. `folded` is the name as `search` compares it.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from kblam.errors import StoreError, StoreFormatError

APPLICATION_ID = 0x6B626C6D  # "kblm"
FORMAT_VERSION = 1
PAGE_SIZE = 16384  # ten MiniLM triples, or two of 1536 numbers, in a page

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_USER_VERSION_AT, _APPLICATION_ID_AT = 60, 68  # https://www.sqlite.org/fileformat.html#the_database_header

TABLES = (
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


def check_numbers(path: Path | str, application: int, version: int) -> None:
    """Refuse a database of another program, or of a format this release does not know."""
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{path} is an SQLite database of another program (application id {application:#x}), "
            "not a knowledge base; it was left as it is"
        )
    if version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format {version}, newer than the {FORMAT_VERSION} this release reads; "
            "pip install --upgrade kblam-kernels"
        )
    if version < 1:
        raise StoreFormatError(f"{path} has format {version}, which no release wrote; restore it from a copy")
