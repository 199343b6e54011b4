"""`kblam data extract`: triples out of documents, each with the place that says it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from kblam.cli.errors import FAILED, CommandError, InterruptedWorkError
from kblam.cli.files import check_is_no_source, file_of, open_file
from kblam.cli.loading import warn
from kblam.cli.options import AsJson
from kblam.cli.output import err, print_json, progress_bar, waiting
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from kblam.data.documents import Document, Piece
    from kblam.data.documents.reading import Reader
    from kblam.data.endpoint import Endpoint
    from kblam.data.extracting import Extraction, Prices
    from kblam.knowledge import KnowledgeBase, Triple

_SHOWN = 5


class DocumentReader(str, Enum):
    """What makes text of documents that are none."""

    markitdown = "markitdown"
    docling = "docling"


Documents = Annotated[
    list[Path],
    typer.Argument(metavar="DOCS...", help="Documents: .md, .txt, .html, .pdf, .docx, .pptx, .xlsx."),
]
BaseUrl = Annotated[str, typer.Option("--base-url", help="OpenAI-compatible endpoint, up to and including /v1.")]
ModelThere = Annotated[str, typer.Option("--model", "-m", help="Name of the model there.")]
KeyVariable = Annotated[
    str,
    typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds the key, if one is needed."),
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests at a time.")]
PieceSize = Annotated[int, typer.Option("--piece", min=200, help="Characters of a piece that is asked about at most.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds of one request.")]
MostTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Length limit of a reply.")]
Prices_ = Annotated[
    str | None,
    typer.Option(
        "--prices", metavar="IN,OUT", help="What a million tokens cost, of prompts and of replies: shows the cost."
    ),
]
ReaderOption = Annotated[
    DocumentReader, typer.Option("--reader", help="What reads documents that are not text; docling is an extra.")
]
Megabytes = Annotated[int, typer.Option("--max-megabytes", min=1, help="A larger document is refused.")]


def extract(
    documents: Documents,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|KB",
            help="Triples to write (.jsonl, .json, .csv, .tsv), or a knowledge base (.kb).",
        ),
    ],
    base_url: BaseUrl = "",
    model: ModelThere = "",
    api_key_env: KeyVariable = "OPENAI_API_KEY",
    concurrency: Concurrency = 4,
    piece: PieceSize = 4000,
    timeout: Timeout = 120.0,
    max_tokens: MostTokens = None,
    prices: Prices_ = None,
    reader: ReaderOption = DocumentReader.markitdown,
    max_megabytes: Megabytes = 100,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read and cut the documents, say how many requests they take, ask nothing."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that another command wrote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a language model extract triples from documents, each with the document, the page and the words that say it.

    A fact whose quote is not in the document is refused. The same fact of several places becomes one triple with
    several sources, and spellings of a name become one; what was put together is said.

    Interrupted, or pieces failed? Run the same command again: what was extracted is in FILE.extract and is not asked
    again.

    Example: kblam data extract handbook.pdf notes.md -o facts.jsonl --base-url http://127.0.0.1:8000/v1 --model MODEL
    """
    from kblam.data.endpoint import Endpoint
    from kblam.data.extracting import extract as run
    from kblam.data.extracting.journal import Journal
    from kblam.data.journal import beside

    began = time.monotonic()
    target = _target(output)
    check_is_no_source(target, documents)
    journal_file = beside(target, ".extract")
    is_base = not _is_file_of_triples(target)
    if not is_base and target.exists() and not journal_file.exists() and not overwrite:
        raise CommandError(f"{target}: there is a file already; --overwrite replaces it")
    _check(target, is_base=is_base)
    costs = parsed_prices(prices)
    if not dry_run and not (base_url and model):
        raise CommandError("--base-url and --model are needed: a language model extracts; --dry-run asks nothing")
    read = read_all(documents, reader, max_megabytes)
    pieces = cut(read, piece)
    if dry_run:
        _tell_plan(read, pieces, as_json)
        return
    endpoint = Endpoint(base_url, model, api_key_env, timeout)
    with Journal(journal_file) as journal:
        try:
            with progress_bar("extracting") as progress:
                done = run(
                    pieces, endpoint, journal, concurrency=concurrency, most_tokens=max_tokens, progress=progress
                )
        except KeyboardInterrupt:
            kept = f"{many(len(journal), 'piece is', 'pieces are')} in {journal_file}"
            raise InterruptedWorkError(
                f"interrupted; {kept if len(journal) else 'no piece is done yet'}: run the same command again to go on"
            ) from None
    _check_gave_something(done, target, endpoint)
    _write(target, done.merged.triples, is_base=is_base)
    _tell(target, read, done, costs, time.monotonic() - began, as_json)
    if done.failed:
        raise typer.Exit(FAILED)


