"""`kblam data synthesise`: invented entities out of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kblam.cli.errors import CommandError, InterruptedWorkError
from kblam.cli.output import err, progress_bar


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
    from kblam.data.endpoint import Endpoint
    from kblam.data.synthesise import synthesise as write
    from kblam.errors import TripleFormatError
    from kblam.knowledge import TripleFile, write_triples
    from kblam.knowledge.files import check_written_to

    check_written_to(output)  # before a model is paid for
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
