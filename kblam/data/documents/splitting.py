"""Cuts a document into pieces that a model reads one at a time: by headings, paragraphs, tables, then sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kblam.data.documents.reading import Document

DEFAULT_SIZE = 4000  # characters: about a thousand tokens
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+|\n\f\n")
# A page ends a line too.
_HEADING = re.compile(r"(#{1,6})[ \t]+([^ \t\n\f][^\n\f]*)(?:[\n\f]|$)")
_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\s]+|\n")


def _title(line: str) -> str:
    """A heading's text without the marks that may close it."""
    text = line.rstrip(" \t")
    return text.rstrip("#").rstrip(" \t") or text


@dataclass(frozen=True)
class Piece:
    """A part of a document.

    Args:
        document: that it is a part of.
        start, end: characters [start, end) of the document's text.
        headings: above its beginning, the outermost first.
        head: of a table that began in an earlier piece, the lines that name its columns.
    """

    document: Document
    start: int
    end: int
    headings: tuple[str, ...] = ()
    head: str = ""

    @property
    def text(self) -> str:
        return self.document.text[self.start : self.end]

    @property
    def page(self) -> int | None:
        """Of its beginning; a piece is on one page."""
        return self.document.page_at(self.start)

    def __str__(self) -> str:
        page = "" if self.page is None else f", page {self.page}"
        return f"{self.document.name}{page}, character {self.start:,}"


def pieces_of(document: Document, size: int = DEFAULT_SIZE) -> Iterator[Piece]:
    """The pieces of a document, in order; together they have all of its text but white space between blocks, and
    headings whose text is in a later piece, or nowhere: they stand above that piece.

    A piece ends where a page ends, before a heading once it is half full, and between blocks. Only a block that is
    longer than a piece is cut: a table between rows, everything else between sentences.

    Args:
        size: characters of a piece at most.
    """
    headings: list[tuple[int, str]] = []
    above: tuple[str, ...] = ()
    start: int | None = None  # of the piece that grows
    end = reached = 0  # where its last block with more than a heading ends, and its last block
    for first, last in _blocks(document.text):
        heading = _HEADING.match(document.text, first, last)
        if start is not None and (
            last - start > size
            or document.page_at(first) != document.page_at(start)
            or (heading and reached - start >= size // 2)
        ):
            if end > start:
                yield Piece(document, start, end, above)
            start = None
        if heading:
            level = len(heading[1])
            headings = [one for one in headings if one[0] < level] + [(level, _title(heading[2]))]
        if start is None:
            # A heading that a piece begins with is in its text.
            above = tuple(text for _, text in (headings[:-1] if heading else headings))
            start = first
        if last - first > size:
            head = _table_head(document.text[first:last])
            for number, (at, until) in enumerate(_cut(document.text, first, last, size)):
                yield Piece(document, at, until, above, head if number else "")
            start = None
            continue
        reached = last
        if heading is None or heading.end() < last:
            end = last
    if start is not None and end > start:
        yield Piece(document, start, end, above)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """[start, end) of what blank lines and page ends divide; fenced code is one block."""
    fenced = _fenced(text)
    at = 0
    for gap in _BLANK.finditer(text):
        while fenced and fenced[-1][1] < gap.start():
            fenced.pop()
        if fenced and fenced[-1][0] < gap.start():
            continue
        yield from _trimmed(text, at, gap.start())
        at = gap.end()
    yield from _trimmed(text, at, len(text))


def _fenced(text: str) -> list[tuple[int, int]]:
    """[start, end) of fenced code on one page, the last first."""
    marks = [match.start() for match in _FENCE.finditer(text)]
    found = [each for each in zip(marks[::2], marks[1::2], strict=False) if "\f" not in text[each[0] : each[1]]]
    return found[::-1]


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def _cut(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """A block in parts of at most so many characters, cut after a line or a sentence where there is one."""
    while end - start > size:
        cuts = [match.end() for match in _SENTENCE_END.finditer(text, start, start + size)]
        cut = cuts[-1] if cuts else text.rfind(" ", start + 1, start + size)
        cut = cut if cut > start else start + size
        yield from _trimmed(text, start, cut)
        start = cut
    yield from _trimmed(text, start, end)


def _table_head(block: str) -> str:
    """The first two lines of a Markdown table; "" of anything else."""
    lines = block.split("\n", 2)
    is_table = len(lines) > 2 and lines[0].lstrip().startswith("|") and set(lines[1].strip()) <= set("|-: ")
    return "\n".join(lines[:2]) if is_table else ""
