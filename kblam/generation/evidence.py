"""Which triples an answer used: per token the best few by attention mass, never an N x M matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import LogitsProcessor

from kblam.errors import GenerationError
from kblam.generation.words import Found, Words
from kblam.knowledge import Triple
from kblam.models import calls
from kblam.models.judging import CANDIDATES, CANDIDATES_NAMED
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import DenseKnowledge, evidence, evidence_at, top_evidence
from kblam_kernels.knowledge import Knowledge

_TINY = torch.finfo(torch.float32).tiny
# Masses of an answer's tokens that are computed in one call: 64 MiB, whatever the size of the knowledge base.
MASSES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Evidence:
    """A triple and how much of the answer's attention it got.

    Args:
        triple: from the knowledge base, with the words that the answer was made from.
        mass: the largest share, over the answer's tokens, of the evidence layer's attention (mean of its heads)
            that went to this triple; between 0 and 1.
        changed: whether the knowledge base said something else when the answer was finished.
    """

    triple: Triple
    mass: float
    changed: bool = False


def evidence_record(triple: Triple | None, mass: float, *, changed: bool) -> dict[str, Any]:
    """Evidence as plain values for JSON. Of a triple whose words nobody has any more, None, they are null."""
    return {
        "name": None if triple is None else triple.name,
        "property": None if triple is None else triple.property,
        "value": None if triple is None else triple.value,
        "mass": mass,
        "changed": changed,
        "sources": [] if triple is None else [source.to_record() for source in triple.sources],
    }


# (place, mass) of each triple that was kept, by batch row, largest mass first.
_OfRows: TypeAlias = list[list[tuple[int, float]]]


@dataclass
class EvidenceRecorder:
    """Observer of the evidence layer: keeps the top masses of the newest token at every forward pass.

    Where names are long or alike, attention may miss the one that a question says word for word. So the triples of such
    names are kept too, whatever attention they get.

    In a `generate`, a pass is not always a token: a long prompt may be read in pieces, and guidance asks the model a
    second time for each token. `close`, called once for each token, keeps the one pass that the token is chosen from.

    Args:
        named: int64 (B, S), knowledge tokens that each row's question names, -1 where there are no more; None for none,
            and not looked at where the adapter attends to its `top_k` alone.

    Attributes:
        masses, places: one (B, k) tensor per forward pass, of attention mass and of the knowledge token's place, the
            m of [0, M), largest mass first; mass 0 stands for none. Named ones come last.
    """

    named: Tensor | None = None
    masses: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    # Of each pass: the cache it writes, and how many tokens it reads.
    _passes: list[tuple[Any, int]] = field(default_factory=list)
    _closed: int = 0
    _found: list[_OfRows] = field(default_factory=list)  # as `_read` has it

    def __call__(self, *, index: Tensor | None, cache: Any = None, **attention: Any) -> None:
        """Called by the attachment with what one attention used; see `Attachment.observing`."""
        self._keep(index, attention, slice(-1, None))
        self._passes.append((cache, attention["query"].shape[2]))

    def every_token(
        self,
        *,
        newest: int,
        index: Tensor | None,
        cache: Any = None,
        rows: Sequence[int] | None = None,
        of: int = 0,
        **attention: Any,
    ) -> None:
        """In place of a call, for a pass whose `newest` last tokens are an answer that is decided already.

        Args:
            rows: which of the `of` rows of the batch the pass has; None for all. The others get nothing.
        """
        (batch, _, length, _), knowledge = attention["query"].shape, attention["knowledge"]
        at_once = max(1, MASSES_AT_ONCE // max(1, batch * knowledge.num_tokens))
        if isinstance(knowledge, DenseKnowledge) and not knowledge.is_shared:
            at_once = 1  # each row of the batch reads keys of its own
        for start in range(length - newest, length, at_once):
            self._keep(index, attention, slice(start, min(start + at_once, length)), rows, of)

    def _keep(
        self,
        index: Tensor | None,
        attention: dict[str, Any],
        tokens: slice,
        rows: Sequence[int] | None = None,
        of: int = 0,
    ) -> None:
        """Keeps the top masses of each of these tokens, which are rows of one batch: all read the same keys."""
        query, lse = attention["query"][:, :, tokens], attention["lse"][:, :, tokens]
        batch, heads, count, _ = query.shape
        named = None
        if self.named is not None and index is None:
            # `generate` makes several rows of each for beams.
            named = self.named if rows is None else self.named[rows]
            named = named.repeat_interleave(rows_of_each(named.shape[0], batch) * count, 0)
        scored = (_of_tokens(query), attention["knowledge"], _of_tokens(lse))
        options: dict[str, Any] = {
            "scale": attention["scale"],
            "knowledge_bias": _for_tokens(attention["bias"], batch, count),
            "knowledge_range": _for_tokens(attention["knowledge_range"], batch, count),
            "row_weight": torch.full((), 1 / heads, dtype=torch.float32, device=lse.device),
            "int8_products": attention["int8_products"],
            "backend": attention["backend"],
        }
        block_max = attention.get("block_max")
        block_max = None if block_max is None else _of_tokens(block_max[:, :, tokens])
        masses, places = strongest_of(*scored, named, block_max, **options)
        if index is not None:
            places = index.repeat_interleave(count, 0).gather(1, places)
        for kept, found in ((self.masses, masses), (self.places, places)):
            found = found.unflatten(0, (batch, count))
            if rows is not None and len(rows) < of:
                found = found.new_zeros(of, *found.shape[1:]).index_copy(
                    0, torch.tensor(rows, device=found.device), found
                )
            kept += found.unbind(1)

    @property
    def is_open(self) -> bool:
        """Whether there was a pass since the last `close`."""
        return len(self._passes) > self._closed

    def close(self, length: int) -> None:
        """A token is about to be chosen: of the passes since the last one, keeps the one that it is chosen from.

        Args:
            length: tokens of the prompt and the answer before it.

        Raises:
            GenerationError: there is no such pass, or a single one for several tokens.
        """
        # A second, unconditional pass writes a cache of its own. Without caches it reads another text, and comes later.
        cache = self._passes[0][0] if self._passes else None
        own = [at for at in range(self._closed, len(self._passes)) if self._passes[at][0] is cache]
        if cache is None and len(own) > 1:
            own = [at for at in own if self._passes[at][1] == length][:1]
        if not own or (self._closed and len(own) > 1):
            raise GenerationError(
                f"{len(own)} forward passes with knowledge for the token after {length}; evidence is followed through "
                "one pass for each token: turn off what guesses several at once (assistant_model, "
                "prompt_lookup_num_tokens), and make a new recorder for each generate"
            )
        kept = own[-1]  # the last piece of a prompt that is read in pieces
        # Copies: what a compiled step made lies in memory of a CUDA graph, and its next replay writes there again. They
        # are made here, since what is made within the step is its result too.
        self.masses[self._closed :] = [self.masses[kept].clone()]
        self.places[self._closed :] = [self.places[kept].clone()]
        self._passes[self._closed :] = [self._passes[kept]]
        self._closed += 1
        self._found = []

    def newest(self) -> list[list[tuple[int, float]]]:
        """(place, mass) of every batch row at the last forward pass, largest first, in one transfer from the device."""
        return _read(self.masses[-1:], self.places[-1:])[0]

    def peaks(self, row: int, num_tokens: int) -> dict[int, float]:
        """The largest mass of each triple that was kept, by place, of one batch row over its first tokens."""
        if len(self._found) != len(self.masses):  # all rows at once, for whichever is asked for next
            self._found = _read(self.masses, self.places)
        peak: dict[int, float] = {}
        for of_rows in self._found[:num_tokens]:
            for place, mass in of_rows[row]:
                peak[place] = max(mass, peak.get(place, 0.0))
        return peak

    def best(self, row: int, num_tokens: int, top: int) -> list[tuple[int, float]]:
        """(place, peak mass) of one batch row over its first `num_tokens` tokens, largest first."""
        return sorted(self.peaks(row, num_tokens).items(), key=lambda item: -item[1])[:top]


def rows_of_each(questions: int, rows: int) -> int:
    """How many rows of a batch each question has: `generate` makes several for beams.

    Raises:
        GenerationError: the batch is not what `generate` makes of so many questions.
    """
    each = calls.rows_of_each(questions, rows, calls.each_now())
    if each is None:
        raise GenerationError(f"the pointer has {questions} questions and the batch {rows} rows; give one a row")
    return each


def _of_tokens(of_rows: Tensor) -> Tensor:
    """(B, Hq, N, ...) -> (B N, Hq, 1, ...): each token of a row as a row of its own."""
    return of_rows.transpose(1, 2).flatten(0, 1)[:, :, None]


def _for_tokens(given: Any, batch: int, count: int) -> Any:
    """A bias or ranges with a row for each of so many tokens of every batch row, where they had one for the row."""
    has_rows = isinstance(given, Tensor) and given.dim() == 2 and len(given) == batch
    return given.repeat_interleave(count, 0) if has_rows and count > 1 else given


def _read(masses: Sequence[Tensor], places: Sequence[Tensor]) -> list[_OfRows]:
    """What was kept at each forward pass, in one transfer from the device."""
    if not masses:
        return []
    halves = [
        torch.cat([mass.float(), place.int().view(torch.float32)], -1)
        for mass, place in zip(masses, places, strict=True)
    ]
    bits, found, start = torch.cat([each.flatten() for each in halves]).cpu(), list[_OfRows](), 0
    for each in halves:
        of_pass = bits[start : start + each.numel()].view(each.shape)
        mass, place = of_pass.chunk(2, -1)
        rows = zip(place.contiguous().view(torch.int32).tolist(), mass.tolist(), strict=True)
        found.append([list(zip(*row, strict=True)) for row in rows])
        start += each.numel()
    return found


def strongest(mass: Tensor, named: Tensor | None) -> tuple[Tensor, Tensor]:
    """(masses, places) of the triples of each row that are looked at, (B, k) each; mass 0 stands for none.

    Args:
        mass: float32 (B, M), of every knowledge token.
        named: int64 (B, S), as `EvidenceRecorder` has it; they come last, whatever they got.
    """
    best = mass.topk(min(CANDIDATES, mass.shape[-1]), dim=-1)
    return with_named(best.values, best.indices, named, None if named is None else mass.gather(1, named.clamp(min=0)))


def strongest_of(
    query: Tensor, knowledge: Knowledge, lse: Tensor, named: Tensor | None, block_max: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """As `strongest`, of the triples of an attention.

    Args:
        query, knowledge, lse, options: as `evidence` takes them, with one token in each row.
        named: as `strongest`.
        block_max: as `top_evidence` takes it.
    """
    if block_max is None:
        return strongest(evidence(query, knowledge, lse, **options), named)
    masses, places = top_evidence(query, knowledge, lse, CANDIDATES, block_max=block_max, **options)
    own = None if named is None else evidence_at(query, knowledge, lse, named.clamp(min=0), **options)
    return with_named(masses, places, named, own)


def with_named(masses: Tensor, places: Tensor, named: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `strongest`, of the masses and places of the best (B, k) and the masses of the named ones (B, S)."""
    # exp(score - lse) of a score in the hundreds is a few 1e-5 off in float32; a share must not exceed 1.
    masses = masses.clamp(max=1)
    if named is None or own is None:
        return masses, places
    own = own.clamp(min=_TINY, max=1)
    own = own.masked_fill((named < 0) | (named[:, :, None] == places[:, None]).any(-1), 0)
    more = own.topk(min(CANDIDATES_NAMED, own.shape[1]), dim=-1)
    return torch.cat([masses, more.values], -1), torch.cat([places, named.gather(1, more.indices)], -1)


class Follower(LogitsProcessor):
    """Ties each token of a `generate` to the forward pass that it is chosen from; changes no score.

    Args:
        recorder: of that `generate`.
        words: read at the prompt's end, while they are what the answer is made from.
    """

    def __init__(self, recorder: EvidenceRecorder, words: Words) -> None:
        self.recorder, self.words = recorder, words
        self._has_begun = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, N) int64 and scores (B, V) -> scores; what `generate` calls for every token."""
        self.recorder.close(input_ids.shape[1])
        if not self._has_begun:
            self._has_begun = True
            for best in self.recorder.newest():
                self.words.found(best)
        return scores


def find(resident: ResidentKnowledge, best: Sequence[tuple[int, float]]) -> list[Found]:
    """The triples at (place, mass) of a device copy that still say what they said at its last sync."""
    return Words(resident).found(best)
