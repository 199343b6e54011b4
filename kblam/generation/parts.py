"""What prompts find, without an answer; and the parts of questions about two facts, each asked alone so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig
from kblam.generation.clauses import Split, by_names, splits
from kblam.generation.decision import AskedSplit, Rules
from kblam.generation.evidence import EvidenceRecorder
from kblam.generation.prompt import TOKENIZING, encode_question, left_padded
from kblam.generation.pronouns import resolved
from kblam.generation.words import Found, Words, judged, named_places
from kblam.knowledge import Encoder
from kblam.knowledge.asking import asked_in
from kblam.models import Attachment
from kblam.models.judging import Judge
from kblam.models.reach import read_to_evidence

# The parts of a question together have so many characters at most, those of the surest cuts first.
PARTS_ROOM = 6000
# Tokens of one prefill, padding included; the rows of a batch are as wide as the longest.
TOKENS_AT_ONCE = 4096


class SaysNames(Protocol):
    """What knows the names and properties of a knowledge base, such as its `Judge`."""

    def as_meant(self, text: str, background: tuple[str, ...]) -> str:
        """A question with those that it types otherwise as they are written.

        Args:
            background: properties that people ask for, beside those of the knowledge base.
        """

    def says_a_name(self, text: str) -> bool:
        """Whether a text says one."""

    def names_in(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each."""

    def is_property(self, text: str) -> bool:
        """Whether these words are a property, in any case."""


def as_meant(config: AdapterConfig, question: str, names: SaysNames | None, encoder: Encoder) -> str:
    """A question as it is judged and as its sentence vector is made; what the model reads stays as it was typed.

    Args:
        config: of the adapter.
        question: as it was typed.
        names: of the knowledge base; None where nothing is judged.
        encoder: that makes the sentence vectors.
    """
    if config.question_head is not None or config.confidence is not None:
        question = asked_in(question, encoder)
    if names is None or config.confidence is None:
        return question
    return names.as_meant(question, config.background)


def cuts_of(rules: Rules, question: str, names: SaysNames | None) -> list[Split]:
    """The ways to cut a question whose parts are worth asking; none where the rules do not cut."""
    if not rules.cuts:
        return []
    if names is None:
        return _affordable(splits(question))
    cuts = splits(question, names.is_property)
    cuts += [named for cut in cuts if (named := resolved(question, cut, names.names_in)) is not None]
    # A part that says no name finds nothing that counts, so it need not be asked.
    cuts += by_names(question, names.names_in(question), names.is_property)
    return _affordable([cut for cut in cuts if cut.is_explicit or all(map(names.says_a_name, cut.parts))])


def _affordable(cuts: Sequence[Split]) -> list[Split]:
    """The cuts whose parts are not too long to be asked, after those before them."""
    room, asked, kept = PARTS_ROOM, set[str](), list[Split]()
    for cut in cuts:
        new = set(cut.parts) - asked
        if (length := sum(map(len, new))) <= room:
            room -= length
            asked |= new
            kept.append(cut)
    return kept


def part_texts(cuts: Sequence[Sequence[Split]]) -> list[str]:
    """Every part of every split once, in order."""
    return list(dict.fromkeys(part for of_question in cuts for split in of_question for part in split.parts))


@torch.inference_mode()
def found_by(
    attachment: Attachment,
    rows: Sequence[Sequence[int]],
    vectors: Tensor | None,
    batch_size: int,
    words: Words,
    named: Tensor | None = None,
) -> list[tuple[Found, ...]]:
    """What each prompt finds at its end, the strongest first.

    Args:
        attachment: as `Session` has it.
        rows: token ids of each prompt.
        vectors: float32 (prompts, P), of their questions; None without a question head.
        batch_size: so many prompts at a time, if they are not long.
        words: of the copy that is attended to.
        named: int64 (prompts, S), see `EvidenceRecorder`.
    """
    every: list[tuple[Found, ...]] = []
    for start, end in _batches(list(map(len, rows)), batch_size):
        ids, mask = left_padded(rows[start:end], 0, attachment.input_device)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        recorder = EvidenceRecorder(None if named is None else named[start:end])
        question = None if vectors is None else vectors[start:end]
        with attachment.using(words.resident, question=question):
            read_to_evidence(attachment, recorder, ids, mask, places, newest=1)
        every += [tuple(words.found(best)) for best in recorder.newest()]
    return every


def _batches(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Rows [start, end) of each batch, of at most so many rows and `TOKENS_AT_ONCE` tokens, or of one row."""
    edges, longest = [0], 0
    for row, length in enumerate(lengths):
        longest, count = max(longest, length), row + 1 - edges[-1]
        if count > 1 and (count > most or count * longest > TOKENS_AT_ONCE):
            edges.append(row)
            longest = length
    return list(pairwise([*edges, len(lengths)])) if lengths else []


def ask_parts(
    attachment: Attachment,
    tokenizer: PreTrainedTokenizerBase,
    cuts: Sequence[Sequence[Split]],
    vectors: Tensor | None,
    judge: Judge | None,
    batch_size: int,
    words: Words,
) -> list[list[AskedSplit]]:
    """The splits of each question with what their parts find.

    Args:
        attachment, tokenizer: as `Session` has them.
        cuts: for each question its splits.
        vectors: float32 (number of `part_texts`, P), of the parts; None without a question head.
        judge: of the knowledge base; None where the mass decides.
        batch_size: so many parts at a time.
        words: of the copy that is attended to.
    """
    texts = part_texts(cuts)
    with TOKENIZING:
        rows = [encode_question(text, attachment, tokenizer) for text in texts]
    named = named_places(judge, texts, words.resident)
    each = judged(judge, texts, found_by(attachment, rows, vectors, batch_size, words, named))
    found = dict(zip(texts, each, strict=True))
    return [with_found(of_question, found) for of_question in cuts]


def with_found(cuts: Sequence[Split], found: Mapping[str, tuple[Found, ...]]) -> list[AskedSplit]:
    """The splits of one question with what their parts find, by the parts' texts."""
    return [AskedSplit(split, tuple(found[part] for part in split.parts)) for split in cuts]
