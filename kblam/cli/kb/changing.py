"""Building a knowledge base, adding to it, removing from it."""

from __future__ import annotations

import difflib
import time
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.files import asked_encoder, file_of, open_file
from kblam.cli.options import AsJson, EncoderKey, KnowledgeFile
from kblam.cli.output import out, print_json, progress_bar, waiting
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from kblam.knowledge import BuildReport, Encoder, KnowledgeBase, TripleFile

_MOST_COMPARED = 20_000  # names, for typing errors: some 0.4 s


class Duplicates(str, Enum):
    """What two different triples with one name and property in a file mean."""

    error = "error"
    last = "last"
    joined = "join"


Repeated = Annotated[
    Duplicates,
    typer.Option(
        "--duplicates",
        help="Several values of one fact in the file: refuse it, keep the last, or join them with commas.",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN,...",
        help="Which column is the name, property, value, question, answer or key_string, and which to ignore. With "
        "name=COLUMN alone each other column is a property.",
    ),
]
Renamed = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="PROPERTY=WORDS",
        help="What people call a property, such as 'emp_start_dt=start date'; once for each.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out records that cannot be read, and say how many and where.")
]


def build(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Triples: .json, .jsonl, .ndjson, .csv, .tsv, .xlsx or .parquet.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="KB", help="The knowledge base to write: a file, or a model folder's own."
        ),
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="minilm, a sentence-transformers name or folder, or openai:MODEL (its key: --api-key-env). "
            "Default: minilm. An existing knowledge base keeps its own, which is named here again if it is another.",
        ),
    ] = None,
    columns: Map = None,
    renames: Renamed = None,
    skip_bad: SkipBad = False,
    duplicates: Repeated = Duplicates.error,
    api_key_env: EncoderKey = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Triples a transaction: what an interruption can lose.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Encode a file of triples into a knowledge base, or bring one up to date with it.

    Each record is one fact (name, property, value; subject, predicate, object; ...), or one entity with a column or
    field for each property. What was guessed is said.

    Interrupted? Run the same command again: it goes on where it stopped. Triples that are there and not in the file
    stay.

    Example: kblam kb build facts.jsonl -o facts.kb
    """
    from kblam.knowledge import build as build_file
    from kblam.knowledge.target import check_base_target

    _check_is_a_file(file)
    check_is_no_base(file)
    output = file_of(output)
    check_base_target(output)
    began = time.monotonic()
    triples = _read(file, columns, renames, skip_bad, duplicates)
    try:
        with progress_bar("encoding") as progress:
            maker = encoder_for(output, encoder, api_key_env)
            report = build_file(output, triples, maker, batch_size=batch_size, progress=progress)
    except KeyboardInterrupt:
        kept = f"what was encoded is kept in {output}" if output.exists() else "nothing was written yet"
        raise InterruptedWorkError(f"interrupted; {kept}: run the same command again to go on") from None
    with open_file(output) as kb:
        _print_report(kb, report, time.monotonic() - began, as_json, triples.skipped)


def add(
    kb: KnowledgeFile,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Triples to add; or one triple by --name, --property and --value."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="The entity.")] = None,
    property: Annotated[
        str | None,
        typer.Option("--property", "-p", help="What is said about it; default: description."),
    ] = None,
    value: Annotated[str | None, typer.Option("--value", "-v", help="The text that answers.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="The encoder it was built with, if that is not the default one."),
    ] = None,
    columns: Map = None,
    renames: Renamed = None,
    skip_bad: SkipBad = False,
    duplicates: Repeated = Duplicates.error,
    api_key_env: EncoderKey = None,
    as_json: AsJson = False,
) -> None:
    """Add triples to a knowledge base; the value of a (name, property) that is there already is replaced.

    Example: kblam kb add facts.kb --name "Amber Falcon" --property capital --value Zirconia
    """
    from kblam.knowledge import Triple
    from kblam.knowledge.triples import DEFAULT_PROPERTY

    one = name is not None or property is not None or value is not None
    if (file is not None) == one:
        raise CommandError("give either a FILE of triples, or one triple by --name, --property and --value")
    if one and (name is None or value is None):
        raise CommandError(f"{'--name' if name is None else '--value'} is missing: a triple needs both")
    if one and (columns or renames or skip_bad or duplicates is not Duplicates.error):
        raise CommandError("--map, --rename, --skip-bad and --duplicates are for a FILE of triples")
    if file is not None:
        _check_is_a_file(file)
        check_is_no_base(file)
    began = time.monotonic()
    named = asked_encoder(kb, encoder, api_key_env)
    with open_file(kb, read_only=False, encoder=named) as opened:
        triples = None if file is None else _read(file, columns, renames, skip_bad, duplicates)
        if triples is None:
            triple = Triple(name or "", DEFAULT_PROPERTY if property is None else property, value or "")
            with waiting("encoding"):
                report = opened.add(triple)
        else:
            with progress_bar("encoding") as progress:
                report = opened.update(triples, progress=progress)
        _print_report(opened, report, time.monotonic() - began, as_json, 0 if triples is None else triples.skipped)


def remove(
    kb: KnowledgeFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The entity, exactly as it is stored.")],
    property: Annotated[
        str | None,
        typer.Option("--property", "-p", help="Remove this fact only; default: all facts of the name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove the facts of a name, or one of them.

    Example: kblam kb remove facts.kb "Amber Falcon" --property capital
    """
    with open_file(kb, read_only=False) as opened:
        count = opened.remove(name, property)
        if not count:
            raise CommandError(_nothing_like(opened, name, property))
        if as_json:
            print_json({"knowledge_base": str(opened.path), "removed": count, "triples": len(opened)})
        else:
            out.print(
                f"removed {count_of(count)}; {count_of(len(opened))} left in {opened.path}",
                markup=False,
                soft_wrap=True,
            )


