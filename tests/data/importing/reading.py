"""What sources say, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kblam.data.importing import Languages, Readable, Reading, open_sources
from kblam.data.importing.run import ImportReport


def read(sources: Sequence[Readable], **options: Any) -> tuple[dict[tuple[str, str], str], ImportReport]:
    """(name, property) -> value, and the report."""
    with Reading(sources, **options) as reading:
        return {triple.identity: triple.value for triple in reading.triples()}, reading.report


def facts(path: Path, languages: str = "en,*", **options: Any) -> dict[tuple[str, str], str]:
    """The facts of one file."""
    return read(open_sources([str(path)], **options), languages=Languages(languages.split(",")))[0]


def written(path: Path, text: str | bytes) -> Path:
    """A file with this text."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
