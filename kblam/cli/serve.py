"""`kblam serve`: a model with knowledge bases by name, behind OpenAI's API."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from kblam.cli.errors import CommandError
from kblam.cli.loading import ModelOptions, complete
from kblam.cli.options import AdapterSource, Backend, Device, Dtype, PlanPin, Precision, QueryStorage, Storage
from kblam.serve import SEND_SECONDS

_OWN = "knowledge"  # the name of a model folder's own knowledge base


class EngineName(str, Enum):
    """What answers."""

    auto = "auto"
    vllm = "vllm"
    embedded = "embedded"


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Model folder (kblam integrate), base model folder, hub name, smollm2 or tiny."
        ),
    ] = None,
    adapter: AdapterSource = None,
    kb: Annotated[
        list[str] | None,
        typer.Option("--kb", "-k", metavar="NAME=FILE", help="A knowledge base; TENANT/NAME=FILE where keys are set."),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option("--engine", help="vllm, embedded (transformers); auto: vllm where it is installed."),
    ] = EngineName.auto,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    name: Annotated[
        str | None, typer.Option("--name", help="What requests call the model; default: smollm2, or its own name.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Let everybody who reaches another host than this machine in.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse changes of knowledge.")] = False,
    rag: Annotated[
        bool,
        typer.Option("--rag", help="Answer by RAG too, as MODEL+rag@BASE and beside the other answer on the page."),
    ] = False,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests of one tenant that may wait.")] = 64,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="MiB of triples in one request.")] = 16,
    send_timeout: Annotated[
        int,
        typer.Option(
            "--send-timeout", min=1, help="Seconds after which a client that reads nothing of its response is cut off."
        ),
    ] = SEND_SECONDS,
    access_log: Annotated[bool, typer.Option("--access-log", help="Write a line on stderr for each request.")] = False,
    device: Device = None,
    dtype: Dtype = Precision.auto,
    backend: Backend = "auto",
    storage: Storage = "auto",
    query_storage: QueryStorage = "auto",
    plan: PlanPin = "auto",
    capacity: Annotated[
        int | None,
        typer.Option("--capacity", min=1, help="Triples that vLLM has room for; changes need it three times."),
    ] = None,
    vllm: Annotated[
        list[str] | None,
        typer.Option("--vllm", metavar="KEY[=VALUE]", help="An option of vLLM's own, such as tensor-parallel-size=2."),
    ] = None,
) -> None:
    """Serve a model with its knowledge bases behind OpenAI's API, with a page to ask at /.

    A request chooses a knowledge base in its model's name: smollm2@facts. Where vLLM is installed it answers, else
    transformers. Keys are read from the environment variable KBLAM_API_KEYS; without keys only this machine is served.

    Example: kblam serve --kb facts=facts.kb --kb hr=hr.kb --port 8000
    """
    import fastapi  # noqa: F401 - what is not installed is told before anything is loaded
    import prometheus_client  # noqa: F401

    from kblam.cli.serving import Serving, chosen, embedded, on_vllm
    from kblam.serve.bases import Place
    from kblam.serve.keys import Keys, check_places
    from kblam.serve.run import is_this_machine, listen, run

    places = [Place.parse(text) for text in kb or []]
    keys = Keys.from_environment()
    if not keys and not without_keys and not is_this_machine(host):
        raise CommandError(
            f"--host {host} lets other machines in, and there are no keys; set KBLAM_API_KEYS=TENANT:KEY, or say "
            "--without-keys if all who reach it may ask and change everything"
        )
    first = None if not places else places[0].file
    options = ModelOptions(model, adapter, first, device, dtype, backend, storage, plan, query_storage)
    whole = complete(options)
    if not places:
        places = [Place(None, _OWN, None)]
    check_places(keys, places)
    answering = chosen(engine.value, whole, capacity, vllm or [], rag=rag)
    with listen(host, port) as listening:
        serving = Serving(
            called=_name_of(whole, name),
            options=options,
            places=places,
            keys=keys,
            listening=listening,
            hosts=None if keys or not is_this_machine(host) else {"localhost", "127.0.0.1", "::1", host},
            read_only=read_only,
            rag=rag,
            queue=queue,
            max_upload=max_upload,
            send_timeout=send_timeout,
            access_log=access_log,
        )
        run(embedded(serving) if answering == "embedded" else on_vllm(serving, capacity, vllm or []))


def _name_of(options: ModelOptions, name: str | None) -> str:
    from pathlib import Path

    from kblam import shipped

    if name is None and options.model == str(shipped.DEMO / "model"):
        name = shipped.TINY
    if name is None and options.model is not None:
        folder = Path(options.model).expanduser()
        name = folder.resolve().name if folder.is_dir() else options.model
    if name is None:
        raise CommandError("--name is missing: the adapter alone names no model to call it by")
    if "@" in name or not name.isprintable() or not name.isascii() or not name.strip():
        raise CommandError(f"a model cannot be called {name!r}, since NAME@BASE asks it with a base; pass --name NAME")
    return name
