"""From the options of `kblam serve` to a server that runs, on either engine."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from kblam import shipped
from kblam.cli.errors import CommandError
from kblam.cli.files import file_of
from kblam.cli.loading import ModelOptions, complete, load, warn_of
from kblam.cli.options import Precision
from kblam.cli.output import err, waiting
from kblam.counts import count_of

if TYPE_CHECKING:
    import torch
    from fastapi import APIRouter

    from kblam.knowledge import KnowledgeBase
    from kblam.serve.bases import Bases, Place
    from kblam.serve.engine import Engine
    from kblam.serve.keys import Keys
    from kblam.serve.service import Service
    from kblam.serve.vllm.start import Setup

EMBEDDED, VLLM = "embedded", "vllm"
SPARE_CONNECTIONS = 128  # beside requests that wait or are answered: look-ups, changes, metrics


@dataclass(frozen=True)
class Serving:
    """What both engines are started with: the options of `kblam serve`, checked.

    Args:
        called: the model's name in requests.
        options: model, adapter and first base.
        places: of the bases; without a file, the model folder's own.
        listening: a socket that listens.
        hosts: names that a request may call this server by; None for any.
        max_upload: MiB.
        send_timeout: seconds in which a client takes something of its response.
    """

    called: str
    options: ModelOptions
    places: list[Place]
    keys: Keys
    listening: socket.socket
    hosts: Collection[str] | None
    read_only: bool
    rag: bool
    queue: int
    max_upload: int
    send_timeout: int
    access_log: bool


def chosen(engine: str, options: ModelOptions, capacity: int | None, passed: Sequence[str], *, rag: bool) -> str:
    """The engine that answers.

    Args:
        engine: as the user named it; "auto" is vLLM where that is installed.

    Raises:
        CommandError: an option is for the other one.
        MissingPackageError: it was named, and is not installed.
    """
    if engine == "auto":
        engine = EMBEDDED if importlib.util.find_spec(VLLM) is None else VLLM
    if engine == VLLM and rag:
        raise CommandError(f"--rag is not for vLLM; leave it out, or pass --engine {EMBEDDED}")
    if engine == EMBEDDED:
        for option, value in (("--capacity", capacity), ("--vllm", passed)):
            if value:
                raise CommandError(
                    f"{option} is for vLLM, and the engine is transformers; leave it out, or install vLLM"
                )
        return engine
    from kblam.serve.vllm.start import prepare

    prepare()
    import vllm  # noqa: F401 - what is not installed is told, with the command that brings it

    for option, value, fix in (
        ("--device", options.device, "it runs on what it was built for; CUDA_VISIBLE_DEVICES chooses among cards"),
        ("--backend", None if options.backend == "auto" else options.backend, "KBLAM_BACKEND is read there too"),
        ("--plan", None if options.plan == "auto" else options.plan, "it reads latents always"),
        (
            "--query-storage",
            None if options.query_storage == "auto" else options.query_storage,
            "its query heads are in the model's dtype",
        ),
    ):
        if value is not None:
            raise CommandError(f"{option} is not for vLLM: {fix}; leave it out, or pass --engine {EMBEDDED}")
    return engine


async def embedded(serving: Serving) -> None:
    """Serves with transformers until a signal ends it."""
    from kblam.serve import chat
    from kblam.serve.embedded import EmbeddedEngine

    with ExitStack() as stack:
        with waiting("loading the model"):
            loaded = load(serving.options, read_only=serving.read_only)
            warn_of(serving.options, loaded)
            bases = _opened(stack.enter_context(loaded.knowledge_base), serving, stack)
            engine = EmbeddedEngine(
                loaded.model, loaded.attachment, loaded.tokenizer, bases, queue=serving.queue, with_rag=serving.rag
            )
        service = _service(serving, engine, bases)
        await _run(serving, service, chat.routes(service, engine), connections=serving.queue + 1 + SPARE_CONNECTIONS)


async def on_vllm(serving: Serving, capacity: int | None, passed: Sequence[str]) -> None:
    """Serves with vLLM until a signal ends it."""
    from kblam.knowledge import KnowledgeBase
    from kblam.serve.vllm import gate
    from kblam.serve.vllm.start import started

    setup, first = _setup(serving, capacity, passed)
    with ExitStack() as stack:
        opened = KnowledgeBase.open(file_of(first), read_only=serving.read_only)
        bases = _opened(stack.enter_context(opened), serving, stack)
        async with AsyncExitStack() as running:
            with waiting("starting vLLM"):
                engine = await running.enter_async_context(started(setup, bases))
            service = _service(serving, engine, bases)
            most = engine.most_of_all if serving.keys else engine.most
            await _run(serving, service, gate.routes(service, engine), connections=most + SPARE_CONNECTIONS)


def _setup(serving: Serving, capacity: int | None, passed: Sequence[str]) -> tuple[Setup, Path]:
    """What vLLM is started with, and the file of the first base."""
    from kblam.adapter.files import adapter_folder, read_config
    from kblam.folder import parts_of
    from kblam.models.formats import check_storage
    from kblam.models.loading import usual_dtype
    from kblam.serve.vllm.start import Setup

    options = complete(serving.options)
    check_storage(options.storage)
    is_auto, storage = options.dtype is Precision.auto, options.storage
    dtype = options.dtype.value
    setup = Setup(serving.called, "", "", capacity=capacity, queue=serving.queue, passed=tuple(passed))
    if options.adapter is None:
        parts = parts_of(options.model or "")
        whole = replace(
            setup,
            model=_to_load(str(parts.base)),
            adapter=str(parts.adapter),
            tokenizer=str(parts.tokenizer),
            revision=parts.revision,
            dtype=_name(parts.dtype_on(None)) if is_auto else dtype,
            storage=parts.storage if storage == "auto" else storage,
        )
        return whole, serving.places[0].file or parts.knowledge
    model, first = options.model or read_config(adapter_folder(options.adapter)).base_model, serving.places[0].file
    if model is None or first is None:
        raise CommandError("--kb or MODEL is missing, and the adapter does not record its base model")
    if is_auto and (usual := usual_dtype(model)) is not None:
        dtype = _name(usual)
    return replace(setup, model=_to_load(model), adapter=options.adapter, dtype=dtype, storage=storage), first


def _to_load(model: str) -> str:
    """What vLLM loads for a model; it does not know our short name."""
    from kblam.models.smollm2 import source

    return source() if model == shipped.SMOLLM2 else model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _opened(first: KnowledgeBase, serving: Serving, stack: ExitStack) -> Bases:
    """All knowledge bases; they share one encoder, whose weights are loaded once, and so do two names of one file."""
    from kblam.knowledge import KnowledgeBase
    from kblam.serve.bases import Base, Bases

    places = serving.places
    found = [Base(replace(places[0], file=first.path), first)]
    opened = {_located(first.path): found[0]}
    for place in places[1:]:
        assert place.file is not None
        file = file_of(place.file)
        if (same := opened.get(_located(file))) is None:
            other = KnowledgeBase.open(file, first.encoder, read_only=serving.read_only)
            same = opened[_located(file)] = Base(place, stack.enter_context(other))
        found.append(replace(same, place=place))
    return Bases(found)


def _located(file: Path | None) -> Path | None:
    return None if file is None else file.expanduser().resolve()


def _service(serving: Serving, engine: Engine, bases: Bases) -> Service:
    from kblam.serve.service import Service

    return Service(serving.called, engine, bases, serving.keys, serving.read_only, serving.rag)


async def _run(serving: Serving, service: Service, answers: APIRouter, *, connections: int) -> None:
    from kblam.serve.app import MIB, make_app
    from kblam.serve.run import CONNECTIONS, serve, url_of

    app = make_app(service, answers, hosts=serving.hosts, most_of_uploads=serving.max_upload * MIB)
    await serve(
        app,
        service,
        serving.listening,
        ready=lambda: _tell(url_of(serving.listening), service),
        access_log=serving.access_log,
        connections=max(connections, CONNECTIONS),
        send_seconds=serving.send_timeout,
    )


def _tell(url: str, service: Service) -> None:
    """Says on stderr what is served, where, and to whom."""
    known = ", ".join(f"{base.place.label} ({count_of(len(base.knowledge_base))})" for base in service.bases)
    tenants = ", ".join(service.keys.tenants)
    who = f"keys of {tenants}" if tenants else "no keys: whoever reaches this address may ask and change all"
    for line in (f"{service.model} answers at {url}, engine: {service.engine.name}", f"knowledge: {known}", who):
        err.print(Text(line, style="dim"), soft_wrap=True)
