"""`kblam kb`: build a knowledge base, change it, look into it. Loads neither torch nor an encoder to look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from kblam.cli.errors import CommandError, Commands, InterruptedWorkError
from kblam.cli.options import AsJson, KnowledgeFile
from kblam.cli.output import err, out, print_json, progress_bar, size_of, visible, waiting
from kblam.cli.tables import Rows

if TYPE_CHECKING:
    from kblam.knowledge import BuildReport, Encoder, KnowledgeBase, Triple, TripleFile

_ROWS_AT_ONCE = 1000
_PROPERTIES_SHOWN = 6

app = typer.Typer(cls=Commands, help="Build, change and look into a knowledge base.", no_args_is_help=True)


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
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out records that cannot be read, and say how many and where.")
]


@app.command("build")
def build(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Triples: .json, .jsonl, .csv or .tsv.")],
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
    skip_bad: SkipBad = False,
    duplicates: Repeated = Duplicates.error,
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key of an openai: encoder.")
    ] = "OPENAI_API_KEY",
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

    if not file.is_file():
        raise CommandError(f"there is no file {file}; give a file of triples (.json, .jsonl, .csv, .tsv)")
    output = file_of(output)
    began = time.monotonic()
    triples = _read(file, columns, skip_bad, duplicates)
    try:
        with progress_bar("encoding") as progress:
            maker = _encoder_for(output, encoder, api_key_env)
            report = build_file(output, triples, maker, batch_size=batch_size, progress=progress)
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            f"interrupted; what was encoded is kept in {output}: run the same command again to go on"
        ) from None
    with _open(output) as kb:
        _print_report(kb, report, time.monotonic() - began, as_json, triples.skipped)


@app.command("add")
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
    skip_bad: SkipBad = False,
    duplicates: Repeated = Duplicates.error,
    as_json: AsJson = False,
) -> None:
    """Add triples to a knowledge base; the value of a (name, property) that is there already is replaced.

    Example: kblam kb add facts.kb --name "Amber Falcon" --property capital --value Zirconia
    """
    from kblam.knowledge import Triple, load_encoder
    from kblam.knowledge.triples import DEFAULT_PROPERTY

    one = name is not None or property is not None or value is not None
    if (file is not None) == one:
        raise CommandError("give either a FILE of triples, or one triple by --name, --property and --value")
    if one and (name is None or value is None):
        raise CommandError(f"{'--name' if name is None else '--value'} is missing: a triple needs both")
    if one and (columns or skip_bad or duplicates is not Duplicates.error):
        raise CommandError("--map, --skip-bad and --duplicates are for a FILE of triples")
    began = time.monotonic()
    triples = None if file is None else _read(file, columns, skip_bad, duplicates)
    with _open(kb, read_only=False, encoder=load_encoder(encoder) if encoder else None) as opened:
        if triples is None:
            triple = Triple(name or "", DEFAULT_PROPERTY if property is None else property, value or "")
            with waiting("encoding"):
                report = opened.add(triple)
        else:
            with progress_bar("encoding") as progress:
                report = opened.update(triples, progress=progress)
        _print_report(opened, report, time.monotonic() - began, as_json, 0 if triples is None else triples.skipped)


@app.command("remove")
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
    with _open(kb, read_only=False) as opened:
        count = opened.remove(name, property)
        if not count:
            raise CommandError(_nothing_like(opened, name, property))
        if as_json:
            print_json({"knowledge_base": str(opened.path), "removed": count, "triples": len(opened)})
        else:
            out.print(f"removed {_count(count)}; {_count(len(opened))} left in {opened.path}", markup=False)


@app.command("list")
def list_triples(
    kb: KnowledgeFile,
    search: Annotated[
        str | None,
        typer.Option("--search", "-s", help="Triples that hold all these words, in any case; names come first."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=0, help="Triples to show at most; 0 shows all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show triples, oldest first, or the best matches of a search.

    On a screen, texts are cut to its width. A file or a pipe gets them whole.

    Example: kblam kb list facts.kb --search falcon
    """
    with _open(kb) as opened:
        total = len(opened)
        most = limit or total
        if search is None:
            found = list(islice(opened.triples(), most))
        else:
            found = opened.search(search, limit=most, everywhere=True)
    if as_json:
        print_json({"knowledge_base": str(kb), "total": total, "triples": [triple.to_record() for triple in found]})
        return
    rows = Rows(("name", "property", "value"), [(triple.name, triple.property, triple.value) for triple in found])
    for line in rows.lines():
        out.print(line, soft_wrap=True)
    first = "the first " if search is not None and limit and len(found) == limit else ""
    what = "shown" if search is None else f"found by {search!r}"
    told = [f"{first}{len(found):,} {what}, {_count(total)} in all"]
    if search is None and len(found) < total:
        told.append("--limit 0 shows all")
    if rows.is_cut:
        told.append("--json shows texts whole")
    out.print("; ".join(told), style="dim", markup=False)


