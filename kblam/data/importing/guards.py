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


class XmlGuard:
    """No entity may be declared, since a few lines of them can stand for gigabytes; and depth has an end."""

    def __init__(self, path: Path) -> None:
        self._path, self._depth, self._is_over = path, 0, False
        self._parser = expat.ParserCreate()
        self._parser.EntityDeclHandler = self._refuse_entities
        self._parser.StartElementHandler = self._enter
        self._parser.EndElementHandler = self._leave

    def look(self, block: bytes) -> None:
        """See `Guard`."""
        if self._is_over:  # who reads at the end may read there again
            return
        self._is_over = not block
        try:
            self._parser.Parse(block, self._is_over)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code] if error.code else str(error)
            raise self._error(f"not XML: {reason}") from None

    def _refuse_entities(self, *_: Any) -> None:
        raise self._error("it declares entities (<!ENTITY), which are refused; save it without them, or as Turtle")

    def _enter(self, *_: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._error(f"nested more than {DEEPEST} deep; save it as Turtle")

    def _leave(self, _: str) -> None:
        self._depth -= 1

    def _error(self, reason: str) -> TripleFormatError:
        return TripleFormatError(reason, path=self._path, line=self._parser.CurrentLineNumber)


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
