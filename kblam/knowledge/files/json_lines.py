"""JSON Lines: one object a line, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kblam.errors import TripleFormatError
from kblam.knowledge.files.lines import numbered_lines
from kblam.knowledge.triples import Triple
from kblam.strict_json import decoder, problem

DECODER = decoder()


def read_jsonl(path: Path) -> Iterator[tuple[int, object]]:
    for number, text in numbered_lines(path):
        if text.strip():
            try:
                yield number, DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                raise TripleFormatError(problem(error), path=path, line=number) from None


def write_jsonl(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            file.write(json.dumps(triple.to_record(), ensure_ascii=False) + "\n")
    return count
