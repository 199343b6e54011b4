"""`kblam kb`: build a knowledge base, change it, look into it. Loads neither torch nor an encoder to look."""

from __future__ import annotations

import time
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.options import AsJson, KnowledgeFile
from kblam.cli.output import out, print_json, progress_bar, visible, waiting

if TYPE_CHECKING:
    from kblam.knowledge import BuildReport, Encoder, KnowledgeBase

_ROWS_AT_ONCE = 1000

app = typer.Typer(help="Build, change and look into a knowledge base.", no_args_is_help=True)


class Duplicates(str, Enum):
    """What two different triples with one name and property in a file mean."""

    error = "error"
    last = "last"


@app.command("build")
def build(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Triples: .json, .jsonl, .csv or .tsv.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="KB", help="The knowledge base file to write.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="minilm, a sentence-transformers name or folder, or openai:MODEL (its key: --api-key-env). "
            "Default: minilm. An existing knowledge base keeps its own, which is named here again if it is another.",
        ),
    ] = None,
    duplicates: Annotated[
        Duplicates, typer.Option(help="Two values for one fact in the file: refuse it, or keep the last.")
    ] = Duplicates.error,
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key of an openai: encoder.")
    ] = "OPENAI_API_KEY",
    batch_size: Annotated[int, typer.Option(min=1, help="Triples a transaction: what an interruption can lose.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Encode a file of triples into a knowledge base, or bring one up to date with it.

    Interrupted? Run the same command again: it goes on where it stopped. Triples that are there and not in the file
    stay.

    Example: kblam kb build facts.jsonl -o facts.kb
    """
    from kblam.knowledge import build as build_file

    if not file.is_file():
        raise CommandError(f"there is no file {file}; give a file of triples (.json, .jsonl, .csv, .tsv)")
    began = time.monotonic()
    try:
        with progress_bar("encoding") as progress:
            maker = _encoder_for(output, encoder, api_key_env)
            report = build_file(
                output, file, maker, batch_size=batch_size, duplicates=duplicates.value, progress=progress
            )
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            f"interrupted; what was encoded is kept in {output}: run the same command again to go on"
        ) from None
    with _open(output) as kb:
        _print_report(kb, report, time.monotonic() - began, as_json)


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
    as_json: AsJson = False,
) -> None:
    """Add triples to a knowledge base; the value of a (name, property) that is there already is replaced.

    Example: kblam kb add facts.kb --name "Amber Falcon" --property capital --value Zirconia
    """
    from kblam.knowledge import Triple, check_triples, load_encoder, read_triples
    from kblam.knowledge.triples import DEFAULT_PROPERTY

    one = name is not None or property is not None or value is not None
    if (file is not None) == one:
        raise CommandError("give either a FILE of triples, or one triple by --name, --property and --value")
    if one and (name is None or value is None):
        raise CommandError(f"{'--name' if name is None else '--value'} is missing: a triple needs both")
    began = time.monotonic()
    with _open(kb, read_only=False, encoder=load_encoder(encoder) if encoder else None) as opened:
        if file is None:
            triple = Triple(name or "", DEFAULT_PROPERTY if property is None else property, value or "")
            with waiting("encoding"):
                report = opened.add(triple)
        else:
            total = check_triples(file)
            with progress_bar("encoding") as progress:
                report = opened.update(read_triples(file), progress=progress, total=total)
        _print_report(opened, report, time.monotonic() - began, as_json)


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
        typer.Option("--search", "-s", help="Names that hold all these words, in any case."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=0, help="Triples to show at most; 0 shows all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show triples, oldest first, or the best matches of a search.

    Example: kblam kb list facts.kb --search falcon
    """
    with _open(kb) as opened:
        total = len(opened)
        most = limit or total
        found = list(islice(opened.triples(), most)) if search is None else opened.search(search, limit=most)
    if as_json:
        print_json({"knowledge_base": str(kb), "total": total, "triples": [triple.to_record() for triple in found]})
        return
    # A table is laid out as a whole, and a long one would take minutes.
    for start in range(0, max(1, len(found)), _ROWS_AT_ONCE):
        table = Table("name", "property", "value", box=None, header_style="bold", show_header=start == 0)
        for triple in found[start : start + _ROWS_AT_ONCE]:
            table.add_row(*map(_plain, (triple.name, triple.property, triple.value)))
        out.print(table)
    what = "shown" if search is None else f"found by {search!r}"
    out.print(f"{len(found):,} {what}, {_count(total)} in all", style="dim", markup=False)


@app.command("info")
def info(kb: KnowledgeFile, as_json: AsJson = False) -> None:
    """Show what a knowledge base is: its size, its encoder, its revision.

    Example: kblam kb info facts.kb
    """
    with _open(kb) as opened:
        path = opened.path
        facts: dict[str, Any] = {
            "path": str(path),
            "triples": len(opened),
            "encoder": opened.encoder_spec,
            "fingerprint": opened.fingerprint,
            "dimension": opened.dimension,
            "revision": opened.revision,
            "bytes": path.stat().st_size if path else 0,
        }
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False)
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), _plain(f"{value:,}" if isinstance(value, int) else value))
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


def file_of(kb: Path) -> Path:
    """The knowledge base file that a path means: itself, or the one in a model folder."""
    if kb.is_dir():
        from kblam.folder import KNOWLEDGE, is_model_folder

        if is_model_folder(kb):
            return kb / KNOWLEDGE
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


def _print_report(kb: KnowledgeBase, report: BuildReport, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "knowledge_base": str(kb.path),
                "triples": len(kb),
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "cut": report.cut,
                "seconds": round(seconds, 3),
                "encoder": kb.encoder_spec,
            }
        )
        return
    changes = f"{report.added:,} added, {report.updated:,} updated, {report.unchanged:,} unchanged"
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
