"""From a model, an adapter and bases to a vLLM that answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kblam.adapter.files import adapter_folder, read_config
from kblam.errors import EngineDiedError, KblamError, ServingError
from kblam.knowledge.rows import MIN_CAPACITY, room_for
from kblam.models.checks import check_encoder
from kblam.models.loading import load_config, load_tokenizer
from kblam.serve.bases import Bases
from kblam.serve.vllm.asking import Asking
from kblam.serve.vllm.engine import VllmEngine, names_of
from kblam.serve.vllm.options import arguments
from kblam.serve.vllm.prompts import Prompts
from kblam.vllm.past import Past
from kblam.vllm.registry import folder_of

# Rows beside those of the bases at the start: what they may grow by, and bases that begin empty.
_SPARE_ROWS = 4096
# Set where the user has not: what vLLM writes goes to stderr, as all of this command does, and only if it matters.
_ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


@dataclass(frozen=True)
class Setup:
    """What is served.

    Args:
        called: the model's name in requests.
        model: folder, or name on the hub.
        adapter: folder, or name on the hub.
        tokenizer: folder; None is the model's.
        revision: of the model on the hub.
        dtype: of the weights, as vLLM calls it.
        storage: of the knowledge, as `attach` takes it.
        capacity: rows for all bases; None has room for each three times, and for some thousand more.
        queue: requests of a tenant that may wait.
        passed: options of vLLM, see `options.arguments`.
    """

    called: str
    model: str
    adapter: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    storage: str = "auto"
    capacity: int | None = None
    queue: int = 64
    passed: tuple[str, ...] = ()


def prepare() -> None:
    """Sets what vLLM reads when it is first imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@asynccontextmanager
async def started(setup: Setup, bases: Bases) -> AsyncIterator[VllmEngine]:
    """A vLLM with these bases, for the time of the block.

    Args:
        bases: files, open.

    Raises:
        ServingError, EngineError: it cannot serve them, or an option cannot be.
        EncoderMismatchError, AdapterError, ModelFolderError: the parts do not belong together, or cannot be read.
        EngineDiedError: it did not start; what it logged has the reason.
    """
    prepare()
    config = read_config(adapter_folder(setup.adapter))
    for base in bases:
        check_encoder(config, base.knowledge_base)
    capacity = _capacity(setup, bases)
    model_config = load_config(setup.model, setup.revision)
    namespace = _arguments(setup, bases, capacity, model_config)
    llm = _llm(namespace)
    try:
        app = await _application(llm, namespace)
        async with app.router.lifespan_context(app):
            running = llm.vllm_config.scheduler_config.max_num_seqs
            engine = VllmEngine(
                _version(),
                llm,
                app,
                bases,
                capacity=capacity,
                most=running + setup.queue,
                running=running,
                refusal=config.refusal,
                past=Past(folder_of(llm.vllm_config)),
            )
            await engine.look()
            tokenizer = load_tokenizer(setup.tokenizer or setup.model, None if setup.tokenizer else setup.revision)
            prompts = Prompts(
                tokenizer,
                config,
                model_config.get_text_config().model_type,
                has_chat_template=tokenizer.chat_template is not None or namespace.chat_template is not None,
            )
            await asyncio.to_thread(prompts.make_ready)
            engine.asking = Asking(
                setup.called,
                engine.name_of,
                prompts,
                adapter=config,
                most_tokens=llm.model_config.max_model_len,
            )
            yield engine
    finally:
        llm.shutdown()


def _capacity(setup: Setup, bases: Bases) -> int:
    spans = [room_for(len(base.knowledge_base)) for base in names_of(bases).values()]
    if setup.capacity is None:
        return 3 * sum(spans) + _SPARE_ROWS
    # One that needs more outgrows its first rows while it is read.
    least = sum(spans) + (MIN_CAPACITY if max(spans, default=0) > MIN_CAPACITY else 0)
    if setup.capacity < least:
        raise ServingError(
            f"--capacity {setup.capacity:,} rows are too few: the bases take {least:,}, an eighth more than they have "
            f"triples and at least {MIN_CAPACITY} each; three times that lets all of them be changed"
        )
    return setup.capacity


def _arguments(setup: Setup, bases: Bases, capacity: int, model_config: Any) -> Any:
    from kblam.vllm import architecture_of

    paths = {name: base.knowledge_base.path for name, base in names_of(bases).items()}
    if in_memory := [name for name, path in paths.items() if path is None]:
        raise ServingError(f"vLLM reads knowledge from files, and {in_memory[0]!r} is in memory only")
    knowledge = {
        "adapter": setup.adapter,
        "knowledge": {name: str(path) for name, path in paths.items()},
        "capacity": capacity,
        "storage": setup.storage,
    }
    own = {
        "model": setup.model,
        "tokenizer": setup.tokenizer,
        "revision": setup.revision,
        "served-model-name": setup.called,
        "dtype": setup.dtype,
        "hf-overrides": {"architectures": [architecture_of(str((model_config.architectures or ["?"])[0]))]},
        "additional-config": {"kblam": knowledge},
        "trust-request-chat-template": True,  # the prompt of a question with a base is written in this process
        "disable-fastapi-docs": True,
    }
    return arguments(own, setup.passed)


def _llm(namespace: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    from kblam.serve.vllm.llm import WatchedLLM

    engine_args = AsyncEngineArgs.from_cli_args(namespace)
    context = UsageContext.OPENAI_API_SERVER
    try:
        config = engine_args.create_engine_config(usage_context=context)
    except KblamError:
        raise
    except ValueError as error:
        raise ServingError(f"vLLM cannot serve this: {error}") from error
    try:
        return WatchedLLM.from_vllm_config(
            config,
            usage_context=context,
            enable_log_requests=engine_args.enable_log_requests,
            disable_log_stats=engine_args.disable_log_stats,
        )
    except RuntimeError as error:
        raise EngineDiedError(f"vLLM did not start: {error}") from error


async def _application(llm: Any, namespace: Any) -> Any:
    """vLLM's own application, with all that its routes need."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await llm.get_supported_tasks()
    app = build_app(namespace, tasks, llm.model_config)
    await init_app_state(llm, app.state, namespace, tasks)
    # vLLM tells its server to end when its engine has died. Ours looks after that itself.
    app.state.server = SimpleNamespace(should_exit=False)
    return app


def _version() -> str:
    from vllm.version import __version__

    return str(__version__)
