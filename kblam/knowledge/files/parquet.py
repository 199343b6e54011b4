"""Parquet tables, read some thousand rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kblam.errors import TripleFormatError
from kblam.knowledge.columns import quoted
from kblam.knowledge.files.arrow import cells_of
from kblam.knowledge.files.cells import BINARY, NoTextError, plain
from kblam.knowledge.files.lines import Records
from kblam.knowledge.files.packages import needed
from kblam.knowledge.records import RecordReader

_ROWS = 1024
# A column of one value repeated shrinks to nearly nothing, so only what would also be large is refused.
LARGEST_RATIO, ALLOWED_BYTES = 1000, 2**30


def read_parquet(path: Path, reader: RecordReader) -> Records:
    """(row, record) of each row, from 1.

    Raises:
        TripleFormatError: it is no Parquet file, a bomb, or has no columns that can be read.
        MissingPackageError: pyarrow is not installed.
    """
    pa, pq = needed("pyarrow", "tables"), needed("pyarrow.parquet", "tables")
    try:
        with pq.ParquetFile(path) as file:
            _refuse_bombs(path, file.metadata)
            names = [field.name for field in file.schema_arrow]
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise TripleFormatError(f"two columns have one name: {quoted(twice)}", path=path)
            try:
                reader.plan(names)
            except TripleFormatError as error:
                raise type(error)(error.reason, path=path) from None
            yield from _records(path, file, reader)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise
        raise TripleFormatError(f"not a Parquet file that can be read: {error}", path=path) from error


def _records(path: Path, file: Any, reader: RecordReader) -> Iterator[tuple[int, object]]:
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS):
        columns = {name: cells_of(batch.column(at)) for at, name in enumerate(batch.schema.names)}
        for at in range(batch.num_rows):
            number += 1
            record: dict[str, object] = {}
            trouble = None
            for name, cells in columns.items():
                cell = cells[at]
                try:
                    if isinstance(cell, NoTextError):
                        raise cell
                    record[name] = plain(cell)
                except NoTextError as error:
                    if error.reason == BINARY:
                        reader.unread[name] += 1
                        continue
                    trouble = TripleFormatError(
                        f"the column {name[:40]!r} holds {error.reason}", path=path, line=number
                    )
            yield number, trouble or record
    if not number:
        raise TripleFormatError("the table has no rows", path=path)


def _refuse_bombs(path: Path, metadata: Any) -> None:
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > max(ALLOWED_BYTES, LARGEST_RATIO * path.stat().st_size):
            raise TripleFormatError(
                f"a row group unpacks to {size:,} bytes, {size // max(1, path.stat().st_size):,} times the file: a "
                "bomb? write it with smaller row groups if you trust it",
                path=path,
            )
