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
from torch.nn import functional as F
from transformers import DynamicCache

from kblam.generation.options import Generating
from kblam.generation.pointer import Pointer
from kblam.generation.prompt import left_padded
from kblam.models.lse import tokens_at_once
from kblam.models.reach import read_to_evidence
from kblam.models.resident import ResidentKnowledge

# New tokens of a batch that are read in one pass over a long list of triples.
IN_BATCHES = 8


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
        if cache is not None and max(map(len, said)) > 1:
            # The last token of an answer is chosen, and read no more.
            _read_answers(pointer, resident, vectors, ids, mask, [one[:-1] for one in said], how.pad, cache)
    return said


def _read_answers(
    pointer: Pointer,
    resident: ResidentKnowledge,
    vectors: Tensor | None,
    ids: Tensor,
    mask: Tensor,
    said: Sequence[Sequence[int]],
    pad: int,
    cache: DynamicCache,
) -> None:
    """Shows the recorder every token of the answers, which follow prompts that were read into the cache.

    Over a long list of triples a batch is read some tokens at a time, and an answer that has ended is left out of what
    follows: as padding it would take as long as the others.
    """
    attachment, (batch, prompt), longest = pointer.attachment, ids.shape, max(map(len, said))
    answers = torch.full((batch, longest), pad, device="cpu")
    for row, tokens in enumerate(said):
        answers[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64, device="cpu")
    texts, mask = torch.cat([ids, answers.to(ids.device)], -1), F.pad(mask, (0, longest), value=1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    most = tokens_at_once(resident.layer(attachment.config.evidence_layer), batch)
    step = longest if most is None else most if batch == 1 else min(most, IN_BATCHES)
    if attachment.config.top_k is not None:
        step = 1  # its best few triples are those of a pass, and each token has its own, as in a `generate`
    rows = list(range(batch))
    for start in range(0, longest, step):
        going = [row for row in rows if len(said[row]) > start]
        if len(going) < len(rows):
            cache.batch_select_indices(torch.tensor([rows.index(row) for row in going], device=ids.device))
            rows = going
        end = min(start + step, longest)
        # In training with activation checkpointing a model drops the cache it is given, and has to read all again.
        new, seen = slice(cache.get_seq_length(), prompt + end), slice(prompt + end)
        observer = functools.partial(pointer.recorder.every_token, newest=end - start, rows=rows, of=batch)
        with attachment.using(resident, question=None if vectors is None else vectors[rows]):
            read_to_evidence(
                attachment, observer, texts[rows, new], mask[rows, seen], places[rows, new], cache, newest=end - start
            )


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