def check_is_no_base(file: Path) -> None:
    """Refuses a knowledge base where a file of triples is read.

    Raises:
        CommandError: it is one.
    """
    from kblam.knowledge.schema import is_knowledge_base

    if is_knowledge_base(file):
        raise CommandError(
            f"{file} is a knowledge base already; write its triples to a file first: kblam kb export "
            f"{quote(str(file))} -o {quote(file.with_suffix('.jsonl').name)}"
        )


def _check_is_a_file(file: Path) -> None:
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    kinds = f"give a file of triples ({', '.join(FORMAT_OF_SUFFIX)})"
    if file.is_dir():
        raise CommandError(f"{file} is a folder; {kinds}")
    if not file.exists():
        raise CommandError(f"there is no file {file}; {kinds}")


def _read(
    file: Path, columns: list[str] | None, renames: list[str] | None, skip_bad: bool, duplicates: Duplicates
) -> TripleFile:
    """The file after it was read once from end to end, so that a bad line costs nothing."""
    from kblam.knowledge import Columns, TripleFile
    from kblam.knowledge.renaming import parse_renames

    chosen = Columns.parse(columns) if columns else None
    words = parse_renames(renames or ())
    with waiting(f"reading {file}"):
        triples = TripleFile(file, duplicates=duplicates.value, columns=chosen, skip_bad=skip_bad, renames=words)
    if not len(triples):
        raise CommandError(f"{file}: it has no records; there is nothing to encode")
    return triples


def encoder_for(kb: Path, spec: str | None, api_key_env: str | None) -> Encoder:
    """The encoder asked for; else that of an existing knowledge base; else the default.

    Raises:
        CommandError: as `asked_encoder`.
    """
    from kblam.knowledge import load_encoder
    from kblam.knowledge.schema import is_blank

    if (asked := asked_encoder(kb, spec, api_key_env)) is not None:
        return asked
    if is_blank(kb):
        return load_encoder()
    with open_file(kb) as opened:
        return opened.encoder


def _print_report(kb: KnowledgeBase, report: BuildReport, seconds: float, as_json: bool, skipped: int) -> None:
    if as_json:
        print_json(
            {
                "knowledge_base": str(kb.path),
                "triples": len(kb),
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "cut": report.cut,
                "skipped": skipped,
                "seconds": round(seconds, 3),
                "encoder": kb.encoder_spec,
            }
        )
        return
    changes = f"{report.added:,} added, {report.updated:,} updated, {report.unchanged:,} unchanged"
    if skipped:
        changes += f"; {many(skipped, 'record')} left out"
    out.print(f"{kb.path}: {count_of(len(kb))} ({changes}) in {seconds:.1f} s", markup=False, soft_wrap=True)


def _nothing_like(kb: KnowledgeBase, name: str, property: str | None) -> str:
    if property is not None and (others := kb.find(name)):
        return f"{name!r} has no {property!r}; it has: {', '.join(triple.property for triple in others[:10])}"
    near = list(dict.fromkeys(triple.name for triple in kb.search(name, limit=20))) or _spelt_alike(kb, name)
    search = f"find names with `kblam kb list {quote(str(kb.path))} --search WORD`"
    hint = f"close names: {', '.join(near[:5])}" if near else search
    return f"there is no {name!r} in {kb.path}; {hint}"


def _spelt_alike(kb: KnowledgeBase, name: str) -> list[str]:
    """Names that a typing error may have been meant as, whatever their capitals; of many names none."""
    every = kb.names()
    names = {known.casefold(): known for known in every if len(every) <= _MOST_COMPARED}
    return [names[near] for near in difflib.get_close_matches(name.casefold(), names)]
