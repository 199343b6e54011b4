"""JSON Lines: one object a line, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kblam.errors import TripleFormatError
from kblam.knowledge.files.lines import numbered_lines
from kblam.knowledge.triples import Triple


def _once_each(members: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which no key stands twice: Python would keep the last value, without a word."""
    made = dict(members)
    if len(made) < len(members):
        seen: set[str] = set()
        twice = next(name for name, _ in members if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f'the key "{twice[:60]}" stands twice in one object; keep one of them')
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_once_each)


def read_jsonl(path: Path) -> Iterator[tuple[int, object]]:
    for number, text in numbered_lines(path):
        if text.strip():
            try:
                yield number, DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                raise TripleFormatError(json_problem(error), path=path, line=number) from None


def write_jsonl(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            file.write(json.dumps(triple.to_record(), ensure_ascii=False) + "\n")
    return count


def json_problem(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    return str(error) if "stands twice" in str(error) else f"not JSON: {error}"
