"""kblam.json: what a model folder says of itself, and the names of its parts.

kblam.json     format version; the base model's name or path, its revision, whether base/ holds it; dtype; storage
adapter/       config.json, model.safetensors
tokenizer/     of the base model
knowledge.kb   the knowledge base
base/          the base model's own files, only if it was included
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kblam.errors import ModelFolderError
from kblam.models.formats import STORAGE
from kblam.strict_json import loads

FORMAT_VERSION = 1
MANIFEST, ADAPTER, TOKENIZER, KNOWLEDGE, BASE = "kblam.json", "adapter", "tokenizer", "knowledge.kb", "base"


@dataclass(frozen=True)
class Manifest:
    """The contents of kblam.json.

    Args:
        base: name on the hub, or absolute path, of the base model.
        revision: commit on the hub; None for a path.
        base_included: whether base/ holds the weights.
        dtype: of the weights, as torch calls it: "bfloat16".
        storage: of the knowledge on the device, where the caller asks for none; see `attach`.
        format_version: of this file.
    """

    base: str
    revision: str | None
    base_included: bool
    dtype: str
    storage: str = "auto"
    format_version: int = FORMAT_VERSION


def is_model_folder(path: str | Path) -> bool:
    """Whether `integrate` wrote this folder."""
    return os.path.isfile(os.path.expanduser(f"{os.fspath(path)}/{MANIFEST}"))  # noqa: PTH111, PTH113 - never raises


def read_manifest(folder: str | Path) -> Manifest:
    """The checked contents of a folder's kblam.json.

    Raises:
        ModelFolderError: it is missing, damaged or of a newer format.
    """
    path = Path(folder) / MANIFEST
    try:
        data = loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFolderError(f"{folder} is not a model folder: it has no {MANIFEST}; see `kblam integrate`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read: {error}; integrate again") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ModelFolderError(f"{path} is damaged: format_version is {version!r}; integrate again")
    if version > FORMAT_VERSION:
        raise ModelFolderError(
            f"{path} has format version {version}, newer than {FORMAT_VERSION}, the newest this kblam reads; "
            "pip install --upgrade kblam-kernels"
        )
    known = {field.name for field in dataclasses.fields(Manifest)}
    try:
        manifest = Manifest(**{name: value for name, value in data.items() if name in known})
    except TypeError as error:
        raise ModelFolderError(f"{path} is damaged: {error}; integrate again") from error
    names_base = manifest.base_included or (isinstance(manifest.base, str) and manifest.base)
    known_types = isinstance(getattr(torch, str(manifest.dtype), None), torch.dtype) and manifest.storage in [*STORAGE]
    if not names_base or not known_types:
        raise ModelFolderError(
            f"{path} is damaged: base is {manifest.base!r}, dtype {manifest.dtype!r}, storage {manifest.storage!r}; "
            "integrate again"
        )
    return manifest
