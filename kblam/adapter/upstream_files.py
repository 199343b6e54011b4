"""The files of an upstream checkpoint: tensors by name, each read only when asked for, and JSON.

Nothing in them is ever executed: pickles are read with `weights_only=True`, JSON and safetensors as data.
"""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kblam.errors import AdapterFormatError
from kblam.strict_json import loads

ENCODER_NAMES = ("encoder.pt", "encoder.safetensors")
# How save_pretrained names weights, and the index of shards that goes with each.
_WEIGHTS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)

Loaders = dict[str, Callable[[], Tensor]]
"""Tensors by name, unread: calling one reads it."""


def model_folder(model_dir: str | Path) -> Path:
    """The folder as an absolute path."""
    folder = Path(model_dir).absolute()
    if not folder.is_dir():
        raise AdapterFormatError(f"{model_dir} is not a folder; give the model folder that upstream's train.py wrote")
    return folder


def encoder_file(folder: Path, encoder_path: str | Path | None) -> Path:
    """The encoder: the file or folder named, else where train.py writes it, else in the model folder itself."""
    if encoder_path is not None and not Path(encoder_path).is_dir():
        return Path(encoder_path)
    places = [folder.with_name(f"{folder.name}_encoder"), folder] if encoder_path is None else [Path(encoder_path)]
    candidates = [place / name for place in places for name in ENCODER_NAMES]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise AdapterFormatError(
        f"no upstream encoder; looked for {', '.join(map(str, candidates))}; pass the path of encoder.pt"
    )


def model_weights(folder: Path) -> Loaders:
    """Every tensor of a model folder; empty if it has no weights. All shards that an index names must be there."""
    for pattern, index in _WEIGHTS:
        shards = {path.name for path in folder.glob(pattern)}
        if (folder / index).exists():
            weight_map = json_object(folder / index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise AdapterFormatError(
                    f"{folder / index}: weight_map must map tensor names to file names; download the file again"
                )
            if lost := sorted(set(weight_map.values()) - shards):
                raise AdapterFormatError(
                    f"{folder} lacks {', '.join(lost)}, which {index} names; copy the whole folder"
                )
            shards = set(weight_map.values())
        if shards:
            return {name: load for shard in sorted(shards) for name, load in tensors_of(folder / shard).items()}
    return {}


def tensors_of(path: Path) -> Loaders:
    """Tensors of one file. safetensors and zip files are mapped, so that only what is asked for is read."""
    if not path.is_file():
        raise AdapterFormatError(f"{path} is missing or not a file; check the path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: functools.partial(_safetensor, path, name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise AdapterFormatError(
                f"{path} is not a readable safetensors file ({error}); download or save it again"
            ) from error
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise AdapterFormatError(
            f"{path} is damaged or holds Python objects, which are never run here; save the bare state dict with "
            f"torch.save(module.state_dict(), ...) or as safetensors ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # torch.load raises whatever damaged bytes lead it to
        raise AdapterFormatError(
            f"{path} is not a readable torch file ({type(error).__name__}: {error}); download or save it again"
        ) from error
    if not isinstance(data, Mapping):
        raise AdapterFormatError(f"{path} must hold a state dict, names to tensors; got {type(data).__name__}")
    return dict(_flatten(data))


def _safetensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _held(tensor: Tensor) -> Tensor:
    return tensor


def _flatten(data: Mapping[Any, Any]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Tensors of a state dict, or of a dict of state dicts (upstream's query-head file); the rest is left out."""
    for name, value in data.items():
        inner = value.items() if isinstance(value, Mapping) else [(None, value)]
        for leaf, tensor in inner:
            if isinstance(tensor, Tensor):
                yield f"{name}" if leaf is None else f"{name}.{leaf}", functools.partial(_held, tensor)


def json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        data = loads(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFormatError(
            f"{path} is missing; give the model folder that upstream's train.py wrote, or that of the base model"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not readable JSON ({error}); write it again") from error
    if not isinstance(data, dict):
        raise AdapterFormatError(f"{path} must hold a JSON object; got {type(data).__name__}")
    return data
