"""From the options of a command to a model that is ready to be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from kblam import shipped
from kblam.cli.errors import CommandError
from kblam.cli.files import file_of, open_file
from kblam.cli.options import Precision
from kblam.cli.output import err
from kblam.counts import count_of

if TYPE_CHECKING:
    import torch

    from kblam.adapter import KnowledgeAdapter
    from kblam.folder import LoadedModel
    from kblam.knowledge import KnowledgeBase
    from kblam_kernels import Plan

_SHOWN = 5
_BUILD_FIRST = "build one with `kblam kb build FILE -o facts.kb`, then pass --kb facts.kb"


@dataclass(frozen=True)
class ModelOptions:
    """What the user asked for, as typed."""

    model: str | None
    adapter: str | None
    kb: Path | None
    device: str | None = None
    dtype: Precision = Precision.auto
    backend: str = "auto"
    storage: str = "auto"
    plan: str = "auto"
    query_storage: str = "auto"


def load(options: ModelOptions, *, read_only: bool) -> LoadedModel:
    """Loads what the options name; who shows no JSON then says `tell_model`, or `warn_of` where nobody is to answer.

    Raises:
        CommandError: they do not say enough or contradict each other; found before anything heavy is imported.
        KblamError: something they name cannot be used.
    """
    options = complete(options)
    kb = None if options.kb is None else file_of(options.kb)
    if options.adapter is not None and kb is None:
        raise CommandError(f"--kb is missing: this model answers from a knowledge base; {_BUILD_FIRST}")
    if kb is not None:  # what is wrong with it is told before seconds of imports
        open_file(kb).close()
    from kblam.folder import load_folder, load_model
    from kblam.models.formats import check_storage
    from kblam.models.loading import quiet_libraries
    from kblam_kernels.common.dispatch import requested
    from kblam_kernels.dense.op import dense_attention
    from kblam_kernels.plan import check_pin

    quiet_libraries()
    # Unknown names are told before gigabytes are read.
    requested(options.backend, dense_attention.backends)
    check_storage(options.storage)
    check_pin(options.plan)
    given: dict[str, Any] = {
        "device": _device(options.device),
        "dtype": _dtype(options.dtype),
        "backend": options.backend,
        "storage": options.storage,
        "query_storage": options.query_storage,
        "plan": options.plan,
        "read_only": read_only,
    }
    if options.adapter is None or kb is None:  # a model folder has its own
        return load_folder(options.model or "", knowledge_base=kb, **given)
    with names_model(options):
        return load_model(options.model or _base_of(options.adapter), options.adapter, kb, **given)


@contextmanager
def names_model(options: ModelOptions) -> Iterator[None]:
    """Where nobody named a model, and the one that the adapter records is not to be had, the message says so."""
    from kblam.errors import ModelFolderError

    try:
        yield
    except ModelFolderError as error:
        if options.model is not None:
            raise
        raise ModelFolderError(
            f"{error}; this is the model that the adapter {options.adapter} records: say with --model where it is now"
        ) from error


def plan_for(options: ModelOptions, knowledge_base: KnowledgeBase) -> Plan:
    """How the model that the options name reads a knowledge base on this machine; only its adapter is loaded.

    Raises:
        CommandError, KblamError: as `load`.
    """
    options = complete(replace(options, kb=knowledge_base.path))
    import torch

    from kblam.adapter import KnowledgeAdapter
    from kblam.folder import parts_of
    from kblam.models.checks import check_encoder
    from kblam.models.formats import storage_dtype
    from kblam.models.loading import load_config, usual_dtype
    from kblam.models.resident import plan_of

    device = _device(options.device) or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, storage = _dtype(options.dtype), options.storage
    if options.adapter is None:
        parts = parts_of(options.model or "")
        adapter = KnowledgeAdapter.from_pretrained(parts.adapter)
        dtype = dtype or parts.dtype_on(device)
        storage = parts.storage if storage == "auto" else storage
    else:
        adapter = KnowledgeAdapter.from_pretrained(options.adapter)
    check_encoder(adapter.config, knowledge_base)
    if dtype is None:
        base = options.model or _base_of(str(options.adapter))
        with names_model(options):
            dtype = usual_dtype(base, device) or getattr(load_config(base), "dtype", None) or torch.float32
    stored = storage_dtype(storage, adapter, dtype)
    return plan_of(adapter, len(knowledge_base), dtype, device, storage=stored, pin=options.plan)


def told_model(options: ModelOptions, loaded: LoadedModel) -> tuple[str, str]:
    """Names of the model and the adapter that answer, for a reader."""
    options = complete(options)
    folder = options.model if options.adapter is None else None
    model = folder or loaded.model.config._name_or_path or str(options.model)
    if model == shipped.SMOLLM2:
        from kblam.models.smollm2 import HUB_NAME

        model = HUB_NAME.rpartition("/")[2]
    adapter = "its own" if folder else str(options.adapter)
    if _is_tiny(options):
        model = shipped.TINY
    if adapter in (str(shipped.SMOLLM2_ADAPTER), str(shipped.DEMO / "adapter")):
        adapter = "the one that comes with kblam"
    return model, adapter


def tell_model(options: ModelOptions, loaded: LoadedModel) -> None:
    """Says on stderr who answers, and warns of what it cannot do."""
    model, adapter = told_model(options, loaded)
    knowledge_base = loaded.knowledge_base
    count = count_of(len(knowledge_base))
    err.print(
        Text(f"{model} answers, adapter: {adapter}; {count} in {knowledge_base.path}", style="dim"), soft_wrap=True
    )
    warn_of(options, loaded)


def warn_of(options: ModelOptions, loaded: LoadedModel) -> None:
    """Warns on stderr of what a model cannot do, or not quickly: each once, in a line."""
    import torch

    from kblam_kernels.tools.env import quick_dtype

    warn_if_untrained(loaded.attachment.adapter, told_model(options, loaded)[1])
    is_slow = loaded.model.device.type == "cpu" and loaded.model.dtype == torch.bfloat16 != quick_dtype("cpu")
    if options.dtype is Precision.auto and is_slow:
        warn(
            "this model's weights are bfloat16, and this processor has no instructions for it: --dtype float32 takes "
            "twice the memory and is several times as fast"
        )
    if _is_tiny(complete(options)):
        foreign = [one for one in loaded.knowledge_base.properties() if one.lower() not in shipped.TINY_PROPERTIES]
        if foreign:
            shown = ", ".join(foreign[:_SHOWN]) + (", ..." if len(foreign) > _SHOWN else "")
            warn(
                f"the tiny model cannot answer about {shown}: it knows {len(shipped.TINY_PROPERTIES)} properties and "
                "the words of their values (python -m kblam.demo.tiny --words); leave out --model to ask SmolLM2"
            )


def warn_if_untrained(adapter: KnowledgeAdapter, called: str) -> None:
    """Warns of an adapter that finds nothing; `called` names it for a reader."""
    from kblam.adapter.fresh import looks_untrained, untrained_text

    if looks_untrained(adapter):
        warn(untrained_text(called))


def _is_tiny(options: ModelOptions) -> bool:
    return options.model == str(shipped.DEMO / "model")


def warn(line: str) -> None:
    """A line on stderr about what was asked for."""
    err.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def complete(options: ModelOptions) -> ModelOptions:
    """Options that name a model folder, or an adapter and a knowledge base."""
    if options.model is None and options.adapter is None:
        options = replace(options, model=_default())
        if options.kb is None:
            raise CommandError(
                f"--kb is missing: {options.model} knows nothing of yours but what a knowledge base tells it; "
                f"{_BUILD_FIRST}"
            )
    return with_adapter(options)


def with_adapter(options: ModelOptions) -> ModelOptions:
    """Options of a command that may have no knowledge base, with the adapter that goes with their model.

    Raises:
        CommandError: the model has none, or one of its own and another is named.
    """
    if options.model is None and options.adapter is None:
        options = replace(options, model=_default())
    if options.adapter is None:
        options = _with_shipped_adapter(options)
    whole = options.model is not None and (Path(options.model).expanduser() / "kblam.json").is_file()
    if whole and options.adapter is not None:
        raise CommandError(f"{options.model} is a model folder with an adapter of its own; leave out --adapter")
    if not whole and options.adapter is None:
        raise CommandError(
            f"--adapter is missing: {options.model} is not a model folder (no kblam.json), so it needs an adapter "
            "trained for it; pass --adapter DIR, or a folder that `kblam integrate` wrote"
            + shipped.meant(options.model)
        )
    return options


def _default() -> str:
    """The model that answers where none is named."""
    if shipped.smollm2_is_shipped():
        return shipped.SMOLLM2
    if shipped.demo_is_shipped():
        return shipped.TINY
    raise CommandError(
        "--model is missing, and this installation has no model to take in its place; "
        "pass --model FOLDER, or --model NAME --adapter DIR --kb FILE"
    )


def _with_shipped_adapter(options: ModelOptions) -> ModelOptions:
    """The options with the adapter that this package has for the model they name, if it has one."""
    parts = None if options.model is None else shipped.parts_of(options.model)
    if parts is None:
        return options
    model, adapter = parts
    # The stored weights of the tiny model are bfloat16, which many CPUs compute slower than float32.
    is_plain = options.model == shipped.TINY and options.dtype is Precision.auto
    dtype = Precision.float32 if is_plain else options.dtype
    return replace(options, model=model, adapter=str(adapter), dtype=dtype)


def _base_of(adapter: str) -> str:
    from kblam.adapter import KnowledgeAdapter

    base = KnowledgeAdapter.from_pretrained(adapter).config.base_model
    if base is None:
        raise CommandError(f"--model is missing, and the adapter {adapter} does not record its base model")
    return base


def _device(name: str | None) -> torch.device | None:
    import torch

    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # Unknown names, absent devices and builds without CUDA each raise their own.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"--device {name}: {str(error).splitlines()[0]}; see `kblam doctor`") from error
    return device


def _dtype(precision: Precision) -> torch.dtype | None:
    import torch

    return None if precision is Precision.auto else getattr(torch, precision.value)
