"""Looking into a knowledge base: its triples, written back, and whether they are as they were written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam.cli.files import check_is_no_source, open_file
from kblam.cli.options import AsJson, KnowledgeFile
from kblam.cli.output import err, out, print_json, progress_bar, waiting
from kblam.cli.tables import Rows
from kblam.counts import count_of

if TYPE_CHECKING:
    from kblam.knowledge import Triple

_ROWS_AT_ONCE = 1000


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
    with open_file(kb) as opened:
        total = len(opened)
        most = min(limit, total) or total
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
    told = [f"{first}{len(found):,} {what}, {count_of(total)} in all"]
    if search is None and len(found) < total:
        told.append("--limit 0 shows all")
    if rows.is_cut:
        told.append("--json shows texts whole")
    out.print("; ".join(told), style="dim", markup=False, soft_wrap=True)


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

    if output is not None:
        check_is_no_source(output, [kb])
    with open_file(kb) as opened:
        if output is None:
            for triple in opened.triples():
                print_json(triple.to_record(), indent=None)
            return
        with progress_bar("writing") as progress:
            count = write_triples(output, _counted(opened.triples(), len(opened), progress), overwrite=overwrite)
    err.print(f"{output}: {count_of(count)}", markup=False, soft_wrap=True)


def check(kb: KnowledgeFile, as_json: AsJson = False) -> None:
    """Read all of a knowledge base and say whether it is as it was written.

    Exit status 0 when it is; 2, with the place, when it is damaged. Nothing is changed.

    Example: kblam kb check facts.kb
    """
    with open_file(kb) as opened, waiting("reading everything"):
        opened.check()
        triples, checked = len(opened), opened.has_checksums
    if as_json:
        print_json({"knowledge_base": str(kb), "triples": triples, "checksums": checked})
        return
    out.print(f"{kb}: {count_of(triples)}, all as written", markup=False, soft_wrap=True)
    if not checked:
        hint = "an older kblam wrote it, without checksums; it gets them when it is next opened to be changed"
        out.print(hint, style="dim", soft_wrap=True)


def _counted(triples: Iterator[Triple], total: int, progress: Callable[[int, int], None]) -> Iterator[Triple]:
    for done, triple in enumerate(triples, start=1):
        yield triple
        if done % _ROWS_AT_ONCE == 0:
            progress(done, total)
