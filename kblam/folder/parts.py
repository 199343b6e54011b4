"""A base model, its adapter and a knowledge base, each from its own place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import KnowledgeAdapter
from kblam.knowledge import KnowledgeBase
from kblam.models import Attachment, attach
from kblam.models.checks import check_encoder
from kblam.models.loading import load_base, load_tokenizer
from kblam.models.query_heads import check_query_storage


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
    storage: str = "auto",
    query_storage: str = "auto",
    plan: str = "auto",
    read_only: bool = False,
) -> LoadedModel:
    """Loads the three parts, the cheapest first, so that a mistake is told before gigabytes are read.

    Args:
        base: folder or hub name of the base model.
        adapter: folder or hub name.
        knowledge_base: file.
        tokenizer: folder or hub name; None is the base model's.
        revision: of the base model on the hub.
        device: of the model, and of the encoder of questions; None is cuda where there is one, else cpu.
        dtype: None is what `load_base` takes then.
        backend: of the kernels.
        storage, query_storage, plan: as `attach` takes them.
        read_only: open the knowledge base for reading only, which a folder that cannot be written needs.

    Raises:
        StoreError, AdapterFormatError, ModelFolderError: a part cannot be read.
        EncoderMismatchError, UnsupportedModelError: the parts do not belong together.
    """
    opened = KnowledgeBase.open(knowledge_base, device=None if device is None else str(device), read_only=read_only)
    try:
        loaded_adapter = KnowledgeAdapter.from_pretrained(adapter)
        check_encoder(loaded_adapter.config, opened)
        check_query_storage(query_storage, loaded_adapter, trainable=False)
        words = load_tokenizer(tokenizer or base, None if tokenizer else revision)
        model = load_base(base, revision=revision, dtype=dtype, device=device)
        attached = attach(
            model, loaded_adapter, backend=backend, storage=storage, query_storage=query_storage, plan=plan
        )
        return LoadedModel(model, words, attached, opened)
    except BaseException:
        opened.close()
        raise