@app.command("export")
def export(
    kb: KnowledgeFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write (.jsonl, .json, .csv, .tsv); default: stdout."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write all triples to a file that `kblam kb build` reads back as they are; without a file, JSON Lines to stdout.

    The file is written completely or not at all.

    Example: kblam kb export facts.kb -o facts.jsonl
    """
    from kblam.knowledge import write_triples

    with _open(kb) as opened:
        if output is None:
            for triple in opened.triples():
                print_json(triple.to_record(), indent=None)
            return
        with progress_bar("writing") as progress:
            count = write_triples(output, _counted(opened.triples(), len(opened), progress), overwrite=overwrite)
    err.print(f"{output}: {_count(count)}", markup=False, soft_wrap=True)


@app.command("info")
def info(kb: KnowledgeFile, as_json: AsJson = False) -> None:
    """Show what a knowledge base holds: how many triples, names and properties, which encoder, how large, how old.

    Example: kblam kb info facts.kb
    """
    with _open(kb) as opened, waiting("reading"):
        path = opened.path
        assert path is not None
        names, properties = opened.distinct()
        common = opened.properties(most=_PROPERTIES_SHOWN)
        changed = datetime.fromtimestamp(_changed(path)).astimezone()
        facts: dict[str, Any] = {
            "path": str(path),
            "triples": len(opened),
            "names": names,
            "properties": properties,
            "encoder": opened.encoder_spec,
            "fingerprint": opened.fingerprint,
            "dimension": opened.dimension,
            "revision": opened.revision,
            "changed": changed.isoformat(timespec="seconds"),
            "bytes": path.stat().st_size,
        }
    if as_json:
        print_json(facts)
        return
    triples = facts["triples"]
    most = ("; most often " if properties > len(common) else ": ") + ", ".join(common) if common else ""
    each = f", {size_of(facts['bytes'] / triples)} a triple" if triples >= _ROWS_AT_ONCE else ""
    shown = {
        "file": str(path),
        "triples": f"{triples:,}, about {names:,} name{'' if names == 1 else 's'}",
        "properties": f"{properties:,}{most}",
        "encoder": f"{facts['encoder']}, vectors of {facts['dimension']:,} numbers",
        "fingerprint": facts["fingerprint"],
        "size": f"{size_of(facts['bytes'])}{each}",
        "changed": f"{changed:%Y-%m-%d %H:%M} (revision {facts['revision']:,})",
    }
    table = Table(box=None, show_header=False)
    for key, value in shown.items():
        table.add_row(key, _plain(value))
    out.print(table)


@app.command("check")
def check(kb: KnowledgeFile, as_json: AsJson = False) -> None:
    """Read all of a knowledge base and say whether it is as it was written.

    Exit status 0 when it is; 2, with the place, when it is damaged. Nothing is changed.

    Example: kblam kb check facts.kb
    """
    with _open(kb) as opened, waiting("reading everything"):
        opened.check()
        triples, checked = len(opened), opened.has_checksums
    if as_json:
        print_json({"knowledge_base": str(kb), "triples": triples, "checksums": checked})
        return
    out.print(f"{kb}: {_count(triples)}, all as written", markup=False, soft_wrap=True)
    if not checked:
        hint = "an older kblam wrote it, without checksums; it gets them when it is next opened to be changed"
        out.print(hint, style="dim")


def _read(file: Path, columns: list[str] | None, skip_bad: bool, duplicates: Duplicates) -> TripleFile:
    """The file after it was read once from end to end, so that a bad line costs nothing."""
    from kblam.knowledge import Columns, TripleFile

    chosen = Columns.parse(columns) if columns else None
    with waiting(f"reading {file}"):
        return TripleFile(file, duplicates=duplicates.value, columns=chosen, skip_bad=skip_bad)


def _counted(triples: Iterator[Triple], total: int, progress: Callable[[int, int], None]) -> Iterator[Triple]:
    for done, triple in enumerate(triples, start=1):
        yield triple
        if done % _ROWS_AT_ONCE == 0:
            progress(done, total)


def _changed(path: Path) -> float:
    """When the file was written last; what was written since the log was last emptied is in the log."""
    log = path.with_name(path.name + "-wal")
    times = [file.stat().st_mtime for file in (path, log) if file.exists() and file.stat().st_size]
    return max(times, default=0.0)


def file_of(kb: Path) -> Path:
    """The knowledge base file that a path means: itself, or the one in a model folder.

    Raises:
        CommandError: it is a file of triples, or another folder.
    """
    if kb.is_dir():
        from kblam.folder.manifest import KNOWLEDGE, is_model_folder

        if is_model_folder(kb):
            return kb / KNOWLEDGE
        found = sorted(one.name for one in kb.glob("*.kb"))
        hint = f"did you mean {kb / found[0]}?" if found else f"for a new one: kblam kb build FILE -o {kb / 'facts.kb'}"
        raise CommandError(f"{kb} is a folder, and a knowledge base is a file; {hint}")
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    if kb.suffix.lower() in FORMAT_OF_SUFFIX and kb.is_file():
        raise CommandError(
            f"{kb} is a file of triples; make a knowledge base of it first: kblam kb build {kb} -o "
            f"{kb.with_suffix('.kb')}"
        )
    return kb


def _open(kb: Path, *, read_only: bool = True, encoder: Encoder | None = None) -> KnowledgeBase:
    from kblam.knowledge import KnowledgeBase

    return KnowledgeBase.open(file_of(kb), encoder, read_only=read_only)


def _encoder_for(kb: Path, spec: str | None, api_key_env: str) -> Encoder:
    """The encoder asked for; else that of an existing knowledge base; else the default."""
    from kblam.knowledge import load_encoder
    from kblam.knowledge.schema import is_blank

    if spec is not None:
        return load_encoder(spec, api_key_env=api_key_env)
    if is_blank(kb):
        return load_encoder()
    with _open(kb) as opened:
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
        changes += f"; {skipped:,} record{'' if skipped == 1 else 's'} left out"
    out.print(f"{kb.path}: {_count(len(kb))} ({changes}) in {seconds:.1f} s", markup=False, soft_wrap=True)


def _nothing_like(kb: KnowledgeBase, name: str, property: str | None) -> str:
    if property is not None and (others := kb.find(name)):
        return f"{name!r} has no {property!r}; it has: {', '.join(triple.property for triple in others[:10])}"
    near = list(dict.fromkeys(triple.name for triple in kb.search(name, limit=20)))
    hint = f"close names: {', '.join(near[:5])}" if near else f"find names with `kblam kb list {kb.path} --search WORD`"
    return f"there is no {name!r} in {kb.path}; {hint}"


def _count(triples: int) -> str:
    return f"{triples:,} triple{'' if triples == 1 else 's'}"


def _plain(value: object) -> Any:
    """A cell whose brackets are brackets, not rich markup, and whose control characters have a width."""
    from rich.text import Text

    return Text(visible(str(value)))
