"""A document as one text, and which page each place of it is on."""

from __future__ import annotations

import bisect
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kblam.data.documents.archives import check_archive
from kblam.data.documents.converting import Converter
from kblam.errors import DocumentError, argument

logger = logging.getLogger("kblam")

Reader = Literal["markitdown", "docling"]
# By suffix: whether a file is text already, and what a page of it is called.
PLAIN = frozenset({".md", ".markdown", ".txt", ".text"})
KINDS: dict[str, str | None] = {
    **dict.fromkeys(sorted(PLAIN)),
    ".html": None,
    ".htm": None,
    ".docx": None,
    ".pdf": "page",
    ".pptx": "slide",
    ".xlsx": "sheet",
}
_ARCHIVES = frozenset({".docx", ".pptx", ".xlsx"})
_PAGES_OF_TEXT = frozenset({".html", ".htm"})
MOST_BYTES = 100 * 2**20
# Between pages in the text of a document, so that no quote reaches over a page's end.
PAGE_END = "\n\f\n"


@dataclass(frozen=True)
class Document:
    """A document that was read.

    Args:
        name: as its sources name it.
        text: of all pages, with `PAGE_END` between them.
        starts: where each page begins in the text; empty for a document without pages.
    """

    name: str
    text: str
    starts: tuple[int, ...] = ()

    def page_at(self, offset: int) -> int | None:
        """The page, from 1, of a place in the text; None where there are none."""
        return bisect.bisect_right(self.starts, offset) if self.starts else None


def read_document(
    path: str | Path,
    *,
    name: str | None = None,
    reader: Reader = "markitdown",
    most_bytes: int = MOST_BYTES,
    converter: Converter | None = None,
) -> Document:
    """Reads a document: Markdown and text as they are, others as Markdown that `reader` makes of them.

    Offsets count characters of that text. A PDF has pages, a presentation slides, a workbook sheets.

    Args:
        name: as its sources name it; None is the file's name.
        reader: "docling" knows layouts and pictures, and is large and slow; what is text already needs neither.
        most_bytes: a larger file is refused.
        converter: the process that reads it; None is one of its own, whose start takes seconds.

    Raises:
        DocumentError: there is no such file, it is of no known kind, too large, a zip bomb, no UTF-8, damaged or
            encrypted, has no text, or the reader takes too long or too much memory. The message begins with the file.
        MissingPackageError: the reader is not installed.
    """
    file = Path(path)
    kind = file.suffix.lower()
    try:
        (name or file.name).encode()
    except UnicodeEncodeError:
        raise DocumentError(f"{file}: its name is not UTF-8, and sources could not name it; rename it") from None
    if kind not in KINDS:
        raise DocumentError(f"{file}: a document of the kind {kind or file.name!r} cannot be read; {_known()}")
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise DocumentError(f"{file} is not a file; give documents, not folders")
        if size > most_bytes:
            raise DocumentError(
                f"{file}: {size / 2**20:,.0f} MiB are more than {most_bytes / 2**20:,.0f}; split it, or raise "
                f"{argument('most_bytes', '--max-megabytes', ('data extract', 'data questions'))}"
            )
        pages = [_decoded(file, file.read_bytes())] if kind in PLAIN else _converted(file, kind, reader, converter)
    except OSError as error:
        raise DocumentError(f"{file}: cannot read: {os.strerror(error.errno or 0)}") from error
    _check_pages(file, pages, KINDS[kind])
    starts, at = [], 0
    for page in pages:
        starts.append(at)
        at += len(page) + len(PAGE_END)
    return Document(name or file.name, PAGE_END.join(pages), tuple(starts) if KINDS[kind] else ())


def _converted(file: Path, kind: str, reader: Reader, converter: Converter | None) -> list[str]:
    if kind in _ARCHIVES:
        check_archive(file)
    elif kind in _PAGES_OF_TEXT:  # in the encoding that it names, which has no NUL
        _refuse_nul(file, file.read_bytes())
    if converter is not None:
        return converter.convert(file, kind, reader)
    with Converter() as own:
        return own.convert(file, kind, reader)


def _decoded(file: Path, raw: bytes) -> str:
    _refuse_nul(file, raw)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"{file}:{line}: byte {raw[error.start]:#x} is not UTF-8; save the file as UTF-8") from None
    return text.replace("\f", " ").replace("\r\n", "\n").replace("\r", "\n")


def _refuse_nul(file: Path, raw: bytes) -> None:
    if b"\0" in raw:
        raise DocumentError(f"{file}: this is binary or UTF-16, not text in UTF-8; save it as UTF-8")


def _check_pages(file: Path, pages: list[str], what: str | None) -> None:
    empty = [str(number) for number, page in enumerate(pages, start=1) if not page.strip()]
    if len(empty) == len(pages):
        pictures = f" on any of its {len(pages):,} {what}s: are they pictures? run OCR over it first" if what else ""
        raise DocumentError(f"{file}: no text{pictures}")
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        logger.warning("%s: no text on %s%s %s: pictures?", file, what, "s" if len(empty) > 1 else "", shown)


def _known() -> str:
    return f"possible are {', '.join(KINDS)}"
