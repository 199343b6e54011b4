"""What is looked at while a parser reads a file, because the parser itself would take gigabytes, or hours, over it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Protocol
from xml.parsers import expat

from kblam.errors import TripleFormatError
from kblam.strict_json import DEEPEST

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
LONGEST_TOKEN = 8 * 2**20  # bytes of a tag, as long as the longest line of a text
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


class Guard(Protocol):
    """Looks at a file's bytes as they are read."""

    def look(self, block: bytes) -> None:
        """At the next bytes; none at the end.

        Raises:
            TripleFormatError: the file must not be read on.
        """


class Guarded(io.RawIOBase):
    """A file that a guard looks at."""

    def __init__(self, file: Any, guard: Guard) -> None:
        self._file, self._guard = file, guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self._guard.look(block)
        buffer[: len(block)] = block
        return len(block)


class Xml:
    """A parser of XML, fed with blocks: no entity may be declared, since a few lines of them can stand for gigabytes.

    Attributes:
        parser: takes the handlers.
    """

    def __init__(self, path: Path, namespace_separator: str | None = None) -> None:
        self._path, self._fed = path, 0
        self.parser = expat.ParserCreate(namespace_separator=namespace_separator)
        self.parser.EntityDeclHandler = self._refuse_entities

    def feed(self, block: bytes) -> None:
        """Reads on; at the end there is nothing in the block.

        Raises:
            TripleFormatError: it is no XML, declares entities, or has a tag that is too long; with the line.
        """
        self._fed += len(block)
        try:
            self.parser.Parse(block, not block)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code] if error.code else str(error)
            raise self.error(f"not XML: {reason}") from None
        except (LookupError, ValueError) as error:  # of Python, which is asked for encodings that expat does not know
            raise self.error(f"its encoding cannot be read: {error}; save it as UTF-8") from None
        # The parser begins a tag anew with each block, so a long one takes time with the square of its length.
        if self._fed - self.parser.CurrentByteIndex > LONGEST_TOKEN:
            raise self.error(f"a tag or a comment is longer than {LONGEST_TOKEN:,} bytes")

    def error(self, reason: str) -> TripleFormatError:
        """An error with the line that the parser is at."""
        return TripleFormatError(reason, path=self._path, line=self.parser.CurrentLineNumber)

    def _refuse_entities(self, *_: Any) -> None:
        raise self.error("it declares entities (<!ENTITY), which are refused; save it without them")


class XmlGuard:
    """No entity may be declared, and depth has an end."""

    def __init__(self, path: Path) -> None:
        self._xml, self._depth, self._is_over = Xml(path), 0, False
        self._xml.parser.StartElementHandler = self._enter
        self._xml.parser.EndElementHandler = self._leave

    def look(self, block: bytes) -> None:
        """See `Guard`."""
        if self._is_over:  # who reads at the end may read there again
            return
        self._is_over = not block
        self._xml.feed(block)

    def _enter(self, *_: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._xml.error(f"nested more than {DEEPEST} deep; save it as Turtle")

    def _leave(self, _: str) -> None:
        self._depth -= 1


class JsonGuard:
    """Depth has an end."""

    def __init__(self, path: Path) -> None:
        self._path, self._depth, self._is_text, self._tail = path, 0, False, b""

    def look(self, block: bytes) -> None:
        """See `Guard`."""
        block = self._tail + block
        escaping = (len(block) - len(block.rstrip(b"\\"))) % 2
        self._tail, block = block[len(block) - escaping :], block[: len(block) - escaping]
        block = _ESCAPE.sub(b"", block)
        if self._is_text:
            _, quote, block = block.partition(b'"')
            self._is_text = not quote
        block, quote, _ = _STRING.sub(b"", block).partition(b'"')
        self._is_text = self._is_text or bool(quote)
        for bracket in block.translate(None, _OTHERS):
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > DEEPEST:
                raise TripleFormatError(f"nested more than {DEEPEST} deep; save it as N-Triples", path=self._path)
