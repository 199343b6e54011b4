"""`kblam data questions`: question-answer sets about a base or documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from kblam.cli.data.extract import (
    BaseUrl,
    Concurrency,
    DocumentReader,
    KeyVariable,
    Megabytes,
    ModelThere,
    PieceSize,
    ReaderOption,
    Timeout,
    cut,
    read_all,
)
from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.files import check_is_no_source, open_file
from kblam.cli.loading import warn
from kblam.cli.options import MOST_QUESTIONS
from kblam.cli.output import err, print_json, progress_bar, waiting
from kblam.counts import many

if TYPE_CHECKING:
    from kblam.data.asking import Asked
    from kblam.data.asking.replies import Replies
    from kblam.data.endpoint import Endpoint
    from kblam.knowledge import Triple


def questions(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="A knowledge base, a file of triples, or documents; a workbook is a document with --base-url.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON Lines to write (.jsonl); default: stdout."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=MOST_QUESTIONS, help="How many.")] = 100,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=SHARE,...",
            help="single, pair (two facts), open (all about a thing), unanswerable; default: 0.55, 0.1, 0.1, 0.25.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the drawing; the same seed gives the same questions.")] = 0,
    refusal: Annotated[
        str | None, typer.Option("--refusal", help="Answer to what cannot be answered; default: the adapters' own.")
    ] = None,
    base_url: BaseUrl = "",
    model: ModelThere = "",
    api_key_env: KeyVariable = "OPENAI_API_KEY",
    concurrency: Concurrency = 4,
    timeout: Timeout = 120.0,
    piece: PieceSize = 4000,
    reader: ReaderOption = DocumentReader.markitdown,
    max_megabytes: Megabytes = 100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write questions with their answers: about a base from templates, without a model, or in a model's words.

    With --base-url a language model puts the questions about a base into words of its own. About documents it writes
    them, each with the words of the document that answer it.

    Interrupted? Run the same command again: the model's replies are in FILE.questions until FILE is written. Without
    --output they are kept nowhere.

    Example: kblam data questions facts.kb -o questions.jsonl --count 500
    """
    from kblam.adapter.config import REFUSAL
    from kblam.data.asking import parse_shares
    from kblam.data.endpoint import Endpoint

    if output is not None:
        check_is_no_source(output, sources)
        _check(output, overwrite=overwrite)
    if bool(base_url) != bool(model):
        raise CommandError("--base-url and --model go together: the endpoint and the name of the model there")
    shares = None if kinds is None else parse_shares(kinds)
    said = REFUSAL if refusal is None else refusal
    if not said.strip():
        raise CommandError("--refusal is empty; give the sentence that answers what cannot be answered")
    try:
        said.encode()
    except UnicodeEncodeError:
        raise CommandError("--refusal is not UTF-8; type it in a terminal that writes UTF-8") from None
    endpoint = Endpoint(base_url, model, api_key_env, timeout) if base_url else None
    if endpoint is not None and output is None:
        warn("without --output the model's replies are kept nowhere: a run that is stopped or fails asks for all again")
    with _replies_for(output if endpoint is not None else None) as replies:
        if _are_documents(sources, is_asked=endpoint is not None):
            if endpoint is None:
                raise CommandError(
                    "--base-url and --model are needed: questions about documents are written by a language model, as "
                    "are the triples that kblam data extract takes from them; a table needs none: make a base of it "
                    "with kblam kb build"
                )
            from kblam.data.asking import about_documents

            pieces = cut(read_all(sources, reader, max_megabytes), piece)
            with progress_bar("asking") as progress:
                written = about_documents(
                    pieces,
                    count,
                    endpoint,
                    shares=shares,
                    seed=seed,
                    refusal=said,
                    concurrency=concurrency,
                    replies=replies,
                    progress=progress,
                )
            found = written.questions
            for why, number in written.refused.most_common():
                _note(f"refused: {number:,} with {why}")
        else:
            if len(sources) > 1:
                raise CommandError("give one knowledge base or one file of triples, or documents alone")
            from kblam.data.asking import about_base

            triples = _triples(sources[0])
            with waiting("drawing"):
                found = about_base(triples, count, shares=shares, seed=seed, refusal=said)
            if endpoint is not None:
                found = _rephrased(found, endpoint, concurrency, replies)
        if len(found) < count:
            warn(
                f"{many(len(found), 'different question')} where {count:,} were wanted: "
                "there are no more of these kinds"
            )
        _write(output, found, overwrite=overwrite)
        if replies is not None:
            replies.clear()


@contextmanager
def _replies_for(output: Path | None) -> Iterator[Replies | None]:
    """The journal beside a file that a model's questions go to; it goes when they are written."""
    from kblam.data.asking.replies import Replies
    from kblam.data.journal import beside

    if output is None:
        yield None
        return
    with Replies(beside(output, ".questions")) as replies:
        try:
            yield replies
        except KeyboardInterrupt:
            if not len(replies):
                raise
            raise InterruptedWorkError(
                f"interrupted; {many(len(replies), 'reply is', 'replies are')} in {replies.path}: "
                "run the same command again to go on"
            ) from None


def _check(output: Path, *, overwrite: bool) -> None:
    """Before a model is paid for: whether the questions can be kept there."""
    from kblam.knowledge.files.whole import check_target

    if output.suffix.lower() != ".jsonl":
        raise CommandError(f"{output}: questions are written as JSON Lines; name it .jsonl")
    check_target(output, overwrite=overwrite)


def _are_documents(sources: Sequence[Path], *, is_asked: bool) -> bool:
    """Whether a model is to read them; without one a workbook is a table of triples."""
    from kblam.data.documents import KINDS
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    suffixes = [source.suffix.lower() for source in sources]
    return all(suffix in KINDS and (is_asked or suffix not in FORMAT_OF_SUFFIX) for suffix in suffixes)


def _triples(source: Path) -> list[Triple]:
    from kblam.knowledge import TripleFile
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    if source.suffix.lower() in FORMAT_OF_SUFFIX and not source.is_dir():
        with waiting(f"reading {source}"):
            return list(TripleFile(source))
    with open_file(source) as kb:
        return list(kb.triples())


def _rephrased(found: list[Asked], endpoint: Endpoint, concurrency: int, replies: Replies | None) -> list[Asked]:
    from kblam.data.asking import rephrased

    with progress_bar("asking") as progress:
        done = rephrased(found, endpoint, concurrency=concurrency, replies=replies, progress=progress)
    if done.kept:
        _note(f"{done.kept:,} of {len(found):,} stay in the words of the templates: the model's cannot be used")
    for why, number in done.unanswered.items():
        _note(f"{number:,} of these were not answered: {why}")
    return done.questions


def _write(output: Path | None, found: Sequence[Asked], *, overwrite: bool) -> None:
    from kblam.knowledge.files.whole import whole_file

    if output is None:
        for asked in found:
            print_json(asked.to_record(), indent=None)
        return
    with whole_file(output, overwrite=overwrite) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for asked in found:
            file.write(json.dumps(asked.to_record(), ensure_ascii=False) + "\n")
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in Counter(asked.kind for asked in found).items())
    _note(f"{output}: {many(len(found), 'question')} ({kinds})")


def _note(line: str) -> None:
    err.print(Text(line), soft_wrap=True)
