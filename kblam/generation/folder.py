"""A model folder: base reference, adapter and knowledge base side by side, so that one path is enough to ask.

kblam.json     format version; the base model's name or path, its revision, whether base/ holds it; dtype
adapter/       config.json, model.safetensors
tokenizer/     of the base model
knowledge.kb   the knowledge base
base/          the base model's own files, only if it was included
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import ModelFolderError, StoreWriteError
from kblam.generation.loading import (
    LoadedModel,
    load_base,
    load_config,
    load_model,
    load_tokenizer,
)
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.connection import connect
from kblam.knowledge.store import Store
from kblam.models.checks import check_encoder, check_fit
from kblam.models.families import attention_modules, family_of

FORMAT_VERSION = 1
MANIFEST, ADAPTER, TOKENIZER, KNOWLEDGE, BASE = "kblam.json", "adapter", "tokenizer", "knowledge.kb", "base"
_TIMEOUT = 30.0  # seconds to wait for a writer of the knowledge base that is copied


@dataclass(frozen=True)
class Manifest:
    """The contents of kblam.json.

    Args:
        base: name on the hub, or absolute path, of the base model.
        revision: commit on the hub; None for a path.
        base_included: whether base/ holds the weights.
        dtype: of the weights, as torch calls it: "bfloat16".
        format_version: of this file.
    """

    base: str
    revision: str | None
    base_included: bool
    dtype: str
    format_version: int = FORMAT_VERSION


def is_model_folder(path: str | Path) -> bool:
    """Whether `integrate` wrote this folder."""
    return (Path(path).expanduser() / MANIFEST).is_file()


# --- writing ---------------------------------------------------------------------------------------------


def integrate(
    model: str | Path | PreTrainedModel,
    adapter: str | Path | KnowledgeAdapter,
    knowledge_base: str | Path | KnowledgeBase,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    include_base: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a self-contained model folder; `load_folder` and `kblam ask --model FOLDER` read it.

    It is written beside its place and renamed: an interrupted or failed call leaves nothing, and with `overwrite` the
    old folder stays until the new one is whole.

    Args:
        model: hub name, path, or a loaded model. By name or path its weights are read only with `include_base`.
        adapter: made for this model; an object, a folder or a hub name.
        knowledge_base: built with the adapter's encoder; its file, or the open object. Copied as it is now.
        folder: where to; must not exist, or be empty.
        tokenizer: None takes the one beside the model.
        revision: commit, branch or tag of a model on the hub; None is its main branch. The commit it names now is
            recorded, so that the folder stays what it is.
        include_base: copy the base model's weights too, so that the folder needs nothing else.
        overwrite: replace an existing model folder. Anything else that exists is never replaced.

    Returns:
        `folder` as a path.

    Raises:
        ModelFolderError: the target exists, or the base model or its tokenizer cannot be read.
        AdapterFormatError, StoreError: the adapter or the knowledge base cannot be read.
        UnsupportedModelError, EncoderMismatchError: the three do not belong together.
        StoreWriteError: the folder cannot be written.
    """
    target = Path(folder).expanduser()
    _check_target(target, overwrite)
    adapter = adapter if isinstance(adapter, KnowledgeAdapter) else KnowledgeAdapter.from_pretrained(adapter)
    config, manifest = _describe(model, revision, include_base)
    _check_fit(model, config, adapter.config)
    if isinstance(knowledge_base, KnowledgeBase):
        check_encoder(adapter.config, knowledge_base)
    else:
        with KnowledgeBase.open(knowledge_base, read_only=True) as opened:
            check_encoder(adapter.config, opened)
    if tokenizer is None:
        tokenizer = load_tokenizer(manifest.base, manifest.revision)
    if include_base and not isinstance(model, PreTrainedModel):
        model = load_base(manifest.base, revision=manifest.revision, device="cpu")
    with new_folder(target) as fresh:
        adapter.save_pretrained(fresh / ADAPTER)
        tokenizer.save_pretrained(fresh / TOKENIZER)
        _copy_knowledge(knowledge_base, fresh / KNOWLEDGE)
        if isinstance(model, PreTrainedModel) and include_base:
            model.save_pretrained(fresh / BASE)
        # Last: a folder with a manifest is whole.
        (fresh / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return target


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_model_folder(target):
        raise ModelFolderError(f"{target} exists and is not a model folder; choose another place")
    if not overwrite:
        raise ModelFolderError(f"{target} exists; choose another folder, or replace it with overwrite (--overwrite)")


def _describe(model: str | Path | PreTrainedModel, revision: str | None, include_base: bool) -> tuple[Any, Manifest]:
    """The base model's config, and what the manifest says of it."""
    if isinstance(model, PreTrainedModel):
        config, name, dtype = model.config, str(model.config._name_or_path), model.dtype
        if not name and not include_base:
            raise ModelFolderError(
                "this model was not loaded from a name or folder, so a model folder cannot refer to it; "
                "pass include_base=True"
            )
    else:
        name, config = str(model), load_config(model, revision)
        dtype = getattr(config, "dtype", None) or torch.float32
    path, commit = Path(name).expanduser(), None
    if name and path.is_dir():
        name = str(path.resolve())
    elif name:
        commit = _commit(name, revision)
    return config, Manifest(name, commit, include_base, str(dtype).removeprefix("torch."))


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub repository means, read from where the hub's client has put its config."""
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def _check_fit(model: str | Path | PreTrainedModel, model_config: Any, config: AdapterConfig) -> None:
    """What `attach` checks, without reading the model's weights."""
    if isinstance(model, PreTrainedModel):
        shapes = model
    else:
        with torch.device("meta"):
            shapes = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    family_of(shapes)
    check_fit(shapes, config, len(attention_modules(shapes)))


def _copy_knowledge(knowledge_base: str | Path | KnowledgeBase, target: Path) -> None:
    """A copy as of one moment, with what is still in the write-ahead log; a knowledge base of its own from then on."""
    path = knowledge_base.path if isinstance(knowledge_base, KnowledgeBase) else Path(knowledge_base)
    if path is None:
        _write_out(knowledge_base, target)  # type: ignore[arg-type]  # only an open one has no path
        return
    with (
        contextlib.closing(connect(path, read_only=True, timeout=_TIMEOUT)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
        copy.execute("UPDATE store SET store_id = ?", (uuid4().hex,))
        copy.commit()


def _write_out(knowledge_base: KnowledgeBase, target: Path) -> None:
    """A knowledge base in memory as a file, without encoding anything again."""
    made = Store.create(
        target,
        encoder_spec=knowledge_base.encoder_spec,
        fingerprint=knowledge_base.fingerprint,
        dimension=knowledge_base.dimension,
    )
    with contextlib.closing(made) as store:
        vectors = knowledge_base.embeddings()
        store.upsert(knowledge_base.triples_at(vectors.ids), vectors.key, vectors.value)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end of the block, or goes away."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    # safetensors wraps the operating system's error in its own.
    except (OSError, SafetensorError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreWriteError(
            f"cannot write the folder {target}: {reason}; check that its parent can be written and has space"
        ) from error
    finally:
        if old.exists() and not target.exists():  # stopped between the two renames
            old.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# --- reading ---------------------------------------------------------------------------------------------


def load_folder(
    folder: str | Path,
    *,
    knowledge_base: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    read_only: bool = False,
) -> LoadedModel:
    """Loads what `integrate` wrote; nothing but a base model that is a hub name can touch the network.

    Args:
        folder: the model folder.
        knowledge_base: another file to use in place of the folder's own.
        device: None is cuda where there is one, else cpu.
        dtype: None is the one recorded.
        backend: of the kernels.
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
        read_only=read_only,
    )


def read_manifest(folder: str | Path) -> Manifest:
    """The checked contents of a folder's kblam.json.

    Raises:
        ModelFolderError: it is missing, damaged or of a newer format.
    """
    path = Path(folder) / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFolderError(f"{folder} is not a model folder: it has no {MANIFEST}; see `kblam integrate`") from None
    except (OSError, ValueError) as error:
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
    if not names_base or not isinstance(getattr(torch, str(manifest.dtype), None), torch.dtype):
        raise ModelFolderError(
            f"{path} is damaged: base is {manifest.base!r}, dtype {manifest.dtype!r}; integrate again"
        )
    return manifest