def _check_gave_something(done: Extraction, target: Path, endpoint: Endpoint) -> None:
    """Where no piece gave anything, a file without a fact would take the place of one that has some.

    Raises:
        DataServerError: so it is.
    """
    from kblam.errors import DataServerError

    if done.failed and len(done.failed) == done.pieces:
        piece, why = done.failed[-1]
        which = "the only piece" if done.pieces == 1 else f"any of {done.pieces:,} pieces"
        raise DataServerError(
            f"{endpoint.model} at {endpoint.base_url} gave nothing that can be used for {which}, so {target} was not "
            f"written; the last one: {piece}: {why}"
        )


def read_all(documents: Sequence[Path], reader: DocumentReader, megabytes: int) -> list[Document]:
    """The documents, each once, under names that differ.

    Raises:
        DocumentError: some cannot be read; it names all of them.
    """
    from kblam.data.documents import Converter, read_document
    from kblam.errors import DocumentError

    given: dict[Path, Path] = {}
    for path in documents:
        given.setdefault(Path(os.path.realpath(path)), path)
    files = list(given)
    if len(files) < len(documents):
        warn(
            f"{many(len(documents) - len(files), 'of the documents is', 'of the documents are')} given twice; "
            "each is read once"
        )
    names = [file.name for file in files]
    found: list[Document] = []
    troubles: list[DocumentError] = []
    texts: dict[bytes, str] = {}
    by: Reader = "docling" if reader is DocumentReader.docling else "markitdown"
    with waiting("reading"), Converter() as converter:
        for file in files:
            name = file.name if names.count(file.name) == 1 else str(given[file])
            try:
                document = read_document(file, name=name, reader=by, most_bytes=megabytes * 2**20, converter=converter)
            except DocumentError as error:
                troubles.append(error)
                continue
            digest = blake2b(document.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            first = texts.setdefault(digest, name)
            if first != name:
                warn(f"{name} holds the same text as {first} and is left out")
                continue
            found.append(document)
    if len(troubles) > 1:
        told = "; ".join(map(str, troubles))
        raise DocumentError(f"{len(troubles):,} of {many(len(files), 'document', 'documents')} cannot be read: {told}")
    if troubles:
        raise troubles[0]
    return found


def cut(documents: Sequence[Document], size: int) -> list[Piece]:
    """All pieces of all documents."""
    from kblam.data.documents import pieces_of

    return [piece for document in documents for piece in pieces_of(document, size)]


def parsed_prices(text: str | None) -> Prices | None:
    """Two numbers with a comma between.

    Raises:
        CommandError: it is something else.
    """
    from kblam.data.extracting import Prices

    if text is None:
        return None
    try:
        prompt, reply = (float(part) for part in text.split(","))
        if not (0 <= prompt < 1e9 and 0 <= reply < 1e9):
            raise ValueError
    except ValueError:
        raise CommandError(
            f"--prices {text!r} is not two prices of a million tokens; write IN,OUT, such as 0.15,0.60"
        ) from None
    return Prices(prompt, reply)


def _target(output: Path) -> Path:
    return output if _is_file_of_triples(output) else file_of(output)


def _is_file_of_triples(output: Path) -> bool:
    from kblam.knowledge.files import FORMAT_OF_SUFFIX

    return output.suffix.lower() in FORMAT_OF_SUFFIX and not output.is_dir()


def _check(target: Path, *, is_base: bool) -> None:
    """Before a model is paid for: whether what it writes can be kept there."""
    from kblam.knowledge.files import check_written_to
    from kblam.knowledge.schema import is_blank
    from kblam.knowledge.target import check_base_target

    if not is_base:
        check_written_to(target)
        return
    check_base_target(target)
    if not is_blank(target):
        with open_file(target) as kb:
            _ = kb.encoder  # raises where it must be named, and that cannot be done here


def _write(target: Path, triples: Sequence[Triple], *, is_base: bool) -> None:
    from kblam.knowledge import build, load_encoder, write_triples
    from kblam.knowledge.schema import is_blank

    if not is_base:
        write_triples(target, triples)
        return
    if is_blank(target):
        with progress_bar("encoding") as progress:
            build(target, triples, load_encoder(), progress=progress)
        return
    with open_file(target, read_only=False) as kb, progress_bar("encoding") as progress:
        kb.update(_with_known_sources(kb, triples), progress=progress, total=len(triples))


def _with_known_sources(kb: KnowledgeBase, triples: Sequence[Triple]) -> Iterator[Triple]:
    """The triples with the sources that the base has for the same words, of other documents; other words are told."""
    from dataclasses import replace

    from kblam.knowledge.sources import MOST_SOURCES

    replaced: list[str] = []
    for triple in triples:
        known = next((one for one in kb.find(triple.name) if one.property == triple.property), None)
        if known is not None and known.value == triple.value:
            # The newest last; of more than a triple holds the first ones go.
            triple = replace(known, sources=(*known.sources, *triple.sources)[-MOST_SOURCES:])
        elif known is not None:
            replaced.append(f"the {known.property} of {known.name}, {known.value[:60]!r}, is {triple.value[:60]!r} now")
        yield triple
    if replaced:
        more = f"; and {len(replaced) - 1:,} more" if len(replaced) > 1 else ""
        err.print(
            f"other documents said otherwise, and are replaced: {replaced[0]}{more}", markup=False, soft_wrap=True
        )


def _tell_plan(documents: Sequence[Document], pieces: Sequence[Piece], as_json: bool) -> None:
    characters = sum(len(document.text) for document in documents)
    if as_json:
        print_json({"documents": len(documents), "characters": characters, "requests": len(pieces)})
        return
    err.print(
        f"{many(len(documents), 'document', 'documents')}, {characters:,} characters: "
        f"{many(len(pieces), 'request', 'requests')} of up to "
        f"{max((len(piece.text) for piece in pieces), default=0):,} characters",
        markup=False,
        soft_wrap=True,
    )


def _tell(
    target: Path, documents: Sequence[Document], done: Extraction, prices: Prices | None, seconds: float, as_json: bool
) -> None:
    merged = done.merged
    failed = [{"piece": str(piece), "reason": why} for piece, why in done.failed]
    cost = None if prices is None or not done.is_counted else done.cost(prices)
    if as_json:
        print_json(
            {
                "output": str(target),
                "documents": len(documents),
                "pieces": done.pieces,
                "asked": done.asked,
                "triples": len(merged.triples),
                "repeated": merged.repeated,
                "names_merged": merged.names,
                "properties_merged": merged.properties,
                "several_values": [[*identity, count] for identity, count in merged.joined.items()],
                "refused": dict(done.refused),
                "failed": failed,
                "prompt_tokens": done.prompt_tokens if done.is_counted else None,
                "reply_tokens": done.reply_tokens if done.is_counted else None,
                "cost": cost,
                "seconds": round(seconds, 3),
            }
        )
        return
    names = len({triple.name for triple in merged.triples})
    lines = [
        f"{target}: {count_of(len(merged.triples))} of {many(names, 'entity', 'entities')} from "
        f"{many(len(documents), 'document', 'documents')} "
        f"({many(done.pieces, 'piece', 'pieces')}, {done.asked:,} asked now) in {seconds:.1f} s"
    ]
    lines += [f"refused: {many(count, 'fact', 'facts')} with {why}" for why, count in done.refused.most_common()]
    if merged.repeated:
        lines.append(f"said again, with its source: {many(merged.repeated, 'time')}")
    for what, spellings in (("names", merged.names), ("properties", merged.properties)):
        if spellings:
            told = [f"{', '.join(map(repr, others))} to {kept!r}" for kept, others in spellings.items()]
            lines.append(f"{what} merged: {_shown(told)}")
    if merged.joined:
        lines.append(f"several values joined: {_shown([f'the {prop} of {name}' for name, prop in merged.joined])}")
    if merged.dropped_sources:
        lines.append(f"left out: {many(merged.dropped_sources, 'source')} beyond the most that a triple has")
    lines.append(_tokens(done, cost))
    lines += [f"failed: {one['piece']}: {one['reason']}" for one in failed[:_SHOWN]]
    if failed:
        gave = f"{len(failed):,} of {many(done.pieces, 'piece', 'pieces')} gave nothing"
        lines.append(f"{gave}: run the same command again to ask again")
    for line in lines:
        err.print(Text(line, style="yellow" if line.startswith("failed") else ""), soft_wrap=True)


def _tokens(done: Extraction, cost: float | None) -> str:
    if not done.is_counted:
        return "tokens: the server does not count them"
    told = f"tokens: {done.prompt_tokens:,} of prompts, {done.reply_tokens:,} of replies"
    return told if cost is None else f"{told}; cost {cost:,.4f}"


def _shown(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
