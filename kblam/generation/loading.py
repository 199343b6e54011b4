"""Base model, adapter and knowledge base from paths and hub names, with one kind of error for each.

What is on disk is read from disk alone: a path is never looked up on the hub. Code that a model or tokenizer brings
along is never run, and nobody is asked whether to run it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import KnowledgeAdapter
from kblam.errors import ModelFolderError
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attach
from kblam.models.checks import check_encoder

# What a missing, damaged or foreign checkpoint makes transformers, safetensors and the hub client raise.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be asked.

    Args:
        model: in eval mode, with the adapter attached.
        tokenizer: of the model.
        attachment: what `attach` returned.
        knowledge_base: open; close it, or the end of the process does.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    attachment: Attachment
    knowledge_base: KnowledgeBase


def load_model(
    base: str | Path,
    adapter: str | Path,
    knowledge_base: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    read_only: bool = False,
) -> LoadedModel:
    """Loads the three parts, the cheapest first, so that a mistake is told before gigabytes are read.

    Args:
        base: folder or hub name of the base model.
        adapter: folder or hub name.
        knowledge_base: file.
        tokenizer: folder or hub name; None is the base model's.
        revision: of the base model on the hub.
        device: None is cuda where there is one, else cpu.
        dtype: None keeps the checkpoint's.
        backend: of the kernels.
        read_only: open the knowledge base for reading only, which a folder that cannot be written needs.

    Raises:
        StoreError, AdapterFormatError, ModelFolderError: a part cannot be read.
        EncoderMismatchError, UnsupportedModelError: the parts do not belong together.
    """
    opened = KnowledgeBase.open(knowledge_base, read_only=read_only)
    try:
        loaded_adapter = KnowledgeAdapter.from_pretrained(adapter)
        check_encoder(loaded_adapter.config, opened)
        words = load_tokenizer(tokenizer or base, None if tokenizer else revision)
        model = load_base(base, revision=revision, dtype=dtype, device=device)
        return LoadedModel(model, words, attach(model, loaded_adapter, backend=backend), opened)
    except BaseException:
        opened.close()
        raise


def load_base(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """A causal language model in eval mode.

    Args:
        name: folder or hub name.
        revision: commit, branch or tag on the hub.
        dtype: None is the one the checkpoint was saved in.
        device: None is cuda where there is one, else cpu.

    Raises:
        ModelFolderError: there is no such model, it cannot be read, it needs code of its own, or the device is not
            there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _errors_of("model", name):
        options = _where(name, revision)
        model: Any = AutoModelForCausalLM.from_pretrained(_source(name), dtype=dtype or "auto", **options)
        return model.to(device).eval()


def load_config(name: str | Path, revision: str | None = None) -> Any:
    """The config of a model, without its weights.

    Raises:
        ModelFolderError: there is no such model, or it needs code of its own.
    """
    with _errors_of("model", name):
        return AutoConfig.from_pretrained(_source(name), **_where(name, revision))


def load_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ModelFolderError: there is none, or it needs code of its own.
    """
    with _errors_of("tokenizer of", name):
        return AutoTokenizer.from_pretrained(_source(name), **_where(name, revision))


@contextlib.contextmanager
def _errors_of(what: str, name: str | Path) -> Iterator[None]:
    """Libraries' errors as one of ours; running out of memory stays what it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    # torch answers an absent device with an AssertionError in builds without CUDA.
    except (*_LOADING_ERRORS, AssertionError) as error:
        if "trust_remote_code" in str(error):
            raise ModelFolderError(
                f"the {what} {str(name)!r} brings code of its own (auto_map), and kblam never runs such code; use one "
                "whose classes transformers has"
            ) from error
        raise ModelFolderError(f"cannot load the {what} {str(name)!r}: {_reason(error)}") from error


def _where(name: str | Path, revision: str | None) -> dict[str, Any]:
    """Where transformers may look, and that it runs no code it finds there (None, its default, asks the user)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return {"local_files_only": True, "trust_remote_code": False}
    if path.exists() or _is_path(str(name)):
        raise ModelFolderError(f"{name} is not a folder with a model; give such a folder, or a name on the hub")
    return {"trust_remote_code": False} | ({"revision": revision} if revision else {})


def _is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: hub names have one slash at most and begin with a letter."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _source(name: str | Path) -> str:
    path = Path(name).expanduser()
    return str(path) if path.is_dir() else str(name)


def _reason(error: BaseException) -> str:
    """The first line of a library's message; the rest is advice for its own users."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
