"""A pass through a model as far as its evidence layer: what lies above it cannot change what that attends to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from kblam.models import cache_name, calls
from kblam.models.attach import Attachment


class _ReachedError(Exception):
    """Ends the pass, without its result; nobody but `read_to_evidence` sees it."""


def read_to_evidence(
    attachment: Attachment,
    observer: Callable[..., None],
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    cache: Cache | None = None,
    *,
    newest: int | None = None,
) -> None:
    """Shows an observer the evidence layer's attention, and computes no layer above it.

    Whatever needs no more than the last tokens says so: to a large knowledge base the other tokens' attention takes
    longer than all layers below it. A pass is computed whole where code is compiled, or a hook waits for a module's
    end: one that shards, offloads, or is the caller's own.

    Args:
        attachment: with knowledge in force.
        observer: as `Attachment.observing` takes it; with `newest`, of a long list it may get `block_max` too, as
            `knowledge_lse` returns it.
        input_ids, position_ids: int64 (B, N).
        attention_mask: int64 (B, T), of what the cache holds and of these tokens.
        cache: takes the keys and values of the layers that are computed.
        newest: how many of the last tokens the observer looks at; None for all. It may be shown more.
    """
    decoder = attachment.model.get_decoder()
    is_whole = any(module._forward_hooks or "_hf_hook" in vars(module) for module in decoder.modules())

    def observe(**attention: Any) -> None:
        observer(**attention)
        if not is_whole and not torch.compiler.is_compiling():
            raise _ReachedError

    with calls.observing(attachment, observe, None if is_whole else newest), suppress(_ReachedError):
        decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            **cache_name.as_argument(decoder, cache),
        )
