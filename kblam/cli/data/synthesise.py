"""`kblam data synthesise`: invented entities out of a language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.output import err, progress_bar
from kblam.counts import count_of, many

if TYPE_CHECKING:
    from kblam.data.synthesise import Entities
    from kblam.knowledge import Triple


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

    Interrupted, or more wanted? Run the same command again: it goes on with the file, and with what a killed run left
    in FILE.synthesise.

    Example: kblam data synthesise -o hospital.jsonl --base-url http://127.0.0.1:8000/v1 --model MODEL --topic hospitals
    """
    from kblam.data.endpoint import Endpoint
    from kblam.data.journal import beside
    from kblam.data.synthesise import Entities
    from kblam.data.synthesise import synthesise as write
    from kblam.knowledge.files import check_written_to

    check_written_to(output)  # before a model is paid for
    with Entities(beside(output, ".synthesise")) as journal:
        there = _triples_of(output)
        names = _names([*there, *(triple for entity in journal.values() for triple in entity)])
        done = len(names)
        try:
            with progress_bar("inventing") as progress:
                for entity in write(Endpoint(base_url, model, api_key_env), entities - done, topic=topic, taken=names):
                    journal.put(entity[0].name, entity)
                    done += 1
                    progress(done, entities)
        except KeyboardInterrupt:
            raise InterruptedWorkError(
                f"interrupted; {many(done, 'entity is', 'entities are')} in {output}: "
                "run the same command again to go on"
            ) from None
        finally:
            triples = _with_new(output, there, journal)
    err.print(f"{output}: {count_of(len(triples))} of {many(done, 'entity', 'entities')}", markup=False, soft_wrap=True)


def _triples_of(output: Path) -> list[Triple]:
    """What the file holds. It is written anew, so one that holds more than that is refused."""
    from kblam.errors import TripleFormatError
    from kblam.knowledge import TripleFile
    from kblam.knowledge.columns import quoted
    from kblam.knowledge.files import located_triples
    from kblam.knowledge.records import RecordReader

    if not output.exists():
        return []
    reader = RecordReader()
    try:
        for _ in located_triples(output, reader):
            pass  # the reader notes how they were read
        if reader.unread:
            raise _not_ours(output, f"the fields {quoted(list(reader.unread))} would be lost")
        triples = list(TripleFile(output))
    except TripleFormatError as error:
        raise CommandError(f"{error}; this command goes on with a file of its own: choose another --output") from error
    if notes := reader.notes():
        raise _not_ours(output, f"kblam {notes[0]}, which would be lost")
    if output.suffix.lower() == ".json" and not output.read_text(encoding="utf-8-sig").lstrip().startswith("["):
        raise _not_ours(output, "what surrounds the list of triples would be lost")
    return triples


def _not_ours(output: Path, why: str) -> CommandError:
    return CommandError(
        f"{output}: {why}, since this command writes the whole file anew; it goes on with a file of its own: choose "
        "another --output"
    )


def _names(triples: Iterable[Triple]) -> list[str]:
    return list(dict.fromkeys(triple.name for triple in triples))


def _with_new(output: Path, there: Sequence[Triple], journal: Entities) -> list[Triple]:
    """All triples, which are in the file when the call returns."""
    from kblam.knowledge import write_triples

    known = set(_names(there))  # of a run that was killed after it wrote the file
    triples = [*there, *(triple for entity in journal.values() for triple in entity if triple.name not in known)]
    if len(journal):
        write_triples(output, triples)
        journal.clear()
    return triples
