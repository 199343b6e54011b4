"""`kblam data export`: a base for other tools, and questions as a training or evaluation set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from kblam.cli.errors import CommandError
from kblam.cli.files import check_is_no_source, open_file
from kblam.cli.output import err, waiting
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kblam.knowledge import Triple


Some = TypeVar("Some")


class Form(str, Enum):
    """Of a set of questions."""

    plain = "plain"
    alpaca = "alpaca"
    sharegpt = "sharegpt"
    messages = "messages"
    ragas = "ragas"


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A knowledge base, a file of triples, or with --as one of questions."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A base: .ttl .nt .graphml .md .csv .tsv .jsonl .json. Questions: .json .jsonl .csv .parquet.",
        ),
    ],
    form: Annotated[
        Form | None,
        typer.Option("--as", help="Write questions, in this form. Of a base these are its example questions."),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option("--splits", metavar="NAME=SHARE,...", help="A file for each split: train=0.9,test=0.1."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the splits.")] = 0,
    with_contexts: Annotated[
        bool, typer.Option("--with-contexts", help="Put the facts into the prompts of alpaca, sharegpt and messages.")
    ] = False,
    base_iri: Annotated[
        str, typer.Option("--base-iri", help="What the ids of things and properties begin with in RDF.")
    ] = "urn:kblam:",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a base for other tools (RDF, GraphML, Markdown, CSV), or questions as a training or evaluation set.

    Files are written completely or not at all. What a format has no place for is said.

    Example: kblam data export facts.kb -o facts.ttl
    """
    if form is not None:
        _export_questions(source, output, form, splits, seed, with_contexts, overwrite)
        return
    if splits is not None or with_contexts:
        raise CommandError("--splits and --with-contexts are for questions: choose their form with --as")
    from kblam.data.exporting import check_export, export_base

    check_is_no_source(output, [source])
    check_export(output, base_iri=base_iri, overwrite=overwrite)
    with _triples(source) as triples, waiting("writing"):
        count, lost = export_base(output, triples, base_iri=base_iri, overwrite=overwrite)
    for one in lost:
        err.print(f"not written: {one}", style="yellow", markup=False, soft_wrap=True)
    err.print(f"{output}: {count_of(count)}", markup=False, soft_wrap=True)


def _export_questions(
    source: Path, output: Path, form: Form, splits: str | None, seed: int, with_contexts: bool, overwrite: bool
) -> None:
    from kblam.data.exporting import example_questions, export_splits, file_of_split, read_questions
    from kblam.knowledge.files.lines import check_is_file

    shares = _shares(splits) if splits is not None else {"": 1.0}
    for name in shares:
        check_is_no_source(file_of_split(output, name), [source])
    options = {"form": form.value, "with_contexts": with_contexts, "overwrite": overwrite, "seed": seed}
    if _is_base(source):
        with open_file(source) as kb, waiting("writing"):
            no_examples = (
                f"no triple of {source} has an example question; kblam data questions {quote(str(source))} -o "
                "questions.jsonl asks about any base, and its file can be exported"
            )
            examples = _some(example_questions(kb.triples()), no_examples)
            counts = export_splits(output, examples, shares, **options)  # type: ignore[arg-type]
    else:
        check_is_file(source)
        with waiting("writing"):
            questions = _some(read_questions(source), f"{source}: it has no records; there is no question to export")
            counts = export_splits(output, questions, shares, **options)  # type: ignore[arg-type]
    if form is not Form.plain:
        contexts = "" if with_contexts or form is Form.ragas else "contexts (--with-contexts writes them), "
        lost = f"not written: {contexts}kind, group, sources and names, for which {form.value} has no place"
        err.print(lost, style="yellow", markup=False, soft_wrap=True)
    for name, count in counts.items():
        err.print(f"{file_of_split(output, name)}: {many(count, 'question')}", markup=False, soft_wrap=True)


def _some(all_of: Iterable[Some], nothing: str) -> Iterator[Some]:
    """All of them.

    Raises:
        CommandError: there are none.
    """
    is_empty = True
    for one in all_of:
        is_empty = False
        yield one
    if is_empty:
        raise CommandError(nothing)


@contextmanager
def _triples(source: Path) -> Iterator[Iterable[Triple]]:
    from kblam.knowledge import TripleFile

    if _is_base(source):
        with open_file(source) as kb:
            yield kb.triples()
    else:
        yield _some(TripleFile(source), f"{source}: it has no records; there is no triple to export")


def _is_base(source: Path) -> bool:
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    return source.suffix.lower() not in FORMAT_OF_SUFFIX


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not name.isidentifier() or not equals or number < 0 or name in shares:
            raise CommandError(
                f"{part.strip()!r} is no split; write NAME=SHARE with commas between: train=0.9,test=0.1"
            )
        shares[name] = number
    return shares
