"""Reading an adapter's files: what is missing, damaged or of something else is named, and nothing is ever executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kblam.adapter.config import AdapterConfig
from kblam.errors import AdapterFormatError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_SHOWN = 4


def adapter_folder(name: str | Path, **hub_options: Any) -> Path:
    """The folder itself, or the local copy of a hub repository; only a name that cannot be a path reaches for the hub.

    Raises:
        AdapterFormatError: if it is not there, or the hub does not give it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or "\\" in name or len(folder.parts) > 2:
        raise AdapterFormatError(f"there is no adapter folder {name}; give such a folder, or a name on the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **hub_options))
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise AdapterFormatError(f"{name!r} is neither a folder nor an adapter that the hub gives: {reason}") from error


def read_config(folder: Path) -> AdapterConfig:
    """config.json of an adapter folder.

    Raises:
        AdapterFormatError: if it is missing or is not an adapter's.
        AdapterConfigError: if it contradicts itself, or is of a newer format.
    """
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterFormatError(f"{folder} is not an adapter: it has no {CONFIG_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not readable JSON ({error}); save the adapter again") from error
    if not isinstance(data, dict) or "embedding_dim" not in data:
        raise AdapterFormatError(f"{path} is not the config of a kblam adapter: it has no embedding_dim")
    return AdapterConfig.from_dict(data)


def load_weights(adapter: nn.Module, folder: Path, *, strict: bool) -> None:
    """Fills an adapter from model.safetensors.

    Raises:
        AdapterFormatError: if the file is missing, damaged, or its tensors are not those of the config.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterFormatError(f"{folder} is not an adapter: it has no {WEIGHTS_FILE}")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterFormatError(f"{path} is damaged ({error}); save or download it again") from error
    wanted = adapter.state_dict()
    wrong = [
        f"{name} is {_shape(found[name])}, not {_shape(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name].shape != wanted[name].shape
    ]
    if strict:
        wrong += [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
        wrong += [f"{name} is not an adapter's" for name in sorted(found.keys() - wanted.keys())]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise AdapterFormatError(f"{path} does not fit its {CONFIG_FILE}: {'; '.join(wrong[:_SHOWN])}{more}")
    adapter.load_state_dict(found, strict=False)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
