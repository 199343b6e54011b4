"""Sets of questions as files: JSON, JSON Lines, CSV, Parquet; whole, or divided into splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kblam.data.exporting.dividing import divided
from kblam.data.exporting.questions import FORMS, QuestionAnswer, of_record
from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.files.csv_table import read_csv
from kblam.knowledge.files.json_document import read_json
from kblam.knowledge.files.json_lines import read_jsonl
from kblam.knowledge.files.lines import Records
from kblam.knowledge.files.packages import needed
from kblam.knowledge.files.parquet import read_parquet
from kblam.knowledge.files.whole import whole_file
from kblam.knowledge.records import RecordReader

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_NESTED = ("sharegpt", "messages")
_ROWS = 1000

Write = Callable[[dict[str, Any]], None]


def export_questions(
    path: str | Path,
    questions: Iterable[QuestionAnswer],
    *,
    form: str = "plain",
    with_contexts: bool = False,
    overwrite: bool = True,
) -> int:
    """Write questions to a file by its suffix; returns how many.

    Args:
        path: `.json` (one list), `.jsonl`, `.csv` or `.parquet`.
        form: "plain" (question, answer, contexts, kind, group, sources, names), "alpaca" (instruction, input, output),
            "sharegpt" (conversations of from and value), "messages" (role and content, which other tools call ShareGPT
            too), "ragas" (user_input, response, retrieved_contexts, reference).
        with_contexts: put the facts into the prompt of alpaca, sharegpt and messages. "plain" and "ragas" always have
            them, in a field of their own.
        overwrite: replace what is at `path`.

    Raises:
        DataError: form and suffix do not go together, or there is no question.
        TripleFormatError: the path cannot be written, or something is there that is not to be replaced.
        MissingPackageError: Parquet, and pyarrow is not installed.
    """
    counts = export_splits(
        path, questions, {"": 1.0}, form=form, with_contexts=with_contexts, overwrite=overwrite, seed=0
    )
    return counts[""]


def export_splits(
    path: str | Path,
    questions: Iterable[QuestionAnswer],
    splits: Mapping[str, float],
    *,
    form: str = "plain",
    with_contexts: bool = False,
    overwrite: bool = True,
    seed: int = 0,
) -> dict[str, int]:
    """Write questions to a file for each split, `facts-train.jsonl` for `facts.jsonl`; returns how many are in each.

    All questions about one thing are in one split (their `group` and `names`, else the question), so also all that
    questions about several things put together. Where no question is about several, each stays in its split when
    more are added.

    Args:
        splits: name -> share; the shares add up to 1.
        seed: another one divides otherwise.

    Raises:
        as `export_questions`.
    """
    target = Path(path).expanduser()
    _check(target, form, splits)
    counts = dict.fromkeys(splits, 0)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_writer(file_of_split(target, name), overwrite=overwrite)) for name in splits
        }
        for name, one in divided(questions, splits, seed):
            writers[name](FORMS[form](one, with_contexts))
            counts[name] += 1
        if not sum(counts.values()):
            raise DataError(f"there is no question to write to {target}")
    return counts


def read_questions(path: str | Path) -> Iterator[QuestionAnswer]:
    """The questions of a file in any of the forms, by its suffix.

    Raises:
        TripleFormatError: a record is none; with file and line.
    """
    file = Path(path).expanduser()
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise TripleFormatError(f"cannot tell the format; name it {', '.join(SUFFIXES)}", path=file)
    try:
        for line, record in read(file, _AnyRecord()):
            try:
                if isinstance(record, TripleFormatError):
                    raise record
                yield of_record(record)
            except TripleFormatError as error:
                raise TripleFormatError(error.reason, path=file, line=line) from None
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=file) from error


class _AnyRecord(RecordReader):
    """Leaves it to `of_record` what the columns mean."""

    def plan(self, keys: Sequence[str], *, has_name: bool = False) -> Any:
        return None

    def is_named(self, record: object) -> bool:
        return isinstance(record, Mapping)


_READERS: dict[str, Callable[[Path, RecordReader], Records]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _check(target: Path, form: str, splits: Mapping[str, float]) -> None:
    if form not in FORMS:
        raise DataError(f"there is no form {form!r}; there are: {', '.join(FORMS)}")
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot tell the format from {target.name!r}; name it {', '.join(SUFFIXES)}")
    if target.suffix.lower() == ".csv" and form in _NESTED:
        raise DataError(f"{form} has lists in lists, which CSV cannot hold; write .json, .jsonl or .parquet")
    if any(share < 0 for share in splits.values()) or abs(sum(splits.values()) - 1) > 1e-6:
        shown = ", ".join(f"{name}={share:g}" for name, share in splits.items())
        raise DataError(f"the shares of splits must add up to 1; got {shown}")


def file_of_split(target: Path, name: str) -> Path:
    """Where `export_splits` writes a split; the target itself for the name of none, ""."""
    return target.with_name(f"{target.stem}-{name}{target.suffix}") if name else target


@contextmanager
def _writer(file: Path, *, overwrite: bool) -> Iterator[Write]:
    with whole_file(file, overwrite=overwrite) as unfinished, _WRITERS[file.suffix.lower()](unfinished) as write:
        yield write


@contextmanager
def _json_lines(file: Path) -> Iterator[Write]:
    with file.open("w", encoding="utf-8", newline="") as out:
        yield lambda record: _ignore(out.write(json.dumps(record, ensure_ascii=False) + "\n"))


@contextmanager
def _json_list(file: Path) -> Iterator[Write]:
    with file.open("w", encoding="utf-8", newline="") as out:
        before = ["[\n  "]

        def write(record: dict[str, Any]) -> None:
            out.write(before.pop() if before else ",\n  ")
            out.write(json.dumps(record, ensure_ascii=False))

        yield write
        out.write("[]\n" if before else "\n]\n")


@contextmanager
def _csv_rows(file: Path) -> Iterator[Write]:
    with file.open("w", encoding="utf-8", newline="") as out:
        # A row that begins with a byte order mark would look like the beginning of another file.
        writer, quoting = csv.writer(out), csv.writer(out, quoting=csv.QUOTE_ALL)
        header: list[str] = []

        def write(record: dict[str, Any]) -> None:
            if not header:
                header.extend(record)
                writer.writerow(header)
            cells = [json.dumps(one, ensure_ascii=False) if isinstance(one, list) else one for one in record.values()]
            (quoting if str(cells[0]).startswith("\ufeff") else writer).writerow(cells)

        yield write


@contextmanager
def _parquet_rows(file: Path) -> Iterator[Write]:
    pa, pq = needed("pyarrow", "tables"), needed("pyarrow.parquet", "tables")
    rows: list[dict[str, Any]] = []
    opened: list[Any] = []

    def flush() -> None:
        if rows:
            table = pa.Table.from_pylist(rows, schema=opened[0].schema if opened else _schema(pa, rows[0]))
            if not opened:
                opened.append(pq.ParquetWriter(file, table.schema))
            opened[0].write_table(table)
            rows.clear()

    def write(record: dict[str, Any]) -> None:
        if "sources" in record:  # objects of many shapes, which a column cannot have
            record = {**record, "sources": json.dumps(record["sources"], ensure_ascii=False)}
        rows.append(record)
        if len(rows) >= _ROWS:
            flush()

    yield write
    flush()
    if opened:
        opened[0].close()
    else:
        pq.write_table(pa.table({}), file)


def _schema(pa: Any, record: dict[str, Any]) -> Any:
    """From one record: a text, a list of texts, or a list of turns. An empty list says nothing, so it is of texts."""
    kinds = {}
    for key, value in record.items():
        if not isinstance(value, list):
            kinds[key] = pa.string()
        elif value and isinstance(value[0], dict):
            kinds[key] = pa.list_(pa.struct([(name, pa.string()) for name in value[0]]))
        else:
            kinds[key] = pa.list_(pa.string())
    return pa.schema(list(kinds.items()))


def _ignore(_: object) -> None:
    """What `write` of a file returns is nobody's business."""


_WRITERS = {".json": _json_list, ".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
