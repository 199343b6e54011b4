"""Writing a model folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.errors import ModelFolderError, argument
from kblam.folder.manifest import (
    ADAPTER,
    BASE,
    KNOWLEDGE,
    MANIFEST,
    TOKENIZER,
    Manifest,
    is_model_folder,
    read_manifest,
)
from kblam.folder.new import check_new_folder, new_folder
from kblam.knowledge import KnowledgeBase
from kblam.models.checks import check_encoder, check_fit
from kblam.models.families import attention_modules, family_of
from kblam.models.formats import storage_dtype
from kblam.models.loading import check_no_revision, lasting_name, load_base, load_config, load_tokenizer


def integrate(
    model: str | Path | PreTrainedModel,
    adapter: str | Path | KnowledgeAdapter,
    knowledge_base: str | Path | KnowledgeBase,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    include_base: bool = False,
    storage: str = "auto",
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
        storage: of the knowledge on the device, as `attach` takes it; recorded for who asks for none.
        overwrite: replace an existing model folder. Anything else that exists is never replaced.

    Returns:
        `folder` as a path.

    Raises:
        ModelFolderError: the target exists, or holds the base model that is referred to; or the base model or its
            tokenizer cannot be read; or a revision is named, and it is not on the hub.
        AdapterFormatError, StoreError: the adapter or the knowledge base cannot be read.
        UnsupportedModelError, EncoderMismatchError: the three do not belong together.
        KnowledgeError: the storage is not known, or does not fit the model.
        StoreWriteError: the folder cannot be written.
    """
    target = Path(folder).expanduser()
    _check_target(target, overwrite)
    adapter = adapter if isinstance(adapter, KnowledgeAdapter) else KnowledgeAdapter.from_pretrained(adapter)
    config, manifest = _describe(model, revision, include_base)
    _check_base_stays(target, manifest)
    storage_dtype(storage, adapter, getattr(torch, manifest.dtype))
    manifest = dataclasses.replace(manifest, storage=storage)
    _check_fit(model, config, adapter.config)
    is_given = isinstance(knowledge_base, KnowledgeBase)
    with contextlib.ExitStack() as stack:
        if not isinstance(knowledge_base, KnowledgeBase):
            knowledge_base = stack.enter_context(KnowledgeBase.open(knowledge_base, read_only=True))
        check_encoder(adapter.config, knowledge_base)
        if tokenizer is None:
            tokenizer = load_tokenizer(manifest.base, manifest.revision)
        if include_base and not isinstance(model, PreTrainedModel):
            dtype = getattr(torch, manifest.dtype)
            model = load_base(manifest.base, revision=manifest.revision, dtype=dtype, device="cpu")
        fresh = stack.enter_context(new_folder(target, overwrite=overwrite))
        adapter.save_pretrained(fresh / ADAPTER)
        tokenizer.save_pretrained(fresh / TOKENIZER)
        knowledge_base.copy_to(fresh / KNOWLEDGE)
        if not is_given:  # it may lie in the folder that is replaced
            knowledge_base.close()
        if isinstance(model, PreTrainedModel) and include_base:
            model.save_pretrained(fresh / BASE)
        # Last: a folder with a manifest is whole.
        (fresh / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return target


def _check_target(target: Path, overwrite: bool) -> None:
    check_new_folder(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_model_folder(target):
        raise ModelFolderError(f"{target} exists and is not a model folder; choose another place")
    if not overwrite:
        fix = argument("overwrite=True", "--overwrite", ("integrate",))
        raise ModelFolderError(f"{target} exists; choose another folder, or replace it with {fix}")


def _check_base_stays(target: Path, manifest: Manifest) -> None:
    if manifest.base_included or not target.exists():
        return
    base, replaced = Path(manifest.base), target.resolve()
    if base.is_absolute() and replaced in (base, *base.parents):
        fix = argument("include_base=True", "--include-base", ("integrate",))
        raise ModelFolderError(
            f"the base model {base} lies in {target}, which is replaced, and the new folder would refer to it; "
            f"pass {fix}, or choose another folder"
        )


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
        if is_model_folder(model):
            raise ModelFolderError(
                f"{model} is a model folder, which has an adapter of its own; name its base model: "
                f"{read_manifest(model).base}"
            )
        name, config = str(model), load_config(model, revision)
        dtype = getattr(config, "dtype", None) or torch.float32
    path, commit = Path(name).expanduser(), None
    if name and path.is_dir():
        check_no_revision(name, "a folder", revision)
        name = lasting_name(name)
    elif name:
        commit = _commit(name, revision)
    else:
        check_no_revision(name, "a model without a name", revision)
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
