"""Loading a model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from kblam.errors import ModelFolderError
from kblam.folder.manifest import ADAPTER, BASE, KNOWLEDGE, TOKENIZER, read_manifest
from kblam.folder.parts import LoadedModel, load_model


def load_folder(
    folder: str | Path,
    *,
    knowledge_base: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    storage: str = "auto",
    plan: str = "auto",
    read_only: bool = False,
) -> LoadedModel:
    """Loads what `integrate` wrote; nothing but a base model that is a hub name can touch the network.

    Args:
        folder: the model folder.
        knowledge_base: another file to use in place of the folder's own.
        device: None is cuda where there is one, else cpu.
        dtype: None is the one recorded.
        backend: of the kernels.
        storage, plan: of the knowledge, as `attach` takes them; "auto" storage is the one recorded.
        read_only: open the knowledge base for reading only, which a folder that cannot be written needs.

    Raises:
        ModelFolderError: something is missing, damaged or of a newer format; the message names the file.
        AdapterFormatError, StoreError, EncoderMismatchError, UnsupportedModelError: see `load_model`.
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    for part in (ADAPTER, TOKENIZER, KNOWLEDGE, *([BASE] if manifest.base_included else [])):
        if not (path / part).exists():
            raise ModelFolderError(f"{path / part} is missing; copy the whole folder, or integrate again")
    return load_model(
        path / BASE if manifest.base_included else manifest.base,
        path / ADAPTER,
        knowledge_base or path / KNOWLEDGE,
        tokenizer=path / TOKENIZER,
        revision=None if manifest.base_included else manifest.revision,
        device=device,
        dtype=dtype or getattr(torch, manifest.dtype),
        backend=backend,
        storage=manifest.storage if storage == "auto" else storage,
        plan=plan,
        read_only=read_only,
    )
