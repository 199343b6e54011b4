"""`kblam data import`: knowledge that others have, as triples."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.files import check_is_no_source, file_of
from kblam.cli.kb.changing import Map, Renamed, check_is_no_base, encoder_for
from kblam.cli.options import AsJson, EncoderKey
from kblam.cli.output import err, out, print_json, progress_bar
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from kblam.data.importing import ImportReport

_SHOWN = 12


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files (.ttl .nt .nq .trig .n3 .rdf .jsonld, also .gz .bz2 .xz; .csv .tsv .xlsx .parquet .json "
            ".jsonl; .graphml; .lbug), folders of GraphRAG, LightRAG or LlamaIndex, and databases: neo4j://HOST, "
            "bolt://HOST, nebula://METAD/SPACE.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="KB|FILE", help="A knowledge base; or triples: .jsonl, .json, .csv, .tsv."
        ),
    ],
    columns: Map = None,
    renames: Renamed = None,
    names: Annotated[
        Path | None,
        typer.Option("--names", metavar="FILE", help="A table that names the ids in an edge list."),
    ] = None,
    id_column: Annotated[str, typer.Option("--id", metavar="COLUMN", help="The column of ids in --names.")] = "id",
    languages: Annotated[
        str,
        typer.Option(
            "--languages",
            help="Of texts that have one: the first stays plain, others get their tag; * stands for all others.",
        ),
    ] = "en,*",
    query: Annotated[
        str | None,
        typer.Option("--query", "-q", help="Cypher, for a database: its columns are read as those of a table."),
    ] = None,
    skip_bad: Annotated[
        Path | None,
        typer.Option("--skip-bad", metavar="FILE", help="Leave out rows that cannot be read, and write them here."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop, with nothing written, if anything would be left out.")
    ] = False,
    encoder: Annotated[
        str | None, typer.Option("--encoder", "-e", help="As kblam kb build takes it; not for a file of triples.")
    ] = None,
    api_key_env: EncoderKey = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Triples a transaction: what an interruption can lose.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file of triples.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read RDF, tables, graphs and databases into a knowledge base, or into a file of triples.

    Everything is read before anything is written, so a bad row costs nothing; what is left out is counted, by reason.
    Interrupted? Run the same command again: it goes on where it stopped.

    Example: kblam data import dump.nt.gz -o facts.kb
    """
    from kblam.data.importing import BadRows, Languages, import_into, open_sources, parse_renames
    from kblam.knowledge import Columns
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    began = time.monotonic()
    is_file = output.suffix.lower() in FORMAT_OF_SUFFIX
    for option, given in (("--encoder", encoder), ("--api-key-env", api_key_env)):
        if is_file and given is not None:
            raise CommandError(f"{option} is for a knowledge base, and {output} is a file of triples")
    if strict and skip_bad is not None:
        raise CommandError("--strict and --skip-bad FILE contradict each other; choose one")
    for source in sources:
        check_is_no_base(Path(source))
    check_is_no_source(output, sources)
    opened = open_sources(
        sources,
        columns=Columns.parse(columns) if columns else None,
        query=query,
        nodes=names,
        id_column=id_column,
    )
    if skip_bad is not None and os.path.realpath(skip_bad) == os.path.realpath(output):
        raise CommandError(f"--skip-bad and --output are one file, {output}; name another for the rows")
    other_words = parse_renames(renames or ())
    wanted = Languages([tag.strip() for tag in languages.split(",") if tag.strip()])
    target = output if is_file else file_of(output)
    bad_rows = None if skip_bad is None else BadRows(skip_bad)
    try:
        with progress_bar("importing") as progress:
            report = import_into(
                target,
                opened,
                None if is_file else encoder_for(target, encoder, api_key_env),
                languages=wanted,
                renames=other_words,
                bad_rows=bad_rows,
                strict=strict,
                overwrite=overwrite,
                batch_size=batch_size,
                progress=progress,
            )
    except KeyboardInterrupt:
        nothing = is_file or not target.exists()
        kept = "nothing was written" if nothing else f"what was encoded before is kept in {target}"
        raise InterruptedWorkError(f"interrupted; {kept}: run the same command again to go on") from None
    finally:
        if bad_rows is not None:
            bad_rows.close()
    _print(report, target, skip_bad, time.monotonic() - began, as_json)


def _print(report: ImportReport, target: Path, skip_bad: Path | None, seconds: float, as_json: bool) -> None:
    if as_json:
        print_json(_record(report, target, seconds))
        return
    lines = report.losses[:_SHOWN]
    if (more := len(report.losses) - _SHOWN) > 0:
        lines.append(f"and {many(more, 'more reason')}")
    if lines:
        err.print("left out:", style="yellow")
        for line in lines:
            err.print(f"  {line}", style="yellow", markup=False, soft_wrap=True)
    if report.bad:
        told = many(report.bad, "row that cannot be read is", "rows that cannot be read are")
        err.print(f"{told} in {skip_bad}", style="yellow", markup=False, soft_wrap=True)
    for note in _notes(report):
        err.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    changes, read = "", many(report.read, "fact", "facts")
    if (built := report.build) is not None:
        changes = f" ({built.added:,} added, {built.updated:,} updated, {built.unchanged:,} unchanged)"
    out.print(
        f"{target}: {count_of(report.triples)}{changes} of {read} read, in {seconds:.1f} s",
        markup=False,
        soft_wrap=True,
    )


def _notes(report: ImportReport) -> list[str]:
    notes = []
    if report.several:
        told = many(report.several, "property has", "properties have")
        notes.append(f"{told} several values, which were joined")
    if report.repeated:
        notes.append(f"{many(report.repeated, 'value was', 'values were')} said again")
    if report.unnamed:
        notes.append(f"{many(report.unnamed, 'thing has', 'things have')} no name but an id, and that was taken")
    if report.told_apart:
        notes.append(
            f"{many(report.told_apart, 'thing shares', 'things share')} a name with another: an id stands behind it"
        )
    return notes


def _record(report: ImportReport, target: Path, seconds: float) -> dict[str, Any]:
    built = report.build
    return {
        "output": str(target),
        "sources": report.sources,
        "read": report.read,
        "triples": report.triples,
        "dropped": report.dropped,
        "bad": report.bad,
        "several": report.several,
        "repeated": report.repeated,
        "unnamed": report.unnamed,
        "told_apart": report.told_apart,
        "added": None if built is None else built.added,
        "updated": None if built is None else built.updated,
        "unchanged": None if built is None else built.unchanged,
        "seconds": round(seconds, 3),
    }
