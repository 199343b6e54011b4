"""Triples in the body of a request: strict, and all or none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kblam.errors import TripleFormatError
from kblam.knowledge import Triple
from kblam.knowledge.sources import SOURCES, read_sources
from kblam.knowledge.triples import FIELDS
from kblam.serve.failures import ApiError
from kblam.strict_json import loads, problem

JSON = "application/json"
LINES = ("application/jsonl", "application/x-ndjson")
# Of one request: a change is encoded whole before it is written, and others wait for it.
MOST = 10_000
_NEEDED = FIELDS[:3]
_LINE = re.compile(rb"\S[^\n]*")  # from its first letter: millions of blank lines cost nothing
_SHAPE = 'send {"triples": [...]}, each triple with "name", "property" and "value"'


def one_triple(body: bytes) -> Triple:
    """The triple that a JSON body is.

    Raises:
        ApiError, TripleFormatError: it is none.
    """
    return _triple(_json(body, "the body"), "the triple")


def triples_in(body: bytes, kind: str) -> list[Triple]:
    """The triples of a body: {"triples": [...]} or a list of them, or JSON Lines.

    Args:
        kind: its content type, `JSON` or one of `LINES`.

    Raises:
        ApiError: it is no JSON, of another shape, or has too many.
        TripleFormatError: one is no triple, or two contradict each other; the message says which.
    """
    found: dict[tuple[str, str], tuple[str, Triple]] = {}
    for count, (where, record) in enumerate(_of_lines(body) if kind in LINES else _of_document(body)):
        if count >= MOST:
            raise ApiError(
                413,
                f"more than {MOST:,} triples in one request; send them in parts, or use `kblam kb build`",
                "too_many_triples",
            )
        triple = _triple(record, where)
        first, other = found.setdefault(triple.identity, (where, triple))
        if other != triple:
            raise TripleFormatError(
                f"{where}: {triple.identity!r} was said before, in {first}, with other words; keep one of them"
            )
    if not found:
        raise TripleFormatError(f"no triple; {_SHAPE}")
    return [triple for _, triple in found.values()]


def _of_document(body: bytes) -> Iterator[tuple[str, Any]]:
    document = _json(body, "the body")
    if isinstance(document, dict) and document.keys() == {"triples"}:
        document = document["triples"]
    if not isinstance(document, list):
        raise TripleFormatError(_SHAPE)
    return ((f"triple {number:,}", record) for number, record in enumerate(document, start=1))


def _of_lines(body: bytes) -> Iterator[tuple[str, Any]]:
    number, counted = 1, 0
    for line in _LINE.finditer(body):
        number += body.count(b"\n", counted, line.start())
        counted = line.start()
        yield f"line {number:,}", _json(line[0].rstrip(), f"line {number:,}")


def _json(text: bytes, where: str) -> Any:
    try:
        return loads(text)
    except UnicodeDecodeError:
        raise ApiError(400, f"{where} is not UTF-8", "bad_json") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"{where}: {problem(error)}", "bad_json") from None


def _triple(record: Any, where: str) -> Triple:
    if not isinstance(record, dict):
        raise TripleFormatError(f"{where} is no object; {_SHAPE}")
    if unknown := sorted(record.keys() - {*FIELDS, SOURCES}):
        possible = ", ".join((*FIELDS, SOURCES))
        raise TripleFormatError(f"{where} has a field {unknown[0][:60]!r}; possible are {possible}")
    if missing := [field for field in _NEEDED if field not in record]:
        raise TripleFormatError(f"{where} has no {missing[0]!r}; {_SHAPE}")
    try:
        sources = read_sources(record[SOURCES]) if SOURCES in record else ()
        return Triple(**{**record, SOURCES: sources})
    except TripleFormatError as error:
        raise TripleFormatError(f"{where}: {error.reason}") from None
