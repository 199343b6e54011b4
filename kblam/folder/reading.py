"""Loading a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kblam.errors import ModelFolderError
from kblam.folder.manifest import ADAPTER, BASE, KNOWLEDGE, TOKENIZER, read_manifest
from kblam.folder.parts import LoadedModel, load_model
from kblam.models.loading import usual_dtype


def load_folder(
    folder: str | Path,
    *,
    knowledge_base: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    storage: str = "auto",
    query_storage: str = "auto",
    plan: str = "auto",
    read_only: bool = False,
) -> LoadedModel:
    """Loads what `integrate` wrote; nothing but a base model that is a hub name can touch the network.

    Args:
        folder: the model folder.
        knowledge_base: another file to use in place of the folder's own.
        device: None is cuda where there is one, else cpu.
        dtype: None is the one recorded, of SmolLM2 what the device is quick at.
        backend: of the kernels.
        storage, query_storage, plan: as `attach` takes them; "auto" storage is the one recorded.
        read_only: open the knowledge base for reading only, which a folder that cannot be written needs.

    Raises:
        ModelFolderError: something is missing, damaged or of a newer format; the message names the file.
        AdapterFormatError, StoreError, EncoderMismatchError, UnsupportedModelError: see `load_model`.
    """
    parts = parts_of(folder)
    return load_model(
        parts.base,
        parts.adapter,
        knowledge_base or parts.knowledge,
        tokenizer=parts.tokenizer,
        revision=parts.revision,
        device=device,
        dtype=dtype or parts.dtype_on(device),
        backend=backend,
        storage=parts.storage if storage == "auto" else storage,
        query_storage=query_storage,
        plan=plan,
        read_only=read_only,
    )


@dataclass(frozen=True)
class FolderParts:
    """Where the parts of a model folder are, and what it says of them.

    Args:
        base: folder or hub name of the base model, at `revision` on the hub.
        revision: None for a path.
        tokenizer, adapter: folders.
        knowledge: file.
        dtype: of the weights, as torch calls it.
        storage: of the knowledge.
    """

    base: str | Path
    revision: str | None
    tokenizer: Path
    adapter: Path
    knowledge: Path
    dtype: str
    storage: str

    def dtype_on(self, device: torch.device | str | None) -> torch.dtype:
        """What the model computes in where nobody says; a device of None is cuda where there is one, else cpu."""
        recorded: torch.dtype = getattr(torch, self.dtype)
        return usual_dtype(self.base, device) or recorded


def parts_of(folder: str | Path) -> FolderParts:
    """The parts of a model folder; nothing but its kblam.json is read.

    Raises:
        ModelFolderError: something is missing, damaged or of a newer format; the message names the file.
    """
    path = Path(folder).expanduser()
    manifest = read_manifest(path)
    for part in (ADAPTER, TOKENIZER, KNOWLEDGE, *([BASE] if manifest.base_included else [])):
        if not (path / part).exists():
            raise ModelFolderError(f"{path / part} is missing; copy the whole folder, or integrate again")
    return FolderParts(
        path / BASE if manifest.base_included else manifest.base,
        None if manifest.base_included else manifest.revision,
        path / TOKENIZER,
        path / ADAPTER,
        path / KNOWLEDGE,
        manifest.dtype,
        manifest.storage,
    )
