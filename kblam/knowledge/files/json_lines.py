"""JSON Lines: one object a line, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from kblam.errors import TripleFormatError
from kblam.knowledge.files.lines import Records, numbered_lines
from kblam.knowledge.records import RecordReader
from kblam.knowledge.triples import Triple
from kblam.strict_json import decoder, problem

_LONGEST_NUMBER = 1000


def _as_written(number: str) -> str:
    """A number in its own digits: 1.10 is not 1.1."""
    if len(number) > _LONGEST_NUMBER:
        raise ValueError(f"Exceeds the limit of {_LONGEST_NUMBER:,} digits for a number: {len(number):,}")
    return number


def _no_number(word: str) -> str:
    raise ValueError(f"{word} is no value; write null where there is none")


DECODER = decoder(parse_int=_as_written, parse_float=_as_written, parse_constant=_no_number)


def read_jsonl(path: Path, reader: RecordReader) -> Records:
    for number, text in numbered_lines(path):
        if isinstance(text, TripleFormatError):
            yield number, text
        elif text.strip():
            try:
                yield number, DECODER.decode(text.rstrip())
            except (ValueError, RecursionError) as error:
                yield number, TripleFormatError(problem(error), path=path, line=number)


def write_jsonl(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            file.write(json.dumps(triple.to_record(), ensure_ascii=False) + "\n")
    return count
