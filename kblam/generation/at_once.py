"""Answers that are certain at the prompt's end, written at once.

Where the confidence decides, greedy decoding says the planned sentence whatever the model wants. So no token has to
wait for the one before: the prompts are read in one pass, and the answers, for their evidence, in a second.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from kblam.generation.options import Generating
from kblam.generation.pointer import Pointer
from kblam.generation.prompt import left_padded
from kblam.models.lse import tokens_at_once
from kblam.models.reach import read_to_evidence
from kblam.models.resident import ResidentKnowledge


def write_at_once(
    pointer: Pointer,
    resident: ResidentKnowledge,
    vectors: Tensor | None,
    rows: Sequence[Sequence[int]],
    how: Generating,
    *,
    with_evidence: bool,
) -> list[list[int]] | None:
    """The tokens that a greedy `generate` with this pointer would say, or None if one of them is left to the model.

    Args:
        pointer: a fresh one; afterwards its recorder has the masses at each token, as after a `generate`.
        resident: the knowledge in force.
        vectors: float32 (B, P), of the questions; None without a question head.
        rows: token ids of each prompt.
        how: `Generating.is_plain`.
        with_evidence: whether to read the answers too; else only the masses at the prompt's end are there.
    """
    attachment, config = pointer.attachment, pointer.attachment.model.config
    ids, mask = left_padded(rows, how.pad, attachment.input_device)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=config) if with_evidence else None
    with attachment.using(resident, question=vectors):
        read_to_evidence(attachment, pointer.recorder, ids, mask, places, cache, newest=1)
        pointer.begin(ids, config.get_text_config().vocab_size)
        if not pointer.is_certain:
            return None
        said = [_until_end(one.tokens[: how.max_new_tokens], how.ends) for one in pointer.plans]
        _stream(how.arguments.get("streamer"), pointer, ids, said[0])
        # The last token of an answer is chosen, and read no more.
        length = max(map(len, said)) - 1
        if cache is not None and length:
            answers = torch.full((len(said), length), how.pad, device="cpu")
            for line, tokens in enumerate(said):
                answers[line, : len(tokens) - 1] = torch.tensor(tokens[:-1], device="cpu")
            _read_answers(pointer, resident, ids, mask, answers.to(ids.device), cache)
    return said


def _read_answers(
    pointer: Pointer, resident: ResidentKnowledge, ids: Tensor, mask: Tensor, answers: Tensor, cache: DynamicCache
) -> None:
    """Shows the recorder every token of the answers, which follow prompts that were read into the cache."""
    attachment = pointer.attachment
    texts, mask = torch.cat([ids, answers], -1), torch.cat([mask, torch.ones_like(answers)], -1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    # The best few triples (`top_k`) are those of a pass, so that each token has one of its own, as in a `generate`.
    most = tokens_at_once(resident.layer(attachment.config.evidence_layer), len(ids))
    most = 1 if attachment.config.top_k is not None else most or answers.shape[1]
    for start in range(ids.shape[1], texts.shape[1], most):
        end = min(start + most, texts.shape[1])
        # In training with activation checkpointing a model drops the cache it is given, and has to read all again.
        new = slice(cache.get_seq_length(), end)
        observer = functools.partial(pointer.recorder.every_token, newest=end - start)
        read_to_evidence(attachment, observer, texts[:, new], mask[:, :end], places[:, new], cache, newest=end - start)


def _until_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """As far as `generate` goes; an end token of the caller's may stand within a sentence."""
    return list(tokens[: next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))])


def _stream(streamer: Any, pointer: Pointer, ids: Tensor, said: Sequence[int]) -> None:
    """Shows one answer, as `generate` does; none that the base model gives instead."""
    if streamer is None or pointer.decision(0).is_base:
        return
    streamer.put(ids.cpu())
    for token in said:
        streamer.put(torch.tensor([token], device="cpu"))
    streamer.end()
