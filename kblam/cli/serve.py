"""`kblam serve`: a model with knowledge bases by name, behind OpenAI's API."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from kblam.cli.errors import CommandError
from kblam.cli.files import count_of, file_of
from kblam.cli.loading import ModelOptions, complete, load
from kblam.cli.options import AdapterSource, Backend, Device, Dtype, PlanPin, Precision, Storage
from kblam.cli.output import err, waiting

if TYPE_CHECKING:
    from kblam.folder import LoadedModel
    from kblam.serve.bases import Bases, Place
    from kblam.serve.keys import Keys
    from kblam.serve.service import Service

_OWN = "knowledge"  # the name of a model folder's own knowledge base


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
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait; more get status 429.")] = 64,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="MiB of triples in one request.")] = 16,
    access_log: Annotated[bool, typer.Option("--access-log", help="Write a line on stderr for each request.")] = False,
    device: Device = None,
    dtype: Dtype = Precision.auto,
    backend: Backend = "auto",
    storage: Storage = "auto",
    plan: PlanPin = "auto",
) -> None:
    """Serve a model with its knowledge bases behind OpenAI's API, with a page to ask at /.

    A request chooses a knowledge base in its model's name: smollm2@facts. Keys are read from the environment variable
    KBLAM_API_KEYS; without keys only this machine is served.

    Example: kblam serve --kb facts=facts.kb --kb hr=hr.kb --port 8000
    """
    import fastapi  # noqa: F401 - what is not installed is told before anything is loaded
    import prometheus_client  # noqa: F401

    from kblam.serve.app import MIB, make_app
    from kblam.serve.bases import Place
    from kblam.serve.keys import Keys, check_places
    from kblam.serve.run import is_this_machine, listen, run, url_of

    places = [Place.parse(text) for text in kb or []]
    keys = Keys.from_environment()
    if not keys and not without_keys and not is_this_machine(host):
        raise CommandError(
            f"--host {host} lets other machines in, and there are no keys; set KBLAM_API_KEYS=TENANT:KEY, or say "
            "--without-keys if all who reach it may ask and change everything"
        )
    first = None if not places else places[0].file
    options = ModelOptions(model, adapter, first, device, dtype, backend, storage, plan)
    whole = complete(options)
    if not places:
        places = [Place(None, _OWN, None)]
    check_places(keys, places)
    called = _name_of(whole, name)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        with waiting("loading the model"):
            loaded = load(options, read_only=read_only)
            bases = _opened(loaded, places, stack, read_only=read_only)
            service = _service(called, loaded, bases, keys, queue=queue, read_only=read_only)
        hosts = None if keys or not is_this_machine(host) else {"localhost", "127.0.0.1", "::1", host}
        app = make_app(service, hosts=hosts, most_of_uploads=max_upload * MIB)
        run(app, listening, ready=lambda: _tell(url_of(listening), service), access_log=access_log)


def _name_of(options: ModelOptions, name: str | None) -> str:
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


def _opened(loaded: LoadedModel, places: list[Place], stack: ExitStack, *, read_only: bool) -> Bases:
    """All knowledge bases; they share one encoder, whose weights are loaded once, and so do two names of one file."""
    from kblam.knowledge import KnowledgeBase
    from kblam.serve.bases import Base, Bases

    first = stack.enter_context(loaded.knowledge_base)
    found = [Base(replace(places[0], file=first.path), first)]
    opened = {_located(first.path): found[0]}
    for place in places[1:]:
        assert place.file is not None
        file = file_of(place.file)
        if (same := opened.get(_located(file))) is None:
            other = KnowledgeBase.open(file, first.encoder, read_only=read_only)
            same = opened[_located(file)] = Base(place, stack.enter_context(other))
        found.append(replace(same, place=place))
    return Bases(found)


def _located(file: Path | None) -> Path | None:
    return None if file is None else file.expanduser().resolve()


def _service(called: str, loaded: LoadedModel, bases: Bases, keys: Keys, *, queue: int, read_only: bool) -> Service:
    from kblam.serve.embedded import EmbeddedEngine
    from kblam.serve.service import Service

    engine = EmbeddedEngine(loaded.model, loaded.attachment, loaded.tokenizer, bases, queue=queue)
    return Service(called, engine, bases, keys, read_only)


def _tell(url: str, service: Service) -> None:
    """Says on stderr what is served, where, and to whom."""
    known = ", ".join(f"{base.place.label} ({count_of(len(base.knowledge_base))})" for base in service.bases)
    tenants = ", ".join(service.keys.tenants)
    who = f"keys of {tenants}" if tenants else "no keys: whoever reaches this address may ask and change all"
    for line in (f"{service.model} answers at {url}, engine: {service.engine.name}", f"knowledge: {known}", who):
        err.print(Text(line, style="dim"), soft_wrap=True)
