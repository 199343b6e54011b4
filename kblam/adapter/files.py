"""Reading an adapter's files: what is missing, damaged or of something else is named, and nothing is ever executed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kblam.adapter.config import AdapterConfig
from kblam.errors import AdapterError, AdapterFormatError
from kblam.hub import unreachable
from kblam.strict_json import loads

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_SHOWN = 4
_MOST_CONFIG_BYTES = 2**20
_DTYPES = ("F64", "F32", "F16", "BF16")


def adapter_folder(name: str | Path, **hub_options: Any) -> Path:
    """The folder itself, or the local copy of a hub repository; only a name that cannot be a path reaches for the hub.

    Raises:
        AdapterFormatError: if it is not there, or the hub does not give it.
    """
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError, TypeError) as error:
        raise AdapterFormatError(f"{str(name)[:200]!r} cannot be the folder of an adapter: {error}"[:500]) from error
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or "\\" in name or len(folder.parts) > 2:
        raise AdapterFormatError(f"there is no adapter folder {name}; give such a folder, or a name on the hub")
    if unreachable() is not None:
        hub_options["local_files_only"] = True
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **hub_options))
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = unreachable() or (str(error) or type(error).__name__).strip().splitlines()[0]
        raise AdapterFormatError(f"{name!r} is neither a folder nor an adapter that the hub gives: {reason}") from error


def read_config(folder: Path) -> AdapterConfig:
    """config.json of an adapter folder.

    Raises:
        AdapterFormatError: if it is missing or is not an adapter's.
        AdapterConfigError: if it contradicts itself, or is of a newer format.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise AdapterFormatError(f"{folder} is not an adapter: it has no {CONFIG_FILE}")
    # Not a pipe or a device, whose end may never come.
    if not path.is_file() or path.stat().st_size > _MOST_CONFIG_BYTES:
        raise AdapterFormatError(f"{path} is not a file of at most {_MOST_CONFIG_BYTES:,} bytes, as an adapter's is")
    try:
        data = loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not readable JSON ({error}); save the adapter again") from error
    if not isinstance(data, dict) or "embedding_dim" not in data:
        raise AdapterFormatError(f"{path} is not the config of a kblam adapter: it has no embedding_dim")
    return AdapterConfig.from_dict(data)


def write_config(config: AdapterConfig, folder: Path) -> None:
    """Writes config.json."""
    text = json.dumps(config.to_dict(), sort_keys=True, indent=2)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def save_weights(adapter: nn.Module, plain: nn.Module, folder: Path) -> None:
    """Writes model.safetensors: every weight, also those that are one; which are is in the metadata.

    Args:
        plain: an adapter of the same config, for its names and shapes.

    Raises:
        AdapterError: if these are not the weights that `load_weights` would find.
    """
    found = adapter.state_dict()
    if wrong := _differences(found, plain.state_dict(), strict=True):
        raise AdapterError(
            f"this adapter could not be loaded again ({wrong}); merge what wraps its layers (LoRA, parametrizations) "
            "before it is saved"
        )
    if lost := sorted(name for name, tensor in found.items() if tensor.is_meta):
        raise AdapterError(f"the adapter's weights are not loaded (meta device): {', '.join(lost[:_SHOWN])}")
    first: dict[Any, str] = {}
    ties = {}
    for name, tensor in found.items():
        kept = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), name)
        if kept != name and tensor.numel():
            ties[name] = kept
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}
    save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt", **ties})


def load_weights(adapter: nn.Module, folder: Path, *, strict: bool) -> None:
    """Fills an adapter from model.safetensors.

    Raises:
        AdapterFormatError: as `check_weights_file`, and if the file holds numbers that no adapter can have.
    """
    check_weights_file(adapter, folder, strict=strict)
    path = folder / WEIGHTS_FILE
    with _opened(path) as file:
        found, ties = {name: file.get_tensor(name) for name in file.offset_keys()}, _ties(file, adapter)
    if spoilt := sorted(name for name, tensor in found.items() if not tensor.isfinite().all()):
        raise AdapterFormatError(
            f"{path} holds NaN or infinity, in {', '.join(spoilt[:_SHOWN])}; a training run that diverged leaves that: "
            "load an earlier checkpoint"
        )
    for name, kept in ties.items():
        found.setdefault(name, found[kept])
        if torch.equal(found[name], found[kept]):
            _tie(adapter, name, kept)
    adapter.load_state_dict(found, strict=False)


def check_weights_file(adapter: nn.Module, folder: Path, *, strict: bool) -> None:
    """Compares names, shapes and dtypes in model.safetensors with an adapter's, which may be on the meta device.

    Raises:
        AdapterFormatError: if the file is missing, damaged, or its tensors are not those of the config.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterFormatError(f"{folder} is not an adapter: it has no {WEIGHTS_FILE}")
    with _opened(path) as file:
        # Nothing is read but the header.
        found = {name: file.get_slice(name) for name in file.offset_keys()}
        found |= {name: found[kept] for name, kept in _ties(file, adapter).items() if kept in found}
    if other := sorted(name for name, part in found.items() if part.get_dtype() not in _DTYPES):
        raise AdapterFormatError(f"{path} holds {found[other[0]].get_dtype()} in {other[0]}; weights are {_DTYPES}")
    if wrong := _differences(found, adapter.state_dict(), strict=strict):
        raise AdapterFormatError(f"{path} does not fit its {CONFIG_FILE}: {wrong}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterFormatError(f"{path} is damaged ({error}); save or download it again") from error


def _ties(file: Any, adapter: nn.Module) -> dict[str, str]:
    """Weights that are another weight, by the file's metadata; older files hold only one of them."""
    wanted = {name: tensor.shape for name, tensor in adapter.state_dict().items()}
    said = file.metadata() or {}
    return {name: kept for name, kept in said.items() if name in wanted and wanted[name] == wanted.get(kept)}


def _tie(adapter: nn.Module, name: str, kept: str) -> None:
    path, _, last = name.rpartition(".")
    setattr(adapter.get_submodule(path), last, adapter.get_parameter(kept))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Tensor], *, strict: bool) -> str:
    """What is wrong with the names and shapes of tensors; empty if nothing is."""
    wrong = [
        f"{name} is {_shape(found[name])}, not {_shape(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if _shape(found[name]) != _shape(wanted[name])
    ]
    if strict:
        wrong += [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
        wrong += [f"{name} is not an adapter's" for name in sorted(found.keys() - wanted.keys())]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape()))
