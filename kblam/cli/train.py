"""`kblam train`: an adapter for a model, from a config and flags over it."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblam.cli.errors import CommandError
from kblam.cli.hints import of_option
from kblam.cli.loading import ModelOptions, names_model, warn_if_untrained, with_adapter
from kblam.cli.options import AdapterSource, Device, Model
from kblam.cli.output import err, out, progress_bar

if TYPE_CHECKING:
    from kblam.knowledge import KnowledgeBase, Triple

Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for sentence vectors, used again; default: vectors in the user's cache."),
]
_LISTED = "--settings lists them"


def train(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for checkpoints, log and the adapter.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of settings.")] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", "-k", help="Your own triples: it learns from them, and calibrates on them.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what the output folder holds.")] = False,
    cache: Cache = None,
    device: Device = None,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Only list all settings, with their values.")
    ] = False,
) -> None:
    """Train an adapter: what turns sentence vectors into attention of one model.

    Every setting of the config is a flag too: --max_steps 200, --learning_rate 1e-3, --model NAME; --settings lists
    them. Several processes: accelerate launch -m kblam train ... (docs/training.md).

    Example: kblam train --model smollm2 --kb facts.kb --output my-adapter
    """
    from kblam.training.config import TrainingConfig

    settings = TrainingConfig.read(config, **_flags(context.args))
    if show_settings:
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            out.print(f"{field.name}: {value!r}  ({field.metadata['help']})", markup=False, soft_wrap=True)
        return
    if output is None:
        raise CommandError("say with --output where checkpoints, log and the adapter go: --output my-adapter")
    _train(settings, output, kb, resume=resume, cache=_cache(cache), device=device)


def _cache(given: Path | None) -> Path:
    """Where sentence vectors are kept: in one place, whatever folder a run is started in.

    Raises:
        CommandError: there is no home folder.
    """
    from kblam.models.smollm2 import cache_folder

    try:
        return cache_folder() / "vectors" if given is None else given
    except RuntimeError as error:
        raise CommandError(
            f"no folder for sentence vectors: {str(error).rstrip('.')}; choose one: --cache FOLDER"
        ) from None


def _nearest(name: str, known: Collection[str]) -> str:
    longer = sorted(one for one in known if one.endswith(f"_{name}"))  # what another trainer calls batch_size
    near = longer if 0 < len(longer) < 4 else difflib.get_close_matches(name, known, n=1)
    return f"did you mean {' or '.join(f'--{one}' for one in near)}? {_LISTED}" if near else _LISTED


def _train(settings: Any, output: Path, kb: Path | None, *, resume: bool, cache: Path, device: str | None) -> None:
    import importlib.util

    if importlib.util.find_spec("accelerate") is None:
        raise CommandError("training needs accelerate; pip install 'kblam-kernels[train]'")
    from kblam.cli.files import file_of
    from kblam.knowledge import KnowledgeBase, load_encoder
    from kblam.models.loading import quiet_libraries
    from kblam.training.card import write_card
    from kblam.training.checkpoints import check_output, check_settings
    from kblam.training.estimate import estimate
    from kblam.training.log import summary_writer
    from kblam.training.material import gather
    from kblam.training.processes import base_device, own_device, start
    from kblam.training.run import Trainer, lasting_settings, learned_from

    check_output(output, resume=resume)
    if settings.report_to == "tensorboard":
        summary_writer()  # that it is missing is told before anything is encoded
    quiet_libraries()
    began = time.monotonic()
    accelerator = start(device)
    settings = settings.on(accelerator.device)
    check_settings(output, lasting_settings(settings, accelerator))
    triples, encoder, where = [], None, own_device(accelerator, device)
    if kb is not None:
        named = None if settings.encoder is None else load_encoder(settings.encoder, device=where)
        with KnowledgeBase.open(file_of(kb), named, device=where, read_only=True) as base:
            triples, encoder = _triples_of(base, kb), base.encoder

    say = _say if accelerator.is_main_process else lambda text: None
    # The main process encodes the texts, and the others find them.
    with accelerator.main_process_first(), progress_bar("encoding") as encoded:
        material = gather(
            settings,
            cache=cache,
            triples=triples,
            encoder=encoder,
            device=base_device(accelerator, device),
            encoder_device=where,
            progress=encoded,
            say=say,
            check=lambda facts, encoder: check_settings(output, learned_from(facts, encoder)),
        )
    trainer = Trainer(settings, material, output, accelerator, say=say)
    say(estimate(trainer))
    trainer.fit(resume=resume)
    trainer.finish()
    if trainer.accelerator.is_main_process:
        write_card(trainer, time.monotonic() - began)
        out.print(f"wrote {output}", markup=False, highlight=False, soft_wrap=True)


def _triples_of(base: KnowledgeBase, kb: Path) -> list[Triple]:
    if not (triples := list(base.triples())):
        raise CommandError(f"{kb} has no triples to learn from; put some in with `kblam kb add`, or leave --kb out")
    return triples


def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapter with its new weights.")],
    adapter: AdapterSource = None,
    model: Model = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", "-k", help="Questions are made from these triples; default: synthetic ones.")
    ] = None,
    questions: Annotated[int, typer.Option("--questions", "-n", min=20, help="How many.")] = 600,
    cache: Cache = None,
    device: Device = None,
) -> None:
    """Learn anew when a question counts as known, on your own triples; minutes, and nothing else is trained.

    Example: kblam calibrate --kb facts.kb --output my-adapter
    """
    from kblam.adapter import KnowledgeAdapter
    from kblam.cli.files import file_of
    from kblam.folder.manifest import ADAPTER
    from kblam.folder.new import check_new_folder, new_folder, sole_writer
    from kblam.knowledge import KnowledgeBase, load_encoder
    from kblam.models.checks import called
    from kblam.models.loading import quiet_libraries
    from kblam.training.calibration_run import recalibrate

    quiet_libraries()
    if output.exists():
        raise CommandError(f"{output} is there already; choose another --output")
    check_new_folder(output)
    taken = with_adapter(ModelOptions(model, adapter, kb))
    if taken.adapter is None:
        raise CommandError(
            f"{model} is a model folder; calibrate the adapter in it: --adapter {Path(str(model)) / ADAPTER}, without "
            "--model"
        )
    given = KnowledgeAdapter.from_pretrained(taken.adapter)
    base = taken.model or given.config.base_model
    if base is None:
        raise CommandError("--model is missing, and the adapter does not record its base model")
    warn_if_untrained(given, taken.adapter)
    triples, encoder = [], load_encoder(device=device)
    if kb is not None:
        with KnowledgeBase.open(file_of(kb), device=device, read_only=True) as opened:
            triples, encoder = _triples_of(opened, kb), opened.encoder
    if given.config.encoder not in (None, encoder.fingerprint):
        raise CommandError(
            f"the adapter was trained with encoder {called(given.config.encoder)}, and the encoder here is "
            f"{called(encoder.fingerprint, encoder.spec)}; pass a --kb of the adapter's"
        )
    with sole_writer(output):
        with names_model(taken), progress_bar("encoding") as encoded:
            fresh, found = recalibrate(
                given,
                base,
                encoder,
                cache=_cache(cache),
                triples=triples,
                questions=questions,
                device=device,
                progress=encoded,
                say=_say,
            )
        with new_folder(output, overwrite=False) as folder:
            fresh.save_pretrained(folder)
    out.print(
        f"known above a confidence of {found.known_above}\nrefusals right {found.precision:.3f}, found "
        f"{found.recall:.3f}, likeliest triple right {found.top1:.3f}, on these {found.questions} questions\n"
        f"wrote {output}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _say(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def _flags(arguments: list[str]) -> dict[str, Any]:
    """`--name value` and `--name=value` as settings.

    Raises:
        CommandError: something is not of that form, or no setting has that name.
    """
    from kblam.training.config import TrainingConfig

    known = {field.name: str(field.type) for field in dataclasses.fields(TrainingConfig)}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise CommandError(
                f"cannot read {flag!r}; settings are given as --name value, and the knowledge base is --kb facts.kb"
            )
        name, equals, value = flag[2:].partition("=")
        if (name := name.replace("-", "_")) not in known:
            raise CommandError(f"there is no setting --{name}; {of_option(name) or _nearest(name, known)}")
        if not equals:
            if not rest:
                raise CommandError(f"{flag} has no value")
            value = rest.pop(0)
        found[name] = _value(flag, value, known[name])
    return found


def _value(flag: str, text: str, kind: str) -> Any:
    """A number, a truth value, null or a list, as YAML reads it; a text, such as a template, as it stands.

    Args:
        kind: of the setting, as its dataclass has it. To YAML a prompt that begins with "#" is nothing, and "No" false.
    """
    import yaml

    from kblam.training.config import number_of

    if kind.startswith("str"):
        return None if "None" in kind and text.strip().lower() in ("", "~", "null") else text
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if text.startswith("["):
            raise CommandError(f"cannot read the value of {flag}: {text!r}") from error
        return text
    if isinstance(read, str):
        return number_of(text)
    return read if read is None or isinstance(read, bool | int | float | list) else text
