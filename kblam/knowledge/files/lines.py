"""Text files as numbered lines of UTF-8: what every format shares, and what every format refuses."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Iterator
from pathlib import Path

from kblam.errors import TripleFormatError

# (line, record) of each record of a file; in the place of one that cannot be read, its error. What makes the rest of a
# file unreadable is raised.
Records = Iterator[tuple[int, object]]

MAX_LINE_BYTES = 8 * 2**20  # all fields of a triple at their longest, several times over
# The mark of UTF-32 begins as that of UTF-16 does.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# What a file of another kind begins with, and what to do.
_CONTAINERS = {
    b"\x1f\x8b": "gzip; unpack it first",
    b"BZh91AY&SY": "bzip2; unpack it first",
    b"\xfd7zXZ\0": "xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd; unpack it first",
    b"PK\x03\x04": "a zip archive or a workbook; unpack it, or name it .xlsx",
    b"%PDF-": "a PDF; kblam data extract makes triples of documents",
    b"SQLite format 3\0": "an SQLite database; a knowledge base needs no building, and kblam data import reads others",
}


def numbered_lines(path: Path) -> Iterator[tuple[int, str | TripleFormatError]]:
    """(number, text) of each line, decoded; the text keeps its line feed. Never holds more than one line.

    A line that is no text comes as its error, and the next lines after it.
    """
    with path.open("rb") as file:
        number, empty = 0, True
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                refuse_other_encodings(path, raw)
                raw = raw.removeprefix(codecs.BOM_UTF8)
                if b"\n" not in raw and b"\r" in raw.rstrip():
                    raise TripleFormatError(
                        "its lines end with carriage returns alone; save it with line feeds", path=path, line=1
                    )
            if len(raw) > MAX_LINE_BYTES:
                raise TripleFormatError(
                    f"the line is longer than {MAX_LINE_BYTES:,} bytes; is this one triple a line?",
                    path=path,
                    line=number,
                )
            try:
                text = decode(path, raw, first_line=number)
            except NoTextLineError as error:
                empty = False
                yield number, error
                continue
            empty = empty and not text.strip()
            yield number, text
        if empty:
            raise TripleFormatError("the file is empty; it needs at least one record", path=path)


def check_is_file(path: Path) -> None:
    """A pipe gives its bytes only once, and a device may never end; files are read twice and more.

    Raises:
        TripleFormatError: it is neither a file nor a folder, or nothing is there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error
    except ValueError as error:  # a NUL in the path
        raise TripleFormatError(f"cannot read: {error}", path=path) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise TripleFormatError(
            "it is no file but a pipe, a socket or a device; save what it gives as a file", path=path
        )


def refuse_other_encodings(path: Path, head: bytes) -> None:
    """The beginning of a text must not be that of UTF-16 or UTF-32, or of a file that is no text.

    Raises:
        TripleFormatError: it is.
    """
    for mark, name in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            raise TripleFormatError(f"the file is {name}; save it as UTF-8", path=path, line=1)
    for beginning, what in _CONTAINERS.items():
        if head.startswith(beginning):
            raise TripleFormatError(f"the file is {what}", path=path)


class NoTextLineError(TripleFormatError):
    """Bytes that are not UTF-8, or NUL. A line of them says nothing about the other lines."""

    text = ""  # with a mark in the place of each of them


def decode(path: Path, raw: bytes, *, first_line: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        found = NoTextLineError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8", path=path, line=line
        )
        if len(raw) <= MAX_LINE_BYTES:  # of a line, not of a document
            found.text = raw.decode("utf-8", "replace")
        raise found from None
    if "\0" in text:
        line = first_line + text.count("\n", 0, text.index("\0"))
        nul = NoTextLineError(
            "a NUL byte: this is binary, or UTF-16 without its mark; save the file as UTF-8", path=path, line=line
        )
        if len(raw) <= MAX_LINE_BYTES:
            nul.text = text.replace("\0", "\ufffd")
        raise nul
    return text
